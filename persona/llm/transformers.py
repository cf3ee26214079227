"""A frozen model of transformers, decoder-only or encoder-decoder, as a language model.

>>> from persona.llm.load import load_llm
>>> llm = load_llm("tiny")
>>> requests = [Request("Once upon a time"), Request("The end", soft_prompt=torch.zeros(2, llm.hidden_size))]
>>> len(llm.generate(requests, GenerationOptions(max_new_tokens=4)))
2

**Frozen** means that weights, buffers, configuration, tokenizer, ``requires_grad`` and ``training`` flags are the same
after a call as before.

**Batches.** Requests are sorted by length and cut into batches by a token budget; equal ones are generated once.
Decoder-only prompts are padded on the left, with positions that count from the first real token; encoder-decoder ones
on the right. A model that padding changes answers requests of equal length together, or each alone
(`persona.llm.frozen.probe`). In float32 and float64 a request gets the very answer that it gets alone: an answer with a
decision so close that its batch could have turned it (`persona.llm.decoding`) is generated again alone. In 16-bit types
there is no such guarantee.

**Decoding** is plain greedy or beam search over the model's own scores, limited to the choices of a request where
`GenerationOptions.answers` is ``"constrained"``. Of the model's generation config only the rules about tokens are kept
(where answers start and end, what is forced or suppressed), never sampling, penalties or minimum lengths. White space
around an answer is stripped, and what `persona.llm.answers.text` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from threading import Event, RLock
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from persona.errors import (
    GenerationError,
    InvalidOptionError,
    PersonaError,
    UnsupportedChannelError,
    reason,
)
from persona.llm.answers.choices import margin
from persona.llm.answers.constrained import ChoiceTrie
from persona.llm.answers.scoring import ChoiceScorer, ScoredPrompt
from persona.llm.answers.streams import from_thread
from persona.llm.answers.tokens import AnswerStreamer, AnswerTokens, Streamed
from persona.llm.checkpoint import frozen, hash_parameters
from persona.llm.checks import check_options, check_requests, check_soft_prompt
from persona.llm.decoding import NOISE, BeamMargin, GreedyMargin
from persona.llm.frozen.model import FrozenModel, unwrapped
from persona.llm.frozen.probe import Probe, ordinary_tokens
from persona.llm.inputs import Batching, BatchLimits, ModelInput, batches
from persona.llm.lifts import TokenLifts, check_lifts, vocabulary_size
from persona.llm.tokenizers import HuggingFaceTokenizer, Overlong, PromptEncoder, TemplateUse
from persona.llm.weights.quantized import mixes_rows, precision, settle
from persona.protocols import (
    ADAPTER,
    LIFTS,
    SOFT_PROMPT,
    TEXT,
    AdapterSource,
    Answer,
    GenerationOptions,
    Message,
    Request,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformersLM:
    """A frozen model of transformers.

    Args:
        model: a model with ``generate``. A PEFT model is unwrapped, its active adapter stays.
        tokenizer: the model's.
        name: what the fingerprint calls the model; None takes the end of the model's own `name_or_path`.
        batch_tokens: most tokens in one batch, at least 1: longest prompt and longest answer, times rows and beams. A
            request that is longer alone is a batch of its own, and so is each request to a model in 8 bits.
        max_prompt_tokens: most tokens of a prompt and its soft prompt together; None for what the model can take: its
            positions, less `max_new_tokens` where the answer shares them (decoder-only).
        chat_template, overlong, system, chat_template_kwargs: see `PromptEncoder`.
        weights_hash: makes the fingerprint's hash; None hashes the parameters.

    Attributes:
        model: the frozen model.
        frozen: how it is computed.
        hidden_size: length of an input embedding, and of a soft prompt's vectors.
        encoder_decoder: whether the model reads in an encoder and writes in a decoder.
        pad_token: id of the token that fills up a batch.

    Raises:
        InvalidOptionError: if an option is out of its range.
        ModelLoadError: if `model` does not generate text, or is a prompt-tuned PEFT model.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        batch_tokens: int = 8192,
        max_prompt_tokens: int | None = None,
        chat_template: TemplateUse = "auto",
        overlong: Overlong = "error",
        system: str | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
        weights_hash: Callable[[], str] | None = None,
    ) -> None:
        for option, most in (("batch_tokens", batch_tokens), ("max_prompt_tokens", max_prompt_tokens)):
            if most is not None and most < 1:
                raise InvalidOptionError(f"`{option}` must be at least 1, was: {most}")
        self.model: Any = unwrapped(model)
        settle(self.model)
        own_name = str(getattr(self.model, "name_or_path", "")).rstrip("/").split("/")[-1]
        self.name = name or own_name or type(self.model).__name__
        self._batch_tokens = 1 if mixes_rows(self.model) else batch_tokens
        self._max_prompt_tokens = max_prompt_tokens
        self._prompts = PromptEncoder(
            tokenizer,
            chat_template=chat_template,
            overlong=overlong,
            system=system,
            chat_template_kwargs=chat_template_kwargs,
        )
        self._tokenizer: Any = tokenizer
        self._written = AnswerTokens(tokenizer, self._prompts.thinking_end)
        self._weights_hash = weights_hash or (lambda: hash_parameters(self.model))
        self.frozen = FrozenModel(self.model, tokenizer)
        self._eos, self.pad_token = self.frozen.ends, self.frozen.pad_token
        self.hidden_size = int(self.frozen.layer.weight.shape[1])
        self.encoder_decoder = self.frozen.encoder_decoder
        self._adapters: AdapterSource | None = None
        # One model computes for one caller at a time; two would only share its device, and its training flags.
        self._lock = RLock()

    @property
    def channels(self) -> frozenset[str]:
        """Text and lifts, soft prompts unless there is a `refusal`, and adapters while some are attached."""
        soft_prompts = (SOFT_PROMPT,) if self.refusal(SOFT_PROMPT) is None else ()
        return frozenset({TEXT, LIFTS, *soft_prompts, *(() if self._adapters is None else (ADAPTER,))})

    def refusal(self, way: str) -> str | None:
        """Why the model cannot take one of `persona.protocols.WAYS` at all; None if it can.

        The first call computes a few tokens (`persona.llm.frozen.probe`).
        """
        return (self.probe.soft_prompt_refusal or self.probe.loss_refusal) if way == SOFT_PROMPT else None

    @cached_property
    def probe(self) -> Probe:
        """What the model was found to do."""
        size = vocabulary_size(self.model.config) or len(self.frozen.layer.weight)
        tokens = ordinary_tokens(self._tokenizer, self.special_tokens, min(size, len(self.frozen.layer.weight)))
        return Probe(self.frozen, tokens, self._lock)

    @property
    def chats(self) -> bool:
        """Whether prompts become turns of a chat, by the tokenizer's template."""
        return self._prompts.uses_chat_template

    @property
    def turn_tokens(self) -> int:
        """Tokens that a turn of a chat takes besides those of its text."""
        return self._prompts.turn_tokens

    constrains = True

    def attach_adapters(self, adapters: AdapterSource | None) -> None:
        """Take requests with adapters from now on, by the names that `adapters` knows; None takes none any more."""
        with self._lock:
            self._adapters = adapters

    @cached_property
    def fingerprint(self) -> str:
        """``name@weights:precision``; hashes all weights when first asked for."""
        return f"{self.name}@{self._weights_hash()}:{precision(self.model)}"

    @property
    def settings(self) -> dict[str, object]:
        """What besides the model and a request decides an answer."""
        return {**self._prompts.settings, "max_prompt_tokens": self._max_prompt_tokens}

    @property
    def tokenizer(self) -> HuggingFaceTokenizer:
        """Measures prompts in the model's tokens, without the chat template."""
        return self._prompts.measure

    def prompt_limit(self, options: GenerationOptions, turns: Sequence[Message] = ()) -> int | None:
        """Most tokens of a prompt, as `tokenizer` counts them: what the model can take, less the chat template and the
        `turns` before the prompt.

        Raises:
            InvalidOptionError: as in `input_limit`.
        """
        limit = self.input_limit(options)
        if limit is None:
            return None
        (templated,) = self._prompts.encode(["."], [None], [turns])
        return max(0, limit - (len(templated) - self.tokenizer.count(".")))

    def input_limit(self, options: GenerationOptions) -> int | None:
        """How many tokens an input may have, soft prompt and chat template included; None for any number.

        Raises:
            InvalidOptionError: if an answer of `max_new_tokens` does not fit into the model's positions.
        """
        read, written = self.frozen.positions
        if not self.encoder_decoder:
            read = None if written is None else written - options.max_new_tokens
        # A decoder-only model shares its positions between the prompt, at least one token, and the answer.
        if written is not None and written < options.max_new_tokens + (0 if self.encoder_decoder else 1):
            raise InvalidOptionError(
                f"{self.name} has {written} positions, too few for `max_new_tokens={options.max_new_tokens}`"
            )
        limit = self._max_prompt_tokens
        if limit is None and (self.encoder_decoder or read is None):
            # Relative positions have no end of their own, and some tables hold positions that are not to be used.
            limit = self._tokenizer.model_max_length
        return min((most for most in (read, limit) if most is not None), default=None)

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that are no part of a text: start, end, padding, and the tokenizer's other special ones."""
        return tuple(dict.fromkeys((*self._tokenizer.all_special_ids, *self._eos, self.pad_token)))

    def prompt_ids(self, prompts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Token ids of prompts as `generate` reads them, see `PromptEncoder.encode`.

        Args:
            prompts: the texts.
            limit: most tokens of one; None for any number.
        """
        return self._prompts.encode(prompts, [limit] * len(prompts))

    def opening_ids(self, text: str) -> list[int]:
        """Token ids of `text` as a prompt's opening: after the special tokens that begin one, and without any end."""
        encoded = self._tokenizer(".", return_special_tokens_mask=True, verbose=False)
        begin: list[int] = encoded["input_ids"][: encoded["special_tokens_mask"].index(0)]
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        return [*begin, *ids]

    def target_ids(self, targets: Sequence[str]) -> list[list[int]]:
        """Token ids of answers as the model should write them: the text and the end token."""
        end = [self._tokenizer.eos_token_id] if self._tokenizer.eos_token_id is not None else list(self._eos[:1])
        texts: list[list[int]] = self._tokenizer(list(targets), add_special_tokens=False, verbose=False)["input_ids"]
        return [[*ids, *end] for ids in texts]

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """The answers, in the order of `requests`.

        Raises:
            InvalidOptionError: if an option is out of range, a prompt is empty or too long, or a soft prompt has the
                wrong shape or holds numbers that are not finite.
            UnsupportedChannelError: if a request asks for an adapter and none are attached.
            UnknownAdapterError: if there is no adapter of that name.
            GenerationError: if the device's memory does not suffice, or the model's scores are not numbers.
        """
        check_options(options)
        if not requests:
            return []
        with self._lock, frozen(self.model), torch.inference_mode():
            # Within the lock: adapters that are attached now stay so until the answers are there.
            check_requests(requests, self)
            inputs = self._inputs(requests, options)
            # Equal prompts are one input; a soft prompt, or lifts, are never taken for equal to others.
            keys = [
                (each.ids, each.adapter, each.choices, None if each.soft_prompt is None and not each.lifts else index)
                for index, each in enumerate(inputs)
            ]
            answers = self._answers(dict(zip(keys, inputs, strict=True)), options)
        return [answers[key] for key in keys]

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
        """The answer to a request in pieces, and at the end the whole of it; errors as in `generate`.

        Joined, the pieces are the answer of `generate`. Of a beam search there is the whole alone.
        """
        check_options(options)
        if options.num_beams > 1:
            (text,) = self.generate([request], options)
            yield Answer(text)
            return

        def write(put: Callable[[str | Answer], None], left: Event) -> None:
            with self._lock, frozen(self.model), torch.inference_mode():
                check_requests([request], self)
                streamed = Streamed(AnswerStreamer(self._written, options, self._eos, put), left)
                (tokens,), _ = self._generate_batch(self._inputs([request], options), options, streamed)
            cut = len(tokens) == options.max_new_tokens and not self._written.is_stopped(tokens, options)
            put(Answer(self._written.answer(tokens, options), "length" if cut else "stop"))

        yield from from_thread(write)

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float]]:
        """Log-likelihood of each choice of each request as the whole answer, its end included (`ChoiceScorer`).

        As with answers, scores so close that a batch could have turned the decision between them are computed again
        alone.

        Returns:
            Nats, in the order of `Request.choices`.

        Raises:
            InvalidOptionError: if a request has no choices, or as in `generate`.
            UnsupportedChannelError, UnknownAdapterError, GenerationError: as in `generate`.
        """
        if not requests:
            return []
        if (refusal := self.probe.loss_refusal) is not None:
            raise UnsupportedChannelError(f"{self.name} cannot score choices: {refusal}; let it write its answers")
        options = self._scoring_options(requests)
        with self._lock, frozen(self.model), torch.inference_mode():
            check_requests(requests, self)
            inputs = dict(enumerate(self._inputs(requests, options)))
            scorer = ChoiceScorer(self.frozen, self.probe, self._attached)
            scores: dict[int, list[float]] = {}
            for keys in batches(inputs, options, self._limits(len(inputs))):
                scores.update(zip(keys, self._scored(scorer, [inputs[key] for key in keys]), strict=True))
                for key in keys if len(keys) > 1 else ():
                    choices = requests[key].choices
                    if choices is not None and margin(scores[key], choices) < NOISE.get(self.model.dtype, 0.0):
                        (scores[key],) = self._scored(scorer, [inputs[key]])
        return [scores[index] for index in range(len(requests))]

    def _scoring_options(self, requests: Sequence[Request]) -> GenerationOptions:
        """What a batch of scoring takes, in terms of generation: a row for each choice, as long as the longest one."""
        lengths = []
        for index, request in enumerate(requests):
            if request.choices is None:
                raise InvalidOptionError(f"choices are scored where there are some: request {index} has none")
            lengths += [len(ids) for ids in self.target_ids(request.choices.texts)]
        most = max(len(request.choices.texts) for request in requests if request.choices is not None)
        return GenerationOptions(max(lengths), num_beams=most, answers="constrained")

    def _attached(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """While it is open, the rows of a batch are computed with the adapters of these names."""
        return nullcontext() if self._adapters is None else self._adapters.named(adapters)

    def _limits(self, inputs: int) -> BatchLimits:
        """What bounds the batches of a number of inputs."""
        slots = None if self._adapters is None else self._adapters.slots
        # One input alone asks nothing of the probe.
        return BatchLimits(self._batch_tokens, slots, Batching.PADDED if inputs == 1 else self.probe.batching)

    def _scored(self, scorer: ChoiceScorer, inputs: Sequence[ModelInput]) -> list[list[float]]:
        try:
            return scorer([ScoredPrompt(each, each.choices or ()) for each in inputs])
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(inputs) from error

    def _out_of_memory(self, inputs: Sequence[ModelInput]) -> GenerationError:
        return GenerationError(
            f"{self.name} ran out of memory with {len(inputs)} requests of {max(map(len, inputs))} tokens in a "
            f"batch: lower `batch_tokens`, was: {self._batch_tokens}"
        )

    def _inputs(self, requests: Sequence[Request], options: GenerationOptions) -> list[ModelInput]:
        soft_prompts = [self._soft_prompt(request, index) for index, request in enumerate(requests)]
        limit = self.input_limit(options)
        lengths = [0 if vectors is None else len(vectors) for vectors in soft_prompts]
        limits = [None if limit is None else limit - length for length in lengths]
        prompts, turns = [request.prompt for request in requests], [request.turns for request in requests]
        encoded = self._prompts.encode(prompts, limits, turns)
        for index, (ids, length) in enumerate(zip(encoded, lengths, strict=True)):
            if not ids and not length:
                raise InvalidOptionError(f"a prompt must not be empty: prompt {index} has no tokens")
        return [
            ModelInput(
                tuple(ids),
                vectors,
                request.adapter,
                check_lifts(request.lifts, self.model.config),
                self._choice_ids(request, options),
            )
            for ids, vectors, request in zip(encoded, soft_prompts, requests, strict=True)
        ]

    def _choice_ids(self, request: Request, options: GenerationOptions) -> tuple[tuple[int, ...], ...] | None:
        """Token ids of the choices that a request is held to, the end token included; None if it is held to none.

        Raises:
            InvalidOptionError: if one is longer than an answer may be.
        """
        if options.answers != "constrained" or request.choices is None:
            return None
        choices = tuple(map(tuple, self.target_ids(request.choices.texts)))
        longest = max(map(len, choices))
        if longest > options.max_new_tokens:
            raise InvalidOptionError(
                f"`max_new_tokens` must be at least {longest} for these choices, was: {options.max_new_tokens}"
            )
        return choices

    def _soft_prompt(self, request: Request, index: int) -> torch.Tensor | None:
        """The request's soft prompt, checked, on the model's device and in its type; None if it has no tokens."""
        vectors = request.soft_prompt
        if vectors is None:
            return None
        check_soft_prompt(vectors, self.hidden_size, self.name, index)
        embeddings = self.frozen.layer.weight
        return vectors.detach().to(embeddings.device, embeddings.dtype) if len(vectors) else None

    def _answers(self, inputs: dict[Any, ModelInput], options: GenerationOptions) -> dict[Any, str]:
        """The answer to each input, under the same key."""
        noise = NOISE.get(self.model.dtype, 0.0)
        answers: dict[Any, list[int]] = {}
        for keys in batches(inputs, options, self._limits(len(inputs))):
            tokens, margins = self._generate_batch([inputs[key] for key in keys], options)
            answers.update(zip(keys, tokens, strict=True))
            for key, smallest in zip(keys, margins, strict=True):
                if len(keys) > 1 and smallest < noise:
                    (answers[key],), _ = self._generate_batch([inputs[key]], options)
        return {key: self._written.answer(tokens, options) for key, tokens in answers.items()}

    def _generate_batch(
        self, inputs: Sequence[ModelInput], options: GenerationOptions, streamed: Streamed | None = None
    ) -> tuple[list[list[int]], list[float]]:
        """Tokens of the answers, without the end token, and the margins with which they were decided."""
        soft_prompts = [each.soft_prompt for each in inputs]
        # Without a soft prompt nothing is asked of the probe.
        stand_in = self.probe.stand_in if any(each is not None for each in soft_prompts) else len
        batch = self.frozen.padded([each.ids for each in inputs], soft_prompts, stand_in)
        rules = self.frozen.rules(options)
        processors, watch = self._processors(inputs, options, rules)
        try:
            with self._attached([each.adapter for each in inputs]):
                stopping, streamer = self._written.stopping(options, streamed), streamed and streamed.streamer
                output = self.frozen.generate(batch, rules, processors, stopping_criteria=stopping, streamer=streamer)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(inputs) from error
        except PersonaError:
            raise
        except Exception as error:  # models raise whatever they like at inputs that they cannot read
            raise GenerationError(f"{self.name} cannot answer: {reason(error)}") from error
        margins: list[float] = watch.margins.tolist()
        if any(margin != margin for margin in margins):
            exact = self.model.dtype in (torch.float32, torch.float64)
            hint = "its weights, or an adapter's, are broken or far too large" if exact else "load it in float32"
            raise GenerationError(f"{self.name} computed scores that are not numbers in {self.model.dtype}: {hint}")
        # The output starts with a decoder's start token, or with the prompt.
        start = 1 if self.encoder_decoder else batch.ids.shape[1]
        return [self._until_end(row) for row in output[:, start:].tolist()], margins

    def _processors(
        self, inputs: Sequence[ModelInput], options: GenerationOptions, rules: GenerationConfig
    ) -> tuple[list[Any], GreedyMargin | BeamMargin]:
        """The logits processors of a batch; the watch over margins is the last, and sees the scores that decide."""
        eos = torch.tensor(self._eos, dtype=torch.long, device=self.frozen.device)
        forced = int(self.encoder_decoder and getattr(rules, "forced_bos_token_id", None) is not None)
        processors: list[Any] = []
        if any(bool(each.lifts) for each in inputs):
            processors.append(TokenLifts([each.lifts for each in inputs], options.num_beams, forced))
        if any(each.choices is not None for each in inputs):
            processors.append(ChoiceTrie([each.choices for each in inputs], options.num_beams, forced))
        watch = (
            GreedyMargin(len(inputs), eos)
            if options.num_beams == 1
            else BeamMargin(len(inputs), options.num_beams, options.max_new_tokens, eos)
        )
        return [*processors, watch], watch

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((index for index, token in enumerate(tokens) if token in self._eos), len(tokens))
        return tokens[:end]

    def __repr__(self) -> str:
        return f"TransformersLM({self.name!r})"

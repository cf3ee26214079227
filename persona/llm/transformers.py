"""A frozen model of transformers, decoder-only or encoder-decoder, as a language model.

>>> from persona.llm.load import load_llm
>>> llm = load_llm("tiny")
>>> requests = [Request("Once upon a time"), Request("The end", soft_prompt=torch.zeros(2, llm.hidden_size))]
>>> len(llm.generate(requests, GenerationOptions(max_new_tokens=4)))
2

**Frozen** means that weights, buffers, configuration, tokenizer, ``requires_grad`` and ``training`` flags are the same
after a call as before.

**Batches.** Requests are sorted by length and cut into batches by a token budget; equal ones are generated once, and a
long beginning of many is read once.
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

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from persona.errors import InvalidOptionError, UnknownAdapterError, UnsupportedChannelError
from persona.llm.answers.choices import margin
from persona.llm.answers.constrained import legal_ids
from persona.llm.answers.scoring import ChoiceScorer, scoring_options
from persona.llm.answers.streams import from_thread
from persona.llm.answers.tokens import AnswerStreamer, AnswerTokens
from persona.llm.checkpoint import frozen, hash_parameters
from persona.llm.checks import check_options, check_requests, placed
from persona.llm.decoding import NOISE
from persona.llm.frozen.beginnings import Beginning, shared_beginnings
from persona.llm.frozen.blending import Blending
from persona.llm.frozen.model import FrozenModel, unwrapped
from persona.llm.frozen.options import TransformersOptions
from persona.llm.frozen.probe import Probe, ordinary_tokens
from persona.llm.frozen.steering import Steered, checked
from persona.llm.frozen.turns import Turns
from persona.llm.frozen.writing import Writing
from persona.llm.inputs import Batching, BatchLimits, ModelInput, batches, within_memory
from persona.llm.lifts import check_lifts, vocabulary_size
from persona.llm.tokenizers import PromptEncoder
from persona.llm.weights.quantized import mixes_rows, precision, settle
from persona.protocols import (
    ADAPTER,
    LIFTS,
    SOFT_PROMPT,
    STEERING,
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


Key = TypeVar("Key", bound=Hashable)


class TransformersLM:
    """A frozen model of transformers.

    Args:
        model: a model with ``generate``. A PEFT model is unwrapped, its active adapter stays.
        tokenizer: the model's.
        options: how it is asked.
        weights_hash: makes the fingerprint's hash; None hashes the parameters.

    Attributes:
        model: the frozen model.
        frozen: how it is computed.
        read: reads the tokens of answers.
        hidden_size: length of an input embedding, and of a soft prompt's vectors.
        encoder_decoder: whether the model reads in an encoder and writes in a decoder.
        pad_token: id of the token that fills up a batch.
        tokenizer: measures prompts in the model's tokens, without the chat template.
        chats: whether prompts become turns of a chat, by the tokenizer's template.
        turn_tokens: tokens that a turn of a chat takes besides those of its text.
        adapters, turns: those that are attached, or None; who computes now.

    Raises:
        InvalidOptionError: if an option is out of its range.
        ModelLoadError: if `model` does not generate text, or is a prompt-tuned PEFT model.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        options: TransformersOptions | None = None,
        *,
        weights_hash: Callable[[], str] | None = None,
    ) -> None:
        self.options = options or TransformersOptions()
        self.model: Any = unwrapped(model)
        settle(self.model)
        own_name = str(getattr(self.model, "name_or_path", "")).rstrip("/").split("/")[-1]
        self.name = self.options.name or own_name or type(self.model).__name__
        self._batch_tokens = 1 if mixes_rows(self.model) else self.options.batch_tokens
        self._within_memory = partial(within_memory, self.name, self._batch_tokens)
        self._prompts = PromptEncoder(tokenizer, self.options)
        self.tokenizer = self._prompts.measure
        self.chats, self.turn_tokens = self._prompts.uses_chat_template, self._prompts.turn_tokens
        self._tokenizer: Any = tokenizer
        self._weights_hash = weights_hash or (lambda: hash_parameters(self.model))
        self.frozen = FrozenModel(self.model, tokenizer)
        self.pad_token, self.encoder_decoder = self.frozen.pad_token, self.frozen.encoder_decoder
        self.read = AnswerTokens(tokenizer, self._prompts.thinking_end)
        self.frozen.stand_in = lambda vectors: self.probe.stand_in(vectors)
        self._writing = Writing(self.frozen, self.read, self.name)
        self.hidden_size = self.frozen.embeddings.shape[1]
        self.adapters: AdapterSource | None = None
        self.turns = Turns()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """While this is open, the model is frozen and computes for the caller alone; others get their turn after it."""
        with self.turns, frozen(self.model), torch.inference_mode():
            yield

    @property
    def channels(self) -> frozenset[str]:
        """Text and lifts; soft prompts and steering without a `refusal`; adapters while some are attached."""
        probed = [way for way in (SOFT_PROMPT, STEERING) if self.refusal(way) is None]
        return frozenset({TEXT, LIFTS, *probed, *(() if self.adapters is None else (ADAPTER,))})

    def refusal(self, way: str) -> str | None:
        """Why the model cannot take one of `persona.protocols.WAYS` at all; None if it can.

        The first call computes a few tokens (`persona.llm.frozen.probe`).
        """
        return self.probe.refusal(way)

    @cached_property
    def probe(self) -> Probe:
        """What the model was found to do."""
        most = len(self.frozen.embeddings)
        size = min(vocabulary_size(self.model.config) or most, most)
        tokens = ordinary_tokens(self._tokenizer, self.special_tokens, size)
        return Probe(self.frozen, tokens, self.turns)

    constrains = True

    def attach_adapters(self, adapters: AdapterSource | None) -> None:
        """Take requests with adapters from now on, by the names that `adapters` knows; None takes none any more."""
        with self.turns:
            self.adapters = adapters

    @cached_property
    def fingerprint(self) -> str:
        """``name@weights:precision``; hashes all weights when first asked for."""
        return f"{self.name}@{self._weights_hash()}:{precision(self.model)}"

    @property
    def settings(self) -> dict[str, object]:
        """What besides the model and a request decides an answer."""
        return {**self._prompts.settings, **self.options.settings}

    def prompt_limit(self, options: GenerationOptions, turns: Sequence[Message] = ()) -> int | None:
        """Most tokens of a prompt, as `tokenizer` counts them: what the model can take, less the chat template and the
        `turns` before the prompt.

        Raises:
            InvalidOptionError: as in `input_limit`.
        """
        if (limit := self.input_limit(options)) is None:
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
        limit = self.options.max_prompt_tokens
        if limit is None and (self.encoder_decoder or read is None):
            # Relative positions have no end of their own, and some tables hold positions that are not to be used.
            limit = self._tokenizer.model_max_length
        return min((most for most in (read, limit) if most is not None), default=None)

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that are no part of a text: start, end, padding, and the tokenizer's other special ones."""
        return tuple(dict.fromkeys((*self._tokenizer.all_special_ids, *self.frozen.ends, self.pad_token)))

    def prompt_ids(self, prompts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Token ids of prompts as `generate` reads them, of each at most `limit` (`PromptEncoder.encode`)."""
        return self._prompts.encode(prompts, [limit] * len(prompts))

    def opening_ids(self, text: str) -> list[int]:
        """Token ids of `text` as `PromptEncoder.opening` has them."""
        return self._prompts.opening(text)

    def target_ids(self, targets: Sequence[str]) -> list[list[int]]:
        """Token ids of answers as the model should write them: the text and the end token."""
        end = [self._tokenizer.eos_token_id] if self._tokenizer.eos_token_id is not None else list(self.frozen.ends[:1])
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
        return [answer.text for _, answer in self.generate_each(requests, options)]

    def generate_each(self, requests: Sequence[Request], options: GenerationOptions) -> Iterator[tuple[int, Answer]]:
        """Index and answer of each of `requests`, in their order, once all are there; errors as in `generate`."""
        check_options(options)
        if not requests:
            return
        with self.computing():
            # Within the lock: adapters that are attached now stay so until the answers are there.
            inputs = self.inputs(requests, options)
            # Equal prompts are one input; numbers that a request brings are never taken for equal to others.
            own = [each.soft_prompt is not None or bool(each.lifts or each.steering) for each in inputs]
            keys = [(each.ids, each.adapter, each.choices, n if own[n] else None) for n, each in enumerate(inputs)]
            answers = self._answers(dict(zip(keys, inputs, strict=True)), options)
        yield from ((index, answers[key]) for index, key in enumerate(keys))

    def stream(self, request: Request, options: GenerationOptions) -> Iterator[str | Answer]:
        """The answer to a request in pieces, and at the end the whole of it; errors as in `generate`.

        Joined, the pieces are the answer of `generate`. Of a beam search there is the whole alone.
        """
        if options.num_beams > 1:
            ((_, answer),) = self.generate_each([request], options)
            yield answer
            return
        check_options(options)

        def write(put: Callable[[str | Answer], None], left: Event) -> None:
            with self.computing():
                (read,) = self.inputs([request], options)
                streamer = AnswerStreamer(self.read, options, self.frozen.ends, put, left)
                (tokens,), _ = self._generate_batch([read], options, streamer)
            put(self.read.answer(tokens, options))

        yield from from_thread(write)

    def choice_scores(self, requests: Sequence[Request]) -> list[list[float]]:
        """Nats of each choice of each request as the whole answer, its end included (`ChoiceScorer`).

        Scores so close that a batch could have turned the decision between them are computed again alone.

        Raises:
            InvalidOptionError: if a request has no choices; it and others as in `generate`.
        """
        if not requests:
            return []
        if (refusal := self.probe.loss_refusal) is not None:
            raise UnsupportedChannelError(f"{self.name} cannot score choices: {refusal}; let it write its answers")
        options = scoring_options(requests, self.target_ids)
        with self.computing():
            inputs = dict(enumerate(self.inputs(requests, options)))
            scorer = ChoiceScorer(self.frozen, self.probe, self.attached, self.options.blend)
            scores: dict[int, list[float]] = {}
            for keys, beginning in self._batches(inputs, options):
                own = self._scored(scorer, [inputs[key] for key in keys], beginning)
                scores.update(zip(keys, own, strict=True))
                for key in keys if len(keys) > 1 else ():
                    choices = requests[key].choices
                    if choices is not None and margin(scores[key], choices) < NOISE.get(self.model.dtype, 0.0):
                        (scores[key],) = self._scored(scorer, [inputs[key]])
        return [scores[index] for index in range(len(requests))]

    def attached(self, inputs: Sequence[ModelInput]) -> AbstractContextManager[None]:
        """While it is open, the rows of a batch have the adapters and steering of `inputs`; it may be opened again."""
        names = [each.adapter for each in inputs]
        if self.adapters is None and any(names):
            raise UnknownAdapterError(f"{self.name} has no adapters attached any more: keep the AdapterPool open")
        adapters = nullcontext() if self.adapters is None else self.adapters.named(names)
        rows = [each.steering for each in inputs]
        return Steered(self.frozen.blocks, rows, adapters) if any(rows) else adapters

    def _batches(
        self, inputs: Mapping[Key, ModelInput], options: GenerationOptions
    ) -> Iterator[tuple[list[Key], Beginning | None]]:
        """Keys of `inputs` in batches, and what the prompts of a batch begin with where that was read before."""
        slots = None if self.adapters is None else self.adapters.slots
        # One input alone asks nothing of the probe.
        sharing = Batching.PADDED if len(inputs) == 1 else self.probe.batching
        blends = self.options.blend is not None
        limits = BatchLimits(self._batch_tokens // (1 + blends), slots, sharing)
        groups = shared_beginnings(inputs)
        if not any(length for _, length in groups) or blends or not self.probe.takes_beginnings:
            groups = [(list(inputs), 0)]
        for alike, length in groups:
            beginning = self._beginning(inputs[alike[0]], length) if length else None
            for keys in batches({key: inputs[key] for key in alike}, options, limits):
                yield keys, beginning

    def _beginning(self, each: ModelInput, length: int) -> Beginning | None:
        with self._within_memory([each]), self.attached([each]):
            return self.frozen.beginning(each.ids[:length])

    def _scored(
        self, scorer: ChoiceScorer, inputs: Sequence[ModelInput], beginning: Beginning | None = None
    ) -> list[list[float]]:
        with self._within_memory(inputs):
            return scorer(inputs, beginning)

    def inputs(self, requests: Sequence[Request], options: GenerationOptions) -> list[ModelInput]:
        """Requests as the model reads them; errors as in `generate`."""
        check_requests(requests, self)
        if self.options.blend is not None and self.probe.batching is not Batching.PADDED:
            raise UnsupportedChannelError(f"{self.name} cannot blend: it takes {self.probe.batching.value} in a batch")
        like = self.frozen.embeddings
        soft_prompts = [placed(each.soft_prompt, like, self.name, n) for n, each in enumerate(requests)]
        limit = self.input_limit(options)
        lengths = [0 if vectors is None else len(vectors) for vectors in soft_prompts]
        limits = [None if limit is None else limit - length for length in lengths]
        encoded = self._prompts.encode([each.prompt for each in requests], limits, [each.turns for each in requests])
        for index, (ids, length) in enumerate(zip(encoded, lengths, strict=True)):
            if not ids and not length:
                raise InvalidOptionError(f"a prompt must not be empty: prompt {index} has no tokens")
        return [
            ModelInput(
                tuple(ids),
                vectors,
                request.adapter,
                check_lifts(request.lifts, self.model.config),
                legal_ids(request, options, self.target_ids),
                checked(request.steering, self.frozen.blocks, like, f" (request {index})"),
            )
            for index, (ids, vectors, request) in enumerate(zip(encoded, soft_prompts, requests, strict=True))
        ]

    def _answers(self, inputs: dict[Any, ModelInput], options: GenerationOptions) -> dict[Any, Answer]:
        """The answer to each input, under the same key."""
        noise = NOISE.get(self.model.dtype, 0.0)
        answers: dict[Any, list[int]] = {}
        for keys, beginning in self._batches(inputs, options):
            tokens, margins = self._generate_batch([inputs[key] for key in keys], options, beginning=beginning)
            answers.update(zip(keys, tokens, strict=True))
            for key, smallest in zip(keys, margins, strict=True):
                if len(keys) > 1 and smallest < noise:
                    (answers[key],), _ = self._generate_batch([inputs[key]], options)
        return {
            key: self.read.answer(tokens, options, held=inputs[key].choices is not None)
            for key, tokens in answers.items()
        }

    def _generate_batch(
        self,
        inputs: Sequence[ModelInput],
        options: GenerationOptions,
        streamer: AnswerStreamer | None = None,
        beginning: Beginning | None = None,
    ) -> tuple[list[list[int]], list[float]]:
        """Tokens of the answers, without the end token, and the margins with which they were decided."""
        blending = Blending(self.options.blend, inputs, options.num_beams)
        with self._within_memory(blending.inputs), self.attached(blending.inputs):
            return self._writing.batch(blending, options, streamer, beginning)

    def __repr__(self) -> str:
        return f"TransformersLM({self.name!r})"

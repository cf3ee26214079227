"""What a frozen model can be asked for, found by computing a few tokens and not by its name.

=========================  ===========================================================================================
requests in one batch      padded where the answer is then the one that a request gets alone; else requests of equal
                           length (models that keep a state), or each alone (experts of limited capacity)
a beginning of all         read once where prompts after its cache get the scores that they get alone
soft prompts               taken where the embeddings of a text's own ids, as a soft prompt, are that text
the loss                   taken where its scores are those that answers are written with
steering                   taken where what is added behind a block changes its own row and no other
=========================  ===========================================================================================

Each question is asked when it first matters, takes some steps of a few tokens, and leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from persona.llm.checkpoint import frozen
from persona.llm.frozen.model import FrozenModel, rounding
from persona.llm.frozen.steering import Steered, read_states
from persona.llm.inputs import Batching
from persona.protocols import SOFT_PROMPT, STEERING, GenerationOptions

_READ, _WRITTEN = 8, 3
_TEXT = "One of these words is about a small red house, 7 are not, and the last one ends here"
_RULED_OUT = -1.0e8
"""Scores below are those of tokens that a model never writes."""


class Probe:
    """What a model was found to do.

    Args:
        model: the frozen model.
        tokens: ids of ordinary tokens, see `ordinary_tokens`.
        lock: held while the model computes.
    """

    def __init__(self, model: FrozenModel, tokens: Sequence[int], lock: AbstractContextManager[object]) -> None:
        self._model, self._lock = model, lock
        self._long, self._written = list(tokens[:_READ]), list(tokens[_READ : _READ + _WRITTEN])
        self._text, self._equal = self._long[2:7], self._long[1:6]

    @cached_property
    def batching(self) -> Batching:
        """Which requests may share a batch."""
        if self._is_same(lambda: self._generated([self._long, self._text])[1:]):
            return Batching.PADDED
        if self._is_same(lambda: self._generated([self._equal, self._text])[1:]):
            return Batching.EQUAL
        return Batching.ALONE

    @cached_property
    def takes_beginnings(self) -> bool:
        """Whether prompts of different lengths may come after a cache of what they all begin with."""
        if self._model.encoder_decoder or self.batching is not Batching.PADDED:
            return False
        begin = self._text[:2]
        return self._is_same(lambda: self._generated([[*begin, *self._long], self._text], begin=begin)[1:])

    @cached_property
    def keeps_positions(self) -> bool:
        """Whether its cache has the keys and values of all positions, and nothing else: rows can come and go in it."""
        try:
            with self._untouched():
                return self._model.beginning(self._text) is not None
        except Exception:  # as in `_is_same`
            return False

    @cached_property
    def loss_pads_left(self) -> bool:
        """Whether rows of a loss are padded in front: else behind, which no decoder's token sees."""
        return not self._model.encoder_decoder and self.batching is Batching.PADDED

    @cached_property
    def loss_refusal(self) -> str | None:
        """Why the model cannot be trained by, None if it can."""
        if not self._is_same(lambda: self._scored([self._text])):
            return "its scores of an answer in one pass are not those that it writes the answer with"
        if not self._is_same(lambda: self._scored([self._long, self._text])[1:]):
            return "its scores depend on what else is in the batch"
        return None if self._is_differentiable() else "it passes no gradients to its input"

    def refusal(self, way: str) -> str | None:
        """Why the model does not take one of `persona.protocols.WAYS`, None if it does."""
        if way == STEERING:
            return self.steering_refusal
        return (self.soft_prompt_refusal or self.loss_refusal) if way == SOFT_PROMPT else None

    @cached_property
    def soft_prompt_refusal(self) -> str | None:
        """Why the model takes no soft prompts, None if it does."""
        return None if self._stands_in is not None else "the embeddings of a text's own tokens are not that text to it"

    @cached_property
    def steering_refusal(self) -> str | None:
        """Why nothing can be added to the model's hidden states, None if it can."""
        model = self._model
        if not model.blocks:
            return "its blocks were not found"
        middle = len(model.blocks) // 2
        try:
            with read_states([model.blocks[middle]]) as found:
                plain = self._scored([self._text])
            (states,) = found
            if states.ndim != 3 or len(states) != 1 or states.shape[2] != model.embeddings.shape[1]:
                return "its blocks do not give one state of the embeddings' length for each token"
            noise = torch.randn(states.shape[2], generator=torch.Generator().manual_seed(0)).to(states)
            own = {middle: noise * states.float().std().to(states)}
            with Steered(model.blocks, [own]):
                alone = self._scored([self._text])
            neighbour = {Batching.PADDED: [self._long], Batching.EQUAL: [self._equal]}.get(self.batching, [])
            with Steered(model.blocks, [None for _ in neighbour] + [own]):
                mixed = self._scored([*neighbour, self._text])
        except Exception:  # as in `_is_same`
            return "nothing can be added behind its blocks"
        tolerance = rounding(model.model)
        if same_scores(alone, plain, tolerance):
            return "what is added behind its blocks changes nothing"
        return None if same_scores(mixed[-1:], alone, tolerance) else "what is added in one row depends on the others"

    def stand_in(self, vectors: Tensor) -> list[int]:
        """The ids that stand where a soft prompt stands.  # vectors: (n_tokens, hidden)"""
        return (self._stands_in or self._neutral)(vectors)

    @cached_property
    def _stands_in(self) -> Callable[[Tensor], list[int]] | None:
        """Ids with which the embeddings of a text's own tokens are that text; None if none are."""
        kinds = (self._neutral, self._nearest)
        return next((kind for kind in kinds if self._is_same(partial(self._generated, [self._text], kind))), None)

    def _neutral(self, vectors: Tensor) -> list[int]:
        """For models that make nothing of ids but their embeddings."""
        return [self._long[0]] * len(vectors)

    def _nearest(self, vectors: Tensor) -> list[int]:
        """For each vector the token whose embedding is nearest."""
        layer = self._model.layer
        ids = torch.arange(len(self._model.embeddings), device=self._model.device)
        with torch.no_grad():
            wanted = vectors.detach().float()
            parts = [torch.cdist(wanted, layer(part).float()).min(1) for part in torch.split(ids, 4096)]
            best = torch.stack([part.values for part in parts]).argmin(0)
            found = torch.stack([part.indices for part in parts]).gather(0, best[None])[0] + 4096 * best
        return [int(token) for token in found]

    @cached_property
    def _alone(self) -> Tensor:
        return self._generated([self._text])

    def _generated(
        self,
        prompts: Sequence[Sequence[int]],
        stand_in: Callable[[Tensor], list[int]] | None = None,
        begin: Sequence[int] = (),
    ) -> Tensor:
        """The scores with which `_written` is written after prompts.  # (prompts, written, vocabulary)

        Those begin with `begin`, which is read before.
        """
        model = self._model
        rules = model.rules(GenerationOptions(_WRITTEN), output_logits=True, return_dict_in_generate=True)
        # A model that ends an answer when it likes would not write all that is dictated.
        rules.eos_token_id = None
        more: dict[str, Any] = {}
        with self._untouched():
            batch = self._batch([prompt[len(begin) :] for prompt in prompts], stand_in)
            if begin:
                beginning = model.beginning(begin)
                assert beginning is not None, "a cache that cannot be repeated"
                batch, more = beginning.before(batch), {"past_key_values": beginning.rows(len(prompts))}
            tokens = iter(self._written)
            output = model.generate(batch, rules, [Dictated(lambda scores: next(tokens))], **more)
        return torch.stack(output.logits, 1)

    def _scored(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The same scores in one pass.  # (prompts, written, vocabulary)"""
        model = self._model
        with self._untouched():
            if model.encoder_decoder:
                written = [[model.decoder_start_token, *self._written[:-1]]] * len(prompts)
                return model.logits(self._batch(prompts), torch.tensor(written, device=model.device))
            rows = [[*prompt, *self._written[:-1]] for prompt in prompts]
            batch = model.padded(rows, pad_left=self.loss_pads_left)
            logits = model.logits(batch, keep=_WRITTEN if self.loss_pads_left else 0)
        ends = [logits.shape[1] if self.loss_pads_left else len(row) for row in rows]
        return torch.stack([row[end - _WRITTEN : end] for row, end in zip(logits, ends, strict=True)])

    def _batch(self, prompts: Sequence[Sequence[int]], stand_in: Callable[[Tensor], list[int]] | None = None) -> Any:
        """Prompts as text; with `stand_in` all but the last two tokens of each as a soft prompt."""
        if stand_in is None:
            return self._model.padded(prompts)
        ids = [torch.tensor(prompt[:-2], device=self._model.device) for prompt in prompts]
        return self._model.padded(
            [prompt[-2:] for prompt in prompts], [self._model.layer(each) for each in ids], stand_in
        )

    def _is_same(self, compute: Callable[[], Tensor]) -> bool:
        """Whether scores are those of the text alone, up to rounding; not where either cannot be computed."""
        try:
            expected, found = self._alone, compute()
        except Exception:  # models raise whatever they like at what they cannot do
            return False
        return same_scores(found, expected, rounding(self._model.model))

    def _is_differentiable(self) -> bool:
        """Whether gradients reach a soft prompt."""
        model = self._model
        with torch.inference_mode(False), self._untouched(), torch.enable_grad():
            written = torch.tensor([self._written], device=model.device) if model.encoder_decoder else None
            soft = torch.zeros(2, model.embeddings.shape[1], device=model.device, dtype=model.embeddings.dtype)
            try:
                batch = model.padded([self._text], [soft.requires_grad_()], self._neutral)
                (gradient,) = torch.autograd.grad(model.logits(batch, written).float().square().sum(), soft)
            except Exception:  # as in `_is_same`
                return False
        return bool((gradient != 0).any() or gradient.isnan().any())

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        with self._lock, frozen(self._model.model), torch.no_grad():
            yield


class Dictated(LogitsProcessor):
    """A logits processor that has at each step the token written that `choose` gives for the scores."""

    def __init__(self, choose: Callable[[Tensor], int]) -> None:
        self._choose = choose

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token, dictated = self._choose(scores), torch.full_like(scores, -torch.inf)
        dictated[:, token] = 0
        return dictated


def same_scores(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether scores are equal, in the norm over all tokens that are not ruled out.

    Args:
        found, expected: logits.  # (..., vocabulary)
        tolerance: by how much of themselves they may differ.
    """
    if expected.isnan().any():
        return True  # the model is broken, which every answer of it says
    possible = expected > _RULED_OUT
    if found.shape != expected.shape or not torch.equal(found > _RULED_OUT, possible):
        return False
    found, expected = found[possible].double(), expected[possible].double()
    return bool((found - expected).norm() <= tolerance * (expected - expected.mean()).norm())


def ordinary_tokens(tokenizer: Any, special: Sequence[int], size: int) -> list[int]:
    """Different ids of an ordinary text; if the tokenizer knows too few, of any tokens that mean nothing special.

    Args:
        tokenizer: of transformers.
        special: ids that are no part of a text.
        size: how many tokens there are.
    """
    text: list[int] = tokenizer(_TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    known = dict.fromkeys(token for token in (*text, *range(size)) if token not in special and token < size)
    return list(known)[: _READ + _WRITTEN]

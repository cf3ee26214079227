"""What is the user's own about a text: its hidden states less those of a neutral text for the same input.

The neutral text of a record is what the frozen LLM, which knows nothing of the user, answers to the record's input. The
difference of a record is read behind some blocks, as the mean over each text's tokens or at its last one; the user's
direction is the mean of the differences (StyleVector, arXiv 2503.05213, which takes the last token)::

    d(record) = h(input, own text) - h(input, neutral text)         (blocks, hidden)

**Record by record.** A difference is computed from its record alone, never in a batch with others, and kept among the
store's vectors under the record's id. So deleting a record takes its difference out, and what is made of those that are
left is to the last byte what it would be had the record never been there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from persona.adapters.examples import Example, ExampleMaker, text_examples
from persona.adapters.family import Family
from persona.channels import check_way
from persona.llm.frozen.steering import read_states
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import STEERING, GenerationOptions, LanguageModel, Request
from persona.records import Profile
from persona.steering.options import SteeringOptions, steering_family
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore
from persona.store.vectors import UserVectors


@dataclass(frozen=True, slots=True)
class OwnText:
    """A record's input and text, as the LLM reads them.

    Attributes:
        record_id: the record's.
        asked: the input, as a text.
        hash: of input and text.
        prompt: token ids of the input.
        target: token ids of the text, cut.
    """

    record_id: str
    asked: str
    hash: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """What was read of a user's records.

    Attributes:
        own: the texts, oldest first.
        vectors: the difference of each, float32.  # (texts, blocks, hidden)
        lengths: that of the own text's states, as read.  # (texts, blocks)
    """

    own: Sequence[OwnText]
    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]


class Contrast:
    """Reads users' records with a frozen LLM.

    Args:
        llm: the frozen LLM.
        examples: makes inputs and texts of records (`persona.adapters.examples`); the first of a record counts. Of one
            without any, the first half of the text is the input and the second half the text.
        options: how.

    Attributes:
        llm, options: as given.
        blocks: behind which states are read.
        family: of the vectors.
        fingerprint: what the differences are stored under.
        loss: how likely texts are.

    Raises:
        InvalidOptionError: if the LLM has no such block.
        UnsupportedChannelError: if the LLM takes no steering, or its scores depend on what else is in a batch.
    """

    def __init__(self, llm: LanguageModel, examples: ExampleMaker, options: SteeringOptions | None = None) -> None:
        check_way(llm, STEERING, "steering vectors")
        assert isinstance(llm, TransformersLM)  # the only kind that takes them
        self.llm, self.options, self._examples = llm, options or SteeringOptions(), examples
        self.blocks = self.options.chosen_blocks(llm)
        self.family: Family = steering_family(llm, self.blocks)
        self.loss = TargetLoss(llm)
        read = [list(self.blocks), self.options.states, self.options.most_tokens]
        self.fingerprint = f"steering:{llm.fingerprint}|{json.dumps(read)}"
        self._kind = f"neutral:{llm.fingerprint}|{self.options.most_tokens}"

    def own_texts(self, profile: Profile) -> list[OwnText]:
        """The records of a profile that have an input and a text, oldest first; what is too long is left out."""
        found = []
        limit = self.llm.input_limit(GenerationOptions(self.options.most_tokens))
        for record in profile:
            one = Profile(profile.user_id, (record,))
            for example in (self._examples(one) or text_examples(one))[:1]:
                (prompt,) = self.llm.prompt_ids([example.prompt])
                (target,) = self.llm.target_ids([example.target])
                if limit is None or len(prompt) <= limit:
                    cut = tuple(target[: self.options.most_tokens])
                    found.append(OwnText(record.id, example.prompt, _hash(example), tuple(prompt), cut))
        return found

    def differences(self, store: ProfileStore, profile: Profile) -> Differences:
        """Those of a profile's records; what is not in the store is computed and put there."""
        own, known = self.own_texts(profile), store.vectors(profile.user_id, self.fingerprint)
        names = zip(known.record_ids, known.hashes, known.matrix, strict=True) if known is not None else ()
        rows = {(record_id, content): row for record_id, content, row in names}
        missing = [each for each in own if (each.record_id, each.hash) not in rows]
        if missing:
            neutral = self.neutral(store, profile, missing)
            rows |= {(each.record_id, each.hash): self._read(each, neutral[each.record_id]) for each in missing}
        width = len(self.blocks) * (self.llm.hidden_size + 1)
        matrix = np.array([rows[each.record_id, each.hash] for each in own], np.float16).reshape(len(own), width)
        if missing:
            ids, hashes = tuple(each.record_id for each in own), tuple(each.hash for each in own)
            store.put_vectors([UserVectors(profile.user_id, self.fingerprint, ids, hashes, matrix, profile.revision)])
        split = matrix.astype(np.float32).reshape(len(own), len(self.blocks), -1)
        return Differences(own, split[:, :, :-1], split[:, :, -1])

    def neutral(self, store: ProfileStore, profile: Profile, own: Sequence[OwnText]) -> Mapping[str, tuple[int, ...]]:
        """Token ids of the neutral texts of records by their ids; what is not in the store is written and put there."""
        stored = store.index(profile.user_id, self._kind)
        texts: dict[str, list[str]] = {} if stored is None else json.loads(stored.data)
        missing = [each for each in own if texts.get(each.record_id, [""])[0] != each.hash]
        if missing:
            options = GenerationOptions(max_new_tokens=self.options.most_tokens, answers="generate", raw=True)
            written = self.llm.generate([Request(each.asked) for each in missing], options)
            texts |= {each.record_id: [each.hash, text] for each, text in zip(missing, written, strict=True)}
            data = json.dumps(texts, sort_keys=True).encode()
            store.put_indexes([StoredIndex(profile.user_id, self._kind, profile.revision, data)])
        ids = self.llm.target_ids([texts[each.record_id][1] for each in own])
        cut = self.options.most_tokens
        return {each.record_id: tuple(target[:cut]) for each, target in zip(own, ids, strict=True)}

    def _read(self, own: OwnText, neutral: tuple[int, ...]) -> NDArray[np.float32]:
        """For each block the difference, and the length of the own text's states.  # (blocks * (hidden + 1),)"""
        chosen = [self.llm.frozen.blocks[block] for block in self.blocks]
        targets = [own.target, neutral]
        with self.llm.turns, torch.no_grad(), read_states(chosen) as found:
            self.loss([own.prompt, own.prompt], targets)
        parts = []
        for states in found:  # (2, length, hidden)
            of_own, of_neutral = (
                self._of_target(row, own.prompt, target) for row, target in zip(states.float(), targets, strict=True)
            )
            parts += [of_own.mean(0) - of_neutral.mean(0), of_own.norm(dim=1).mean()[None]]
        return torch.cat(parts).cpu().numpy()

    def _of_target(self, states: torch.Tensor, prompt: Sequence[int], target: Sequence[int]) -> torch.Tensor:
        """The states that are read of a row of the loss.  # (n, hidden)"""
        # The last token is predicted and not read; of a text of one token the state that it is predicted from counts.
        read = max(1, len(target) - 1)
        end = len(target) if self.llm.encoder_decoder else len(prompt) + len(target) - 1
        if not self.llm.encoder_decoder and self.llm.probe.loss_pads_left:
            end = len(states)
        return states[end - 1 : end] if self.options.states == "last" else states[end - read : end]


def _hash(example: Example) -> str:
    return hashlib.blake2b(json.dumps([example.prompt, example.target]).encode(), digest_size=16).hexdigest()

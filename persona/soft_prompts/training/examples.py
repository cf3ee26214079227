"""Examples to train a user embedder on: a question of a training user, its answer, and the user's other records.

Questions are those of the split and, if `leave_one_out` is above 0, more of the same kind made from the users' own
histories: one record is left out (and any other of the same text), its text becomes the question, its target the
answer. Some users choose the best step (validation); of them only the split's own questions are asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError
from persona.lamp.tasks import LampSplit
from persona.records import Profile, Record
from persona.soft_prompts.histories import History, ReadsHistories
from persona.soft_prompts.training.options import EMPTY_SHARE, HISTORY_DROPOUT, UserEmbedderTraining


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A question to train on.

    Attributes:
        input: the official input.
        gold: its answer.
        profile: what may be shown of the user: the question's own records, or the others than the one left out.
        rows: their rows in the user's history.  # (records,)
        query: vector of the question.  # (encoder_dim,)
        from_record: whether it was made from a record.
    """

    user_id: str
    input: str
    gold: str
    profile: Profile
    rows: NDArray[np.intp]
    query: NDArray[np.float32]
    from_record: bool = False


class Examples:
    """The examples of a split, and the histories of its users.

    Args:
        split: questions with golds.
        reader: makes histories of records.
        options: of the training.

    Attributes:
        reader: as given.
        train: those to train on.
        validation: questions of the split by validation users.
        histories: user id -> all records that any question shows of the user.
        users: to train on.

    Raises:
        EvaluationError: if the split has no golds, or questions of fewer than 2 users.
    """

    def __init__(self, split: LampSplit, reader: ReadsHistories, options: UserEmbedderTraining) -> None:
        if split.golds is None:
            raise EvaluationError("training needs golds: this split has none")
        self.task, self.reader = split.task, reader
        self._labels = split.labels if split.task.name in ("LaMP_2", "LaMP_2N") else None
        profiles = _whole_profiles(split)
        users = list(profiles)
        n_validation = max(1, round(options.validation_users * len(users)))
        if n_validation >= len(users):
            raise EvaluationError(f"training needs questions of at least 2 users, was: {len(users)}")
        drawn = np.random.default_rng((options.seed, 1)).permutation(len(users))[:n_validation]
        validation = {users[number] for number in drawn}
        self.histories: Mapping[str, History] = dict(zip(users, reader.read(list(profiles.values())), strict=True))
        self.users = [user_id for user_id in users if user_id not in validation]
        given = self._of_split(split, profiles)
        asked = [example for example in given if example.user_id in validation]
        most = options.validation_questions
        self.validation = asked if len(asked) <= most else _by_turns(asked)[:most]
        self._given = [example for example in given if example.user_id not in validation]
        self.train = list(self._given)
        # Only the position of a record is noted: what is left of a long history without it is as long as the history.
        self._left_out: list[tuple[Profile, int]] = []
        draw = np.random.default_rng((options.seed, 2))
        for profile in profiles.values():
            if profile.user_id in validation or not options.leave_one_out:
                continue
            answered = self._answered(profile)
            self._left_out += [(profile, row) for row in answered]
            chosen = sorted(draw.permutation(len(answered))[: options.leave_one_out])
            self.train += [self._without(profile, answered[number]) for number in chosen]

    @cached_property
    def fingerprint(self) -> str:
        """Names the questions, their answers and records, or users' vectors: BLAKE2b, 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for example in (*self.train, *self.validation):
            fields = [example.user_id, example.input, example.gold, [record.content_hash for record in example.profile]]
            digest.update(json.dumps(fields).encode() + b"\n")
        if self.reader.config.mode == "vectors":
            for user_id, history in self.histories.items():
                digest.update(json.dumps(user_id).encode() + history.values.tobytes())
        return digest.hexdigest()

    @property
    def n_warm_up(self) -> int:
        """How many examples the warm-up draws from: the questions of the split and one from every record."""
        return len(self._given) + len(self._left_out)

    def warm_up(self, number: int) -> Example:
        """One of the examples of the warm-up."""
        if number < len(self._given):
            return self._given[number]
        return self._without(*self._left_out[number - len(self._given)])

    def golds(self) -> list[str]:
        """The different answers of the warm-up's examples and of those for validation."""
        from_records = (profile[row].target or "" for profile, row in self._left_out)
        given = (example.gold for example in self._given)
        return list(dict.fromkeys([*given, *from_records, *(example.gold for example in self.validation)]))

    def shown(
        self, example: Example, options: UserEmbedderTraining, draw: np.random.Generator | None = None
    ) -> History:
        """What a user embedder sees of the user: in training what `draw` leaves, in validation all records."""
        history = self.histories[example.user_id]
        if self.reader.config.mode != "vectors":  # a user's own vector is there whatever the records, or is not
            history = history.take(example.rows)
        if options.without_user:
            return history.nothing()
        if draw is None:
            return history
        kept = np.flatnonzero(draw.random(len(history)) >= HISTORY_DROPOUT * draw.random())
        return history.take(kept[:0] if draw.random() < EMPTY_SHARE else kept)

    def _of_split(self, split: LampSplit, profiles: Mapping[str, Profile]) -> list[Example]:
        """The questions of the split, as examples."""
        assert split.golds is not None
        rows = {user_id: {record.id: row for row, record in enumerate(whole)} for user_id, whole in profiles.items()}
        queries = self.reader.questions([split.task.query(question.input) for question in split.questions])
        return [
            Example(
                question.user_id,
                question.input,
                split.golds[question.id],
                question.profile,
                np.array([rows[question.user_id][record.id] for record in question.profile], np.intp),
                query,
            )
            for question, query in zip(split.questions, queries, strict=True)
        ]

    def _answered(self, profile: Profile) -> list[int]:
        """Rows of the records that a question can be made from."""
        if self.task.name == "LaMP_1":
            return []  # The two references of such a question are in no record.
        return [row for row, record in enumerate(profile) if record.target is not None]

    def _without(self, profile: Profile, row: int) -> Example:
        """The question of one record, with the others as its history; none of them asks the same."""
        record = profile[row]
        assert record.target is not None
        input = self.task.make_input(record.text, labels=self._labels)
        others = [other for other in range(len(profile)) if profile[other].text != record.text]
        config = self.reader.config
        if config.mode != "vectors" and config.view == "text":
            # The vector of the question is that of the record.
            query = np.asarray(self.histories[profile.user_id].values[row, : config.encoder_dim], np.float32)
        else:
            (query,) = self.reader.questions([self.task.query(input)])
        history = Profile(profile.user_id, tuple(profile[other] for other in others))
        return Example(profile.user_id, input, record.target, history, np.array(others, np.intp), query, True)


def _whole_profiles(split: LampSplit) -> dict[str, Profile]:
    """All records that any question shows of each user, each once, under the ids that the store knows them by."""
    records: dict[str, dict[str, Record]] = {}
    for question in split.questions:
        known = records.setdefault(question.user_id, {})
        for record in question.profile:
            known.setdefault(record.id, record)
    return {user_id: Profile(user_id, tuple(known.values())) for user_id, known in records.items()}


def _by_turns(examples: Sequence[Example]) -> list[Example]:
    """`examples` with one of each user before a second one."""
    turns: dict[str, int] = {}
    numbered = []
    for example in examples:
        numbered.append((turns.setdefault(example.user_id, 0), example))
        turns[example.user_id] += 1
    return [example for _, example in sorted(numbered, key=lambda each: each[0])]

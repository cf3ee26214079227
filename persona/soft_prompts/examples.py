"""What a user embedder is trained on: a question of a training user, its answer, and the rest of the user's records.

Questions are those of the split and, declared and switchable, more of the same kind made from the users' own histories
by leaving one record out (and any other of the same text): its text becomes the question, its target the answer. Some
users are kept aside, to choose the best step; of them the split's own questions are asked only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.lamp.tasks import LampSplit
from persona.llm.checks import check_seed
from persona.records import Profile
from persona.soft_prompts.histories import History, ReadsHistories


@dataclass(frozen=True, slots=True)
class UserEmbedderTraining:
    """How to train.

    Attributes:
        warm_up: steps of the warm-up at most; 0 for none. Only the mode ``"attention"`` has one.
        steps: optimizer steps at most.
        batch: examples in a step.
        accumulate: parts in which a step's batch is computed, to save memory.
        learning_rate: peak of AdamW's; 5 % of the steps warm up, then half a cosine.
        weight_decay: of AdamW.
        ks: numbers of retrieved records in the training prompts, drawn equally often; 0 is the question alone.
        leave_one_out: most questions made from one user's own records; 0 makes none.
        history_dropout: each example loses a share of its records, drawn between 0 and this.
        empty_share: share of the examples that lose all, so that a new user's prompt is learned.
        query_dropout: share of the examples whose soft prompt is made without the question.
        new_user_steps: steps at the end that tune what a user without records gets, and nothing else; None is half of
            `steps`. Only the mode ``"attention"`` has them, and not `without_user`, where nobody has records.
        without_user: never show a record: the control "trained without the user".
        dev_users: share of the training users kept aside to choose the best step.
        evaluate_every: steps between two looks at them.
        patience: looks without a better one before the training ends.
        max_length: token budget of a prompt.
        seed: of everything random.
    """

    warm_up: int = 400
    steps: int = 600
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ks: tuple[int, ...] = (0, 1)
    leave_one_out: int = 8
    history_dropout: float = 0.3
    empty_share: float = 0.1
    query_dropout: float = 0.1
    new_user_steps: int | None = None
    without_user: bool = False
    dev_users: float = 0.2
    evaluate_every: int = 50
    patience: int = 6
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"`{name}` must be at least 1, was: {getattr(self, name)}")
        for name in ("history_dropout", "empty_share", "query_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOptionError(f"`{name}` must be from 0 to 1, was: {getattr(self, name)}")
        if not 0 < self.dev_users < 1:
            raise InvalidOptionError(f"`dev_users` must be between 0 and 1, was: {self.dev_users}")
        if not self.ks or min(self.ks) < 0:
            raise InvalidOptionError(f"`ks` must be numbers of at least 0, was: {self.ks}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidOptionError(f"`learning_rate` must be a number above 0, was: {self.learning_rate}")
        check_seed(self.seed)
        for name in ("leave_one_out", "warm_up", "new_user_steps"):
            if (getattr(self, name) or 0) < 0:
                raise InvalidOptionError(f"`{name}` must be at least 0, was: {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A question to train on.

    Attributes:
        input: the official input.
        gold: its answer.
        profile: what may be shown of the user: the question's own records, or the others than the one left out.
        rows: their rows in the user's history.  # (records,)
        query: vector of the question.  # (encoder_dim,)
        made: whether it was made from a record.
    """

    user_id: str
    input: str
    gold: str
    profile: Profile
    rows: NDArray[np.intp]
    query: NDArray[np.float32]
    made: bool


class Examples:
    """The examples of a split, and the histories of its users.

    Attributes:
        train: those to train on.
        dev: questions of the split by users kept aside.
        histories: user id -> all records that any question shows of the user.
        n_users: users to train on.
    """

    def __init__(self, split: LampSplit, reader: ReadsHistories, options: UserEmbedderTraining) -> None:
        if split.golds is None:
            raise EvaluationError("training needs golds: this split has none")
        self.task, self._reader = split.task, reader
        self._labels = split.labels if split.task.name in ("LaMP_2", "LaMP_2N") else None
        # All records of a user, each once, under the ids that the store knows them by.
        union: dict[str, dict[str, Any]] = {}
        for question in split.questions:
            known = union.setdefault(question.user_id, {})
            for record in question.profile:
                known.setdefault(record.id, record)
        users = list(union)
        kept_aside = max(1, round(options.dev_users * len(users)))
        if kept_aside >= len(users):
            raise EvaluationError(f"training needs questions of at least 2 users, was: {len(users)}")
        drawn = np.random.default_rng((options.seed, 1)).permutation(len(users))[:kept_aside]
        aside = {users[place] for place in drawn}
        profiles = [Profile(user_id, tuple(records.values())) for user_id, records in union.items()]
        self.histories: Mapping[str, History] = dict(zip(users, reader.read(profiles), strict=True))
        self.n_users = len(users) - kept_aside
        rows = {user: {name: row for row, name in enumerate(records)} for user, records in union.items()}
        queries = reader.questions([split.task.query(question.input) for question in split.questions])
        given = [
            Example(
                question.user_id,
                question.input,
                split.golds[question.id],
                question.profile,
                np.array([rows[question.user_id][record.id] for record in question.profile], np.intp),
                query,
                False,
            )
            for question, query in zip(split.questions, queries, strict=True)
        ]
        self.dev = [example for example in given if example.user_id in aside]
        self._given = [example for example in given if example.user_id not in aside]
        self.train = list(self._given)
        # A record that could be left out is noted only: what is left of a long history is as long as the history.
        self._left_out: list[tuple[Profile, int]] = []
        draw = np.random.default_rng((options.seed, 2))
        for profile in profiles:
            if profile.user_id in aside or not options.leave_one_out:
                continue
            rows_left_out = self._answered(profile)
            self._left_out += [(profile, row) for row in rows_left_out]
            chosen = sorted(draw.permutation(len(rows_left_out))[: options.leave_one_out])
            self.train += [self._without(profile, rows_left_out[place]) for place in chosen]

    @cached_property
    def fingerprint(self) -> str:
        """Names the questions, their answers and records, or users' vectors: BLAKE2b, 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for one in (*self._given, *self.dev):
            said = [one.user_id, one.input, one.gold, [record.content_hash for record in one.profile]]
            digest.update(json.dumps(said).encode() + b"\n")
        if self._reader.config.mode == "vectors":
            for user_id, history in self.histories.items():
                digest.update(json.dumps(user_id).encode() + history.values.tobytes())
        return digest.hexdigest()

    @property
    def n_warm_up(self) -> int:
        """How many examples the warm-up draws from: the questions of the split and one from every record."""
        return len(self._given) + len(self._left_out)

    def warm_up(self, place: int) -> Example:
        """One of them."""
        if place < len(self._given):
            return self._given[place]
        return self._without(*self._left_out[place - len(self._given)])

    def golds(self) -> list[str]:
        """The different answers of the warm-up's examples and of those kept aside."""
        made = (profile[row].target or "" for profile, row in self._left_out)
        return list(dict.fromkeys([*(one.gold for one in self._given), *made, *(one.gold for one in self.dev)]))

    def shown(
        self, example: Example, options: UserEmbedderTraining, draw: np.random.Generator | None = None
    ) -> History:
        """What a user embedder sees of the user: for training what `draw` leaves of it, to be tested on all."""
        history = self.histories[example.user_id]
        if self._reader.config.mode != "vectors":  # a user's own vector is there whatever the records, or is not
            history = history.take(example.rows)
        if options.without_user:
            return history.take(np.arange(0))
        if draw is None:
            return history
        kept = np.flatnonzero(draw.random(len(history)) >= options.history_dropout * draw.random())
        return history.take(kept[:0] if draw.random() < options.empty_share else kept)

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
        others = [place for place, other in enumerate(profile) if other.text != record.text]
        config = self._reader.config
        if config.mode != "vectors" and config.view == "text":
            # The vector of the question is that of the record.
            query = np.asarray(self.histories[profile.user_id].values[row, : config.encoder_dim], np.float32)
        else:
            (query,) = self._reader.questions([self.task.query(input)])
        return Example(
            profile.user_id,
            input,
            record.target,
            Profile(profile.user_id, tuple(profile[place] for place in others)),
            np.array(others, np.intp),
            query,
            True,
        )

"""Controls: what shows that a method's gain is not the user's.

====================  ==================================================================================================
`OtherUser`           every question sees another user's history: what helps as much is the task's, not the user's
`EmptyHistory`        one channel sees no history, the others the user's own: what it still adds comes from its training
`TrainedWithoutUser`  the same trained without users, or with only what all users share: what a method adds is its gain
====================  ==================================================================================================

A control makes an `Arm` of a method: the method, perhaps with other parts, and the profile that it sees with each
question. One of your own is one class:

>>> class NewestRecord(Control):
...     name = "newest record"
...     def of(self, method, questions):
...         newest = [Profile(each.user_id, each.profile.records[-1:]) for each in questions]
...         return Arm(replace(method, control=self.name), tuple(newest))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from persona.channels import Ask, Channel, Contribution
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmark import Question
from persona.eval.methods import Arm, Method
from persona.personalizer import Personalizer
from persona.protocols import SOFT_PROMPT
from persona.records import Profile

OTHER_USER = "other user"
EMPTY_HISTORY = "empty history"
WITHOUT_USER = "trained without user"


class Control(ABC):
    """Makes the control arm of a method.

    Attributes:
        name: what the report calls it.
    """

    name: str

    @abstractmethod
    def of(self, method: Method, questions: Sequence[Question]) -> Arm | None:
        """The control of `method`, whose runs are personalizers; None where it says nothing about that method."""


@dataclass(frozen=True, slots=True)
class OtherUser(Control):
    """Every question sees another user's history (`other_histories`).

    Attributes:
        seed: of who stands in for whom.
    """

    seed: int = 0
    name: str = OTHER_USER

    def of(self, method: Method, questions: Sequence[Question]) -> Arm | None:
        """`method` with the histories of others; None for a method that reads none."""
        if not method.personal:
            return None
        return Arm(replace(method, control=self.name), tuple(other_histories(questions, self.seed)))


@dataclass(frozen=True, slots=True)
class EmptyHistory(Control):
    """One channel sees no history; records that are retrieved beside it are the user's.

    Attributes:
        channel: the channel's name.
    """

    channel: str = SOFT_PROMPT
    name: str = EMPTY_HISTORY

    def of(self, method: Method, questions: Sequence[Question]) -> Arm | None:
        """`method` with that channel as for nobody; None for a method without it, or where it reads no profile."""
        channels = [each for run in method.personalizers for each in run.channels if each.name == self.channel]
        if not channels or not all(channel.reads_profile for channel in channels):
            return None
        runs = tuple(_without_history(run, self.channel) for run in method.personalizers)
        return Arm(replace(method, runs=runs, control=self.name), _own(questions))


@dataclass(frozen=True, slots=True)
class TrainedWithoutUser(Control):
    """What was trained in the same way and never saw the user: `Method.without_user`."""

    name: str = WITHOUT_USER

    def of(self, method: Method, questions: Sequence[Question]) -> Arm | None:
        """That method, with the records of the user where it retrieves some; None where there is none."""
        return None if method.without_user is None else Arm(method.without_user, _own(questions))


class WithoutHistory(Channel):
    """A channel that sees an empty history, whoever asks.

    Args:
        channel: the channel.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.name, self.requires, self.wording = channel.name, channel.requires, channel.wording
        self.reads_profile = channel.reads_profile

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """What the channel contributes for cold-start users."""
        return self.channel.contribute([replace(ask, profile=Profile(ask.profile.user_id)) for ask in asks])

    def serving(self) -> AbstractContextManager[object]:
        """That of the channel."""
        return self.channel.serving()


def as_arms(methods: Sequence[Method], controls: Sequence[Control], questions: Sequence[Question]) -> list[Arm]:
    """Each method, and behind it its controls; a control that several methods share comes once."""
    own = tuple(question.profile for question in questions)
    arms: dict[str, Arm] = {}
    for method in methods:
        for arm in (Arm(method, own), *(control.of(method, questions) for control in controls)):
            if arm is not None and arms.setdefault(arm.method.label, arm).method is not arm.method:
                raise InvalidOptionError(f"two rows would be called {arm.method.label!r}: name methods differently")
    return list(arms.values())


def other_histories(questions: Sequence[Question], seed: int) -> list[Profile]:
    """For each question the profile of a question of another user; never one of its own user's.

    The users stand in a random circle and each takes the histories of the next, so that every history is used about
    as often as it would be by its owner.

    Raises:
        EvaluationError: if there is only one user.
    """
    owned: dict[str, list[Profile]] = {}
    for question in questions:
        owned.setdefault(question.user_id, []).append(question.profile)
    if len(owned) < 2:
        raise EvaluationError(
            "the control with another user's history needs questions of at least 2 users, was: 1; "
            "raise `limit`, or leave the controls out (--no-controls)"
        )
    circle = [list(owned)[index] for index in np.random.default_rng(seed).permutation(len(owned))]
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    used = dict.fromkeys(owned, 0)
    chosen = []
    for question in questions:
        others = owned[after[question.user_id]]
        chosen.append(others[used[question.user_id] % len(others)])
        used[question.user_id] += 1
    return chosen


def _own(questions: Sequence[Question]) -> tuple[Profile, ...]:
    return tuple(question.profile for question in questions)


def _without_history(personalizer: Personalizer, name: str) -> Personalizer:
    """A personalizer like this one whose channel called `name` sees no history."""
    channels = [WithoutHistory(channel) if channel.name == name else channel for channel in personalizer.channels]
    return Personalizer(
        personalizer.llm, personalizer.store, channels, builder=personalizer.builder, options=personalizer.options
    )

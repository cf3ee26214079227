"""Controls: whose history a method sees, and which of its channels sees none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from persona.channels import Ask, Channel, Contribution
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.controls import EmptyHistory, OtherUser, TrainedWithoutUser, WithoutHistory, other_histories
from persona.eval.methods import Method
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.protocols import ADAPTER, TEXT
from persona.records import Profile
from persona.retrievers import RecencyRetriever
from persona.retrievers.channel import RecordsChannel
from persona.store.profile_store import ProfileStore
from tests.eval.ratings import benchmark

QUESTIONS = benchmark().questions


class Count(Channel):
    """Says how many records it sees."""

    name = "count"
    requires = TEXT
    open = False

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        return [Contribution(notes=(f"{ask.profile.user_id} has {len(ask.profile)}",)) for ask in asks]

    @contextmanager
    def serving(self):  # type: ignore[no-untyped-def]
        self.open = True
        yield
        self.open = False


@pytest.fixture
def method(tmp_path: Path) -> Method:
    store = ProfileStore(f"sqlite:///{tmp_path / 'none.db'}")
    channels = [RecordsChannel(RecencyRetriever(), 1), Count()]
    return Method("count", (Personalizer(load_llm(str.upper), store, channels),), k=1)


@pytest.mark.parametrize("seed", range(5))
def test_another_users_history_is_never_ones_own(seed: int) -> None:
    others = other_histories(QUESTIONS, seed)
    assert all(profile.user_id != question.user_id for profile, question in zip(others, QUESTIONS, strict=True))
    assert others == other_histories(QUESTIONS, seed)
    assert {profile.user_id for profile in others} == {question.user_id for question in QUESTIONS}


def test_the_control_needs_two_users_and_a_method_that_reads_a_history(method: Method) -> None:
    with pytest.raises(EvaluationError, match="at least 2 users, was: 1"):
        OtherUser().of(method, QUESTIONS[:2])
    plain = method.personalizers[0]
    nobody = Method("none", (Personalizer(plain.llm, plain.store, ()),))
    assert OtherUser().of(nobody, QUESTIONS) is None
    arm = OtherUser(3).of(method, QUESTIONS)
    assert arm is not None
    assert (arm.method.label, list(arm.profiles)) == ("count k=1, other user", other_histories(QUESTIONS, 3))


def test_one_channel_without_a_history_beside_records_of_the_user(method: Method) -> None:
    assert EmptyHistory().of(method, QUESTIONS) is None  # it has no soft prompt
    arm = EmptyHistory("count").of(method, QUESTIONS)
    assert arm is not None
    assert arm.method.label == "count k=1, empty history"
    assert [profile is question.profile for profile, question in zip(arm.profiles, QUESTIONS, strict=True)]
    question = QUESTIONS[0]
    (prepared,) = arm.method.personalizers[0].prepare([Ask(question.profile, question.prompt, question.query)])
    assert prepared.generation.notes == ("u0 has 0",)
    assert [scored.record.time for scored in prepared.generation.records] == ["2012"]


def test_a_channel_without_a_history_is_the_same_channel_otherwise() -> None:
    inner = Count()
    inner.requires = ADAPTER
    wrapped = WithoutHistory(inner)
    assert (wrapped.name, wrapped.requires, wrapped.wording) == ("count", ADAPTER, None)
    asks = [Ask(Profile("bo", QUESTIONS[0].profile.records), "p", "q")]
    assert wrapped.contribute(asks)[0].notes == ("bo has 0",)
    with wrapped.serving():
        assert inner.open
    assert not inner.open


def test_trained_without_the_user_is_another_method(method: Method) -> None:
    assert TrainedWithoutUser().of(method, QUESTIONS) is None
    task_adapter = Method("task adapter", method.runs)
    trained = Method("lora", method.runs, without_user=task_adapter)
    arm = TrainedWithoutUser().of(trained, QUESTIONS)
    assert arm is not None
    assert (arm.method, arm.profiles) == (task_adapter, tuple(question.profile for question in QUESTIONS))


class ById(Count):
    """Looks users up by their ids, whatever the profile holds."""

    name = "count"
    reads_profile = False


def test_there_is_no_empty_history_for_a_channel_that_reads_none(method: Method) -> None:
    (run,) = method.personalizers
    by_id = Method("by id", (Personalizer(run.llm, run.store, [ById()]),))
    assert EmptyHistory("count").of(method, QUESTIONS) is not None
    assert EmptyHistory("count").of(by_id, QUESTIONS) is None


def test_the_method_without_user_is_made_too_and_has_another_name(method: Method) -> None:
    (run,) = method.personalizers
    without = Method("mine", (lambda training: run,), control="trained without user")
    mine = Method("mine", (lambda training: run,), without_user=without)
    training = benchmark()
    evaluated = benchmark()
    evaluated.training = training
    made = mine.made(evaluated)
    assert made.without_user is not None
    assert made.without_user.personalizers == made.personalizers == (run,)
    with pytest.raises(InvalidOptionError, match="must differ in name or control"):
        Method("mine", (run,), without_user=Method("mine", (run,)))
    with pytest.raises(InvalidOptionError, match="the 3 runs of 'mine' cannot be paired with 2 without user"):
        Method("mine", (run,) * 3, without_user=Method("mine", (run,) * 2, control="trained without user"))

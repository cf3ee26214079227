"""Methods with what was trained - user embedders and adapters - beside their controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona.adapters.family import LoraSpec
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.task import TaskTraining, train_task_adapter
from persona.encoders.load import load_encoder
from persona.errors import FingerprintMismatchError, InvalidOptionError, UnsupportedChannelError
from persona.eval import LampBenchmark, LampOptions, Report, evaluate_lamp
from persona.eval.controls import EMPTY_HISTORY, OTHER_USER, WITHOUT_USER
from persona.lamp.tasks import LampSplit, Question
from persona.llm.load import load_llm
from persona.protocols import ADAPTER
from persona.records import Profile, Record
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.training.options import UserEmbedderTraining
from tests.eval.ratings import TASK
from tests.soft_prompts.splits import fresh, train, world_split

SMALL = UserEmbedderTraining(
    warm_up=4, steps=6, batch=4, ks=(0, 1), leave_one_out=2, evaluate_every=2, validation_users=0.25, new_user_steps=4
)


@pytest.fixture(scope="module")
def llm() -> Any:
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("hashing")


def trained(
    llm: Any, encoder: Any, out: Path, options: UserEmbedderTraining, task: str = "LaMP_3", **shape: Any
) -> UserEmbedder:
    embedder = fresh(llm, encoder, **shape)
    train(embedder, world_split(task, 8), llm, encoder, options, out)
    return embedder


def embedded(*embedders: UserEmbedder, **options: Any) -> LampOptions:
    return LampOptions(
        methods=("user-embedder",), ks=(1,), user_embedders=embedders, encoder="hashing", resamples=50, **options
    )


def world(task: str, users: int) -> LampBenchmark:
    return LampBenchmark(world_split(task, users, "dev"))


def test_user_embedders_stand_beside_their_controls(llm: Any, encoder: Any, tmp_path: Path) -> None:
    own, without = (
        tuple(
            trained(llm, encoder, tmp_path / f"{each}{seed}", replace(SMALL, seed=seed, without_user=each))
            for seed in (0, 1)
        )
        for each in (False, True)
    )
    options = replace(embedded(*own), methods=("none", "user-embedder"), user_embedder_controls=without)
    report = evaluate_lamp(world("LaMP_3", 5), llm, options, out=tmp_path / "out")
    name, beside = "user-embedder", "user-embedder + bm25-lamp k=1"
    assert [row.name for row in report.rows if row.method.startswith(name)] == [
        *(name, f"{name}, {OTHER_USER}", f"{name}, {EMPTY_HISTORY}", f"{name}, {WITHOUT_USER}"),
        *(beside, f"{beside}, {OTHER_USER}", f"{beside}, {EMPTY_HISTORY}", f"{beside}, {WITHOUT_USER}"),
    ]
    row, other, nobody, untrained = report.rows[1:5]
    assert (len(row.runs), len(report["none"].runs), row.tokens_added) == (2, 1, 2)
    assert row.parts == {"user_embedders": [each.fingerprint for each in own]}
    assert (untrained.gain, other.to_other_user, nobody.to_other_user) == (None, None, None)
    values = [each.scores["MAE"].value for each in (row, other, untrained)]
    assert row.gain is not None
    assert row.gain.difference == pytest.approx(values[0] - values[2])
    assert row.to_other_user is not None
    assert row.to_other_user.difference == pytest.approx(values[0] - values[1])
    assert nobody.gain is not None
    # Nobody's soft prompt is neutral, and the records beside it are the user's own.
    assert report[f"{beside}, {EMPTY_HISTORY}"].tokens_added == report[beside].tokens_added
    again = evaluate_lamp(world("LaMP_3", 5), llm, options, out=tmp_path / "out")
    assert again.as_dict()["rows"] == report.as_dict()["rows"]


def test_an_embedder_that_copies_and_its_controls(llm: Any, encoder: Any, tmp_path: Path) -> None:
    own, without = (
        trained(llm, encoder, tmp_path / f"{each}", replace(SMALL, without_user=each), task="LaMP_4", copies=True)
        for each in (False, True)
    )
    options = embedded(own, user_embedder_controls=(without,))
    report = evaluate_lamp(world("LaMP_4", 5), llm, options, out=tmp_path / "run")
    controls = {row.control for row in report.rows if row.method == "user-embedder"}
    assert controls == {None, OTHER_USER, EMPTY_HISTORY, WITHOUT_USER}
    again = evaluate_lamp(world("LaMP_4", 5), llm, options, out=tmp_path / "run")
    assert [row.scores for row in again.rows] == [row.scores for row in report.rows]
    plain = UserEmbedder.for_llm(llm, encoder, n_tokens=2)
    with pytest.raises(InvalidOptionError, match="whether they copy"):
        evaluate_lamp(world("LaMP_4", 5), llm, embedded(own, plain))


def test_user_embedders_that_do_not_fit(llm: Any, encoder: Any) -> None:
    one = fresh(llm, encoder)
    with pytest.raises(UnsupportedChannelError, match="a user embedder needs: soft_prompt"):
        evaluate_lamp(world("LaMP_3", 3), load_llm(str.upper), embedded(one))
    with pytest.raises(InvalidOptionError, match="as many user embedders trained without the user as with it, 1"):
        embedded(one, user_embedder_controls=(one, one))
    asking = fresh(llm, encoder, with_question=True)
    with pytest.raises(InvalidOptionError, match="and their controls, must differ in their seed only"):
        evaluate_lamp(world("LaMP_3", 3), llm, embedded(asking, user_embedder_controls=(one,)))
    with pytest.raises(InvalidOptionError, match="reads a file of user vectors, and no other does"):
        evaluate_lamp(world("LaMP_3", 3), llm, embedded(one, user_vectors=object()))


def raters(first: int, users: int) -> LampSplit:
    """Each user rates everything 1, or everything 2, 4 or 5; two questions each, the second with one record more."""
    questions, golds = [], {}
    for user in range(first, first + users):
        score = "1245"[user % 4]
        records = tuple(Record(f"film {user} {n}", target=score, id=str(n)) for n in range(7))
        for number in range(2):
            profile = Profile(f"u{user}", records[: 6 + number])
            questions.append(Question(f"{user}{number}", f"u{user}", TASK.make_input(f"new {number}"), profile))
            golds[f"{user}{number}"] = score
    return LampSplit(TASK, tuple(questions), golds, TASK.labels)


@pytest.fixture(scope="module")
def task(llm: Any) -> TaskAdapter:
    own = TrainingOptions(learning_rate=0.02, epochs=4)
    shared = TaskTraining(epochs=2, learning_rate=0.02, candidates=4, routed=2, routed_steps=40)
    return train_task_adapter(raters(100, 12), llm, LoraSpec(r=2, alpha=8), own, shared)


def adapted(*tasks: TaskAdapter, methods: tuple[str, ...], **options: Any) -> LampOptions:
    return LampOptions(methods=methods, ks=(1,), resamples=100, max_new_tokens=2, task_adapters=tasks, **options)


@pytest.mark.slow
def test_adapters_stand_beside_their_controls(llm: Any, task: TaskAdapter, tmp_path: Path) -> None:
    other = replace(task, options=replace(task.options, seed=1))
    stages: list[tuple[str, int, int]] = []

    def run(options: LampOptions) -> Report:
        return evaluate_lamp(
            LampBenchmark(raters(0, 4)), llm, options, out=tmp_path, progress=lambda *stage: stages.append(stage)
        )

    methods = ("none", "lora+task", "routed")
    options = adapted(task, other, methods=methods)
    report = run(options)
    errors = {row.name: row.scores["MAE"].value for row in report.rows}
    for method in methods[1:]:
        assert {method, f"{method} + bm25-lamp k=1", f"{method}, other user"} <= set(errors)
    # Where the user is not known the mean error is 1.5 at best; every two of these users differ by 1 at least.
    assert errors["task adapter"] >= 1.5
    for method in methods[1:]:
        assert errors[method] < 1, method
        assert errors[f"{method}, other user"] > errors[method] + 0.5, method
    own = report["lora+task"]
    assert own.gain is not None
    assert own.gain.difference == pytest.approx(errors["lora+task"] - errors["task adapter"])
    assert report["task adapter"].gain is None
    assert report["lora+task + bm25-lamp k=1"].gain is not None
    assert (len(own.runs), own.parts) == (2, {"task_adapters": [task.fingerprint, other.fingerprint]})
    assert "task adapter" in report.markdown().splitlines()[0]
    # Profiles differ between the questions of a user, so there are adapters for each.
    assert ("lora+task adapters", 8, 8) in stages
    answers = (tmp_path / "answers.jsonl").read_bytes()
    assert run(options).as_dict() == report.as_dict()
    assert (tmp_path / "answers.jsonl").read_bytes() == answers
    assert ADAPTER not in llm.channels


def test_one_adapter_a_user(llm: Any, task: TaskAdapter, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    options = adapted(task, methods=("routed",), adapters_once=True)
    evaluate_lamp(LampBenchmark(raters(0, 3)), llm, options, progress=lambda *stage: stages.append(stage))
    assert ("routed adapters", 3, 3) in stages


def test_task_adapters_that_do_not_fit(llm: Any, task: TaskAdapter) -> None:
    def run(adapter: TaskAdapter, method: str, model: Any = llm) -> None:
        evaluate_lamp(LampBenchmark(raters(0, 2)), model, adapted(adapter, methods=(method,)))

    with pytest.raises(InvalidOptionError, match="was trained for LaMP_4, the questions are LaMP_3"):
        run(replace(task, task="LaMP_4"), "lora")
    with pytest.raises(
        InvalidOptionError, match="'neighbours' needs a task adapter that was trained with `candidates`"
    ):
        run(replace(task, candidates=None), "neighbours")
    with pytest.raises(InvalidOptionError, match="'routed' needs a task adapter that was trained with `routed`"):
        run(replace(task, router=None), "routed")
    with pytest.raises(FingerprintMismatchError, match="was made for"):
        run(replace(task, family=replace(task.family, base="other@1:float32")), "lora")
    with pytest.raises(UnsupportedChannelError, match="adapters need a transformers model"):
        run(task, "lora", load_llm(str.upper))

"""Adapters in the LaMP runner: rows, controls, resumption; and task adapters as folders."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from persona.adapters.examples import Example
from persona.adapters.family import LoraSpec
from persona.adapters.task_adapter import CONFIG, WEIGHTS, TaskAdapter
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.task import TaskTraining, train_task_adapter
from persona.adapters.training.trainer import AdapterTrainer
from persona.cli.app import main
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.eval.adapters import Adapters
from persona.eval.lamp import LampReport, run_lamp
from persona.eval.lamp_config import OTHER_USER, LampConfig
from persona.eval.plans import earliest_profiles
from persona.eval.report import lamp_markdown
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import LanguageModel
from persona.records import Profile, Record

TASK = lamp_task("LaMP_3")
SPEC = LoraSpec(r=2, alpha=8)
OWN = TrainingOptions(learning_rate=0.02, epochs=4)
TRAINING = TaskTraining(epochs=2, learning_rate=0.02, candidates=4, routed=2, routed_steps=40)
CONFIG_OF_RUN = LampConfig(
    methods=("none", "lora", "lora+task", "neighbours", "routed"), ks=(1,), resamples=100, max_new_tokens=2
)


@pytest.fixture(scope="module")
def llm() -> TransformersLM:
    return load_tiny()


def load_tiny() -> TransformersLM:
    loaded = load_llm("tiny", overlong="truncate")
    assert isinstance(loaded, TransformersLM)
    return loaded


def make_split(first: int, users: int) -> LampSplit:
    """Each user rates everything 1, or everything 2, 4 or 5; two questions each, the second with one record more."""
    questions, golds = [], {}
    for user in range(first, first + users):
        score = "1245"[user % 4]
        records = tuple(Record(f"film {user} {place}", target=score, id=str(place)) for place in range(7))
        for number in range(2):
            profile = Profile(f"u{user}", records[: 6 + number])
            questions.append(Question(f"{user}{number}", f"u{user}", TASK.make_input(f"new {number}"), profile))
            golds[f"{user}{number}"] = score
    return LampSplit(TASK, tuple(questions), golds, TASK.labels)


@pytest.fixture(scope="module")
def task(llm: TransformersLM) -> TaskAdapter:
    return train_task_adapter(make_split(100, 12), llm, SPEC, OWN, TRAINING)


def scores(report: LampReport) -> dict[str, float]:
    return {row.name: row.scores["MAE"].value for row in report.rows if row.scores}


def test_own_adapters_beside_their_controls(llm: TransformersLM, task: TaskAdapter, tmp_path: Path) -> None:
    split = make_split(0, 4)
    other = replace(task, options=replace(task.options, seed=1))
    asked: list[tuple[str, int, int]] = []
    report = run_lamp(
        split,
        llm,
        CONFIG_OF_RUN,
        adapters=Adapters((task, other)),
        out=tmp_path,
        progress=lambda stage, done, total: asked.append((stage, done, total)),
    )
    found = scores(report)
    for method in CONFIG_OF_RUN.methods[1:]:
        assert {method, f"{method} + bm25-lamp k=1", f"{method}, other user"} <= set(found)
    # Who does not know the user is off by 1.5 at best; every two of these users differ by 1 at least.
    assert found["task adapter"] >= 1.5
    for method in ("lora+task", "neighbours", "routed"):
        assert found[method] < 1, method
        assert found[f"{method}, other user"] > found[method] + 0.5, method
    rows = {row.name: row for row in report.rows}
    own = rows["lora+task"]
    assert own.gain is not None
    assert own.gain.difference == pytest.approx(found["lora+task"] - found["task adapter"])
    assert rows["task adapter"].gain is None
    assert rows["lora+task + bm25-lamp k=1"].gain is not None
    assert len(own.runs) == 2
    assert rows["none"].difference is None
    assert (rows["lora, other user"].control, rows["lora"].control) == (OTHER_USER, None)
    assert "task adapter" in lamp_markdown(report).splitlines()[0]
    kept = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert kept == {"task_adapters": [task.fingerprint, other.fingerprint]}
    assert task.fingerprint != other.fingerprint
    # Profiles differ between the questions of a user, so there are adapters for each.
    assert ("lora+task adapters", 8, 8) in asked
    before = (tmp_path / "answers.jsonl").read_bytes()
    asked.clear()
    again = run_lamp(
        split,
        llm,
        CONFIG_OF_RUN,
        adapters=Adapters((task, other)),
        out=tmp_path,
        progress=lambda stage, done, total: asked.append((stage, done, total)),
    )
    assert scores(again) == found
    assert (tmp_path / "answers.jsonl").read_bytes() == before
    assert not [one for one in asked if one[0] == "answers"]
    assert "lora" not in llm.channels


def test_what_cannot_be_run_is_told_before_it_starts(llm: TransformersLM, task: TaskAdapter, tmp_path: Path) -> None:
    split = make_split(0, 2)

    def run(model: LanguageModel, adapters: Adapters | None, *methods: str) -> None:
        run_lamp(split, model, LampConfig(methods=methods, ks=(1,)), adapters=adapters)

    with pytest.raises(InvalidOptionError, match="'lora' needs a task adapter: name its folder"):
        run(llm, None, "none", "lora")
    with pytest.raises(InvalidOptionError, match="need a transformers model"):
        run(load_llm(lambda prompt: prompt), Adapters((task,)), "lora")
    with pytest.raises(InvalidOptionError, match="was trained for LaMP_4, the questions are LaMP_3"):
        run(llm, Adapters((replace(task, task="LaMP_4"),)), "lora")
    with pytest.raises(InvalidOptionError, match=r"'neighbours' needs .* --candidates"):
        run(llm, Adapters((replace(task, candidates=None),)), "neighbours")
    with pytest.raises(InvalidOptionError, match=r"'routed' needs .* --routed"):
        run(llm, Adapters((replace(task, router={}),)), "routed")
    with pytest.raises(InvalidOptionError, match="name its folder"):
        Adapters(())
    elsewhere = replace(task, family=replace(task.family, base="other@1:float32"))
    with pytest.raises(FingerprintMismatchError, match="was trained on other@1:float32, this model is tiny@"):
        run(llm, Adapters((elsewhere,)), "lora")


def test_a_task_adapter_is_a_folder(task: TaskAdapter, tmp_path: Path) -> None:
    task.save(tmp_path / "task")
    loaded = TaskAdapter.load(tmp_path / "task")
    assert loaded.fingerprint == task.fingerprint
    assert (loaded.family, loaded.options, loaded.report) == (task.family, task.options, task.report)
    assert torch.equal(loaded.row, task.row)
    assert loaded.candidates is not None
    assert set(loaded.router) == set(task.router)
    changed = replace(task, row=task.row + 1e-3)
    assert changed.fingerprint != task.fingerprint != replace(task, options=TrainingOptions()).fingerprint
    with pytest.raises(ModelLoadError, match="holds no task adapter"):
        TaskAdapter.load(tmp_path)
    (tmp_path / "task" / WEIGHTS).write_bytes(b"not numbers")
    with pytest.raises(ModelLoadError, match="holds no task adapter"):
        TaskAdapter.load(tmp_path / "task")
    changed = replace(task, row=task.row[:-1])
    changed.save(tmp_path / "short")
    with pytest.raises(ModelLoadError, match="is damaged"):
        TaskAdapter.load(tmp_path / "short")


def test_it_learns_from_training_users_and_stops_by_others(llm: TransformersLM, task: TaskAdapter) -> None:
    assert task.report["users"] == 11
    # Seven records and two questions each, of which one in twelve users is held out.
    assert task.report["examples"] == 11 * 9
    assert task.report["loss"] < task.report["loss_before"]
    assert task.report["loss_routed"] < task.report["loss_unrouted"]
    assert task.candidates is not None
    assert task.candidates.shape == (task.report["candidates"], task.family.size)
    with pytest.raises(InvalidOptionError, match="at least 2 training users, was: 1"):
        train_task_adapter(make_split(0, 1), llm, SPEC, OWN, TaskTraining())
    with pytest.raises(InvalidOptionError, match="with their golds, and there are none"):
        train_task_adapter(replace(make_split(0, 2), golds=None), llm, SPEC, OWN, TaskTraining())
    with pytest.raises(InvalidOptionError, match="`validation` must be from 0"):
        TaskTraining(validation=1)


def test_a_prior_that_helps_nobody_changes_nothing(llm: TransformersLM) -> None:
    """Steps that are far too long ruin the answers of the users held out."""
    trainer = AdapterTrainer(llm, SPEC, replace(OWN, learning_rate=50.0))
    examples = [Example(TASK.make_input(f"film {place}"), "3") for place in range(8)]
    learnt = trainer.train_prior(examples[:4], held_out=examples[4:])
    assert learnt.steps == 0
    assert learnt.loss == learnt.loss_prior
    for _, b in trainer.family.pairs(learnt.row[None]):
        assert not b.any()


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [
        {
            "id": f"{user}0",
            "user_id": f"u{user}",
            "input": TASK.make_input(f"new {user}"),
            "profile": [{"id": f"{user}{n}", "text": f"f {n}", "score": "15"[user % 2]} for n in range(5)],
        }
        for user in range(4)
    ]
    golds = {"task": "LaMP_3", "golds": [{"id": f"{user}0", "output": "15"[user % 2]} for user in range(4)]}
    for split in ("train", "dev"):
        (tmp_path / f"{split}_questions.json").write_text(json.dumps(questions))
        (tmp_path / f"{split}_outputs.json").write_text(json.dumps(golds))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["persona", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    (tmp_path / "train.toml").write_text(
        'epochs = 1\n[lora]\nr = 2\ntargets = ["q_proj", "v_proj"]\n[task]\nepochs = 1\n'
    )
    train = ("train", "adapters", tmp_path, "--out", tmp_path / "task", "--llm", "tiny")
    code, shown, error = run(*train, "--config", tmp_path / "train.toml")
    assert code == 0, error
    assert "task adapter from 24 examples of 4 users" in shown
    content = json.loads((tmp_path / "task" / CONFIG).read_text())
    assert (content["task"], content["options"]["epochs"]) == ("LaMP_3", 1)
    run_it = (
        "eval",
        "lamp",
        tmp_path,
        "--llm",
        "tiny",
        "--methods",
        "none,lora+task",
        "--k",
        1,
        *("--set", "markdown=true"),
    )
    code, shown, error = run(*run_it, "--adapters", tmp_path / "task", "--out", tmp_path / "run")
    assert code == 0, error
    assert "| lora+task + bm25-lamp k=1, other user |" in shown
    code, _, error = run(*run_it, "--adapters", tmp_path / "nowhere")
    assert (code, len(error.strip().splitlines())) == (1, 1)
    assert "holds no task adapter" in error
    code, _, error = run(*run_it)
    assert code == 1
    assert "--adapters" in error


def test_the_earliest_profile_of_a_user() -> None:
    def question(number: int, time: str | None, records: int, user: str = "ana") -> Question:
        profile = Profile(user, tuple(Record(f"text {place}", id=str(place)) for place in range(records)))
        return Question(str(number), user, "q", profile, time)

    late, early = question(1, "2020-02-01", 4), question(2, "2020-01-01", 3)
    short, bo = question(3, None, 1, "cy"), question(4, None, 2, "bo")
    found = earliest_profiles([late, early, question(5, None, 2, "cy"), short, bo])
    assert found == {"ana": early.profile, "cy": short.profile, "bo": bo.profile}


def test_one_adapter_a_user(llm: TransformersLM, task: TaskAdapter, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    config = replace(CONFIG_OF_RUN, methods=("routed",), lora_once=True)
    run_lamp(
        make_split(0, 3),
        llm,
        config,
        adapters=Adapters((task,)),
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert ("routed adapters", 3, 3) in stages

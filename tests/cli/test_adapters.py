"""`persona lora`: from records to adapters, out to PEFT and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from safetensors.torch import load_file, save_file

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example
from persona.adapters.family import LoraSpec, fingerprint_of
from persona.adapters.routed import RouterOptions, train_router
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training import AdapterTrainer, TrainingOptions
from persona.cli.app import main
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore

Run = Callable[..., Any]
SHAPE = ["--r", "2", "--alpha", "4", "--targets", "q_proj,v_proj"]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    monkeypatch.setenv("PERSONA_STORE", url)
    with ProfileStore(url) as store:
        store.upsert(
            (f"user {user}", Record(f"film {place}", target=f"{user % 3}", id=f"{place}"))
            for user in range(6)
            for place in range(2 if user == 0 else 6)
        )
    return url


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `persona lora ...` and gives back what it prints: JSON where asked for, an error line where it fails."""

    def call(*arguments: object, code: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["persona", "lora", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        assert stop.value.code == code, shown.err
        if code:
            return shown.err.strip()
        return json.loads(shown.out) if "--json" in arguments else shown.out

    return call


def test_train_list_export_import_and_roll_back(run: Run, url: str, llama_folder: Path, tmp_path: Path) -> None:
    train = ["train", "--llm", llama_folder, *SHAPE, "--learning-rate", "0.02", "--json"]
    first = run(*train)
    assert (first["users"], first["too_few"]) == (5, 1)
    assert first["published"] + first["kept_prior"] == 5
    assert first["published"] > 0
    again = run(*train)
    assert (again["users"], again["family"]) == (0, first["family"])
    assert run(*train, "--all")["users"] == 5
    (kind,) = run("list", "--json")
    assert (kind["family"], kind["r"], kind["targets"]) == (first["family"], 2, "q_proj,v_proj")
    assert sum(kind["users"].values()) == 5
    written = run("export", tmp_path / "out", "--json")["adapters"]
    assert len(written) == kind["users"]["published"]
    name = Path(written[0]).name.replace("%20", " ")
    user = name.partition("@")[0]
    assert name in [version["adapter"] for version in run("list", user, "--json")]
    (imported,) = run("import", written[0], "--family", kind["family"], "--json")
    assert imported["adapter"] == f"{user}@3"
    assert run("rollback", user, "--json")["adapter"] == f"{user}@2"
    # What was exported comes back to where it was.
    assert f"1 adapters published in the family {kind['family']}" in run("import", written[0], "--llm", llama_folder)


def test_of_several_families_one_is_named(
    run: Run, url: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--llm", llama_folder, "--targets", "q_proj", "--no-prior", "--epochs", "1", "--json"]
    keys = [run(*train, "--margin", "-100", "--r", rank)["family"] for rank in (2, 4)]

    def ask(*options: str) -> tuple[object, str]:
        asked = ["ask", "user 1", "film", "--llm", str(llama_folder), "--k", "0", "--max-new-tokens", "2", *options]
        monkeypatch.setattr(sys, "argv", ["persona", *asked])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().err

    assert "name one with --family" in run("export", "out", code=1)
    code, said = ask("--lora")
    assert code == 1
    assert f"there are 2 families of adapters for {load_llm(llama_folder).fingerprint}, name one: {keys[0]}" in said
    assert ask("--lora", "--family", keys[1]) == (0, "")
    assert "--family is for adapters: give --lora" in ask("--family", keys[1])[1]
    written = [run("export", f"out {key}", "--family", key, "--json")["adapters"][0] for key in keys]
    assert f"these are of {', '.join(sorted(keys))}" in run("import", *written, code=1)
    assert keys[1] in run("import", written[1])
    assert keys[1] not in run("import", written[1], "--llm", llama_folder, "--dtype", "float16")
    assert len({kind["family"] for kind in run("list", "--json")}) == 3
    refused = run("import", written[0], "--family", keys[0], "--dtype", "int8", code=1)
    assert "--dtype is for a family that is not there yet" in refused


def test_a_family_without_users_is_none_to_choose_from(run: Run, url: str, llama_folder: Path) -> None:
    train = ["train", "--llm", llama_folder, "--targets", "q_proj", "--no-prior", "--epochs", "1", "--json"]
    key = run(*train, "--margin", "-100", "--r", "2")["family"]
    with ProfileStore(url) as store:
        bank = AdapterBank(store)
        (family,) = bank.families()
        empty = replace(family, spec=replace(family.spec, r=4))
        bank.add_family(empty)
        assert len(bank.families()) == 2
        assert bank.family(family.base).key == key
        assert bank.family(family.base, key=empty.key) == empty


def test_a_refused_import_leaves_nothing(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    run("train", "--llm", llama_folder, *SHAPE, "--no-prior", "--epochs", "1", "--margin", "-100")
    written = run("export", tmp_path / "out", "--json")["adapters"]
    before = run("list", "--json")
    assert "holds no PEFT adapter" in run("import", written[0], "nowhere", code=1)
    (tmp_path / "out" / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "out" / "adapter" / name).write_bytes((Path(written[0]) / name).read_bytes())
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    notes = {"persona_user_id": "user 1", "persona_base": "another@0:float32"}
    save_file(weights, tmp_path / "out" / "adapter" / "adapter_model.safetensors", metadata=notes)
    assert "was made for another@0:float32" in run(
        "import", tmp_path / "out" / "adapter", "--llm", llama_folder, code=1
    )
    assert run("list", "--json") == before


def test_without_a_prior_each_user_stands_alone(run: Run, llama_folder: Path) -> None:
    report = run("train", "--llm", llama_folder, *SHAPE, "--no-prior", "--epochs", "1")
    assert "5 users trained on 20 records" in report
    assert "left out: 1 users with fewer than 5 records" in report
    (kind,) = run("list", "--json")
    assert kind["prior"] is None


def test_forget_reaches_exported_adapters(
    run: Run, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--halves", "--warm-up", "1", "--aux-ratio", "0.5", "--learning-rate", "0.02"]
    run("train", "--llm", llama_folder, *SHAPE, *options)
    written = [Path(place) for place in run("export", tmp_path / "out", "--json")["adapters"]]
    # Halves add up, so the rank that goes out is the one that was asked for.
    assert {json.loads((place / "adapter_config.json").read_text())["r"] for place in written} == {2}
    user = unquote(written[0].name.rpartition("@")[0])
    monkeypatch.setattr(sys, "argv", ["persona", "forget", user, "--yes", "--exports", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert [place.exists() for place in written] == [False, *[True] * (len(written) - 1)]


def test_users_with_few_records_are_lent_routed_adapters(
    run: Run, url: str, llama_folder: Path, tmp_path: Path
) -> None:
    llm = load_llm(llama_folder)
    assert isinstance(llm, TransformersLM)
    spec = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj"))
    trainer = AdapterTrainer(llm, spec, TrainingOptions(learning_rate=0.02))
    users = [[Example(f"film {user} {place}", str(1 + user % 2)) for place in range(4)] for user in range(8)]
    prior = trainer.train_prior([one for user in users for one in user]).row
    options = RouterOptions(n=2, steps=30, evaluate_every=10, learning_rate=0.03)
    router, _, _ = train_router(trainer, [trainer.tokens(user) for user in users], options, prior=prior)
    task = TaskAdapter(trainer.family, prior, TrainingOptions(), "LaMP_3", router=router.state_dict())
    task.save(tmp_path / "task")
    report = run("train", "--llm", llama_folder, "--task-adapter", tmp_path / "task", "--json")
    assert (report["users"], report["too_few"], report["lent"]["users"]) == (5, 1, 1)
    assert report["lent"]["published"] + report["lent"]["kept_prior"] == 1
    (kind,) = run("list", "--json")
    assert kind["prior"] == fingerprint_of(prior)[:12]
    assert sum(kind["users"].values()) == 6
    wrong = run("train", "--llm", "tiny", "--task-adapter", tmp_path / "task", code=1)
    assert "the task adapter was trained on small-llama@" in wrong


def test_plan_prints_bytes_memory_and_time(run: Run, llama_folder: Path) -> None:
    numbers = ["--users", "1000", "--tokens", "16", "--batch-size", "1"]
    found = run("plan", *numbers, "--llm", llama_folder, *SHAPE, "--json")
    assert found["numbers"] == 2 * 2 * 2 * (32 + 32)
    assert found["bytes_per_adapter"] == 4 * found["numbers"]
    assert found["bytes_at_rest"] == pytest.approx(1000 * 4 * found["numbers"], rel=0.05)
    assert found["seconds"] == pytest.approx(1000 / found["users_per_second"])
    text = run("plan", *numbers, "--llm", llama_folder, *SHAPE)
    assert [line.split()[0] for line in text.splitlines()] == ["1000", "at", "in", "training", "time"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--targets", "out_proj"], "was: 'out_proj'"),
        (["train-task", "nowhere", "--out", "x", "--llm", "tiny", "--targets", "out_proj"], "was: 'out_proj'"),
        (["train", "--task", "LaMP_1"], "LaMP_1 names two papers"),
        (["train", "--llm", "openai:gpt@http://127.0.0.1:1/v1"], "need a transformers model"),
        (["export", "out"], "no adapters"),
        (["rollback", "user 1"], "no adapters"),
        (["import", "nowhere", "--llm", "tiny"], "holds no PEFT adapter"),
    ],
)
def test_a_known_error_is_one_line(
    run: Run, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    shown = run(*arguments, code=1).splitlines()
    assert shown[-1].startswith("persona: error: ")
    assert message in shown[-1]

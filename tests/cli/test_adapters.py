"""`persona train adapters`, `show --adapters`, `export-adapters`, `import-adapters`: from records to PEFT and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from safetensors.torch import load_file, save_file

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example
from persona.adapters.family import LoraSpec, fingerprint_of
from persona.adapters.generated.training import train_generator
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.task import router_training
from persona.adapters.training.trainer import AdapterTrainer
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run, settings

SHAPE = settings("lora.r=2", "lora.alpha=4", "lora.targets=q_proj,v_proj")
ALL = settings("holdout=0", "epochs=1", "users.prior=false")
"""Every user's adapter is published, and nobody waits for it."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    monkeypatch.setenv("PERSONA_STORE", url)
    with ProfileStore(url) as store:
        store.upsert(
            (f"user {user}", Record(f"film {number}", target=f"{user % 3}", id=f"{number}"))
            for user in range(6)
            for number in range(2 if user == 0 else 6)
        )
    return url


def train(run: Run, llm: Path | str, *options: object) -> Any:
    return run("train", "adapters", "--llm", llm, *options, "--json").json


def test_train_show_export_import_and_roll_back(run: Run, url: str, llama_folder: Path) -> None:
    options = [*SHAPE, *settings("learning_rate=0.02")]
    first = train(run, llama_folder, *options)
    assert (first["users"], first["too_few"]) == (5, 1)
    assert first["published"] + first["kept_prior"] == 5
    assert first["published"] > 0
    again = train(run, llama_folder, *options)
    assert (again["users"], again["family"]) == (0, first["family"])
    assert train(run, llama_folder, *options, "--all")["users"] == 5
    (kind,) = run("show", "--adapters", "--json").json
    assert (kind["family"], kind["r"], kind["targets"]) == (first["family"], 2, "q_proj,v_proj")
    assert sum(kind["users"].values()) == 5
    written = run("export-adapters", "out", "--json").json["adapters"]
    assert len(written) == kind["users"]["published"]
    name = unquote(Path(written[0]).name)
    user = name.partition("@")[0]
    assert name in [version["adapter"] for version in run("show", user, "--adapters", "--json").json]
    (imported,) = run("import-adapters", written[0], "--family", kind["family"], "--json").json
    assert imported["adapter"] == f"{user}@3"
    with ProfileStore(url) as store:
        bank = AdapterBank(store)
        assert bank.roll_back(user, bank.families()[0]).name == f"{user}@2"
    # What was exported comes back to where it was.
    assert (
        f"1 adapters published in the family {kind['family']}"
        in run("import-adapters", written[0], "--llm", llama_folder).out
    )


def test_of_several_families_one_is_named(run: Run, url: str, llama_folder: Path) -> None:
    keys = [
        train(run, llama_folder, *ALL, *settings("lora.targets=q_proj", f"lora.r={rank}"))["family"] for rank in (2, 4)
    ]

    def ask(*options: str) -> Any:
        return run("ask", "user 1", "film", "--llm", llama_folder, "--k", "0", "--max-new-tokens", "2", *options)

    assert "there are 2 families of adapters, name one" in run("export-adapters", "out").error
    several = f"there are 2 families of adapters for {load_llm(llama_folder).fingerprint}, name one: {keys[0]}"
    assert several in ask("--adapters").error
    assert ask("--adapters", *settings(f"family={keys[1]}")).code == 0
    assert "`family` and `missing_adapter` are for adapters" in ask(*settings(f"family={keys[1]}")).error
    written = [run("export-adapters", f"out {key}", "--family", key, "--json").json["adapters"][0] for key in keys]
    assert f"these are of {', '.join(sorted(keys))}" in run("import-adapters", *written).error
    assert keys[1] in run("import-adapters", written[1]).out
    assert keys[1] not in run("import-adapters", written[1], "--llm", llama_folder, "--at-rest", "float16").out
    assert len({kind["family"] for kind in run("show", "--adapters", "--json").json}) == 3
    refused = run("import-adapters", written[0], "--family", keys[0], "--at-rest", "int8")
    assert "--at-rest is for a family that is not there yet" in refused.error


def test_a_family_without_users_is_none_to_choose_from(run: Run, url: str, llama_folder: Path) -> None:
    key = train(run, llama_folder, *ALL, *settings("lora.targets=q_proj", "lora.r=2"))["family"]
    with ProfileStore(url) as store:
        bank = AdapterBank(store)
        (family,) = bank.families()
        empty = replace(family, spec=replace(family.spec, r=4))
        bank.add_family(empty)
        assert len(bank.families()) == 2
        assert bank.family(family.base).key == key
        assert bank.family(family.base, key=empty.key) == empty


def test_a_refused_import_leaves_nothing(run: Run, url: str, llama_folder: Path) -> None:
    train(run, llama_folder, *ALL, *SHAPE)
    written = run("export-adapters", "out", "--json").json["adapters"]
    before = run("show", "--adapters", "--json").json
    assert "holds no PEFT adapter" in run("import-adapters", written[0], "nowhere").error
    other = Path("out/adapter")
    other.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (other / name).write_bytes((Path(written[0]) / name).read_bytes())
    notes = {"persona_user_id": "user 1", "persona_base": "another@0:float32"}
    save_file(load_file(other / "adapter_model.safetensors"), other / "adapter_model.safetensors", metadata=notes)
    assert "was made for another@0:float32" in run("import-adapters", other, "--llm", llama_folder).error
    assert run("show", "--adapters", "--json").json == before


def test_without_a_prior_each_user_stands_alone(run: Run, url: str, llama_folder: Path) -> None:
    options = settings("users.prior=false", "epochs=1")
    report = run("train", "adapters", "--llm", llama_folder, *SHAPE, *options).out
    found = dict(line.split(maxsplit=1) for line in report.splitlines())
    assert (found["users"], found["examples"], found["too_few"]) == ("5", "20", "1")
    (kind,) = run("show", "--adapters", "--json").json
    assert kind["prior"] is None


def test_forget_reaches_exported_adapters(run: Run, url: str, llama_folder: Path) -> None:
    train(run, llama_folder, *ALL, *SHAPE)
    written = [Path(path) for path in run("export-adapters", "out", "--json").json["adapters"]]
    assert {json.loads((path / "adapter_config.json").read_text())["r"] for path in written} == {2}
    user = unquote(written[0].name.rpartition("@")[0])
    assert run("forget", user, "--yes", "--exports", "out").code == 0
    assert [path.exists() for path in written] == [False, *[True] * (len(written) - 1)]


def test_users_with_few_records_get_routed_adapters(run: Run, url: str, llama_folder: Path) -> None:
    llm = load_llm(llama_folder)
    assert isinstance(llm, TransformersLM)
    spec = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj"))
    trainer = AdapterTrainer(llm, spec, TrainingOptions(learning_rate=0.02))
    users = [[Example(f"film {user} {number}", str(1 + user % 2)) for number in range(4)] for user in range(8)]
    prior = trainer.train_prior([example for user in users for example in user]).row
    router = train_generator(
        trainer, [trainer.tokens(user) for user in users], router_training(2, 2, steps=30), prior=prior
    ).generator
    TaskAdapter(trainer.family, prior, TrainingOptions(), "LaMP_3", router=router).save(Path("task"))
    shown = run("show", "--trained", "task", "--json").json
    assert (shown["task"], shown["r"]) == ("LaMP_3", 2)
    report = train(run, llama_folder, "--task-adapter", "task")
    assert (report["users"], report["too_few"], report["lent"]["users"]) == (5, 1, 1)
    assert report["lent"]["published"] + report["lent"]["kept_prior"] == 1
    (kind,) = run("show", "--adapters", "--json").json
    assert kind["prior"] == fingerprint_of(prior)[:12]
    assert sum(kind["users"].values()) == 6
    wrong = run("train", "adapters", "--llm", "tiny", "--task-adapter", "task")
    assert "the task adapter was made for small-llama@" in wrong.error


def test_a_dry_run_says_bytes_and_time_and_trains_nothing(run: Run, url: str, llama_folder: Path) -> None:
    options = [*SHAPE, *settings("batch_size=1"), "--dry-run"]
    plan = train(run, llama_folder, *options)
    assert plan["users"] == 6
    assert plan["bytes_at_rest"] == 6 * 4 * 2 * 2 * 2 * (32 + 32)
    assert plan["seconds"] > 0
    text = run("train", "adapters", "--llm", llama_folder, *options).out
    assert {"users", "bytes_at_rest", "seconds"} <= {line.split()[0] for line in text.splitlines()}
    assert run("show", "--adapters", "--json").json == []

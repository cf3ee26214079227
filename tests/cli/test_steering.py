"""`persona train adapters --set users.kind=steering`: made, shown, used, exported and forgotten."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from persona.records import Record
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run, settings


def test_train_show_ask_export_and_forget(
    run: Run, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    monkeypatch.setenv("PERSONA_STORE", url)
    with ProfileStore(url) as store:
        store.upsert(("ana", Record(f"film {number}", target="zqxj", id=f"{number}")) for number in range(6))
    assert "no steering vectors" in run("ask", "ana", "film", "--llm", llama_folder, *settings("steering=true")).error
    chosen = settings(
        "users.kind=steering", "steering.blocks=1", "strengths=-1,-0.25,0.25,1", "steering.gate=0", "most_tokens=8"
    )
    made = run("train", "adapters", "--llm", llama_folder, *chosen, "--json").json
    assert (made["users"], made["published"]) == (1, 1)
    assert run("train", "adapters", "--llm", llama_folder, *chosen, "--json").json["users"] == 0
    (shown,) = run("show", "ana", "--adapters", "--json").json
    assert (shown["adapter"], shown["family"]) == ("ana@1", made["family"])
    answer = run("ask", "ana", "film", "--llm", llama_folder, *settings("steering=true"), "--k", 0, "--json").json
    assert answer["channels"] == ["steering"]
    (path,) = run("export-adapters", "out", "--family", made["family"], "--json").json["adapters"]
    assert [each.name for each in gguf.GGUFReader(path).tensors] == ["direction.1"]
    assert "no adapters" in run("export-adapters", "out").error
    parts = {part["what"]: part["removed"] for part in run("forget", "ana", "--yes", "--json").json["parts"]}
    assert (parts["adapters"], parts["neutral texts"]) == (1, 1)

"""`persona export` and `persona import`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.versions import AdapterDraft
from persona.store.profile_store import ProfileStore
from tests.cli.conftest import Run
from tests.store.upkeep.test_expiry import FAMILY


def test_all_users_go_to_another_store_and_back(stocked: Run, tmp_path: Path) -> None:
    out = stocked("export", "--all", "all.jsonl.gz").out
    assert out == "4 users, 29 records written to all.jsonl.gz\n"
    other = ("--store", "sqlite:///other.db")
    assert stocked("import", "all.jsonl.gz", *other).out == "4 users: 29 records added, 0 changed, 0 unchanged\n"
    assert stocked("show", *other, "--json").json == stocked("show", "--json").json
    assert stocked("export", "--all", "again.jsonl.gz", *other).code == 0
    assert (tmp_path / "again.jsonl.gz").read_bytes() == (tmp_path / "all.jsonl.gz").read_bytes()
    assert stocked("import", "all.jsonl.gz", "--json").json["records"]["unchanged"] == 29
    assert "all.jsonl.gz (all that was held" in stocked("forget", "mara", "--yes").out
    assert stocked("import", "all.jsonl.gz", "--json").json["records"]["added"] == 8


def test_one_user(stocked: Run, tmp_path: Path) -> None:
    assert stocked("export", "mara", "mara.jsonl", "--json").json["records"] == 8
    assert "tomás" not in (tmp_path / "mara.jsonl").read_text()
    assert "mara.jsonl" not in stocked("forget", "mara", "--yes").out


def test_adapters_on_request(stocked: Run, tmp_path: Path) -> None:
    with ProfileStore("sqlite:///persona.db") as store:
        bank = AdapterBank(store)
        bank.add_family(FAMILY)
        bank.publish(FAMILY, [AdapterDraft("mara", torch.ones(FAMILY.size), store.profile("mara").revision)])
    assert stocked("export", "mara", "mara.jsonl", "--json").json["adapters"] == 0
    assert "8 records, 1 adapter written" in stocked("export", "mara", "mara.jsonl", "--adapters").out
    assert "0 unchanged, 1 adapter\n" in stocked("import", "mara.jsonl", "--store", "sqlite:///other.db").out

    lines = [json.loads(line) for line in (tmp_path / "mara.jsonl").read_text().splitlines()]
    name = lines[1]["family"]["name"].replace("a.q", "")[:-1]
    lines[1]["family"] |= {"name": name, "key": hashlib.sha256(name.encode()).hexdigest()}
    lines[2]["user"]["adapters"] = []
    lines[-1]["end"]["adapters"] = 0
    (tmp_path / "mara.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused = stocked("import", "mara.jsonl", "--store", "sqlite:///third.db").error
    assert "the family of adapters" in refused
    assert not (tmp_path / "third.db").exists()

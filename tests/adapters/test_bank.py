"""The bank: versions, atomic changes, what is erased with a user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.family import AdaptedModule, Family, LoraSpec, fingerprint_of
from persona.adapters.versions import AdapterDraft, StoredAdapter, safe_name
from persona.errors import DataFormatError, FingerprintMismatchError, InvalidOptionError, UnknownAdapterError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.schema import part_of

FAMILY = Family("tiny@1:float32", LoraSpec(r=2, alpha=4, targets=("q",)), (AdaptedModule("a.q", 5, 3),))


def row(seed: int) -> Tensor:
    return torch.randn(FAMILY.size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def bank(store_url: str) -> Iterator[AdapterBank]:
    with ProfileStore(store_url) as store:
        store.upsert((user, Record(f"record of {user}")) for user in ("ana", "bo", "cy"))
        bank = AdapterBank(store)
        bank.add_family(FAMILY)
        yield bank


def publish(bank: AdapterBank, user_id: str, number: Tensor | None, revision: int = 1, keep: int = 3) -> None:
    assert len(bank.publish(FAMILY, [AdapterDraft(user_id, number, revision, {"loss": 0.5})], keep=keep)) == 1


def current(bank: AdapterBank, user_id: str) -> StoredAdapter:
    adapter = bank.current(user_id, FAMILY)
    assert adapter is not None
    return adapter


def test_versions_follow_one_another_and_roll_back(bank: AdapterBank) -> None:
    assert bank.current("ana", FAMILY) is None
    for seed in (1, 2):
        publish(bank, "ana", row(seed))
    second = current(bank, "ana")
    assert (second.name, second.state, second.metrics) == ("ana@2", "published", {"loss": 0.5})
    assert torch.equal(bank.row(second), row(2))
    assert bank.roll_back("ana", FAMILY).name == "ana@1"
    assert torch.equal(bank.row(current(bank, "ana")), row(1))
    with pytest.raises(UnknownAdapterError, match="no earlier version of 'ana'"):
        bank.roll_back("ana", FAMILY)
    publish(bank, "ana", row(3))
    assert [(one.version, one.state) for one in bank.versions("ana", FAMILY)] == [
        (1, "old"),
        (2, "withdrawn"),
        (3, "published"),
    ]
    assert bank.current("bo", FAMILY) is None


def test_the_prior_may_be_the_current_version(bank: AdapterBank) -> None:
    publish(bank, "ana", row(1))
    publish(bank, "ana", None)
    prior = current(bank, "ana")
    assert (prior.state, prior.sha256) == ("prior", None)
    with pytest.raises(UnknownAdapterError, match="no numbers of the adapter ana@2"):
        bank.row(prior)
    publish(bank, "ana", row(2))
    assert bank.roll_back("ana", FAMILY).state == "prior"


def test_a_number_of_versions_is_kept(bank: AdapterBank) -> None:
    for seed in range(5):
        publish(bank, "ana", row(seed), keep=2)
    assert [one.version for one in bank.versions("ana", FAMILY)] == [4, 5]
    with pytest.raises(InvalidOptionError, match="`keep` must be at least 1"):
        bank.publish(FAMILY, [], keep=0)


def test_a_batch_is_kept_whole_or_not_at_all(bank: AdapterBank) -> None:
    broken = torch.full((FAMILY.size,), torch.inf)
    with pytest.raises(InvalidOptionError, match="finite"):
        bank.publish(FAMILY, [AdapterDraft("ana", row(1), 1), AdapterDraft("bo", broken, 1)])
    with pytest.raises(InvalidOptionError, match="'ana' came twice"):
        bank.publish(FAMILY, [AdapterDraft("ana", row(1), 1), AdapterDraft("ana", row(2), 1)])
    assert list(bank.current_adapters(FAMILY)) == []


def test_what_was_made_from_something_else_is_passed_over(bank: AdapterBank) -> None:
    bank.store.upsert([("bo", Record("another", id="2"))])
    bank.store.delete_records("bo", ["2"])
    drafts = [AdapterDraft("nobody", row(1), 1), AdapterDraft("bo", row(2), 1), AdapterDraft("cy", row(3), 1)]
    assert [one.user_id for one in bank.publish(FAMILY, drafts)] == ["cy"]


def test_deleting_records_takes_adapters_made_from_them(bank: AdapterBank) -> None:
    bank.store.upsert([("ana", Record("another", id="2"))])
    publish(bank, "ana", row(1), revision=2)
    bank.store.delete_records("ana", ["2"])
    assert bank.versions("ana", FAMILY) == ()


def test_only_users_with_new_records_are_stale(bank: AdapterBank) -> None:
    assert sorted(bank.stale_users(FAMILY)) == ["ana", "bo", "cy"]
    publish(bank, "ana", row(1))
    publish(bank, "bo", None)
    assert list(bank.stale_users(FAMILY)) == ["cy"]
    bank.store.upsert([("ana", Record("another"))])
    assert sorted(bank.stale_users(FAMILY)) == ["ana", "cy"]
    assert sorted(one.name for one in bank.current_adapters(FAMILY)) == ["ana@1", "bo@1"]


def test_forget_erases_every_version(bank: AdapterBank) -> None:
    for seed in (1, 2):
        publish(bank, "ana", row(seed))
    publish(bank, "bo", row(3))
    report = bank.store.forget("ana")
    assert (report.records, report.adapters) == (1, 2)
    assert bank.versions("ana", FAMILY) == ()
    assert torch.equal(bank.row(current(bank, "bo")), row(3))


def test_forget_leaves_no_bytes(tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((f"user {number}", Record("a record")) for number in range(200))
        bank = AdapterBank(store)
        bank.add_family(FAMILY)
        bank.publish(FAMILY, [AdapterDraft(f"user {number}", row(number), 1) for number in range(200)])
        payload = FAMILY.encode(row(7))
        assert payload in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        store.forget("user 7")
        assert payload not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_damaged_bytes_are_noticed(bank: AdapterBank) -> None:
    publish(bank, "ana", row(1))
    with bank.store.database.writing() as connection:
        connection.execute(sqlalchemy.update(part_of("ana").adapters).values(payload=FAMILY.encode(row(2))))
    with pytest.raises(DataFormatError, match="ana@1 is damaged"):
        bank.row(current(bank, "ana"))


def test_families_are_found_by_their_model(bank: AdapterBank) -> None:
    assert bank.family(FAMILY.base) == FAMILY
    with pytest.raises(FingerprintMismatchError, match=r"made for tiny@1:float32, this model is tiny@2:float32"):
        bank.family("tiny@2:float32")
    other = replace(FAMILY, spec=LoraSpec(r=2, alpha=4, targets=("q",), dtype="int8"))
    bank.add_family(other)
    bank.add_family(other)
    assert bank.families() == (FAMILY, other)
    with pytest.raises(InvalidOptionError, match=f"2 families .* name one: {FAMILY.key}, {other.key}"):
        bank.family(FAMILY.base)
    assert bank.family(FAMILY.base, key=other.key) == other
    with pytest.raises(UnknownAdapterError, match="no family xyz"):
        bank.family(FAMILY.base, key="xyz")


def test_a_family_may_lie_over_a_prior(bank: AdapterBank) -> None:
    over = FAMILY.over(row(9))
    assert over.prior == fingerprint_of(row(9))
    with pytest.raises(UnknownAdapterError, match=f"no family {over.key}"):
        bank.prior(over)
    with pytest.raises(FingerprintMismatchError, match="lies over the prior"):
        bank.add_family(over, row(8))
    bank.add_family(over, row(9))
    found = bank.prior(over)
    assert found is not None
    assert torch.equal(found, row(9))
    assert bank.prior(FAMILY) is None


KILLED = """
import os, sys
import torch
from persona.adapters.bank import AdapterBank
from persona.adapters.versions import AdapterDraft
from persona.store.profile_store import ProfileStore
bank = AdapterBank(ProfileStore(sys.argv[1]))
(family,) = bank.families()
for number in range(10**6):
    users = ("ana", "bo", "cy")
    bank.publish(family, [AdapterDraft(user, torch.full((family.size,), float(number)), 1) for user in users])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_versions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'persona.db'}"
    with ProfileStore(url) as store:
        store.upsert((user, Record("a record")) for user in ("ana", "bo", "cy"))
        AdapterBank(store).add_family(FAMILY)
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    with process.stdout as lines:
        for _ in range(20):
            lines.readline()
        process.kill()
    process.wait()
    with ProfileStore(url) as store:
        bank = AdapterBank(store)
        found = list(bank.current_adapters(FAMILY))
        assert sorted(one.user_id for one in found) == ["ana", "bo", "cy"]
        assert len({one.version for one in found}) == 1
        assert len({float(number) for one in found for number in bank.row(one)}) == 1


def test_names_of_folders_are_safe_and_different() -> None:
    users = ["ana", "Ana", "../ana", "..", ".", "a/b", "a@1", "a%401", "ä", "x" * 512, "x" * 511 + "y", "CON", "a b"]
    names = [safe_name(user) for user in users]
    assert len(set(names)) == len(users)
    for name in names:
        assert len(name) <= 120
        assert not {"/", "@"} & set(name)
        assert not name.startswith(".")

"""Everything out and in: equal after a round trip, between the two databases too, or refused as a whole."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family
from persona.adapters.versions import AdapterDraft
from persona.errors import DataFormatError, UnknownUserError
from persona.records import Record
from persona.store.derived import StoredIndex
from persona.store.profile_store import IngestReport, ProfileStore
from persona.store.transfer import importing
from persona.store.transfer.exporting import export_users
from persona.store.transfer.importing import ImportReport, check_export, import_users
from persona.store.transfer.lines import Counts
from tests.store.profiles import texts
from tests.store.upkeep.test_expiry import FAMILY

PRIOR = torch.arange(FAMILY.size, dtype=torch.float32)
OVER_PRIOR = FAMILY.over(PRIOR)


def fill(store: ProfileStore) -> None:
    """Ana with changed records and everything that is derived from them; Ben, and two users with few records."""
    bank = AdapterBank(store)
    bank.add_family(FAMILY)
    bank.add_family(OVER_PRIOR, PRIOR)
    everything = Record(
        'line\nbreak "q" \u2028 😀',
        target="",
        time="2013-09-03T10:00:00+00:00",
        id="all",
        metadata={"": "x", "b": ""},
        role="user",
        speaker="Ana",
        expires="2999",
    )
    store.upsert([("ana", Record("deleted", id="x")), ("ana", Record("undated")), ("ben", Record("b", time="2011"))])
    store.delete_records("ana", ["x"])
    store.put_indexes([StoredIndex("ana", "summary:LaMP_3", 2, '{"text": "früh"}'.encode())])
    bank.publish(FAMILY, [AdapterDraft("ana", torch.ones(FAMILY.size), 2, {"loss": 0.1})])
    store.upsert([("ana", everything), ("ana", Record("undated as well", id="7"))])
    store.put_indexes([StoredIndex("ana", "soft-prompt:toy", 3, bytes(range(256)))])
    bank.publish(FAMILY, [AdapterDraft("ana", torch.full((FAMILY.size,), 2.0), 3)])
    nothing = {"loss": math.nan}  # a training that came to nothing
    bank.publish(OVER_PRIOR, [AdapterDraft("ana", None, 3, nothing), AdapterDraft("ben", torch.ones(FAMILY.size), 1)])
    store.upsert([("empty", Record("gone", id="1")), ("😀 ../x", Record("c"))])
    store.delete_records("empty", ["1"])


def exported(store: ProfileStore, path: Path, **options: Any) -> bytes:
    export_users(store, path, **options)
    return path.read_bytes()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the other kind, or once more of the same."""
    if request.param == "sqlite" or "postgresql" in request.node.name.split("-")[0]:
        return f"sqlite:///{tmp_path / 'other.db'}"
    url: str = request.getfixturevalue("postgres_store_url")
    return url


def test_equal_after_a_round_trip(store: ProfileStore, other: str, tmp_path: Path) -> None:
    fill(store)
    before = exported(store, tmp_path / "one.jsonl", adapters=True)
    with ProfileStore(other) as copy:
        done = import_users(copy, tmp_path / "one.jsonl")
        assert done == ImportReport(4, IngestReport(4, added=5), indexes=2, adapters=4)
        assert exported(copy, tmp_path / "two.jsonl", adapters=True) == before
        for user_id in ("ana", "ben", "empty", "😀 ../x"):
            assert copy.profile(user_id).records == store.profile(user_id).records
        bank, original = AdapterBank(copy), AdapterBank(store)
        assert {each.name for each in bank.families()} == {FAMILY.name, OVER_PRIOR.name}
        prior = bank.prior(OVER_PRIOR)
        assert prior is not None
        assert torch.equal(prior, PRIOR)
        current, was = bank.current("ana", FAMILY), original.current("ana", FAMILY)
        assert current is not None
        assert was is not None
        assert torch.equal(bank.row(current), original.row(was))
        assert (current.name, current.created) == (was.name, was.created)
        # The store goes on from there as the first one would.
        copy.upsert([("ana", Record("new"))])
        assert copy.profile("ana").revision > current.revision


def test_again_changes_nothing(store: ProfileStore, tmp_path: Path) -> None:
    fill(store)
    before = exported(store, tmp_path / "one.jsonl", adapters=True)
    revisions = [store.profile(user_id).revision for user_id in ("ana", "ben")]
    done = import_users(store, tmp_path / "one.jsonl")
    assert (done.records, done.adapters) == (IngestReport(4, unchanged=5), 0)
    assert exported(store, tmp_path / "two.jsonl", adapters=True) == before
    assert [store.profile(user_id).revision for user_id in ("ana", "ben")] == revisions


def test_an_import_that_was_stopped_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'one.db'}") as store:
        fill(store)
        before = exported(store, tmp_path / "one.jsonl", adapters=True)
    monkeypatch.setattr(importing, "_USERS_AT_ONCE", 1)
    put, done = importing._put, 0

    def stopped(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return put(*arguments)

    with ProfileStore(f"sqlite:///{tmp_path / 'two.db'}") as copy:
        monkeypatch.setattr(importing, "_put", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_users(copy, tmp_path / "one.jsonl")
        assert copy.counts().users == 2
        done = 10
        import_users(copy, tmp_path / "one.jsonl")
        assert exported(copy, tmp_path / "two.jsonl", adapters=True) == before


def test_one_user_without_adapters(store: ProfileStore, tmp_path: Path) -> None:
    fill(store)
    assert export_users(store, tmp_path / "ana.jsonl.gz", ["ana"]) == Counts(1, 3, 2, 0)
    assert check_export(tmp_path / "ana.jsonl.gz") == (Counts(1, 3, 2, 0), ())
    lines = [json.loads(line) for line in gzip.decompress((tmp_path / "ana.jsonl.gz").read_bytes()).splitlines()]
    assert [next(iter(line)) for line in lines] == ["persona_export", "user", "end"]
    assert lines[1]["user"]["indexes"][1]["text"] == '{"text": "früh"}'
    assert exported(store, tmp_path / "again.jsonl.gz", user_ids=["ana"]) == (tmp_path / "ana.jsonl.gz").read_bytes()
    with pytest.raises(UnknownUserError, match="did you mean 'ana'"):
        export_users(store, tmp_path / "anna.jsonl", ["anna"])
    assert not (tmp_path / "anna.jsonl").exists()


def test_what_a_known_user_has_is_kept(store: ProfileStore, tmp_path: Path) -> None:
    fill(store)
    export_users(store, tmp_path / "one.jsonl", adapters=True)
    for user_id in ("ana", "ben"):
        store.forget(user_id)
    store.upsert([("ana", Record("other", id="o")), ("ana", Record("newer", id="7"))])
    bank = AdapterBank(store)
    bank.publish(FAMILY, [AdapterDraft("ana", torch.zeros(FAMILY.size), store.profile("ana").revision)])
    done = import_users(store, tmp_path / "one.jsonl")
    assert (done.records.added, done.records.changed) == (3, 1)
    assert sorted(texts(store.profile("ana"))) == sorted(
        ["other", "undated as well", "undated", 'line\nbreak "q" \u2028 😀']
    )
    current = bank.current("ana", FAMILY)
    assert current is not None
    assert bank.row(current).eq(0).all()
    index = store.index("ana", "soft-prompt:toy")
    assert index is None or index.revision < store.profile("ana").revision  # it knows nothing of `other`
    assert store.index("ben", "summary:LaMP_3") is None
    assert bank.current("ben", OVER_PRIOR) is not None


def edit(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[bytes], bytes]:
    def edited(data: bytes) -> bytes:
        lines = [json.loads(line) for line in data.splitlines()]
        lines = change(lines) or lines  # type: ignore[assignment]
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return edited


def edit_ana(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    return edit(lambda lines: (change(lines[3]["user"]), None)[1])


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no last line": (lambda data: data[: data.rindex(b'{"end"')], "the file ends early"),
    "cut in a line": (lambda data: data[: len(data) // 2], "Invalid JSON"),
    "a line is missing": (edit(lambda lines: lines[:4] + lines[5:]), "the file is not whole: it holds"),
    "more behind it": (lambda data: data + b"{}\n", "nothing may follow the line `end`"),
    "another version": (edit(lambda lines: lines[0].update(persona_export=3)), "this persona reads version 2"),
    "histories": (lambda _: b'{"user_id": "a", "text": "b"}\n', "histories are read by `persona ingest`"),
    "a list": (lambda _: b"[]\n", "histories are read by `persona ingest`"),
    "an unknown line": (edit(lambda lines: lines.insert(4, {"vector": {}})), "line 5: vector: Extra inputs"),
    "an unknown field": (edit_ana(lambda ana: ana["records"][0].update(mood="x")), "the line is broken"),
    "a text that is none": (edit_ana(lambda ana: ana["records"][0].update(text=5)), "records.0: .*text must be a"),
    "another's numbers": (edit_ana(lambda ana: ana["adapters"][0].update(sha256="0")), "must have its SHA-256"),
    "an unknown state": (edit_ana(lambda ana: ana["adapters"][0].update(state="best")), "adapters.0.state"),
    "no such family": (edit(lambda lines: lines[:1] + lines[3:]), "must follow its family"),
    "another family's key": (edit(lambda lines: lines[1]["family"].update(key="0")), "must be the SHA-256 of its name"),
    "an id that is none": (edit_ana(lambda ana: ana.update(user_id="")), "must not be empty"),
    "no base64": (edit_ana(lambda ana: ana["indexes"][0].update(binary="%")), "indexes.0.binary"),
    "a negative number": (edit_ana(lambda ana: ana["indexes"][0].update(behind=-1)), "indexes.0.behind"),
    "a number that no database holds": (edit_ana(lambda ana: ana.update(changes=10**30)), "user.changes"),
    "a text that no database holds": (edit_ana(lambda ana: ana["adapters"][0].update(created="\0")), "NUL"),
    "a line of nothing": (edit(lambda lines: lines.insert(4, {})), "line 5: a line must hold"),
    "two of one version": (edit_ana(lambda ana: ana["adapters"].append(ana["adapters"][0])), "two adapters of 'ana'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_changes_nothing(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = tmp_path / "export.jsonl"
    with ProfileStore(f"sqlite:///{tmp_path / 'one.db'}") as store:
        fill(store)
        export_users(store, path, adapters=True)
    path.write_bytes(change(path.read_bytes()))
    with ProfileStore(f"sqlite:///{tmp_path / 'two.db'}") as copy:
        with pytest.raises(DataFormatError, match=message) as found:
            import_users(copy, path)
        assert str(path) in str(found.value)
        assert "\n" not in str(found.value)
        assert copy.counts().users == 0


def test_a_gzip_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl.gz"
    with ProfileStore(f"sqlite:///{tmp_path / 'one.db'}") as store:
        store.upsert((f"user {number}", Record(f"text {number}")) for number in range(1000))
        export_users(store, path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DataFormatError, match="the gzip file ends early"):
            import_users(store, path)


def test_an_export_that_fails_leaves_the_file_that_was_there(store: ProfileStore, tmp_path: Path) -> None:
    fill(store)
    (tmp_path / "out.jsonl").write_text("before")

    def ids() -> Any:
        yield "ana"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_users(store, tmp_path / "out.jsonl", ids())
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.jsonl"]


def test_families_are_what_a_bank_can_read() -> None:
    assert Family.from_name(FAMILY.name) == FAMILY

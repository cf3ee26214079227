"""The ledger of chunks: what is taken out leaves the bytes of what never was in."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.generated.generator import AdapterGenerator
from persona.adapters.generated.ledger import Ledger, side_by_side
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.versions import AdapterDraft
from persona.llm.checkpoint import hash_parameters
from persona.records import Profile, Record
from persona.store.derived import CHUNK, StoredIndex, chunk_kind, chunk_of
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.duplicates import TokenOverlap
from persona.store.upkeep.receipt import forget_with_receipt

USER = "ana"


@pytest.fixture
def ledger(generator: AdapterGenerator, trainer: AdapterTrainer) -> Ledger:
    return Ledger(generator, trainer, history_examples)


def record(number: int, text: str = "") -> Record:
    text = text or f"film {number} {'very ' * (number % 3)}long"
    return Record(text, target=str(number % 5), id=f"r{number}", time=f"20{number % 17 + 10}-01-01")


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def chunks_of(store: ProfileStore, ledger: Ledger) -> dict[str, bytes]:
    kinds = [held.kind for held in holdings(store, USER).indexes if held.kind.startswith(CHUNK)]
    found = {kind: store.index(USER, kind) for kind in kinds}
    return {kind: index.data for kind, index in found.items() if index is not None}


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_changes_leaves_the_bytes_of_building_afresh(ledger: Ledger, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    with ProfileStore(f"sqlite:///{tmp_path / 'changed.db'}") as store:
        store.upsert([(USER, record(99))])
        for _ in range(24):
            known = [each.id for each in store.profile(USER)]
            match draw.choice(("add", "add", "delete", "edit", "merge", "make")):
                case "add":
                    store.upsert((USER, record(draw.randrange(30))) for _ in range(draw.randrange(1, 4)))
                case "delete" if len(known) > 1:
                    store.delete_records(USER, draw.sample(known, 1))
                case "edit":
                    store.edit_record(USER, draw.choice(known), text=f"another text {draw.random()}")
                case "merge":
                    store.upsert([(USER, record(draw.randrange(30)))], similarity=TokenOverlap(0.9))
                case _:
                    ledger.row(store.profile(USER), store)
        made = ledger.row(store.profile(USER), store)
        left, records = chunks_of(store, ledger), list(store.profile(USER))
    draw.shuffle(records)
    with ProfileStore(f"sqlite:///{tmp_path / 'fresh.db'}") as store:
        for each in records:
            store.upsert([(USER, each)])
        fresh = ledger.row(store.profile(USER), store)
        assert chunks_of(store, ledger) == left
    assert ledger.generator.family.encode(made) == ledger.generator.family.encode(fresh)
    assert torch.equal(ledger.row(Profile("somebody", tuple(records))), fresh)
    assert bool(fresh.any())


def test_one_record_touches_one_chunk(ledger: Ledger, tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((USER, record(number)) for number in range(12))
        ledger.row(store.profile(USER), store)
        before = chunks_of(store, ledger)
        assert len(before) == ledger.generator.chunks == 4
        own = chunk_kind(ledger.generator.fingerprint, chunk_of("r3", 4), 4)
        store.put_indexes([StoredIndex(USER, "bm25:text", store.profile(USER).revision, b"r3")])
        store.delete_records(USER, ["r3"])
        assert chunks_of(store, ledger) == {kind: data for kind, data in before.items() if kind != own}
        assert store.index(USER, "bm25:text") is None
        without = ledger.row(store.profile(USER), store)
        store.upsert([(USER, record(3))])
        again = ledger.row(store.profile(USER), store)
        assert chunks_of(store, ledger) == before
        # In every layer only the deleted record's place along the rank has other numbers.
        place = chunk_of("r3", 4)
        for (a, b), (other_a, other_b) in zip(
            *(ledger.generator.family.pairs(row[None]) for row in (without, again)), strict=True
        ):
            changed = (a != other_a).any(2)[0] | (b != other_b).any(1)[0]
            assert changed.tolist() == [rank == place for rank in range(4)]


def test_a_chunk_is_up_to_date_while_its_own_records_are(ledger: Ledger, tmp_path: Path) -> None:
    def fresh(store: ProfileStore) -> dict[int, bool]:
        return {int(each.kind[-3]): each.fresh for each in holdings(store, USER).indexes}

    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((USER, record(number)) for number in range(12))
        ledger.row(store.profile(USER), store)
        new = record(12)
        store.upsert([(USER, new)])
        own = chunk_of(new.id or "", 4)
        assert fresh(store) == {chunk: chunk != own for chunk in range(4)}
        ledger.row(store.profile(USER), store)  # writes that chunk alone
        assert fresh(store) == dict.fromkeys(range(4), True)


def test_an_expired_record_leaves_the_bytes_of_never_having_been_there(
    ledger: Ledger, tmp_path: Path, clock: Callable[[str], None]
) -> None:
    left = [record(number) for number in range(11)]
    with ProfileStore(f"sqlite:///{tmp_path / 'never.db'}") as store:
        store.upsert((USER, each) for each in left)
        row, chunks = ledger.row(store.profile(USER), store), chunks_of(store, ledger)
    with ProfileStore(f"sqlite:///{tmp_path / 'expired.db'}") as store:
        store.upsert((USER, each) for each in [*left, replace(record(11), expires="2027")])
        assert not torch.equal(ledger.row(store.profile(USER), store), row)
        before = chunks_of(store, ledger)
        clock("2027-01-01T00:00:00+00:00")
        assert torch.equal(ledger.row(store.profile(USER), store), row)  # before it is removed
        assert store.remove_expired() == 1
        own = chunk_kind(ledger.generator.fingerprint, chunk_of("r11", 4), 4)
        assert chunks_of(store, ledger) == {kind: data for kind, data in before.items() if kind != own}
        assert torch.equal(ledger.row(store.profile(USER), store), row)
        assert chunks_of(store, ledger) == chunks
        store.finish_forgetting(records=True)
    gone = before[own].partition(b"\n")[2]
    pieces = {gone[start : start + 64] for start in range(0, len(gone) - 64, 64)}
    assert not any(piece in everything(tmp_path) for piece in pieces)


def test_the_product_is_the_sum_of_the_chunks_products(generator: AdapterGenerator) -> None:
    rows = torch.randn(3, generator.chunk_family.size, dtype=torch.float64)
    whole = side_by_side(generator.family, rows, [0, 1, 1], [2, 0, 3])
    assert whole.shape == (2, generator.family.size)
    pairs = zip(generator.family.pairs(whole), generator.chunk_family.pairs(rows), strict=True)
    for (a, b), (own_a, own_b) in pairs:
        products = own_b @ own_a
        torch.testing.assert_close(b[0] @ a[0], products[0])
        torch.testing.assert_close(b[1] @ a[1], products[1] + products[2])


def test_forget_reaches_the_chunks_bytes_and_the_receipt_lists_them(ledger: Ledger, tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((user, record(number)) for user in (USER, "bo") for number in range(6))
        family = ledger.generator.family
        bank = AdapterBank(store)
        bank.add_family(family)
        for user in (USER, "bo"):
            profile = store.profile(user)
            bank.publish(family, [AdapterDraft(user, ledger.row(profile, store), profile.revision)])
        numbers = {data.partition(b"\n")[2] for data in chunks_of(store, ledger).values()}
        pieces = [each[start : start + 64] for each in numbers for start in range(0, len(each) - 64, 256)]
        assert any(piece in everything(tmp_path) for piece in pieces)
        done = forget_with_receipt(store, USER)
        parts = {part.what: part for part in done.parts}
        assert done.complete
        assert (parts["adapter chunks"].removed, parts["adapter chunks"].left) == (len(numbers), 0)
        # Bo has the same records, so the same numbers: they go as well, and nothing of them is left anywhere.
        store.forget("bo")
        assert not any(piece in everything(tmp_path) for piece in pieces)


def test_the_llm_is_read_and_never_changed(ledger: Ledger, trainer: AdapterTrainer) -> None:
    before = hash_parameters(trainer.llm.model)
    first = ledger.row(Profile(USER, (record(1), record(2))))
    assert hash_parameters(trainer.llm.model) == before
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(ledger.row(Profile(USER, (record(2), record(1)))), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert not ledger.row(Profile(USER)).any()
    assert not ledger.row(Profile(USER, (Record("no answer", id="1"),))).any()

"""Histories in numbers: what a value shows, and which vectors are read from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.records import Profile, Record
from persona.soft_prompts.histories import HistoryReader, history_views
from persona.store.profile_store import ProfileStore
from tests.soft_prompts.splits import fresh


def test_a_value_shows_what_the_user_did(tiny: Any, encoder: Any) -> None:
    records = (Record("A film.", target="5", time="2011"), Record("A film.", target="1", time="2012-03"), Record("Hm."))
    profiles = [Profile("ana", records), Profile("ben", records[:2]), Profile("c")]
    ana, ben, nobody = HistoryReader(fresh(tiny, encoder).config, encoder).read(profiles)
    first, second, third = ana.values
    assert np.array_equal(first[: encoder.dim], second[: encoder.dim])  # the key is the input side alone
    assert not np.array_equal(first, second)
    assert not third[encoder.dim : 2 * encoder.dim].any()  # no target, no vector of it
    assert ana.days is None  # one record has no date
    assert ben.days is not None
    assert ben.days[1] - ben.days[0] == 365 + 31 + 29
    assert len(nobody) == 0


def test_stored_vectors_are_used_and_stale_ones_are_not(tiny: Any, tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.inner = load_encoder("hashing")
            self.texts: list[str] = []
            self.dim, self.fingerprint = self.inner.dim, self.inner.fingerprint

        def encode(self, texts: Any) -> Any:
            self.texts += texts
            return self.inner.encode(texts)

    encoder = Counting()
    config = fresh(tiny, encoder).config
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        store.upsert([("ana", Record("Old.", "5", id="1")), ("ana", Record("Older.", "4", id="2"))])
        for view in history_views(config):
            embed_users(store, encoder, view=view)
        encoder.texts.clear()
        reader = HistoryReader(config, encoder, store)
        (stored,) = reader.read([store.profile("ana")])
        assert encoder.texts == []
        store.upsert([("ana", Record("New.", "5", id="1"))])
        changed = store.profile("ana")
        (read,) = reader.read([changed])
        assert encoder.texts == ["New.", "5"]
    plain = HistoryReader(config, encoder)
    records = (Record("Old.", "5"), Record("Older.", "4"))
    assert np.array_equal(stored.values, plain.read([Profile("ana", records)])[0].values)
    assert np.array_equal(read.values, plain.read([changed])[0].values)

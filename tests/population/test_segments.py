"""Segments and lookalikes (row 18): terms, least sizes, what is left of a forgotten user, a new user's fall-back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.encoders.user_vectors import UserVectorFile, export_user_vectors
from persona.errors import DataFormatError, FingerprintMismatchError, InvalidOptionError
from persona.population.fallback import SegmentVectors
from persona.population.lookalikes import lookalikes
from persona.population.segments import Segments, store_memberships
from persona.population.vectors import UserTable
from persona.records import Profile, Record
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.histories import UserVectorReader
from persona.store.profile_store import ProfileStore
from persona.store.upkeep.receipt import forget_with_receipt

TOPICS = {"sailors": "The boat left the harbour", "bakers": "The bread left the oven", "few": "Chess clocks tick"}


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    opened = ProfileStore(f"sqlite:///{tmp_path}/persona.db")
    opened.upsert(
        (f"{topic}-{n}", Record(f"{text} on day {number}.", target=topic, id=f"{number}"))
        for topic, text in TOPICS.items()
        for n in range(12 if topic == "sailors" else 11 if topic == "bakers" else 3)
        for number in range(n % 3 + 1)
    )
    embed_users(opened, load_encoder("hashing"))
    return opened


def table(store: ProfileStore) -> UserTable:
    (encoder,) = store.fingerprints()
    return UserTable.from_store(store, encoder.fingerprint)


def test_segments_say_what_sets_them_apart_and_nothing_of_few(store: ProfileStore) -> None:
    made = Segments.of(store, table(store), 3)
    assert len(made.sizes) == 2
    assert sum(made.sizes) == 26
    assert min(made.sizes) >= 10
    terms = [set(each) for each in made.terms]
    assert {"label:sailors", "word:boat"} <= terms[0] | terms[1]
    assert not any({"word:left", "word:day", "label:few", "word:chess"} & each for each in terms)
    other = Segments.of(store, table(store).without({f"few-{n}" for n in range(3)}), 2)
    # 12 of 12 sailors and none of 11 bakers: z of the log-odds by hand.
    cells = (12.5, 11.5, 0.5, 0.5)
    z = (math.log(12.5 / 0.5) + math.log(11.5 / 0.5)) / math.sqrt(sum(1 / each for each in cells))
    assert other.sizes == (12, 11)
    assert other.terms[0]["label:sailors"] == pytest.approx(z, abs=0.01)
    matrix = table(store).matrix
    np.testing.assert_allclose(
        other.centres[0], matrix[[name.startswith("sailors") for name in table(store).user_ids]].mean(0), atol=1e-6
    )
    with pytest.raises(InvalidOptionError, match="at least 30 users, there are 26"):
        Segments.of(store, table(store), 3, least=30)


def test_a_forgotten_user_is_in_no_file_and_the_receipt_says_so(store: ProfileStore, tmp_path: Path) -> None:
    made, path = Segments.of(store, table(store), 3), tmp_path / "segments.safetensors"
    made.save(path, store)
    assert store_memberships(store, made) == 26
    back = Segments.load(path)
    assert (back.fingerprint, back.sizes, back.terms) == (made.fingerprint, made.sizes, made.terms)
    np.testing.assert_array_equal(back.centres, made.centres)
    receipt = forget_with_receipt(store, "sailors-1")
    assert {part.what: part.removed for part in receipt.parts if part.removed}["memberships"] == 1
    assert receipt.complete
    assert any(str(path) in each for each in receipt.not_reached)
    store.close()
    for file in tmp_path.iterdir():
        assert b"sailors-1\0" not in file.read_bytes().replace(b"sailors-10", b"").replace(b"sailors-11", b"")
        assert file.suffix == ".db" or b"sailors-" not in file.read_bytes()
    path.write_bytes(b"nothing")
    with pytest.raises(DataFormatError, match="`persona segments` makes one"):
        Segments.load(path)


def test_a_membership_goes_with_a_deleted_record(store: ProfileStore) -> None:
    made = Segments.of(store, table(store), 3)
    store_memberships(store, made)
    kind = f"segment:{made.fingerprint}"
    assert store.index("bakers-2", kind) is not None
    store.delete_records("bakers-2", ["0"])
    assert store.index("bakers-2", kind) is None


def test_a_new_user_has_a_segment_and_one_with_few_records_is_drawn_to_it(store: ProfileStore, tmp_path: Path) -> None:
    made, path = Segments.of(store, table(store), 3), tmp_path / "users.parquet"
    export_user_vectors(store, made.fingerprint, path)
    vectors = SegmentVectors(path, made, prior=2.0)
    sailors = next(n for n, terms in enumerate(made.terms) if "label:sailors" in terms)
    told = Profile("nobody", (Record("A boat.", target="sailors"),))
    np.testing.assert_array_equal(vectors.of_profile(told), made.centres[sailors])
    mean = np.average(made.centres, axis=0, weights=made.sizes)
    np.testing.assert_allclose(vectors.of_profile(Profile("nobody")), mean, atol=1e-6)
    reader = UserVectorReader(UserEmbedderConfig(mean.size, 8, mode="vectors"), vectors)
    (history,) = reader.read([Profile("nobody")])  # so a soft prompt is made for who was never seen
    np.testing.assert_allclose(history.values, mean[None], atol=1e-3)
    own = UserVectorFile(path).of("sailors-0")
    assert own is not None
    expected = (own + 2 * made.centres[sailors]) / 3
    np.testing.assert_allclose(vectors.of_profile(store.profile("sailors-0")), expected, atol=1e-6)
    other = Segments("another", made.centres, made.sizes, made.terms)
    with pytest.raises(FingerprintMismatchError, match="make them anew"):
        SegmentVectors(path, other)


@pytest.mark.parametrize("by", ["classifier", "cosine"])
def test_lookalikes_of_some_sailors_are_the_other_sailors(store: ProfileStore, by: str) -> None:
    seeds = [f"sailors-{n}" for n in range(6)]
    found = lookalikes(table(store), [*seeds, "stranger"], by=by, least=6)  # type: ignore[arg-type]
    assert {name for name, _ in found[:6]} == {f"sailors-{n}" for n in range(6, 12)}
    assert len(found) == 20
    with pytest.raises(InvalidOptionError, match="there are 6 and 20"):
        lookalikes(table(store), seeds)

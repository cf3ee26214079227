"""Two spaces by hand, and in their files (row 3 of docs/papers.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from persona.encoders.hashing import HashingEncoder
from persona.errors import FingerprintMismatchError, InvalidOptionError, ModelLoadError
from persona.records import Profile
from persona.retrievers import DenseRetriever, DualSpaces, UsefulRetriever
from persona.retrievers.registry import RetrieverOptions, make_retriever
from tests.retrievers.cases import ids
from tests.retrievers.vectors.written import Written, at

WEIGHTS = {"in.weight": np.array([[1, 0], [2, 1]], np.float32), "out.weight": np.array([[1, 0], [0, 3]], np.float32)}
SPACES = DualSpaces(WEIGHTS, "written|view=text", notes={"report": {"chosen": 1.5}})
PROFILE = Profile("ana", (at(0), at(60), at(90), at(180)))


def test_a_score_is_in_of_the_query_times_out_of_the_record() -> None:
    """Row 3: IN(1, 0) = (1, 2) and OUT(r) = (r_1, 3 r_2): r_1 + 6 r_2. The record like q is not the best."""
    found = UsefulRetriever(Written(), SPACES).retrieve(PROFILE, "1 0", 4)
    assert ids(found) == ["90", "60", "0", "180"]
    expected = [6, 0.5 + 6 * 3**0.5 / 2, 1, -1]
    assert [scored.score for scored in found] == pytest.approx(expected, abs=5e-3)


def test_where_both_spaces_are_the_encoders_the_order_is_that_of_dense() -> None:
    same = DualSpaces(dict.fromkeys(WEIGHTS, np.eye(2, dtype=np.float32)), SPACES.fingerprint)
    found = UsefulRetriever(Written(), same).retrieve(PROFILE, at(70).text, 4)
    assert ids(found) == ids(DenseRetriever(Written()).retrieve(PROFILE, at(70).text, 4))


def test_a_folder_by_name(tmp_path: Path) -> None:
    SPACES.save_pretrained(tmp_path / "spaces")
    loaded = DualSpaces.from_pretrained(tmp_path / "spaces")
    assert all((loaded.weights[name] == array).all() for name, array in WEIGHTS.items())
    assert (loaded.fingerprint, loaded.view, loaded.notes) == (SPACES.fingerprint, "text", SPACES.notes)
    options = RetrieverOptions(model=str(tmp_path / "spaces"), view="target")  # the view is that of the spaces
    found = make_retriever("useful", options, encoder=Written()).retrieve(PROFILE, "1 0", 4)
    assert found == UsefulRetriever(Written(), SPACES).retrieve(PROFILE, "1 0", 4)
    with pytest.raises(FingerprintMismatchError, match=r"made for written\|view=text, this is hashing"):
        make_retriever("useful", options, encoder=HashingEncoder(64))


def test_what_is_no_folder_of_spaces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="'useful' is learned first: give its folder"):
        make_retriever("useful", encoder=Written())
    with pytest.raises(ModelLoadError, match="holds no spaces of usefulness: learn them with"):
        DualSpaces.from_pretrained(tmp_path)
    SPACES.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "usefulness.json").read_text())
    (tmp_path / "usefulness.json").write_text(json.dumps({**config, "format": 9}))
    with pytest.raises(ModelLoadError, match="format 9, this persona reads 1"):
        DualSpaces.from_pretrained(tmp_path)
    for wrong in ({"in.weight": np.zeros((2, 3), np.float32)}, {"more": np.zeros(1, np.float32)}):
        with pytest.raises(InvalidOptionError, match="must fit together"):
            DualSpaces({**WEIGHTS, **wrong}, "written")
    with pytest.raises(InvalidOptionError, match="must be finite"):
        DualSpaces({**WEIGHTS, "in.weight": np.full((2, 2), np.nan, np.float32)}, "written")

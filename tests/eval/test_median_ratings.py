"""Ratings answered with the median in an evaluation: for tasks of scores, and for no other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from persona.errors import InvalidOptionError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import LampConfig
from persona.eval.world.world import World
from persona.llm.load import load_llm
from persona.readers import read_split


@pytest.mark.slow
def test_an_evaluation_of_ratings_and_of_nothing_else(tmp_path: Path) -> None:
    tiny = load_llm("tiny")
    for task in ("LaMP_2", "LaMP_3"):
        World(3).write_lamp(tmp_path / task, task, {"dev": 60}, 8)
    split = read_split(tmp_path / "LaMP_3", "dev")
    config = LampConfig(methods=("none",), controls=False)
    rows = [
        run_lamp(split, tiny, dataclasses.replace(config, mbr=mbr), out=tmp_path / str(mbr)).rows[0]
        for mbr in (False, True)
    ]
    plain, median = (list(row.runs[0].values()) for row in rows)
    assert set(median) <= set("12345")
    assert sum(map(int, plain)) != sum(map(int, median))  # tiny is unsure of a stranger: its mode is not its median
    assert json.loads((tmp_path / "True" / "results.json").read_text())["config"]["mbr"] is True
    with pytest.raises(InvalidOptionError, match=r"LaMP_2 asks for none"):
        run_lamp(read_split(tmp_path / "LaMP_2", "dev"), tiny, dataclasses.replace(config, mbr=True))

"""Right answers and predictions in LaMP's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persona.errors import DataFormatError, UnknownTaskError
from persona.lamp.outputs import read_golds, write_predictions
from persona.lamp.tasks import TASKS


def write_json(path: Path, value: object, **options: Any) -> Path:
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


def test_predictions_come_back_as_written(tmp_path: Path) -> None:
    predictions = {"100": "[1]", "é\n": "", "a\ud800b": "x"}
    for task, name in (("LaMP_2N", "LaMP_2"), (TASKS["LaMP_2N"], "LaMP_2"), ("lamp5", "LaMP_5")):
        path = tmp_path / "predictions.json"
        write_predictions(path, task, predictions)
        written = json.loads(path.read_text(encoding="utf-8"))
        assert written["task"] == name
        assert written["golds"] == [{"id": id, "output": output} for id, output in predictions.items()]
    write_predictions(path, "LaMP_5", {"100": "[1]", "é\n": ""})
    assert read_golds(path) == ("LaMP_5", {"100": "[1]", "é\n": ""})
    assert list(tmp_path.iterdir()) == [path]


def test_predictions_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, "LaMP_5", {"1": "old"})
    with pytest.raises(UnknownTaskError):
        write_predictions(path, "LaMP_9", {"1": "new"})
    with pytest.raises(TypeError):
        write_predictions(path, "LaMP_5", {"1": object()})  # type: ignore[dict-item]
    assert read_golds(path)[1] == {"1": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_may_be_a_bare_list_of_numbers(tmp_path: Path) -> None:
    path = write_json(tmp_path / "o.json", [{"id": 1, "output": 5}, {"id": "2", "output": 3.5, "more": 1}])
    assert read_golds(path) == (None, {"1": "5", "2": "3.5"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"id": "1", "output": "x"}, {"id": "1", "output": "x"}], r"output 1: the ids .* '1' repeats"),
        ([{"id": "1"}], r"output 0: an output must have `output`, has: id"),
        (["x"], "an output must be an object, was: 'x'"),
        ([{"id": "1", "output": None}], "`output` must be a string or a number, was: null"),
        ([{"id": [], "output": "x"}], "`id` must be a string or an integer"),
        ([], r"must be a list of outputs or have a list `golds`, has: \[\]"),
        ({"task": 5, "golds": [{"id": "1", "output": "x"}]}, "`task` must be a string, was: 5"),
        ({"task": "LaMP_3"}, "a list of outputs or have a list `golds`, has: task"),
    ],
)
def test_bad_outputs_are_refused_with_their_place(tmp_path: Path, value: object, message: str) -> None:
    path = write_json(tmp_path / "o.json", value)
    with pytest.raises(DataFormatError, match=message) as caught:
        read_golds(path)
    assert caught.value.source == str(path)

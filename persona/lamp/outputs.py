"""LaMP's outputs: right answers and predictions, which have one form.

{"task": "LaMP_3", "golds": [{"id": "310", "output": "4"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from persona.errors import DataFormatError
from persona.files import write_atomically
from persona.formats.fields import check_present, described, id_text, short_text
from persona.formats.json_text import JsonArray
from persona.formats.text_source import TextSource
from persona.lamp.tasks import LampTask, lamp_task

GOLDS = "golds"
"""The field that holds the list."""


def read_golds(path: str | PathLike[str]) -> tuple[str | None, dict[str, str]]:
    """The task's name and the output of each id, of an outputs or predictions file.

    A bare list of outputs will do; its task is None. A number as output is taken for its text.

    Raises:
        DataFormatError: if the file is broken, a field is missing or of the wrong type, or an id repeats.
    """
    golds: dict[str, str] = {}
    with TextSource(path) as source:
        array = JsonArray(source, GOLDS)
        for index, (line, value) in enumerate(array):
            try:
                id, output = _output(value)
                if id in golds:
                    raise DataFormatError(f"the ids of outputs must differ, {id!r:.80} repeats")
            except DataFormatError as error:
                place = f"output {index} (line {line})"
                raise DataFormatError(str(error), source=path, place=place) from None
            golds[id] = output
    if not golds:
        raise DataFormatError("the file must hold outputs, its list is empty", source=path)
    task = array.header.get("task")
    if not isinstance(task, str | None):
        raise DataFormatError(f"`task` must be a string, was: {described(task)}", source=path)
    return task, golds


def write_predictions(path: str | PathLike[str], task: LampTask | str, predictions: Mapping[str, str]) -> None:
    """Write `predictions` (question id -> answer) as LaMP's evaluator takes them, the whole file or nothing.

    Raises:
        UnknownTaskError: if there is no task called `task`.
        OSError: if the file cannot be written.
    """
    name = (task if isinstance(task, LampTask) else lamp_task(task)).official_name
    golds = [{"id": id, "output": output} for id, output in predictions.items()]
    write_atomically(Path(path), json.dumps({"task": name, GOLDS: golds}, indent=1) + "\n")


def _output(value: object) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise DataFormatError(f"an output must be an object, was: {described(value)}")
    check_present(value, ("id", "output"), "an output")
    return id_text(value["id"], "id"), short_text(value["output"], "output")

"""LaMP's outputs: right answers and predictions, which have one form.

{"task": "LaMP_3", "golds": [{"id": "310", "output": "4"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from persona.errors import DataFormatError, located
from persona.files import write_atomically
from persona.formats.fields import check_present, described, id_text, listed, short_text
from persona.formats.text_files import open_text, parse_json
from persona.lamp.tasks import LampTask, lamp_task

GOLDS = "golds"
"""The field that holds the list."""


def read_golds(path: str | PathLike[str]) -> tuple[str | None, dict[str, str]]:
    """The task's name and the output of each id, of an outputs or predictions file.

    A bare list of outputs will do; its task is None. A number as output becomes its text.

    Raises:
        DataFormatError: if the file is broken, a field is missing or of the wrong type, or an id repeats.
    """
    with open_text(path) as text:
        whole = text.read()
    with located(path):
        content = parse_json(whole)
        task = content.get("task") if isinstance(content, dict) else None
        if not isinstance(task, str | None):
            raise DataFormatError(f"`task` must be a string, was: {described(task)}")
        outputs = content.get(GOLDS) if isinstance(content, dict) else content
        if not isinstance(outputs, list) or not outputs:
            has = listed(content) if isinstance(content, dict) else described(content)
            raise DataFormatError(f"the file must be a list of outputs or have a list `{GOLDS}`, has: {has}")
    golds: dict[str, str] = {}
    for index, output in enumerate(outputs):
        with located(path, f"output {index}"):
            if not isinstance(output, dict):
                raise DataFormatError(f"an output must be an object, was: {described(output)}")
            check_present(output, ("id", "output"), "an output")
            id = id_text(output["id"], "id")
            if id in golds:
                raise DataFormatError(f"the ids of outputs must differ, {id!r:.80} repeats")
            golds[id] = short_text(output["output"], "output")
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

"""The error tree is drawn as it is, and the public names are those that are promised."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import persona
from persona import errors
from persona.errors import DataFormatError, PersonaError


def test_the_drawing_names_every_error_and_its_standard_parent() -> None:
    drawn = dict(re.findall(r"── (\w+) +(?:\((\w+)\))?", errors.__doc__ or ""))
    classes = {
        name: item
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, PersonaError) and item is not PersonaError
    }
    assert set(drawn) == set(classes)
    for name, parent in drawn.items():
        if parent:
            assert parent in [base.__name__ for base in classes[name].__mro__]


def test_data_format_error_says_where() -> None:
    error = DataFormatError("a record needs `text`", source="a.jsonl", place="line 7")
    assert str(error) == "a.jsonl, line 7: a record needs `text`"
    assert (error.source, error.place) == ("a.jsonl", "line 7")


def test_all_names_can_be_had() -> None:
    assert list(persona.__all__) == sorted(persona.__all__)
    for name in persona.__all__:
        assert getattr(persona, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        persona.nothing  # noqa: B018


@pytest.mark.parametrize("statement", ["import persona", "import persona.cli.app"])
def test_imports_load_nothing_heavy(statement: str) -> None:
    heavy = ("torch", "transformers", "numpy", "sqlalchemy")
    code = f"import sys; {statement}; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"

"""Settings: from a TOML file, from ``--set``, from a command's own options; and the file of defaults."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from persona.cli.config import configured, default_toml, descriptions
from persona.errors import InvalidOptionError
from tests.cli.conftest import Run

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        steps: how many; a rather long description that goes on, and on, and on, over more than one line of a page or of
            a file.
        rate: peak.
        ks: numbers of records.
        patience: evaluations; None for none.
        name: of the run.
        mode: which.
        fast: or slow.
        store: an object.

    Raises:
        InvalidOptionError: if there are no steps.
    """

    steps: int = 600
    rate: float = 1e-3
    ks: tuple[int, ...] = (0, 1)
    patience: int | None = None
    name: str | Path | None = None
    mode: Literal["a", "b"] = "a"
    fast: bool = False
    store: ProfileStore | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidOptionError(f"`steps` must be at least 1, was: {self.steps}")


@dataclass(frozen=True)
class Shape:
    """The shape.

    Attributes:
        width: hidden size.
        steps: of the shape.
    """

    width: int = 8
    steps: int = 1


DEFAULTS: dict[str, Any] = {"": Training(), "shape": Shape()}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("steps=3", "steps", 3),
        ("rate=1e-4", "rate", 1e-4),
        ("rate=2", "rate", 2.0),
        ("ks=0,4", "ks", (0, 4)),
        ("ks=", "ks", ()),
        ("patience=6", "patience", 6),
        ("patience=", "patience", None),
        ("name = a=b ", "name", "a=b"),
        ("mode=b", "mode", "b"),
        ("fast=True", "fast", True),
    ],
)
def test_a_text_is_read_by_the_type_of_its_field(text: str, field: str, value: object) -> None:
    found = getattr(configured(DEFAULTS, settings=[text])[""], field)
    assert (found, type(found)) == (value, type(value))


def test_sections_and_what_goes_before_what(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('steps = 5\nrate = 1\nks = [2]\nname = "file"\n[shape]\nwidth = 4\nsteps = 9\n')
    found = configured(DEFAULTS, file=file, settings=["steps=6", "shape.width=5"], given={"rate": 0.5, "other": 1})
    assert found[""] == Training(steps=6, rate=0.5, ks=(2,), name="file")
    assert found["shape"] == Shape(width=5, steps=9)
    assert configured(DEFAULTS, settings=["width=6"])["shape"] == Shape(width=6)
    assert configured(DEFAULTS, given={"ks": "1,2", "name": ""})[""] == Training(ks=(1, 2), name="")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps=3.5", "`steps` must be a whole number, was: '3.5'"),
        ("fast=1", "`fast` must be true or false, was: '1'"),
        ("ks=0,x", "`ks` must be a list, each a whole number, was: '0,x'"),
        ("shape.width=", "`shape.width` must be a whole number, was: ''"),
        ("steps=0", "`steps` must be at least 1, was: 0"),
        ("step=3", "there is no setting 'step'; did you mean 'steps'?"),
        ("shape.with=3", "there is no setting 'shape.with'; did you mean 'shape.width'?"),
        ("zzz=3", "there are steps, rate, ks, patience, name, mode, fast, shape.width, shape.steps"),
        ("store=3", "there is no setting 'store'"),
    ],
)
def test_what_cannot_be_set_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidOptionError) as error:
        configured(DEFAULTS, settings=[text])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps = true", "`steps` must be a whole number, was: True"),
        ("ks = 1", "`ks` must be a list, each a whole number, was: 1"),
        ("steps = [1]", "`steps` must be a whole number, was: [1]"),
        ("[shapes]\nwidth = 1", "has a section [shapes], there may be: [shape]"),
        ("steps", "train.toml is no TOML file"),
    ],
)
def test_what_a_file_says_wrong_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.toml").write_text(content)
    with pytest.raises(InvalidOptionError) as error:
        configured(DEFAULTS, file=tmp_path / "train.toml")
    assert message in str(error.value)


def test_a_name_in_two_sections_needs_one() -> None:
    both = {"a": Shape(), "b": Shape()}
    with pytest.raises(InvalidOptionError, match=r"\'width\' is in several sections: name one, a\.width or b\.width"):
        configured(both, settings=["width=1"])
    for setting, given in (("b.width=1", None), ("width=1", {"name": "b"})):
        assert configured(both, settings=[setting], given=given) == {"a": Shape(), "b": Shape(width=1)}


def test_the_file_of_defaults_is_read_back_as_the_defaults(tmp_path: Path) -> None:
    text = default_toml(DEFAULTS)
    (tmp_path / "defaults.toml").write_text(text)
    assert configured(DEFAULTS, file=tmp_path / "defaults.toml") == DEFAULTS
    assert tomllib.loads(text)["shape"] == {"width": 8, "steps": 1}
    assert "# how many; a rather long description" in text
    assert "# peak.\nrate = 0.001\n" in text
    assert "# evaluations; None for none.\n# patience =\n" in text
    assert "store" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert list(descriptions(Training))[-1] == "store"


@pytest.mark.parametrize("path", ["train user-embedder", "train adapters", "train filter", "eval lamp"])
def test_every_training_prints_its_settings_and_takes_them_back(run: Run, tmp_path: Path, path: str) -> None:
    printed = run(*path.split(), "--print-config")
    assert (printed.code, printed.err) == (0, "")
    content = tomllib.loads(printed.out)
    assert content
    (tmp_path / "all.toml").write_text(printed.out)
    missing = run(*path.split(), "nowhere", "--config", "all.toml", *([] if "lamp" in path else ["--out", "out"]))
    assert "nowhere" in missing.error  # all settings were taken; only the data is missing

"""Settings of options dataclasses: from a TOML file (``--config``), ``--set NAME=VALUE``, and a command's own options.

>>> from persona.protocols import GenerationOptions
>>> configured({"": GenerationOptions()}, settings=["num_beams=4"])[""]
GenerationOptions(max_new_tokens=64, num_beams=4, ...)

A command hands over default instances of its dataclasses by section; the section ``""`` is the top of the file. Names,
types and descriptions are those of the dataclasses, so nothing is declared twice. Fields that hold objects and cannot
be given as text are left out.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from persona.errors import InvalidOptionError

_KINDS: Mapping[str, tuple[str, tuple[type, ...], Callable[[str], Any]]] = {
    "bool": ("true or false", (bool,), lambda text: {"true": True, "false": False}[text.lower()]),
    "int": ("a whole number", (int,), int),
    "float": ("a number", (int, float), float),
    "str": ("a text", (str,), str),
}
"""Types of values in the order in which a union is tried: what messages call them, types of TOML, reading from text."""

_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of an options dataclass that can be given as text.

    Attributes:
        section: of the file; ``""`` for its top.
        name: of the field.
        kind: one of `_KINDS`.
        several: whether it is a tuple of them.
        optional: whether it may be None.
        default: its value where none is given.
        description: of the field, in the dataclass's docstring.
    """

    section: str
    name: str
    kind: str
    several: bool
    optional: bool
    default: Any
    description: str

    @property
    def key(self) -> str:
        """Section and name, as ``--set`` takes them."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def read(self, value: Any) -> Any:
        """A value of TOML or a text of the command line, as the dataclass takes it.

        In a text, commas separate several values, and an empty one is None.

        Raises:
            InvalidOptionError: if it is of another type.
        """
        if self.optional and value == "":
            return None
        if not self.several:
            return self._one(value, value)
        parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        return tuple(self._one(part, value) for part in (parts if isinstance(parts, list | tuple) else [None]))

    def _one(self, value: Any, whole: Any) -> Any:
        name, types, parse = _KINDS[self.kind]
        try:
            if isinstance(value, str):
                return parse(value)
            if isinstance(value, types) and (self.kind == "bool" or not isinstance(value, bool)):
                return value
        except (KeyError, ValueError):
            pass
        wanted = f"a list, each {name}" if self.several else name
        raise InvalidOptionError(f"`{self.key}` must be {wanted}, was: {whole!r}")


def configured(
    defaults: Mapping[str, Any],
    *,
    file: Path | None = None,
    settings: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The instances in `defaults` with the values that were given.

    Args:
        defaults: section -> an instance with default values.
        file: a TOML file.
        settings: ``NAME=VALUE`` or ``SECTION.NAME=VALUE``, in place of those in the file.
        given: a command's own options, in place of both; names that no field has are passed over. A setting that
            several sections have is that of the section called as its option ``name``, where there is one.

    Raises:
        InvalidOptionError: if there is no such setting, or a value is of another type or out of its range.
    """
    known = settings_of(defaults)
    names = {each.name for each in known}
    values = _read(file, defaults)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidOptionError(f"--set takes NAME=VALUE, was: {text!r}")
        values.append((key.strip(), value.strip()))
    changes: dict[str, dict[str, Any]] = {section: {} for section in defaults}
    for key, value in values:
        setting = _find(key, known, own=str((given or {}).get("name", "")))
        changes[setting.section][setting.name] = setting.read(value)
    for key, value in (given or {}).items():
        if key in names:
            setting = _find(key, known)
            changes[setting.section][setting.name] = setting.read(value) if setting.several else value
    return {section: replace(default, **changes[section]) for section, default in defaults.items()}


def settings_of(defaults: Mapping[str, Any]) -> list[Setting]:
    """All settings of some default instances."""
    found = []
    for section, default in defaults.items():
        texts = descriptions(type(default))
        for field in fields(default):
            # Annotations stay text: they may name what is imported for type checkers alone.
            words = re.findall(r"\w+", str(field.type).replace("Path", "str").replace("Literal", "str"))
            kind = next((kind for kind in _KINDS if kind in words), None)
            if kind is not None:
                several, optional = "tuple" in words, "None" in words
                value, text = getattr(default, field.name), texts.get(field.name, "")
                found.append(Setting(section, field.name, kind, several, optional, value, text))
    return found


def default_toml(defaults: Mapping[str, Any]) -> str:
    """A TOML file with all default values, each under its description; `configured` reads it."""
    known, parts = settings_of(defaults), []
    for section, default in defaults.items():
        if section:
            summary = (inspect.getdoc(type(default)) or "").partition("\n")[0]
            parts.append(f"[{section}]\n{_comment(summary)}")
        for setting in known:
            if setting.section == section:
                # What TOML takes is what JSON writes of such values; it has no None.
                value = json.dumps(setting.default, ensure_ascii=False)
                line = f"# {setting.name} =" if setting.default is None else f"{setting.name} = {value}"
                parts.append(f"{_comment(setting.description)}{line}\n")
    return "\n".join(parts)


def descriptions(kind: type) -> dict[str, str]:
    """The description of each field in the section ``Attributes:`` of a dataclass's docstring."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    listed = re.split(r"\n(?=\S)", listed)[0]
    entries = re.split(r"^    (\w+): ", listed, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2], strict=True)}


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH))


def _read(file: Path | None, sections: Collection[str]) -> list[tuple[str, Any]]:
    """Keys and values of a file."""
    if file is None:
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOptionError(f"{file} is no TOML file: {error}") from error
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        if not isinstance(value, dict):
            found.append((key, value))
        elif key in sections:
            found += [(f"{key}.{name}", each) for name, each in value.items()]
        else:
            known = ", ".join(f"[{section}]" for section in sections if section) or "none"
            raise InvalidOptionError(f"{file} has a section [{key}], there may be: {known}")
    return found


def _find(key: str, known: Sequence[Setting], own: str = "") -> Setting:
    """The setting of that key or name; of several with the name, that of the section `own`."""
    exact = (key, f"{own}.{key}")
    found = next(filter(None, ([each for each in known if each.key == one] for one in exact)), [])
    found = found or [each for each in known if each.name == key]
    if len(found) == 1:
        return found[0]
    if found:
        keys = " or ".join(each.key for each in found)
        raise InvalidOptionError(f"{key!r} is in several sections: name one, {keys}")
    near = get_close_matches(key, [*(each.key for each in known), *(each.name for each in known)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(each.key for each in known)}"
    raise InvalidOptionError(f"there is no setting {key!r}; {hint}")

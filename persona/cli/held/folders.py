"""Adapters out to PEFT folders and back: `persona export-adapters | import-adapters`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona.cli import train
from persona.cli.options import command
from persona.cli.show import version_json
from persona.cli.terminal import FamilyKey, Llm, group, opened_store, progress_bars, report
from persona.errors import InvalidOptionError, UnknownAdapterError

if TYPE_CHECKING:
    from persona.adapters.versions import StoredAdapter

app = group()


@dataclass(frozen=True)
class Export:
    """Options of `persona export-adapters`.

    Attributes:
        out: folder for the adapters' folders.
        user: only this user's.
        base_name: what the model is called where they will be loaded (default: by fingerprint).
    """

    out: Path
    user: str | None = None
    base_name: str | None = None
    family: FamilyKey = None


@command(app, "export-adapters", Export, store=True)
def export(options: Export) -> None:
    """Write adapters as PEFT folders.

    The current version of each user, USER@VERSION, for PEFT, vLLM or SGLang. Steering vectors, with --family, become
    GGUF files, control vectors of llama.cpp.
    """
    from persona.adapters.bank import AdapterBank
    from persona.adapters.peft_format import export_adapter
    from persona.adapters.versions import PUBLISHED
    from persona.steering.control_vector import export_steering
    from persona.store.upkeep.exports import note_export

    with opened_store() as store:
        bank = AdapterBank(store)
        family = bank.family(key=options.family, steers=None if options.family else False)
        write = export_steering if family.steers else export_adapter
        name = options.base_name or family.base.split("@")[0]
        adapters: Iterable[StoredAdapter]
        if options.user is None:
            adapters = (each for each in bank.current_adapters(family) if each.state == PUBLISHED)
        else:
            current = bank.current(options.user, family)
            if current is None or current.state != PUBLISHED:
                raise UnknownAdapterError(
                    f"{options.user!r} has no adapter of the family {family.key}: nothing was exported"
                )
            adapters = (current,)
        with progress_bars("adapters") as progress:
            written = [write(bank, each, options.out, base_name=name) for each in progress.track(adapters)]
        if written and options.user is None:
            note_export(store.database, options.out, "user ids and adapters")
    report(
        {"family": family.key, "adapters": [str(path) for path in written]},
        f"{len(written)} adapters written to {options.out}",
    )


@dataclass(frozen=True)
class Import:
    """Options of `persona import-adapters`.

    Attributes:
        folders: PEFT folders of one kind.
        user: whose it is (default: as export noted it).
        at_rest: type of the numbers, for a family that is not there yet: float32 (the default), float16, bfloat16 ...
        base_name: what the folders call the LLM, if they have another name for it.
    """

    folders: list[Path]
    llm: Llm = None
    user: str | None = None
    at_rest: str | None = None
    base_name: str | None = None
    family: FamilyKey = None


@command(app, "import-adapters", Import, store=True)
def import_folders(options: Import) -> None:
    """Publish adapters from PEFT folders."""
    from persona.adapters.bank import AdapterBank
    from persona.adapters.family import Family, find_modules
    from persona.adapters.peft_format import import_adapters, noted_family, read_spec

    if options.family is not None and options.at_rest is not None:
        raise InvalidOptionError("--at-rest is for a family that is not there yet: leave it out, or --family")
    with opened_store() as store:
        bank = AdapterBank(store)
        known = {each.key: each.spec.dtype for each in bank.families()}
        noted = sorted({noted_family(folder) for folder in options.folders})
        key = options.family
        if key is None and len(noted) > 1:
            keys = ", ".join(each or "none" for each in noted)
            raise InvalidOptionError(
                f"folders of one family can be imported together, these are of {keys}: import those of each by "
                "themselves, or name the one they are to go to with --family"
            )
        if key is None and noted[0] in known and options.at_rest in (None, known[noted[0]]):
            key = noted[0]
        model = None
        if key is None:
            llm = train.load_trainable(options.llm)
            model, spec = llm.model, read_spec(options.folders[0], dtype=options.at_rest or "float32")
            family = Family(llm.fingerprint, spec, find_modules(model, spec))
        else:
            family = bank.family(key=key)
        published = import_adapters(
            bank, options.folders, family, user_id=options.user, base_name=options.base_name, model=model
        )
    report(
        [version_json(family, each) for each in published],
        f"{len(published)} adapters published in the family {family.key}",
    )

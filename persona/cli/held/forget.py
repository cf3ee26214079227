"""Erasing: `persona forget`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import counted, group, opened_store, report
from persona.errors import InvalidOptionError, UnknownUserError

if TYPE_CHECKING:
    from persona.store.profile_store import ProfileStore
    from persona.store.upkeep.receipt import Receipt

app = group()


@dataclass(frozen=True)
class Forget:
    """Options of `persona forget`.

    Attributes:
        user_id: whom to erase.
        expired: of all users, the records that have expired, and what was made from them.
        exports: a folder of exported adapters: the user's go too.
        yes: do not ask.
    """

    user_id: Annotated[str | None, typer.Argument()] = None
    expired: bool = False
    exports: Annotated[Path | None, typer.Option(envvar="PERSONA_LORA_FOLDER")] = None
    yes: Annotated[bool, typer.Option("--yes", "-y")] = False


@command(app, "forget", Forget, store=True)
def forget(options: Forget) -> None:
    """Erase everything that is held on a user.

    Records, vectors, indexes, summaries and adapters; the bytes too. What that cannot reach is named.
    """
    user_id, exports = options.user_id, options.exports
    if (user_id is None) != options.expired:
        raise InvalidOptionError("name a user or --expired, one of the two")
    if exports is not None and not exports.is_dir():
        raise InvalidOptionError(
            f"--exports (or PERSONA_LORA_FOLDER) must be a folder that is there, was: {str(exports)!r}; "
            "nothing was erased"
        )
    from persona.store.upkeep.receipt import forget_with_receipt

    with opened_store() as store:
        if user_id is None:
            _forget_expired(store)
        elif user_id not in store:
            _finish(store, user_id, exports)
        else:
            if not options.yes:
                typer.confirm(f"Erase everything on {user_id!r}?", abort=True, err=True)
            exported = _erase_exported(store, user_id, exports)
            receipt = forget_with_receipt(store, user_id)
            report(
                {**asdict(receipt), "exported_adapters": exported},
                f"erased {_listed(receipt, exported)} of {user_id!r}",
                *_warning(receipt.not_reached),
            )


def _forget_expired(store: ProfileStore) -> None:
    from persona.store.upkeep.receipt import not_reached

    records = store.remove_expired()
    parts = store.finish_forgetting(records=True)
    beyond = not_reached(store) if records else ()
    report(
        {"expired": records, "parts_rewritten": parts, "not_reached": beyond},
        f"erased {counted(records, 'record')} that had expired, and what was made from them"
        if records
        else "no record has expired" + (", the bytes of those removed before are overwritten" if parts else ""),
        *_warning(beyond),
    )


def _finish(store: ProfileStore, user_id: str, exports: Path | None) -> None:
    """What is left to erase where the user's rows are gone: bytes that could not be overwritten, exported adapters."""
    from persona.store.upkeep.receipt import not_reached

    exported = _erase_exported(store, user_id, exports)
    parts = store.finish_forgetting()
    beyond = not_reached(store)
    if not parts and not exported:
        files = f"; files that may hold them: {', '.join(beyond[:-1])}" if beyond[:-1] else ""
        try:
            store.check_known(user_id)
        except UnknownUserError as error:
            raise UnknownUserError(f"nothing was erased: {error}{files}") from None
    done = [
        *(["overwrote the bytes that an earlier forget had left over"] if parts else []),
        *([f"erased {counted(exported, 'exported adapter')}"] if exported else []),
    ]
    report(
        {"user_id": user_id, "parts_rewritten": parts, "exported_adapters": exported, "not_reached": beyond},
        f"{' and '.join(done)}; the store holds nothing on {user_id!r}",
        *_warning(beyond),
    )


def _erase_exported(store: ProfileStore, user_id: str, exports: Path | None) -> int:
    if exports is None:
        return 0
    from persona.adapters.versions import erase_exports

    return erase_exports(user_id, exports)


_ONE = {"vector matrices": "vector matrix", "summaries": "summary", "indexes": "index"}
"""The singular where it is not the plural without its s."""


def _listed(receipt: Receipt, exported: int) -> str:
    """What was there, and nothing else."""
    erased = [(part.what, part.removed) for part in receipt.parts if part.what != "ids"]
    parts = [
        counted(number, _ONE.get(what, what.removesuffix("s")), what)
        for what, number in (*erased, ("exported adapters", exported))
        if number
    ]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts or ["the id"])


def _warning(beyond: Sequence[str]) -> list[str]:
    return [f"not reached: {each}" for each in beyond]

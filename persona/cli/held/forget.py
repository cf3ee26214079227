"""Erasing: `persona forget`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import counted, group, opened_store, report
from persona.errors import InvalidOptionError, UnknownUserError

if TYPE_CHECKING:
    from persona.store.profile_store import ForgetReport, ProfileStore

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
    with opened_store() as store:
        if user_id is None:
            _forget_expired(store)
        elif user_id not in store:
            _finish(store, user_id, exports)
        else:
            if not options.yes:
                typer.confirm(f"Erase everything on {user_id!r}?", abort=True, err=True)
            exported = _erase_exported(store, user_id, exports)
            erased = store.forget(user_id)
            beyond = beyond_reach(store)
            value = {"user_id": user_id, **asdict(erased), "exported_adapters": exported, "not_reached": beyond}
            report(value, f"erased {_listed(erased, exported)} of {user_id!r}", *_warning(beyond))


def _forget_expired(store: ProfileStore) -> None:
    records = store.remove_expired()
    parts = store.finish_forgetting(records=True)
    beyond = beyond_reach(store) if records else []
    report(
        {"expired": records, "parts_rewritten": parts, "not_reached": beyond},
        f"erased {counted(records, 'record')} that had expired, and what was made from them"
        if records
        else "no record has expired" + (", the bytes of those removed before are overwritten" if parts else ""),
        *_warning(beyond),
    )


def _finish(store: ProfileStore, user_id: str, exports: Path | None) -> None:
    """What is left to erase where the user's rows are gone: bytes that could not be overwritten, exported adapters."""
    exported = _erase_exported(store, user_id, exports)
    parts = store.finish_forgetting()
    beyond = beyond_reach(store)
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


def _listed(erased: ForgetReport, exported: int) -> str:
    """What was there, and nothing else."""
    parts = [
        counted(number, *words)
        for number, *words in (
            (erased.records, "record"),
            (erased.vectors, "vector matrix", "vector matrices"),
            (erased.indexes, "summary, soft prompt or index", "summaries, soft prompts or indexes"),
            (erased.adapters, "adapter"),
            (exported, "exported adapter"),
            (erased.others, "other row"),
        )
        if number
    ]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts or ["the id"])


def beyond_reach(store: ProfileStore) -> list[str]:
    """What no command of the store erases, by name where it is known."""
    from persona.store.upkeep.exports import noted_exports

    files = [f"{each.path} ({each.what}, {each.time[:10]})" for each in noted_exports(store.database)]
    log = [] if store.database.is_sqlite else ["the server's log (pg_wal), its archives and standbys"]
    return [*files, *log, "backups and copies of the database, other exports, folders of evaluations and trainings"]


def _warning(beyond: list[str]) -> list[str]:
    return [f"not reached: {each}" for each in beyond]

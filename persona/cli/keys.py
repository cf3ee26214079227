"""API keys of the server: `persona keys`, which lists them, and `persona keys make | revoke`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import group, names, opened_store, refuse_unread, report

if TYPE_CHECKING:
    from persona.serve.keys import ApiKey

app = group()
keys = typer.Typer(name="keys", invoke_without_command=True, rich_markup_mode=None)
app.add_typer(keys)


@keys.callback()
def list_keys(context: typer.Context) -> None:
    """List, make or revoke API keys of the server.

    Without a command, list them.
    """
    if context.invoked_subcommand is not None:
        return
    from persona.serve.keys import KeyStore

    refuse_unread("keys", store=True, llm=False)
    with opened_store() as store:
        found = KeyStore(store).keys()
    report([asdict(key) for key in found], *(map(_line, found) if found else ["there are no API keys"]))


@dataclass(frozen=True)
class Make:
    """Options of `persona keys make`.

    Attributes:
        name: what it is for.
        scope: what it allows, of ask, write, erase and admin, with commas between.
        user: the only user that it speaks for (default: any user).
    """

    name: str
    scope: str = "ask,write"
    user: Annotated[str | None, typer.Option("--user")] = None


@command(keys, "make", Make, store=True)
def make(options: Make) -> None:
    """Make an API key and print it, this once.

    The store keeps its hash alone. To forget the user removes it.
    """
    from persona.serve.keys import KeyStore

    with opened_store(create=True) as store:
        secret, key = KeyStore(store).make(options.name, names(options.scope, "--scope"), options.user)
    report({"secret": secret, **asdict(key)}, secret)


@dataclass(frozen=True)
class Revoke:
    """Options of `persona keys revoke`.

    Attributes:
        key_id: which, as `persona keys` names it.
    """

    key_id: str


@command(keys, "revoke", Revoke, store=True)
def revoke(options: Revoke) -> None:
    """Revoke an API key, for every server at once."""
    from persona.serve.keys import KeyStore

    with opened_store() as store:
        key = KeyStore(store).revoke(options.key_id)
    report(asdict(key), f"revoked {_line(key)}")


def _line(key: ApiKey) -> str:
    whose = "any user" if key.user_id is None else repr(key.user_id)
    return f"{key.key_id}  {key.name}  {','.join(key.scopes)}  for {whose}  since {key.created[:10]}"

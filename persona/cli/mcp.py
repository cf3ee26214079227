"""The memory for agents: `persona mcp`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from persona.cli.options import command
from persona.cli.terminal import Encoder, RetrieverName, group, load_read_encoder, opened_store, say, settings
from persona.errors import InvalidOptionError, needed

if TYPE_CHECKING:
    from persona.integrations.personal import Personal
    from persona.memory import Memory

app = group()

_DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Mcp:
    """Options of `persona mcp`.

    Attributes:
        user: whose memory it is, where an agent starts this command and speaks over stdin and stdout.
        any_user: let the agent name the user in each call, in place of --user.
        http: listen at this address instead, such as 127.0.0.1:8301; an API key says whose memory it is (persona keys).
        host: with --http also a name that the server is asked by. May be given several times.
    """

    user: str | None = None
    any_user: bool = False
    http: str | None = None
    host: Annotated[list[str], typer.Option(metavar="NAME")] = field(default_factory=list)
    retriever: RetrieverName = None
    encoder: Encoder = None


@command(app, "mcp", Mcp, store=True)
def mcp(options: Mcp) -> None:
    """Serve a memory to agents that speak MCP.

    Over stdin and stdout to the agent that starts this command, or over HTTP.
    """
    from persona.integrations.personal import Personal
    from persona.memory import Memory
    from persona.retrievers.registry import check_retriever, needs_encoder

    if (options.user is not None) + options.any_user + (options.http is not None) != 1:
        raise InvalidOptionError("say whose memory it is: --user USER, --any-user, or --http with an API key for each")
    if options.host and options.http is None:
        raise InvalidOptionError("--host is for --http: leave it out")
    name = options.retriever or settings().retriever
    check_retriever(name)
    encoder = load_read_encoder(options.encoder, needs_encoder(name), name)
    with opened_store(create=True) as store:
        memory = Memory(store, retriever=name, encoder=encoder)
        personal = Personal(store, retriever=name, encoder=encoder)
        if options.http is None:
            _over_stdio(memory, personal, options.user)
        else:
            _over_http(memory, personal, options.http, options.host)


def _over_stdio(memory: Memory, personal: Personal, user_id: str | None) -> None:
    """Serve until stdin ends. Nothing else may be written to stdout."""
    from persona.integrations.mcp import memory_server
    from persona.records import check_user_id
    from persona.serve.keys import SCOPES, ApiKey

    known = None if user_id is None else check_user_id(user_id)
    caller = ApiKey("stdio", "stdio", SCOPES, known)
    memory_server(memory, lambda context: caller, personal=personal, names_users=known is None).run("stdio")


def _over_http(memory: Memory, personal: Personal, address: str, hosts: list[str]) -> None:
    with needed("mcp,serve"):
        from persona.serve.keys import KeyStore
        from persona.serve.mcp import mcp_app
        from persona.serve.running import listening, server_of
    host, port = _host_and_port(address)
    with listening(host, port, KeyStore(memory.store)) as (opened, url):
        served = mcp_app(memory, personal, hosts=[f"[{host}]" if ":" in host else host, *hosts])
        line = f"persona serves a memory at {url}/mcp"
        server_of(served, lambda: say(line, flush=True), _DRAIN_SECONDS).run(sockets=[opened])


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.netloc != address:
        raise InvalidOptionError(f"--http takes HOST:PORT, such as 127.0.0.1:8301, was: {address!r}")
    return host, port

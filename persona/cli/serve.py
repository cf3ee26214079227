"""The server: `persona serve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from persona.cli import terminal
from persona.cli.options import command
from persona.errors import needed
from persona.llm.endpoint.options import AskingOptions

app = terminal.group()


def _settings() -> dict[str, Any]:
    from persona.assembly import PersonalizationOptions
    from persona.retrievers.registry import RetrieverOptions
    from persona.serve.state import ServerOptions

    parts = {"": PersonalizationOptions(), "retrieval": RetrieverOptions()}
    return {**parts, "llm": AskingOptions(), "server": ServerOptions()}


@dataclass(frozen=True)
class Serve:
    """Options of `persona serve`; those that are not None go into `persona.PersonalizationOptions`.

    Attributes:
        host: name or address to listen on; beyond this machine only with API keys (persona keys).
        port: 0 takes a free one.
        k: how many records at most (default: 4); 0 sends none. A request may choose another number.
        adapters: answer users with their own adapters, from the store.
        summary: also say what is typical of the user: stats, llm (persona summarize) or both.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8300
    llm: terminal.Llm = None
    retriever: terminal.RetrieverName = None
    encoder: terminal.Encoder = None
    k: Annotated[int | None, typer.Option(min=0)] = None
    user_embedder: terminal.UserEmbedderName = None
    adapters: bool = False
    summary: str | None = None


@command(
    app,
    "serve",
    Serve,
    store=True,
    settings=_settings,
    known="models, origins, body_mb, body_seconds, answer_tokens, rows, waiting, drain_seconds, placement, task, "
    f"max_context_tokens, user_vectors, steering, family, missing_adapter, where, relevance, {terminal.LLM_SETTINGS}",
)
def serve(options: Serve, settings: Mapping[str, Any]) -> None:
    """Serve OpenAI's API, personal for each user."""
    with needed("serve"):
        from persona.serve.opening import for_upstream, opened_state
        from persona.serve.running import run

    chosen = replace(settings[""], retrieval=settings["retrieval"])
    name = options.llm or terminal.settings().llm
    with terminal.opened_store(create=True) as store:
        told, chosen = for_upstream(name, store, chosen)
        llm = terminal.load_llm(name, settings["llm"], **told)
        connections = settings["llm"].max_concurrency
        with opened_state(llm, store, chosen, settings["server"], connections=connections) as state:
            model = state.backend.models[0]
            # A process that started this one may wait for the line.
            run(
                state,
                options.host,
                options.port,
                lambda url: terminal.say(f"persona serves {model} at {url}", flush=True),
            )

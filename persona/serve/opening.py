"""What a server answers with, from names: the LLM as an engine or an upstream, and a personalizer before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from persona.adapters.bank import AdapterBank
from persona.adapters.serving.vllm import KEY, ServedAdapters
from persona.assembly import PersonalizationOptions, as_user_embedder, assembled
from persona.errors import InvalidOptionError
from persona.llm.endpoint.model import OpenAILM
from persona.protocols import LanguageModel
from persona.serve.answers.backend import Backend
from persona.serve.answers.personal import Personalizing
from persona.serve.keys import KeyStore
from persona.serve.metrics import Metrics
from persona.serve.state import ServerOptions, ServerState
from persona.store.profile_store import ProfileStore


@contextmanager
def opened_state(
    llm: LanguageModel,
    store: ProfileStore,
    personalization: PersonalizationOptions | None = None,
    options: ServerOptions | None = None,
    *,
    connections: int | None = None,
) -> Iterator[ServerState]:
    """What a server answers with, open for as long as the adapters are.

    Args:
        llm: a transformers model, which the engine runs, or an endpoint as the upstream.
        store: the users' records; who opened it closes it.
        personalization: the parts; None takes the defaults. A user without an adapter gets the prior, unless it says
            something else.
        options: limits of the server; None takes the defaults.
        connections: most requests to an upstream at a time; None is 256.

    Raises:
        InvalidOptionError: if `llm` is neither.
        PersonaError: if a part cannot be made, or they do not fit one another.
    """
    personalization, options = personalization or PersonalizationOptions(), options or ServerOptions()
    if personalization.adapters and personalization.missing_adapter == "error":
        personalization = replace(personalization, missing_adapter="prior")
    metrics = Metrics()
    with ExitStack() as stack:
        personalizer = stack.enter_context(assembled(llm, store, personalization))
        personal = Personalizing(personalizer, metrics)
        backend: Backend
        if isinstance(llm, OpenAILM):
            from persona.serve.answers.upstream import Upstream

            backend = Upstream(llm, personal, metrics, models=options.models, connections=connections)
        else:
            backend = _engine(personal, metrics, options, stack)
        yield ServerState(
            store=store,
            keys=KeyStore(store),
            personalizer=personalizer,
            backend=backend,
            options=options,
            metrics=metrics,
        )


def _engine(personal: Personalizing, metrics: Metrics, options: ServerOptions, stack: ExitStack) -> Backend:
    """The engine, which `stack` closes before the adapters that it answers with."""
    from persona.llm.continuous.engine import Engine, EngineOptions
    from persona.serve.answers.in_process import InProcess, engine_llm

    if options.models:
        raise InvalidOptionError(f"an engine runs one LLM: leave `models` out, was: {', '.join(options.models)}")
    llm = engine_llm(personal.llm)
    limits = EngineOptions(rows=options.rows, waiting=options.waiting, max_new_tokens=options.answer_tokens)
    engine = stack.enter_context(Engine(llm, limits, on_step=metrics.rows.observe))
    return InProcess(engine, llm.name, personal, metrics, answer_tokens=options.answer_tokens)


def for_upstream(
    name: str, store: ProfileStore, personalization: PersonalizationOptions
) -> tuple[dict[str, Any], PersonalizationOptions]:
    """What `load_llm` is to be told besides the name of an LLM, so that a vLLM server gets soft prompts and adapters.

    The operator vouches that the server runs the LLM that they were made for: it cannot be read off the server. Names
    of adapters are signed with the key in `PERSONA_LORA_KEY`, if there is one, as the server's plug-in expects them.

    Args:
        name: of the LLM.
        store: has the adapters.
        personalization: the parts, as they were asked for.

    Returns:
        Options of `load_llm`, none for other LLMs; and the parts, with the adapters as that server calls them.
    """
    told: dict[str, Any] = {}
    if not name.startswith("vllm:"):
        return told, personalization
    if personalization.user_embedder is not None:
        embedder = as_user_embedder(personalization.user_embedder, personalization.user_vectors)
        told |= {"hidden_size": embedder.config.llm_hidden, "serves": embedder.config.llm or None}
        personalization = replace(personalization, user_embedder=embedder)
    if personalization.adapters:
        bank, key = AdapterBank(store), os.environ.get(KEY)
        family = bank.family(key=personalization.family)
        served = ServedAdapters(bank, family, key=key.encode() if key else None)
        told["adapter_name"] = served.name
        personalization = replace(personalization, adapters=served)
    return told, personalization

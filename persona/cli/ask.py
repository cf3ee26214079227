"""One request: `persona retrieve | ask`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.cli import terminal
from persona.cli.options import command
from persona.errors import InvalidOptionError, PersonaWarning, UnknownAdapterError, UnknownUserError
from persona.llm.endpoint.options import AskingOptions

if TYPE_CHECKING:
    from persona.records import Profile, ScoredRecord
    from persona.retrievers.registry import RetrieverOptions
    from persona.store.profile_store import ProfileStore

app = terminal.group()


def _retrieval() -> dict[str, Any]:
    from persona.retrievers.registry import RetrieverOptions

    return {"": RetrieverOptions()}


def _personalization() -> dict[str, Any]:
    from persona.assembly import PersonalizationOptions
    from persona.protocols import GenerationOptions

    options = {"": PersonalizationOptions(), "retrieval": _retrieval()[""], "generation": GenerationOptions()}
    return {**options, "llm": AskingOptions()}


@dataclass(frozen=True)
class Retrieve:
    """Options of `persona retrieve`.

    Attributes:
        user_id: whose history.
        query: what is sought.
        k: how many records at most.
        where: only these records, e.g. 'time>=2011 and label=5'; other fields are metadata.
    """

    user_id: str
    query: str
    retriever: terminal.RetrieverName = None
    encoder: terminal.Encoder = None
    k: Annotated[int, typer.Option(min=1)] = 4
    where: str | None = None
    relevance: terminal.FilterName = None


@command(app, "retrieve", Retrieve, store=True, settings=_retrieval, known="base, model, view, judge and seed")
def retrieve(options: Retrieve, settings: Mapping[str, RetrieverOptions]) -> None:
    """Find the records of a user that fit a query."""
    from persona.retrievers.registry import check_retriever, make_retriever, needs_encoder

    with terminal.opened_store() as store:
        store.check_known(options.user_id)
        name = options.retriever or terminal.settings().retriever
        check_retriever(name)
        encoder = terminal.load_read_encoder(options.encoder, needs_encoder(name, settings[""]), name)
        retriever = make_retriever(name, settings[""], encoder=encoder, store=store)
        profile = store.profile(options.user_id)
        found = retriever.retrieve(profile, options.query, options.k)
    terminal.report([each.as_dict() for each in found], *(_lines(found) or [_nothing(profile, options.where)]))


def _lines(found: Sequence[ScoredRecord]) -> list[str]:
    lines = []
    for number, each in enumerate(found, 1):
        target = f"  -> {each.record.target}" if each.record.target is not None else ""
        lines.append(f"{number}. [{each.score:.3f}] {each.record.time or 'undated'}{target}")
        lines.append(f"   {' '.join(each.record.text.split())}")
    return lines


def _nothing(profile: Profile, where: str | None) -> str:
    """Why nothing was found: no records, none that fits, or fields asked for that no record has."""
    from persona.retrievers.where import Where

    if not len(profile):
        return f"nothing found: the store holds no records of {profile.user_id!r}"
    absent = Where.parse(where).absent(profile) if where else ()
    fields = f"; none of them has the field {', '.join(map(repr, absent))}" if absent else ""
    return f"nothing found: none of the {len(profile)} records of {profile.user_id!r} fits{fields}"


@dataclass(frozen=True)
class Ask:
    """Options of `persona ask`; those that are not None go into `persona.PersonalizationOptions`.

    Attributes:
        user_id: whom to answer.
        prompt: the task; '-' reads it from stdin.
        k: how many records at most (default: 4); 0 sends none.
        where: only these records, e.g. 'time>=2011 and label=5'; other fields are metadata.
        adapters: answer with the user's own adapter, from the store.
        summary: also say what is typical of the user: stats, llm (persona summarize) or both.
        task: the LaMP task that the prompt is of (LaMP_1 ... LaMP_7, LaMP_2N), or free (the default): records are
            sought by the question in it and worded as in its official prompts; a summary is for it. A user embedder
            knows its own.
        choices: comma list: answer with one of these, the likeliest.
        max_new_tokens: longest answer, in tokens (default: 64).
        new_user: answer also a user on whom the store holds nothing, as the LLM answers without a history.
    """

    user_id: str
    prompt: str
    llm: terminal.Llm = None
    retriever: terminal.RetrieverName = None
    encoder: terminal.Encoder = None
    k: Annotated[int | None, typer.Option(min=0)] = None
    where: str | None = None
    relevance: terminal.FilterName = None
    user_embedder: terminal.UserEmbedderName = None
    adapters: bool = False
    summary: str | None = None
    task: str | None = None
    choices: str | None = None
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None
    new_user: bool = False


@command(
    app,
    "ask",
    Ask,
    store=True,
    settings=_personalization,
    known="user_vectors, steering, family, missing_adapter, max_context_tokens, placement, num_beams, answers, stop, "
    "raw, base, model, view, judge, seed, " + terminal.LLM_SETTINGS,
)
def ask(options: Ask, settings: Mapping[str, Any]) -> None:
    """Answer a prompt as if the LLM knew the user."""
    from persona.assembly import assembled

    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise InvalidOptionError("the prompt must not be empty")
    chosen = replace(settings[""], retrieval=settings["retrieval"], generation=settings["generation"])
    with terminal.opened_store() as store:
        if not options.new_user and chosen.user_vectors is None:
            _check_known(store, options.user_id)
        if chosen.adapters:
            from persona.adapters.bank import AdapterBank

            if not AdapterBank(store).families():
                raise UnknownAdapterError("the store holds no adapters: train them with `persona train adapters`")
        given = None if options.choices is None else terminal.names(options.choices, "--choices")
        with (
            assembled(terminal.load_llm(options.llm, settings["llm"]), store, chosen) as personalizer,
            personalizer.stream(options.user_id, prompt, choices=given) as pieces,
        ):
            shown = terminal.say_pieces(pieces)
            answer = pieces.generation
    if (why := _WHY.get(answer.finish) or ("" if answer.text.strip() else "the LLM answered nothing")) != "":
        warnings.warn(why, PersonaWarning, stacklevel=1)
    if shown:
        return
    fields = ("text", "user_id", "notes", "sources", "channels", "tokens_added", "abstained", "prompt")
    value = {name: getattr(answer, name) for name in (*fields, "answered", "finish", "thought")}
    value["turns"] = [asdict(turn) for turn in answer.turns]
    terminal.report({**value, "records": [each.as_dict() for each in answer.records]}, answer.text)


_WHY = {
    "length": "the answer was cut: raise --max-new-tokens for a longer one",
    "refusal": "the LLM's provider refused to answer",
}


def _check_known(store: ProfileStore, user_id: str) -> None:
    try:
        store.check_known(user_id)
    except UnknownUserError as error:
        raise UnknownUserError(f"{error} (--new-user answers without a history)") from None

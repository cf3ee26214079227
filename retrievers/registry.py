"""The names of retrievers: here a name becomes a retriever, and here a new name is added.

>>> make_retriever("bm25")
BM25Retriever(...)

A name is the name on the command line (``--retriever bm25``) and in result files. A class is imported when it is first
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from persona.errors import InvalidOptionError, UnknownPartError
from persona.protocols import RecordEncoder, Retriever

if TYPE_CHECKING:
    from persona.retrievers.relevance.filters import RelevanceFilter
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True)
class Part:
    """A retriever's class as ``module:name``, and which of the caller's options its constructor takes."""

    path: str
    needs: tuple[str, ...] = ()

    def load(self) -> Any:
        """The class."""
        return resolve_name(self.path)


RETRIEVERS: Mapping[str, Part] = {
    "bm25": Part("persona.retrievers.words.bm25:BM25Retriever", ("view",)),
    "bm25-lamp": Part("persona.retrievers.words.bm25:LampBM25Retriever", ("view",)),
    "dense": Part("persona.retrievers.vectors.dense:DenseRetriever", ("encoder", "store", "view")),
    "recency": Part("persona.retrievers.recency:RecencyRetriever"),
    "random": Part("persona.retrievers.sampling:RandomRetriever", ("seed",)),
    "hybrid": Part("persona.retrievers.hybrid:HybridRetriever", ("retrievers",)),
    "diverse": Part("persona.retrievers.vectors.diverse:DiverseRetriever", ("base", "encoder", "store", "view")),
    "joint": Part("persona.retrievers.vectors.joint:JointRetriever", ("encoder", "model", "store", "view")),
    "rounds": Part("persona.retrievers.vectors.rounds:RoundsRetriever", ("encoder", "store", "view")),
    "multi_interest": Part(
        "persona.retrievers.vectors.multi_interest:MultiInterestRetriever", ("encoder", "store", "view", "seed")
    ),
    "entities": Part("persona.retrievers.words.entities:EntityRetriever", ("base", "view")),
    "useful": Part("persona.retrievers.usefulness.spaces:UsefulRetriever", ("encoder", "model", "store")),
    "key_value": Part("persona.retrievers.vectors.key_value:KeyValueRetriever", ("encoder", "store")),
    "late_interaction": Part("persona.retrievers.models.late_interaction:LateInteractionRetriever", ("model", "view")),
    "conversation": Part("persona.retrievers.conversation.retriever:ConversationRetriever", ("model",)),
    "rerank": Part("persona.retrievers.models.rerank:RerankRetriever", ("base", "model", "view")),
}
"""All retrievers by name."""

NEEDS_ENCODER = frozenset(name for name, part in RETRIEVERS.items() if {"encoder", "retrievers"} & set(part.needs))
"""Retrievers that compare vectors and so need an encoder."""

FUSED = ("bm25", "dense")
"""What ``hybrid`` fuses."""

BASES: Mapping[str, str] = {"diverse": "dense", "entities": "dense", "rerank": "bm25"}
"""Retrievers that reorder what another one found, and their default for that one."""

WITH_MODEL = frozenset(name for name, part in RETRIEVERS.items() if "model" in part.needs)
"""Retrievers that read texts or vectors with a model of their own."""

TRAINED = frozenset({"useful"})
"""Those among them that have no default for it."""


@dataclass(frozen=True, slots=True)
class RetrieverOptions:
    """How a retriever is made, besides its name.

    Attributes:
        view: the view of a record that is searched (`Record.view`).
        seed: for those that draw at random.
        base: for those in `BASES`, the retriever whose records they reorder; None takes the default.
        model: the multi-vector model of ``late_interaction`` and ``conversation`` or the cross-encoder of ``rerank``, a
            folder or hub id; None takes their default. ``useful`` needs the folder that `persona train filter`
            made, and ``joint`` may have it.
        where: search only the records that fit, e.g. ``"time>=2011"`` (`persona.retrievers.where`).
        relevance: return nothing where nothing is relevant: a filter, or what `load_filter` takes.
        judge: what the filter judges, the ``question`` or each ``record``
            (`persona.retrievers.relevance.retriever.JUDGED`).
    """

    view: str = "text"
    seed: int = 0
    base: str | None = None
    model: str | None = None
    where: str | None = None
    relevance: RelevanceFilter | str | Path | None = None
    judge: str = "question"

    def of(self, name: str) -> RetrieverOptions:
        """Without the base and the model, where the retriever called `name` takes none."""
        return replace(
            self, base=self.base if name in BASES else None, model=self.model if name in WITH_MODEL else None
        )


def needs_encoder(name: str, options: RetrieverOptions = RetrieverOptions()) -> bool:
    """Whether the retriever called `name`, its base, or a filter over it needs an encoder."""
    base = options.base or BASES.get(name)
    return options.relevance is not None or name in NEEDS_ENCODER or base in NEEDS_ENCODER


def check_retriever(name: str) -> None:
    """Refuse a name that no retriever has, before anything is loaded.

    Raises:
        UnknownPartError: if none has it.
    """
    if name not in RETRIEVERS:
        raise UnknownPartError(f"a retriever must be one of {', '.join(RETRIEVERS)}, was: {name!r}")


def make_retriever(
    name: str,
    options: RetrieverOptions = RetrieverOptions(),
    *,
    encoder: RecordEncoder | None = None,
    store: ProfileStore | None = None,
) -> Retriever:
    """The retriever called `name`.

    Args:
        name: one of `RETRIEVERS`.
        options: how it is made.
        encoder: needed by those in `NEEDS_ENCODER`, and by a relevance filter.
        store: where stored vectors are read from; without it they are made from the records at hand.

    Raises:
        UnknownPartError: if there is no retriever of that name.
        InvalidOptionError: if it needs an encoder and none was given, or takes no `base` or `model` and one was given,
            or `where` is no condition.
        ModelLoadError: if there is no such model, or no such filter.
        FingerprintMismatchError: if the filter was trained on vectors of another encoder.
    """
    check_retriever(name)
    _check_options(name, options, encoder)
    part = RETRIEVERS[name]
    given: dict[str, object] = {"encoder": encoder, "store": store, "view": options.view, "seed": options.seed}
    inner = replace(options, base=None, model=None, where=None, relevance=None, judge="question")
    if "retrievers" in part.needs:
        given["retrievers"] = [make_retriever(fused, inner, encoder=encoder, store=store) for fused in FUSED]
    if "base" in part.needs:
        given["base"] = make_retriever(options.base or BASES[name], inner, encoder=encoder, store=store)
    if options.model is not None:
        given["model"] = options.model
    retriever = cast(Retriever, part.load()(**{need: given[need] for need in part.needs if need in given}))
    if options.relevance is not None:
        from persona.retrievers.relevance.filters import RelevanceFilter, load_filter
        from persona.retrievers.relevance.retriever import RelevanceRetriever

        assert encoder is not None
        loaded = options.relevance
        if not isinstance(loaded, RelevanceFilter):
            loaded = load_filter(loaded, encoder)
        retriever = RelevanceRetriever(retriever, loaded, encoder, store, judge=options.judge)
    if options.where is not None:
        from persona.retrievers.where import WhereRetriever

        # Outermost: a record that does not fit must not let a question pass either.
        retriever = WhereRetriever(retriever, options.where)
    return retriever


def make_retrievers(
    names: Iterable[str],
    options: RetrieverOptions = RetrieverOptions(),
    *,
    encoder: RecordEncoder | None = None,
    store: ProfileStore | None = None,
) -> dict[str, Retriever]:
    """`make_retriever` for each of several names; base and model of `options` go to those that take them.

    Raises:
        InvalidOptionError: if none of them takes one that is given.
        PersonaError: as `make_retriever`.
    """
    wanted = list(dict.fromkeys(names))
    for what, value, takers in (("base", options.base, BASES), ("model", options.model, WITH_MODEL)):
        if value is not None and not any(name in takers for name in wanted):
            raise InvalidOptionError(
                f"a {what} is for {' and '.join(sorted(takers))}, was: {value!r} for {', '.join(wanted)}"
            )
    return {name: make_retriever(name, options.of(name), encoder=encoder, store=store) for name in wanted}


def _check_options(name: str, options: RetrieverOptions, encoder: object) -> None:
    if options.base is not None and (name not in BASES or options.base in BASES):
        raise InvalidOptionError(
            f"a base is for {' and '.join(BASES)}, and none of these itself, was: {options.base!r} for {name!r}"
        )
    if options.model is not None and name not in WITH_MODEL:
        raise InvalidOptionError(f"the retriever {name!r} takes no model of its own, was: {options.model!r}")
    if name in TRAINED and options.model is None:
        raise InvalidOptionError(
            f"the retriever {name!r} is learned first: give its folder as `model` (--set model=FOLDER)"
        )
    if options.relevance is None and options.judge != "question":
        raise InvalidOptionError(
            f"`judge` says what a relevance filter judges, and there is none, was: {options.judge!r}"
        )
    if needs_encoder(name, options) and not hasattr(encoder, "fingerprint"):
        what = "the relevance filter" if name not in NEEDS_ENCODER and options.relevance else f"the retriever {name!r}"
        given = "" if encoder is None else f", was: {encoder!r:.80}"
        raise InvalidOptionError(f"{what} compares vectors: give it an encoder (persona.load_encoder('minilm')){given}")

"""Part names and where their classes live; a class is imported when it is first asked for.

>>> make_retriever("bm25")
BM25Retriever(...)

A name here is the name on the command line (`--retriever bm25`) and in result files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from persona.errors import InvalidOptionError, UnknownPartError
from persona.protocols import RecordEncoder, Retriever

if TYPE_CHECKING:
    from persona.retrievers.relevance import RelevanceFilter
    from persona.store.profile_store import ProfileStore


@dataclass(frozen=True, slots=True)
class Part:
    """Where a part's class lives and which of the caller's options its constructor takes."""

    place: str
    needs: tuple[str, ...] = ()

    def load(self) -> Any:
        """The class."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


RETRIEVERS: Mapping[str, Part] = {
    "bm25": Part("persona.retrievers.bm25:BM25Retriever", ("view", "store")),
    "bm25-lamp": Part("persona.retrievers.bm25:LampBM25Retriever", ("view", "store")),
    "dense": Part("persona.retrievers.dense:DenseRetriever", ("encoder", "store", "view")),
    "recency": Part("persona.retrievers.recency:RecencyRetriever"),
    "random": Part("persona.retrievers.sampling:RandomRetriever", ("seed",)),
    "hybrid": Part("persona.retrievers.hybrid:HybridRetriever", ("retrievers",)),
    "multi_interest": Part(
        "persona.retrievers.multi_interest:MultiInterestRetriever",
        ("encoder", "store", "view", "seed", "interests", "neighbours"),
    ),
    "diverse": Part("persona.retrievers.diverse:DiverseRetriever", ("base", "encoder", "store", "view")),
    "key_value": Part("persona.retrievers.key_value:KeyValueRetriever", ("encoder", "store")),
    "entities": Part("persona.retrievers.entities:EntityRetriever", ("store", "view")),
    "late_interaction": Part("persona.retrievers.late_interaction:LateInteractionRetriever", ("model", "view")),
    "rerank": Part("persona.retrievers.rerank:RerankRetriever", ("base", "model", "view")),
}
"""All retrievers by name."""

NEEDS_ENCODER = frozenset({"dense", "hybrid", "multi_interest", "diverse", "key_value"})
"""Retrievers that compare vectors and so need an encoder."""

BASES: Mapping[str, str] = {"diverse": "dense", "rerank": "bm25"}
"""Retrievers that look once more at what another one found, and which one that is if not told."""

SHARES = "multi_interest"
"""The retriever whose shares the neighbours smooth."""

WITH_MODEL = frozenset(name for name, part in RETRIEVERS.items() if "model" in part.needs)
"""Retrievers that read texts with a model of their own."""


def needs_encoder(name: str, base: str | None = None, relevance: object = None) -> bool:
    """Whether the retriever called `name`, what it rests on, or a filter over it needs an encoder."""
    return relevance is not None or name in NEEDS_ENCODER or (name in BASES and (base or BASES[name]) in NEEDS_ENCODER)


def check_retriever(name: str) -> None:
    """Refuse a name that no retriever has, before anything is loaded.

    Raises:
        UnknownPartError: if none has it.
    """
    if name not in RETRIEVERS:
        raise UnknownPartError(f"a retriever must be one of {', '.join(RETRIEVERS)}, was: {name!r}")


def make_retriever(
    name: str,
    *,
    encoder: RecordEncoder | None = None,
    store: ProfileStore | None = None,
    view: str = "text",
    seed: int = 0,
    base: str | None = None,
    model: str | None = None,
    neighbours: int = 0,
    where: str | None = None,
    relevance: RelevanceFilter | str | Path | None = None,
    judge: str = "question",
) -> Retriever:
    """The retriever called `name`, and what is wanted over it.

    Args:
        name: one of `RETRIEVERS`.
        encoder: needed by those in `NEEDS_ENCODER`.
        store: where stored vectors and indexes are read from; without it they are made from the records at hand.
        view: the view of a record that is searched (`Record.view`).
        seed: for the random one, and the clusters of ``multi_interest``.
        base: for those in `BASES`, the retriever that finds what they look at once more; None takes the one there.
        model: the multi-vector model of ``late_interaction`` (None: ``minilm``), or the cross-encoder of ``rerank``
            (None: `persona.retrievers.rerank.RERANKER`); a folder or hub id.
        neighbours: for ``multi_interest``, so many users of `store` who are most like this one smooth the shares of the
            interests (`persona.retrievers.multi_interest.SharedInterests`); 0 looks at nobody else.
        where: it is handed only the records that fit (`persona.retrievers.where`).
        relevance: nothing where nothing is relevant: a filter, or what `load_filter` takes; needs the encoder.
        judge: what the filter judges, the ``question`` or each ``record`` (`persona.retrievers.relevance.JUDGED`).

    Raises:
        UnknownPartError: if there is no retriever of that name.
        InvalidOptionError: if it needs an encoder and none was given, or takes no `base`, `model` or `neighbours`
            and one was given, or there are no users to be neighbours, or `where` is no condition.
        ModelLoadError: if there is no such model, or no such filter.
        FingerprintMismatchError: if the filter was trained on vectors of another encoder.
    """
    check_retriever(name)
    part = RETRIEVERS[name]
    if base is not None and (name not in BASES or base in BASES):
        raise InvalidOptionError(
            f"a base is for {' and '.join(BASES)}, and none of these itself, was: {base!r} for {name!r}"
        )
    if model is not None and "model" not in part.needs:
        raise InvalidOptionError(f"the retriever {name!r} takes no model of its own, was: {model!r}")
    if needs_encoder(name, base) and not hasattr(encoder, "fingerprint"):
        given = "" if encoder is None else f", was: {encoder!r:.80}"
        raise InvalidOptionError(
            f"the retriever {name!r} compares vectors: give it an encoder (persona.load_encoder('minilm')){given}"
        )
    options: dict[str, object] = {"encoder": encoder, "store": store, "view": view, "seed": seed}
    if "retrievers" in part.needs:
        options["retrievers"] = [
            make_retriever(one, encoder=encoder, store=store, view=view, seed=seed) for one in ("bm25", "dense")
        ]
    if "base" in part.needs:
        options["base"] = make_retriever(base or BASES[name], encoder=encoder, store=store, view=view, seed=seed)
    if model is not None:
        options["model"] = model
    if neighbours and name != SHARES:
        raise InvalidOptionError(f"neighbours are for {SHARES}, was: {neighbours} for {name!r}")
    if neighbours and (store is None or encoder is None):
        raise InvalidOptionError(f"the neighbours of {SHARES} are read from a store: give it one")
    if neighbours:
        from persona.retrievers.multi_interest import SharedInterests
        from persona.store.vectors import vector_fingerprint

        assert store is not None
        assert encoder is not None
        options["interests"] = SharedInterests.from_store(store, vector_fingerprint(encoder, view), seed=seed)
        options["neighbours"] = neighbours
    made = cast(Retriever, part.load()(**{need: options[need] for need in part.needs if need in options}))
    if relevance is not None:
        from persona.retrievers.relevance import RelevanceFilter, RelevanceRetriever, load_filter

        if encoder is None:
            raise InvalidOptionError("a relevance filter compares vectors: give it an encoder (e.g. 'minilm')")
        loaded = relevance if isinstance(relevance, RelevanceFilter) else load_filter(relevance, encoder)
        made = RelevanceRetriever(made, loaded, encoder, store, judge=judge)
    elif judge != "question":
        raise InvalidOptionError(f"`judge` says what a relevance filter judges, and there is none, was: {judge!r}")
    if where is not None:
        from persona.retrievers.where import WhereRetriever

        # Outermost: a record that does not fit must not let a question pass either.
        made = WhereRetriever(made, where)
    return made


def make_retrievers(
    names: Iterable[str],
    *,
    base: str | None = None,
    model: str | None = None,
    neighbours: int = 0,
    **options: Any,
) -> dict[str, Retriever]:
    """`make_retriever` for each of several names; `base`, `model` and `neighbours` go to those that take them.

    Raises:
        InvalidOptionError: if none of them takes one that is given.
        PersonaError: as `make_retriever`.
    """
    wanted = list(dict.fromkeys(names))
    given = (("a base is", base, BASES), ("a model is", model, WITH_MODEL), ("neighbours are", neighbours, (SHARES,)))
    for option, value, takers in given:
        if value and not any(name in takers for name in wanted):
            raise InvalidOptionError(
                f"{option} for {' and '.join(sorted(takers))}, was: {value!r} for {', '.join(wanted)}"
            )
    return {
        name: make_retriever(
            name,
            base=base if name in BASES else None,
            model=model if name in WITH_MODEL else None,
            neighbours=neighbours if name == SHARES else 0,
            **options,
        )
        for name in wanted
    }

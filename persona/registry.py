"""Part names and where their classes live; a class is imported when it is first asked for.

>>> make_retriever("bm25")
BM25Retriever(...)

A name here is the name on the command line (`--retriever bm25`) and in result files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from persona.errors import InvalidOptionError, UnknownPartError
from persona.protocols import RecordEncoder, Retriever

if TYPE_CHECKING:
    from persona.store import ProfileStore


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
    "bm25+": Part("persona.retrievers.bm25:BM25PlusRetriever", ("view", "store")),
    "dense": Part("persona.retrievers.dense:DenseRetriever", ("encoder", "store", "view")),
    "recency": Part("persona.retrievers.recency:RecencyRetriever"),
    "random": Part("persona.retrievers.sampling:RandomRetriever", ("seed",)),
    "hybrid": Part("persona.retrievers.hybrid:HybridRetriever", ("retrievers",)),
    "hybrid+": Part("persona.retrievers.hybrid:HybridRetriever", ("retrievers",)),
    "multi_interest": Part(
        "persona.retrievers.multi_interest:MultiInterestRetriever", ("encoder", "store", "view", "seed")
    ),
    "diverse": Part("persona.retrievers.diverse:DiverseRetriever", ("base", "encoder", "store", "view")),
    "key_value": Part("persona.retrievers.key_value:KeyValueRetriever", ("encoder", "store")),
    "entities": Part("persona.retrievers.entities:EntityRetriever", ("store", "view")),
    "late_interaction": Part("persona.retrievers.late_interaction:LateInteractionRetriever", ("model", "view")),
    "rerank": Part("persona.retrievers.rerank:RerankRetriever", ("base", "model", "view")),
}
"""All retrievers by name."""

NEEDS_ENCODER = frozenset({"dense", "hybrid", "hybrid+", "multi_interest", "diverse", "key_value"})
"""Retrievers that compare vectors and so need an encoder."""

BASES: Mapping[str, str] = {"diverse": "dense", "rerank": "bm25+"}
"""Retrievers that look once more at what another one found, and which one that is if not told."""


def needs_encoder(name: str, base: str | None = None) -> bool:
    """Whether the retriever called `name`, or what it rests on, needs an encoder."""
    return name in NEEDS_ENCODER or (name in BASES and (base or BASES[name]) in NEEDS_ENCODER)


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
) -> Retriever:
    """The retriever called `name`.

    Args:
        name: one of `RETRIEVERS`.
        encoder: needed by those in `NEEDS_ENCODER`.
        store: where stored vectors and indexes are read from; without it they are made from the records at hand.
        view: the view of a record that is searched (`Record.view`).
        seed: for the random one, and the clusters of ``multi_interest``.
        base: for those in `BASES`, the retriever that finds what they look at once more; None takes the one there.
        model: the multi-vector model of ``late_interaction`` (None: ``minilm``), or the cross-encoder of ``rerank``
            (None: `persona.retrievers.rerank.RERANKER`); a folder or hub id.

    Raises:
        UnknownPartError: if there is no retriever of that name.
        InvalidOptionError: if it needs an encoder and none was given, or takes no `base` or `model` and one was given.
        ModelLoadError: if there is no such model.
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
        words = "bm25+" if name == "hybrid+" else "bm25"
        options["retrievers"] = [
            make_retriever(one, encoder=encoder, store=store, view=view, seed=seed) for one in (words, "dense")
        ]
    if "base" in part.needs:
        options["base"] = make_retriever(base or BASES[name], encoder=encoder, store=store, view=view, seed=seed)
    if model is not None:
        options["model"] = model
    return cast(Retriever, part.load()(**{need: options[need] for need in part.needs if need in options}))

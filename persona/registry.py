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
}
"""All retrievers by name."""

NEEDS_ENCODER = frozenset({"dense", "hybrid"})
"""Retrievers that compare vectors and so need an encoder."""


def make_retriever(
    name: str,
    *,
    encoder: RecordEncoder | None = None,
    store: ProfileStore | None = None,
    view: str = "text",
    seed: int = 0,
) -> Retriever:
    """The retriever called `name`.

    Args:
        name: one of `RETRIEVERS`.
        encoder: needed by those in `NEEDS_ENCODER`.
        store: where stored vectors and indexes are read from; without it they are made from the records at hand.
        view: the view of a record that is searched (`Record.view`).
        seed: for the random one.

    Raises:
        UnknownPartError: if there is no retriever of that name.
        InvalidOptionError: if it needs an encoder and none was given.
    """
    part = RETRIEVERS.get(name)
    if part is None:
        raise UnknownPartError(f"a retriever must be one of {', '.join(RETRIEVERS)}, was: {name!r}")
    if name in NEEDS_ENCODER and encoder is None:
        raise InvalidOptionError(f"the retriever {name!r} compares vectors: give it an encoder (e.g. 'minilm')")
    options: dict[str, object] = {"encoder": encoder, "store": store, "view": view, "seed": seed}
    if "retrievers" in part.needs:
        options["retrievers"] = [
            make_retriever(one, encoder=encoder, store=store, view=view, seed=seed) for one in ("bm25", "dense")
        ]
    return cast(Retriever, part.load()(**{need: options[need] for need in part.needs}))

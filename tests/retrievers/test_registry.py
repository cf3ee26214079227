"""Names become retrievers, and options that a retriever does not take are refused."""

from __future__ import annotations

from typing import Any

import pytest

from persona.encoders.hashing import HashingEncoder
from persona.errors import InvalidOptionError, UnknownPartError
from persona.records import Profile, Record
from persona.retrievers import HybridRetriever, RelevanceRetriever, WhereRetriever
from persona.retrievers.registry import RETRIEVERS, RetrieverOptions, make_retriever, make_retrievers

ENCODER = HashingEncoder(64)


@pytest.mark.parametrize("name", [name for name in RETRIEVERS if name not in ("rerank", "useful")])  # no model at hand
def test_every_name_is_a_retriever(name: str) -> None:
    profile = Profile("ana", (Record("snow", target="5"), Record("a train", target="1")))
    retriever = make_retriever(name, encoder=ENCODER)
    assert len(retriever.retrieve(profile, "snow", 2)) == 2


def test_filters_stand_around_the_retriever() -> None:
    options = RetrieverOptions(where="label=5", relevance="untrained")
    retriever = make_retriever("hybrid", options, encoder=ENCODER)
    assert isinstance(retriever, WhereRetriever)
    assert isinstance(retriever.base, RelevanceRetriever)
    assert isinstance(retriever.base.base, HybridRetriever)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bm25-lamp", {"base": "dense"}, "a base is for diverse and entities and rerank, and none of these itself"),
        ("rerank", {"base": "diverse"}, "a base is for diverse and entities and rerank"),
        ("bm25-lamp", {"model": "minilm"}, "takes no model of its own"),
        ("rerank", {"base": "dense"}, "compares vectors: give it an encoder"),
        ("diverse", {"base": "bm25-lamp"}, "compares vectors: give it an encoder"),
        ("bm25", {"relevance": "untrained"}, "the relevance filter compares vectors: give it an encoder"),
        ("bm25", {"judge": "record"}, "`judge` says what a relevance filter judges, and there is none"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make_retriever(name, RetrieverOptions(**options))


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(UnknownPartError, match="a retriever must be one of bm25, bm25-lamp"):
        make_retriever("bm26")
    with pytest.raises(InvalidOptionError, match=r"give it an encoder .*, was: 'hashing'"):
        make_retriever("dense", encoder="hashing")  # type: ignore[arg-type]
    with pytest.raises(
        InvalidOptionError,
        match="a model is for conversation and joint and late_interaction and rerank and useful, was: 'x' for bm25",
    ):
        make_retrievers(["bm25"], RetrieverOptions(model="x"))

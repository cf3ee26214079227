"""The signals of a turn against the same computed by hand, and what their weights do."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from persona.records import Profile, Record
from persona.retrievers import ConversationRetriever, LateInteractionRetriever, RerankRetriever
from persona.retrievers.conversation.passages import PassageRetriever
from persona.retrievers.conversation.retriever import Weights
from persona.retrievers.registry import RetrieverOptions, make_retriever
from tests import small_models
from tests.retrievers.cases import ids
from tests.retrievers.conversation.talk import LINES, TALK

NOTHING = Weights(0, 0, 0, 0, 0)


def test_the_signals_are_what_the_table_says() -> None:
    query = "What colour did Ana paint it?"
    retriever = ConversationRetriever(small_models.multi_vector())
    tokens, passages, speaker, length, conversation = retriever.signals(TALK, query).T
    late = LateInteractionRetriever(small_models.multi_vector(), "turn").scores(TALK, query)
    assert tokens == pytest.approx((late - late.mean()) / late.std())
    found = PassageRetriever().scores(TALK, query)
    assert passages == pytest.approx((found - found.mean()) / found.std())
    assert speaker.tolist() == [0.5, -0.5, 0.5, -0.5, 0.5, -0.5]
    said = np.log([len(line[3]) for line in LINES])
    assert length == pytest.approx((said - said.mean()) / said.std())
    best = np.array([tokens[:3].mean()] * 3 + [tokens[3:5].mean()] * 2 + [tokens[5]])
    assert conversation == pytest.approx((best - best.mean()) / best.std())


def test_each_weight_brings_its_signal_forward() -> None:
    retriever = ConversationRetriever(small_models.multi_vector(), NOTHING)
    assert ids(retriever.retrieve(TALK, "Ben?", 6)) == list("123456")
    signals = retriever.signals(TALK, "Did Ben paint?")
    for number, field in enumerate(fields(Weights)):
        one = ConversationRetriever(small_models.multi_vector(), Weights(**{**_zeros(), field.name: 1.0}))
        expected = np.argsort(-np.round(signals[:, number], 5), kind="stable")
        assert ids(one.retrieve(TALK, "Did Ben paint?", 6)) == [TALK[int(position)].id for position in expected]


def test_a_name_tells_nothing_where_everybody_has_it() -> None:
    retriever = ConversationRetriever(small_models.multi_vector())
    for query, profile in (("Ana and Ben?", TALK), ("Ana?", Profile("ana", (Record("Hi."), Record("Ho."))))):
        assert not retriever.signals(profile, query)[:, 2].any()
    alone = retriever.retrieve(Profile("ana", TALK.records[:1]), "kayak", 3)
    assert [scored.score for scored in alone] == [0.0]


def test_a_cross_encoder_reads_what_was_found() -> None:
    base = ConversationRetriever(small_models.multi_vector())
    reranked = RerankRetriever(base, small_models.cross_encoder(), "turn", depth=3)
    found = reranked.retrieve(TALK, "kayak", 6)
    assert set(ids(found)) == set(ids(base.retrieve(TALK, "kayak", 3)))
    pairs = [("kayak", scored.record.view("turn")) for scored in found]
    predicted = small_models.cross_encoder().predict(pairs, show_progress_bar=False)
    assert [scored.score for scored in found] == pytest.approx(predicted.tolist(), abs=1e-5)
    folder = str(small_models.MINILM_FOLDER)
    named = make_retriever("rerank", RetrieverOptions(base="conversation", view="turn", model=folder))
    assert isinstance(named, RerankRetriever)
    assert isinstance(named.base, ConversationRetriever)


def _zeros() -> dict[str, float]:
    return dict.fromkeys((field.name for field in fields(Weights)), 0.0)

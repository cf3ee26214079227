"""A cross-encoder's order, on models built here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from persona.errors import InvalidOptionError, ModelLoadError
from persona.retrievers import BM25Retriever, RecencyRetriever, RerankRetriever
from tests import small_models
from tests.retrievers.cases import PEOPLE, ids


def test_rerank_is_the_order_of_predict() -> None:
    model = small_models.cross_encoder()
    query = "Who likes opals?"
    scores = model.predict([(query, record.text) for record in PEOPLE], show_progress_bar=False)
    found = RerankRetriever(BM25Retriever(), model).retrieve(PEOPLE, query, 4)
    assert [scored.record for scored in found] == [PEOPLE[int(number)] for number in np.argsort(-scores)]
    assert [scored.score for scored in found] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)
    ranked = model.rank(query, [record.text for record in PEOPLE])
    assert [scored.record for scored in found] == [PEOPLE[int(hit["corpus_id"])] for hit in ranked]


def test_rerank_reads_the_best_of_the_base_and_no_more() -> None:
    retriever = RerankRetriever(RecencyRetriever(), small_models.cross_encoder(), depth=2)
    found = retriever.retrieve(PEOPLE, "opals", 4)
    assert set(ids(found)) == {"cato", "other"}


def test_rerank_from_a_folder(tmp_path: Path) -> None:
    folder = small_models.save_bert(tmp_path / "cross", n_labels=1)
    named, loaded = (RerankRetriever(RecencyRetriever(), model) for model in (folder, small_models.cross_encoder()))
    assert named.retrieve(PEOPLE, "opals", 4) == loaded.retrieve(PEOPLE, "opals", 4)
    several = small_models.save_bert(tmp_path / "several", n_labels=3)
    with pytest.raises(InvalidOptionError, match="must have one label, was: 3"):
        RerankRetriever(RecencyRetriever(), several).retrieve(PEOPLE, "opals", 1)
    with pytest.raises(InvalidOptionError, match="`depth` must be at least 1, was: 0"):
        RerankRetriever(RecencyRetriever(), small_models.cross_encoder(), depth=0)


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    retriever = RerankRetriever(RecencyRetriever(), small_models.save_bert(tmp_path / "plain"))
    with pytest.raises(ModelLoadError, match=r"do not fill the model \(bert\): 2 tensors such as classifier.bias"):
        retriever.retrieve(PEOPLE, "opals", 4)

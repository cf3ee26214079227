"""Recall of evidence without an LLM: measures by hand, LoCoMo's published one, rows and their comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.benchmarks.conversations.locomo import Locomo
from persona.eval.benchmarks.retrieval import evaluate_retrieval, measures
from persona.records import Profile, ScoredRecord
from persona.retrievers import BM25Retriever, RecencyRetriever
from persona.retrievers.base import ProfileRetriever
from tests.eval.benchmarks.conversations.dialogues import LOCOMO


class InOrder(ProfileRetriever):
    """The first k records."""

    def rank(self, profile: Profile, query: str, k: int) -> tuple[ScoredRecord, ...]:
        return tuple(ScoredRecord(record, -float(place)) for place, record in enumerate(profile))[:k]


@pytest.fixture
def locomo(tmp_path: Path) -> Locomo:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    return Locomo.read(tmp_path / "locomo.json")


def test_measures_by_hand() -> None:
    assert measures(("a", "b"), ("x", "a", "y"), 3) == {
        "recall": 0.5,
        "all": 0.0,
        "any": 1.0,
        "nDCG": pytest.approx((1 / 1.5849625) / (1 + 1 / 1.5849625)),  # rank 2 is discounted by log2(3)
    }
    assert measures(("a",), ("a",), 5) == {"recall": 1.0, "all": 1.0, "any": 1.0, "nDCG": 1.0}
    assert measures(("a",), (), 5)["nDCG"] == 0.0


def test_recall_and_the_published_recall(locomo: Locomo) -> None:
    report = evaluate_retrieval(locomo, {"in order": InOrder()}, (2, 1), resamples=20)
    # Evidence: D1:1 | D2:1 | D1:1, D1:2 | - | - | D1:1 (of conv-b) | -
    assert report.questions == 4
    assert report["in order"].scores["recall@1"].value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert report["in order"].scores["recall@2"].value == pytest.approx((1 + 0 + 1 + 1) / 4)
    # Published: as it stands, two ids in one string and malformed ones are never found, and none at all is 1.
    assert report["in order"].scores["official recall@2"].value == pytest.approx((1 + 0 + 0 + 1 + 1 + 1 + 1) / 7)
    assert report["in order"].kinds["single-hop"].value == 1.0
    assert report.as_dict()["config"]["ks"] == (2, 1)


def test_rows_are_compared_with_the_first(locomo: Locomo) -> None:
    retrievers = {"bm25": BM25Retriever(), "recency": RecencyRetriever(), "in order": InOrder()}
    report = evaluate_retrieval(locomo, retrievers, (1,), resamples=50)
    assert report["bm25"].difference is None
    assert report["recency"].difference is not None
    assert report["recency"].corrected is not None
    assert report["recency"].corrected >= report["recency"].difference.p_value
    assert "difference in recall@1" in report.markdown()
    assert "ms a question" in report.markdown()
    assert [row[0] for row in report.by_kind()[1:]] == ["bm25", "recency", "in order"]


def test_what_is_refused(locomo: Locomo) -> None:
    with pytest.raises(InvalidOptionError, match="there must be a retriever, and each k at least 1"):
        evaluate_retrieval(locomo, {})
    locomo.questions = locomo.questions[3:5]
    with pytest.raises(EvaluationError, match="no question of locomo names evidence"):
        evaluate_retrieval(locomo, {"bm25": BM25Retriever()})

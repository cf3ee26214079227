"""ROUGE against cases computed by hand and against the package that LaMP's evaluator uses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from persona.eval.rouge import rouge_1, rouge_l

_REFERENCE = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
_WORDS = st.sampled_from(["the", "The", "cat", "sat", "on", "mat", "2nd", "naïve", "data-set", "-", "İstanbul", "ǅ"])
_SENTENCES = st.lists(_WORDS, max_size=80).map(" ".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("gold", "prediction", "expected_1", "expected_l"),
    [
        ("a b c d", "a b c d", 1.0, 1.0),
        ("a b c d", "d c b a", 1.0, 1 / 4),  # one token is the longest ordered match
        ("a b c d", "A-c", 2 / 3, 2 / 3),  # precision 1, recall 1/2
        ("a a b", "a c", 2 / 5, 2 / 5),  # the second "a" of the gold has no partner: 1/2 and 1/3
        ("a b", "x y", 0.0, 0.0),
        ("a b", "", 0.0, 0.0),
        ("", "a b", 0.0, 0.0),
        ("", "", 0.0, 0.0),
        ("été", "t", 1.0, 1.0),  # only a-z0-9 are letters
    ],
)
def test_by_hand(gold: str, prediction: str, expected_1: float, expected_l: float) -> None:
    assert rouge_1(gold, prediction) == pytest.approx(expected_1, abs=1e-15)
    assert rouge_l(gold, prediction) == pytest.approx(expected_l, abs=1e-15)


@settings(max_examples=300, deadline=None)
@given(_SENTENCES, _SENTENCES)
def test_equals_rouge_score_bit_for_bit(gold: str, prediction: str) -> None:
    expected = _REFERENCE.score(gold, prediction)
    assert rouge_1(gold, prediction) == expected["rouge1"].fmeasure
    assert rouge_l(gold, prediction) == expected["rougeL"].fmeasure

"""The official measures: by hand, against scikit-learn and rouge_score, and against the official code's
answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import scoring

from persona.errors import EvaluationError, InvalidOptionError, UnknownTaskError
from persona.eval.metrics import (
    ACCURACY,
    F1,
    MAE,
    METRICS,
    RMSE,
    ROUGE_1,
    Answer,
    rouge,
    score_lamp,
    without_rouge_words,
)
from persona.lamp.tasks import TASKS


def _numbered(outputs: Sequence[str]) -> dict[str, str]:
    return {f"3{number}": output for number, output in enumerate(outputs)}


def _values(task: str, golds: Sequence[str], predictions: Sequence[str]) -> Mapping[str, float]:
    return score_lamp(task, _numbered(golds), _numbered(predictions)).values


@pytest.mark.shared
def test_equals_the_official_evaluator(shared: Path) -> None:
    lines = (shared / "goldens" / "lamp_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 20
    for line in lines:
        case = json.loads(line)
        golds = {one["id"]: one["output"] for one in case["golds"]}
        predictions = {one["id"]: one["output"] for one in case["predictions"]}
        assert score_lamp(case["task"], golds, predictions).values == pytest.approx(case["official"], abs=1e-12)


def test_accuracy_and_macro_f1_by_hand() -> None:
    # "comedy": 1 both, 2 gold, 1 predicted -> 2/3; "action": 0 both; "classic": 1, 1, 2 -> 2/3; twelve absent
    # labels.
    golds = ["comedy", "comedy", "action", "classic"]
    predictions = [" comedy\n", "classic", "Action", "classic"]
    values = _values("LaMP_2", golds, predictions)
    assert list(values) == ["accuracy", "f1"]
    assert values == pytest.approx({"accuracy": 2 / 4, "f1": (2 / 3 + 2 / 3) / 15})


def test_two_unknown_labels_count_as_a_hit() -> None:
    assert _values("LaMP_1", ["[3]", "[1]"], ["none of them", "[2]"]) == {"accuracy": 0.5, "f1": 0.0}


def test_labels_replace_those_of_the_task() -> None:
    golds, predictions = {"0": "cats", "1": "dogs"}, {"0": "cats", "1": "cats"}
    scores = score_lamp("LaMP_2N", golds, predictions, labels=["cats", "dogs"])
    assert scores.values == pytest.approx({"accuracy": 1 / 2, "f1": (2 / 3 + 0) / 2})


@pytest.mark.parametrize(
    ("gold", "prediction", "error"),
    [
        ("4", "4", 0.0),
        ("4", " 4 \n", 0.0),
        ("4", "3.5", 0.5),
        ("4", "7", 3.0),  # not clipped
        ("4", "-1", 5.0),
        ("4", "1e0", 3.0),
        ("1", "five", 4.0),
        ("2", "", 3.0),
        ("3", "3 stars", 2.0),  # a tie goes to 5
        ("4", "n/a", 3.0),
        ("5", "4/5", 4.0),
        ("5", "nan", 4.0),
        ("1", "inf", 4.0),
        ("4", "-Infinity", 3.0),
        ("2", "9" * 200, 3.0),
        ("2", "9" * 400, 3.0),
    ],
)
def test_rating_errors_by_hand(gold: str, prediction: str, error: float) -> None:
    assert _values("LaMP_3", [gold], [prediction]) == {"MAE": error, "RMSE": error}


def test_mae_and_rmse_by_hand() -> None:
    assert _values("LaMP_3", ["1", "2", "5"], ["2", "2", "2"]) == pytest.approx(
        {"MAE": 4 / 3, "RMSE": math.sqrt(10 / 3)}
    )


def test_rouge_by_hand() -> None:
    # Word overlaps: 2 of 4 and 2 of 2; then nothing.
    values = _values("LaMP_5", ["learning to rank records", "a title"], ["Rank, learning!", "nothing"])
    assert values == pytest.approx({"rouge-1": (2 / 3 + 0) / 2, "rouge-L": (1 / 3 + 0) / 2})


@pytest.mark.parametrize(
    ("gold", "prediction", "expected_1", "expected_l"),
    [
        ("a b c d", "d c b a", 1.0, 1 / 4),  # one token is the longest ordered match
        ("a b c d", "A-c", 2 / 3, 2 / 3),  # precision 1, recall 1/2
        ("a a b", "a c", 2 / 5, 2 / 5),  # the second "a" of the gold has no partner: 1/2 and 1/3
        ("a b", "", 0.0, 0.0),
        ("", "", 0.0, 0.0),
        ("été", "t", 1.0, 1.0),  # only a-z0-9 are letters
    ],
)
def test_rouge_of_one_answer(gold: str, prediction: str, expected_1: float, expected_l: float) -> None:
    values = [rouge(kind, gold, prediction) for kind in ("rouge1", "rougeL")]
    assert values == pytest.approx([expected_1, expected_l])


def test_the_official_median_is_that_of_rouge_score() -> None:
    rng = np.random.default_rng(5)
    golds = _numbered([" ".join(rng.choice([*"abcdef"], rng.integers(1, 9))) for _ in range(41)])
    predictions = _numbered([" ".join(rng.choice([*"abcdef"], rng.integers(1, 9))) for _ in range(41)])
    plain = score_lamp("LaMP_4", golds, predictions)
    median = score_lamp("LaMP_4", golds, predictions, bootstrap=True, seed=7)
    for name in ("rouge-1", "rouge-L"):
        aggregator = scoring.BootstrapAggregator()
        for value in plain.samples[name][:, 0]:
            aggregator.add_scores({name: scoring.Score(0.0, 0.0, value)})
        state = np.random.get_state()
        np.random.seed(7)
        expected = aggregator.aggregate()[name].mid.fmeasure
        np.random.set_state(state)
        assert median.values[name] == pytest.approx(expected, abs=1e-12)
        assert median.values[name] != plain.values[name]
        assert median.values[name] == pytest.approx(plain.values[name], abs=0.02)
    assert score_lamp("LaMP_3", {"0": "1"}, {"0": "2"}, bootstrap=True).values == {"MAE": 1.0, "RMSE": 1.0}


def test_samples_are_aligned_with_the_ids_of_the_golds() -> None:
    scores = score_lamp("LaMP_3", {"b": "1", "a": "2", "c": "3"}, {"a": "2", "c": "1", "b": "5"})
    assert (scores.task, scores.questions, scores.ids) == ("LaMP_3", 3, ("b", "a", "c"))
    assert scores.metrics == (MAE, RMSE)
    assert scores.samples["MAE"].tolist() == [[4.0], [0.0], [2.0]]
    assert scores.samples["RMSE"].tolist() == [[16.0], [0.0], [4.0]]
    with pytest.raises(ValueError, match="read-only"):
        scores.samples["MAE"][0] = 0


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_known_metrics_in_the_right_direction(task: str) -> None:
    facts = TASKS[task]
    for name in facts.metrics:
        assert METRICS[name].higher_is_better == facts.higher_is_better(name)
        assert str(METRICS[name]) == name


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdx"), st.sampled_from("abcdy")), min_size=1, max_size=60), st.data())
def test_macro_f1_and_accuracy_equal_scikit_learn_in_any_resample(
    pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    labels = ["a", "b", "c", "d", "e"]
    answers = [Answer(str(number), *pair) for number, pair in enumerate(pairs)]
    samples = {one.name: one.measure(answers, labels) for one in (ACCURACY, F1)}
    index = np.array(data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=60)))
    places = {label: place for place, label in enumerate(labels)}
    golds = [places.get(pairs[place][0], -1) for place in index]
    predictions = [places.get(pairs[place][1], -1) for place in index]
    expected = sklearn.metrics.f1_score(golds, predictions, labels=range(5), average="macro", zero_division=0)
    assert F1.value(samples, index) == pytest.approx(expected, abs=1e-12)
    assert ACCURACY.value(samples, index) == pytest.approx(
        sklearn.metrics.accuracy_score(golds, predictions), abs=1e-12
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-9, 9)), min_size=1, max_size=40))
def test_errors_equal_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    golds = [gold for gold, _ in pairs]
    predictions = [prediction for _, prediction in pairs]
    values = _values("LaMP_3", [str(gold) for gold in golds], [repr(prediction) for prediction in predictions])
    assert values["MAE"] == pytest.approx(sklearn.metrics.mean_absolute_error(golds, predictions), abs=1e-12)
    assert values["RMSE"] == pytest.approx(sklearn.metrics.root_mean_squared_error(golds, predictions), abs=1e-12)


@settings(deadline=None)
@given(st.text(max_size=20), st.sampled_from("12345"))
def test_any_prediction_gets_a_finite_rating(prediction: str, gold: str) -> None:
    values = _values("LaMP_3", [gold], [prediction])
    assert math.isfinite(values["MAE"])
    assert math.isfinite(values["RMSE"])


def test_missing_and_surplus_ids_are_listed() -> None:
    golds = _numbered(["1"] * 12)
    predictions = {"30": "1", "extra": "2"}
    with pytest.raises(EvaluationError) as error:
        score_lamp("LaMP_3", golds, predictions)
    message = str(error.value)
    assert "11 missing: '31', '32', '33', '34', '35', '36', '37', '38', '39', '310', ...; 1 surplus: 'extra'" in message
    assert "(12)" in message
    assert "\n" not in message


def test_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least one gold"):
        score_lamp("LaMP_3", {}, {})
    with pytest.raises(EvaluationError, match=r"gold rating must be a number, was: 'good' \(id '30'\)"):
        _values("LaMP_3", ["good"], ["3"])
    with pytest.raises(EvaluationError, match="gold rating must be a number"):
        _values("LaMP_3", ["nan"], ["3"])
    with pytest.raises(EvaluationError, match=r"a prediction must be a string, was: 3 \(int, id '0'\)"):
        score_lamp("LaMP_3", {"0": "3"}, {"0": 3})  # type: ignore[dict-item]
    with pytest.raises(EvaluationError, match="no label list"):
        score_lamp("LaMP_2", {"0": "comedy"}, {"0": "comedy"}, labels=[])
    with pytest.raises(InvalidOptionError, match="seed"):
        score_lamp("LaMP_4", {"0": "a"}, {"0": "a"}, seed=-1)
    with pytest.raises(UnknownTaskError):
        score_lamp("LaMP_9", {"0": "a"}, {"0": "a"})


def test_a_metric_refuses_samples_that_it_did_not_record() -> None:
    scores = score_lamp("LaMP_3", {"0": "1"}, {"0": "2"})
    with pytest.raises(EvaluationError, match="must hold rouge-1, hold: MAE, RMSE"):
        ROUGE_1.value(scores.samples)
    with pytest.raises(EvaluationError, match="at least one sample"):
        MAE.value(scores.samples, np.array([], dtype=np.intp))


OTHER_SCRIPTS = {"1": "北京今天下大雪", "2": "สวัสดีชาวโลก", "3": "كتاب جديد"}


def test_equal_texts_of_other_scripts_score_0_officially_and_1_with_their_own_words() -> None:
    golds = {**OTHER_SCRIPTS, "4": "Snow in Beijing"}
    assert without_rouge_words(golds.values()) == 3
    assert score_lamp("LaMP_4", golds, golds).values == {"rouge-1": 0.25, "rouge-L": 0.25}
    assert score_lamp("LaMP_4", golds, golds, rouge_words="all-scripts").values == {"rouge-1": 1.0, "rouge-L": 1.0}
    part = {**golds, "1": "北京下雪", "3": "كتاب"}
    scores = score_lamp("LaMP_4", golds, part, rouge_words="all-scripts").samples["rouge-1"][:, 0]
    assert 0 < scores[0] < 1
    assert scores[2] == pytest.approx(2 / 3)
    with pytest.raises(InvalidOptionError, match="must be official or all-scripts, was: 'chinese'"):
        score_lamp("LaMP_4", golds, golds, rouge_words="chinese")

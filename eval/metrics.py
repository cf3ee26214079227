"""The official LaMP measures, offline.

>>> scores = score_lamp("LaMP_3", golds={"00": "4", "01": "2"}, predictions={"00": "5", "01": "no idea"})
>>> scores.values
{'MAE': 2.0, 'RMSE': 2.23606797749979}
>>> scores.samples["MAE"][:, 0].tolist()
[1.0, 3.0]

A measure is a value, `Metric`: its name, its direction, what it records of each sample, and how it is computed from the
*sums* of those records. Accuracy and ROUGE are means, RMSE is the root of one, macro-F1 comes from three counts a
class. So a resample of a thousand users is one row of a matrix product (`persona.eval.bootstrap`), where scikit-learn's
functions would go through all answers again for each resample.

The values match ``eval/evaluation.py`` of the official LaMP code, with these of its habits kept on purpose:

- a prediction is stripped and compared with the label list, case-sensitively; everything else is class -1, and a gold
  outside the list is class -1 too, so that two unknown labels count as an accurate answer;
- macro-F1 is the mean over *all* labels of the task: those that occur nowhere count 0;
- a rating is whatever ``float()`` reads ("3.5" is 3.5, "7" is 7.0, nothing is clipped); what it cannot read is set to
  the end of the scale, 1 or 5, that lies farther from the gold (5 for a gold of 3).

One difference is deliberate: ``nan``, ``inf`` and numbers beyond `LARGEST_RATING` pass ``float()``, and one of them
ends the official run with an exception or drowns every other answer. Here they are malformed like any other word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.lamp.tasks import LampTask, lamp_task

Array: TypeAlias = NDArray[np.float64]

Samples: TypeAlias = Mapping[str, Array]
"""What each metric recorded of each sample, by the metric's name, all in the same order.  # (samples, columns)"""

LOWEST_SCORE, HIGHEST_SCORE = 1.0, 5.0
"""The ends of the rating scale, between which a malformed rating is put as far from the gold as can be."""

LARGEST_RATING = 1e100
"""A rating beyond this, on either side, is malformed: the square of it would drown or overflow the sums."""

BOOTSTRAP_MEANS = 1000
"""How many resampled means the official ROUGE value is the median of."""

OFFICIAL, ALL_SCRIPTS = "official", "all-scripts"
ROUGE_WORDS = (OFFICIAL, ALL_SCRIPTS)
"""What ROUGE compares: runs of a to z and 0 to 9, as in LaMP's evaluator, for which texts in other scripts have no word
at all; or the words of every script (`persona.retrievers.words.tokens`)."""

_LATIN_WORD = re.compile("[a-z0-9]")
_LISTED_IDS = 10


class Answer(NamedTuple):
    """One sample: its id, its gold and what was predicted, both stripped."""

    id: str
    gold: str
    prediction: str


class Correction(Protocol):
    """What is done to a value that is known to be biased, e.g. `persona.eval.judging.rates.Rates`."""

    def corrected(self, measured: float) -> float:
        """The value without the bias."""
        ...

    def redrawn(self, measured: Array) -> Array:
        """The same for resampled values, with what is not known of the bias drawn anew.  # (systems, resamples)"""
        ...


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of predictions.

    Attributes:
        name: the official key, e.g. ``"rouge-1"``.
        higher_is_better: False for errors.
        measure: what one sample adds to the sums, for each of the answers, given the legal labels; where there is a
            single column, it is the sample's own value (correct or not, error, F-measure).  # (samples, columns)
        of_sums: the value from summed samples and their number.  # (..., columns), (...) -> (...)
        correction: of that value; None for none.
    """

    name: str
    higher_is_better: bool
    measure: Callable[[Sequence[Answer], Sequence[str]], Array]
    of_sums: Callable[[Array, Array], Array]
    correction: Correction | None = None

    def recorded(self, samples: Samples) -> Array:
        """This metric's part of `samples`.  # (samples, columns)

        Raises:
            EvaluationError: if they hold nothing of it.
        """
        if self.name not in samples:
            known = ", ".join(samples) or "nothing"
            raise EvaluationError(f"the samples must hold {self.name}, hold: {known}; score them on a task that has it")
        return samples[self.name]

    def value(self, samples: Samples, index: NDArray[np.intp] | None = None) -> float:
        """The value over all samples, or over those of `index` (repeats allowed: a resample).

        Args:
            samples: e.g. `LampScores.samples`.
            index: which samples to take.  # (taken,)

        Raises:
            EvaluationError: if `samples` hold nothing of this metric, or no sample is left.
        """
        recorded = self.recorded(samples)
        taken = recorded if index is None else recorded[index]
        if not len(taken):
            raise EvaluationError(f"{self.name} needs at least one sample, was given none")
        value = float(self.of_sums(taken.sum(axis=0), np.array(len(taken), dtype=np.float64)))
        return value if self.correction is None else self.correction.corrected(value)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Metric {self.name}>"


def mean_of_sums(sums: Array, count: Array) -> Array:
    """The mean, as `Metric.of_sums`."""
    result: Array = sums[..., 0] / count
    return result


def ratio_of_sums(sums: Array, count: Array) -> Array:
    """The first column's sum over the second's, as `Metric.of_sums`: the mean over the samples that count.

    0 where none does.
    """
    result: Array = np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=np.not_equal(sums[..., 1], 0)
    )
    return result


def root_mean(sums: Array, count: Array) -> Array:
    """The root of the mean, as `Metric.of_sums`."""
    result: Array = np.sqrt(sums[..., 0] / count)
    return result


def macro_f1(sums: Array, count: Array) -> Array:
    """The mean of F1 over all labels, as `Metric.of_sums`."""
    both, gold, predicted = np.split(sums, 3, axis=-1)  # each (..., labels)
    seen = gold + predicted
    f1 = np.divide(2 * both, seen, out=np.zeros_like(seen), where=seen > 0)
    result: Array = f1.mean(axis=-1)
    return result


def _classes(answers: Sequence[Answer], labels: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of golds and predictions in `labels`, -1 for what is not there.  # (samples,), (samples,)"""
    if not labels:
        raise EvaluationError("the task has no label list to compare with: give `labels`")
    numbers: dict[str, int] = {}
    for number, label in enumerate(labels):
        numbers.setdefault(label, number)
    golds = np.array([numbers.get(answer.gold, -1) for answer in answers], dtype=np.intp)
    predictions = np.array([numbers.get(answer.prediction, -1) for answer in answers], dtype=np.intp)
    return golds, predictions


def _is_correct(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    golds, predictions = _classes(answers, labels)
    return np.equal(golds, predictions).astype(np.float64)[:, None]


def _class_counts(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    """Per sample and label: both, gold, predicted, as 0 or 1.  # (samples, 3 * labels)"""
    golds, predictions = _classes(answers, labels)
    classes = np.arange(len(labels))
    is_gold = golds[:, None] == classes
    is_predicted = predictions[:, None] == classes
    return np.concatenate([is_gold & is_predicted, is_gold, is_predicted], axis=1).astype(np.float64)


def _absolute_error(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    errors = [abs(predicted - gold) for gold, predicted in map(_ratings, answers)]
    return np.array(errors, dtype=np.float64)[:, None]


def _squared_error(answers: Sequence[Answer], labels: Sequence[str]) -> Array:
    return np.square(_absolute_error(answers, labels))


def _ratings(answer: Answer) -> tuple[float, float]:
    gold = _rating(answer.gold)
    if gold is None:
        raise EvaluationError(f"a gold rating must be a number, was: {answer.gold!r:.80} (id {answer.id!r})")
    predicted = _rating(answer.prediction)
    if predicted is None:
        # The official code goes to 5 on a tie, which is a gold of 3.
        is_far_from_lowest = abs(LOWEST_SCORE - gold) > abs(HIGHEST_SCORE - gold)
        predicted = LOWEST_SCORE if is_far_from_lowest else HIGHEST_SCORE
    return gold, predicted


def _rating(text: str) -> float | None:
    try:
        rating = float(text)
    except ValueError:
        return None
    return rating if math.isfinite(rating) and abs(rating) <= LARGEST_RATING else None


def rouge(kind: str, gold: str, prediction: str, *, words: str = OFFICIAL) -> float:
    """The F-measure of ``rouge1`` or ``rougeL`` of `rouge_score`, nothing stemmed.

    Args:
        kind: which of them.
        gold: what should be said.
        prediction: what is said.
        words: one of `ROUGE_WORDS`.
    """
    return float(_scorer(kind, words).score(gold, prediction)[kind].fmeasure)


def without_rouge_words(golds: Iterable[str]) -> int:
    """How many of `golds` have text and no word for the official ROUGE, so that every answer to them scores 0."""
    return sum(bool(gold.strip()) and _LATIN_WORD.search(gold.lower()) is None for gold in golds)


@cache
def _scorer(kind: str, words: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # brings in nltk, which takes a second

    return RougeScorer([kind], tokenizer=None if words == OFFICIAL else _AllScripts())


class _AllScripts:
    """The words of texts in any script, as a tokenizer of `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        from persona.retrievers.words.tokens import words

        return words(text)


def _rouge(kind: str, answers: Sequence[Answer], labels: Sequence[str], words: str = OFFICIAL) -> Array:
    values = [rouge(kind, answer.gold, answer.prediction, words=words) for answer in answers]
    return np.array(values, dtype=np.float64)[:, None]


ACCURACY = Metric("accuracy", True, _is_correct, mean_of_sums)
F1 = Metric("f1", True, _class_counts, macro_f1)
MAE = Metric("MAE", False, _absolute_error, mean_of_sums)
RMSE = Metric("RMSE", False, _squared_error, root_mean)
ROUGE_1 = Metric("rouge-1", True, partial(_rouge, "rouge1"), mean_of_sums)
ROUGE_L = Metric("rouge-L", True, partial(_rouge, "rougeL"), mean_of_sums)


def rouge_metrics(words: str) -> Mapping[str, Metric]:
    """The ROUGE measures by their official keys, over the words of one of `ROUGE_WORDS`.

    Raises:
        InvalidOptionError: if there are no such words.
    """
    if words not in ROUGE_WORDS:
        raise InvalidOptionError(f"the words of ROUGE must be {' or '.join(ROUGE_WORDS)}, was: {words!r}")
    kinds = {"rouge-1": "rouge1", "rouge-L": "rougeL"}
    return {name: Metric(name, True, partial(_rouge, kind, words=words), mean_of_sums) for name, kind in kinds.items()}


METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (ACCURACY, F1, MAE, RMSE, ROUGE_1, ROUGE_L)}
"""Every measure by its official key."""


@dataclass(frozen=True, slots=True, eq=False)
class LampScores:
    """Predictions for a LaMP task, scored.

    Attributes:
        task: name of the task.
        ids: the samples, in the order of the golds.
        values: the official keys and values.
        samples: for each key, what `Metric.measure` recorded of each sample, in the order of `ids`; read-only. One
            column, the sample's own value, except for ``f1``.  # (samples, columns)
    """

    task: str
    ids: tuple[str, ...]
    values: Mapping[str, float]
    samples: Samples

    @property
    def questions(self) -> int:
        """How many samples were scored."""
        return len(self.ids)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The measures, in the task's order; the first one selects models."""
        return tuple(METRICS[name] for name in self.values)


def score_lamp(
    task: LampTask | str,
    golds: Mapping[str, str],
    predictions: Mapping[str, str],
    *,
    labels: Sequence[str] | None = None,
    bootstrap: bool = False,
    rouge_words: str = OFFICIAL,
    seed: int = 0,
) -> LampScores:
    """Score `predictions` against `golds` as the official evaluator does.

    Args:
        task: which measures, and which label list.
        golds: sample id -> gold output, at least one.
        predictions: sample id -> predicted output, for exactly the ids of `golds`.
        labels: label list in place of the task's own.
        bootstrap: give ROUGE as the official median of `BOOTSTRAP_MEANS` bootstrap means. The default is the mean of
            the samples, which that median estimates with noise (up to about 6e-4 on 300 samples).
        rouge_words: one of `ROUGE_WORDS`.
        seed: of that bootstrap, in [0, 2**32). The values are those of `rouge_score.scoring.BootstrapAggregator` after
            ``numpy.random.seed(seed)``, anew for each measure.

    Raises:
        UnknownTaskError: if there is no such task.
        InvalidOptionError: if `seed` is outside its range.
        EvaluationError: if the ids differ (missing and surplus ones are listed), there is no gold, an output is not a
            string, a gold rating is not a number, or there is no label list.
    """
    if isinstance(task, str):
        task = lamp_task(task)
    if not 0 <= seed < 2**32:
        raise InvalidOptionError(f"`seed` must be in [0, 2**32), was: {seed}")
    _check_ids(golds, predictions)
    answers = [
        Answer(sample, _output(gold, "gold", sample), _output(predictions[sample], "prediction", sample))
        for sample, gold in golds.items()
    ]
    own_labels = task.labels if labels is None else labels
    own_words = rouge_metrics(rouge_words)
    chosen = {**METRICS, **own_words}
    values: dict[str, float] = {}
    samples: dict[str, Array] = {}
    for name in task.metrics:
        measure = chosen[name]
        recorded = measure.measure(answers, own_labels or ())
        recorded.setflags(write=False)
        samples[name] = recorded
        if bootstrap and name in own_words:
            values[name] = _median_of_means(recorded[:, 0], seed)
        else:
            values[name] = measure.value(samples)
    return LampScores(task.name, tuple(golds), values, samples)


def _check_ids(golds: Mapping[str, str], predictions: Mapping[str, str]) -> None:
    if not golds:
        raise EvaluationError("there must be at least one gold to score against, was given none")
    missing = [sample for sample in golds if sample not in predictions]
    surplus = [sample for sample in predictions if sample not in golds]
    differences = [
        f"{len(ids)} {word}: {', '.join(map(repr, ids[:_LISTED_IDS]))}{', ...' if len(ids) > _LISTED_IDS else ''}"
        for word, ids in (("missing", missing), ("surplus", surplus))
        if ids
    ]
    if differences:
        raise EvaluationError(
            f"predictions must have exactly the ids of the golds ({len(golds)}), but {'; '.join(differences)}"
        )


def _output(value: object, side: str, sample: str) -> str:
    if not isinstance(value, str):
        raise EvaluationError(
            f"a {side} must be a string, was: {value!r:.80} ({type(value).__name__}, id {sample!r}); quote it"
        )
    return value.strip()


def _median_of_means(values: Array, seed: int) -> float:
    # The legacy generator on purpose: rouge_score draws from it, and this is to be the same number for the same seed.
    generator = np.random.RandomState(seed)
    means = [values[generator.randint(0, len(values), size=len(values))].mean() for _ in range(BOOTSTRAP_MEANS)]
    return float(np.median(means))

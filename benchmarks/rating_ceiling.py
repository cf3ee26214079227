"""How much knowing the user can help on ratings of real reviews: ridge regression instead of the LLM.

    python benchmarks/rating_ceiling.py $PERSONA_SHARED/data/lampstyle/LaMP_3_film [--json]

Ridge regression from the record encoder's vector of a review to its score, fitted to the questions and records of
`train` users and measured on `dev` questions: with the text alone, and with one number about the user, shrunk towards 0
by three pseudo-records:

- ``mean``: how far the user's scores lie above the mean score;
- ``kindness``: how far they lie above the prediction from the text alone, averaged over the user's records.

Each number is also taken from another user's records. The ridge's strength is chosen on a fifth of the train users.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Ridge

from persona.encoders.load import load_encoder
from persona.eval.bootstrap import Bootstrap
from persona.eval.metrics import MAE, RMSE, score_lamp
from persona.lamp.tasks import LampSplit
from persona.readers import read_split
from persona.records import Profile

Vectors = NDArray[np.float64]
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
PSEUDO_RECORDS = 3
NUMBERS = ("mean", "kindness")


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """A review, its author and score, and the records of the author that may be used."""

    user_id: str
    text: str
    score: float
    profile: Profile


def reviews_of(split: LampSplit, records: bool) -> list[Review]:
    """The questions of a split; with `records` also each record of its users, with the user's other records."""
    if split.golds is None:
        raise SystemExit("the scores are missing: name a folder with train_outputs.json and dev_outputs.json")
    reviews = [
        Review(question.user_id, split.task.query(question.input), float(split.golds[question.id]), question.profile)
        for question in split.questions
    ]
    for profile in {question.user_id: question.profile for question in split.questions}.values() if records else ():
        for row, record in enumerate(profile):
            if record.target is None:
                continue
            rest = Profile(profile.user_id, profile.records[:row] + profile.records[row + 1 :])
            reviews.append(Review(profile.user_id, record.text, float(record.target), rest))
    return reviews


class Features:
    """What is regressed on: the vector of a review, and one number about a user.

    Attributes:
        mean_score: mean of the training scores.
        expected: the score that the text alone predicts, by text.
    """

    def __init__(self, encoder: str, reviews: Sequence[Review]) -> None:
        texts = dict.fromkeys(review.text for review in reviews)
        texts |= dict.fromkeys(record.text for review in reviews for record in review.profile)
        vectors = load_encoder(encoder).encode(list(texts)).astype(np.float64)
        self._vectors = dict(zip(texts, vectors, strict=True))
        self.mean_score = 0.0
        self.expected: dict[str, float] = {}

    def of_text(self, reviews: Sequence[Review]) -> Vectors:
        return np.stack([self._vectors[review.text] for review in reviews])

    def expect(self, model: Ridge, mean_score: float) -> None:
        self.mean_score = mean_score
        predicted = model.predict(np.stack(list(self._vectors.values())))
        self.expected = dict(zip(self._vectors, map(float, predicted), strict=True))

    def with_user(self, reviews: Sequence[Review], profiles: Sequence[Profile], number: str) -> Vectors:
        """The text's vectors and, in the last column, `number` (one of `NUMBERS`) of `profiles`."""
        column = [[self._number(profile, number)] for profile in profiles]
        return np.concatenate([self.of_text(reviews), np.array(column)], axis=1)

    def _number(self, profile: Profile, number: str) -> float:
        surplus = [
            float(record.target) - (self.mean_score if number == "mean" else self.expected[record.text])
            for record in profile
            if record.target is not None
        ]
        return sum(surplus) / (len(surplus) + PSEUDO_RECORDS)


def chosen_strength(vectors: Vectors, scores: Vectors, users: Sequence[str], generator: np.random.Generator) -> float:
    """The strength with the least squared error on a fifth of the users, held out."""
    names = sorted(set(users))
    held_out = set(generator.permutation(names)[: len(names) // 5].tolist())
    validation = np.array([user in held_out for user in users])

    def error(strength: float) -> float:
        model = Ridge(alpha=strength).fit(vectors[~validation], scores[~validation])
        return float(np.square(model.predict(vectors[validation]) - scores[validation]).mean())

    return min(STRENGTHS, key=error)


def predictions(train: Sequence[Review], test: Sequence[Review], encoder: str, seed: int) -> dict[str, Vectors]:
    """The predicted scores of `test`, by what they are predicted from; under ``ridge`` the chosen strength."""
    features = Features(encoder, (*train, *test))
    vectors = features.of_text(train)
    scores = np.array([review.score for review in train])
    generator = np.random.default_rng(seed)
    strength = chosen_strength(vectors, scores, [review.user_id for review in train], generator)
    text_alone = Ridge(alpha=strength).fit(vectors, scores)
    features.expect(text_alone, float(scores.mean()))
    others = [
        test[generator.choice([row for row, other in enumerate(test) if other.user_id != review.user_id])].profile
        for review in test
    ]
    predicted = {"ridge": np.array(strength), "text": text_alone.predict(features.of_text(test))}
    for number in NUMBERS:
        own = features.with_user(train, [review.profile for review in train], number)
        model = Ridge(alpha=strength).fit(own, scores)
        for name, profiles in ((number, [review.profile for review in test]), (f"{number}, other user", others)):
            predicted[f"text + {name}"] = model.predict(features.with_user(test, profiles, number))
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    parser.add_argument("data", type=Path, nargs="?", default=shared / "data/lampstyle/LaMP_3_film")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    splits = [read_split(options.data, name, task="LaMP_3") for name in ("train", "dev")]
    train, test = reviews_of(splits[0], records=True), reviews_of(splits[1], records=False)
    predicted = predictions(train, test, options.encoder, options.seed)
    strength = float(predicted.pop("ridge"))
    golds = {str(row): f"{review.score:g}" for row, review in enumerate(test)}
    users = [review.user_id for review in test]
    scores = {
        name: score_lamp("LaMP_3", golds, {str(row): f"{value:.4f}" for row, value in enumerate(values)})
        for name, values in predicted.items()
    }
    table = Table("from", "MAE", "difference", "RMSE", "difference", title=f"{options.data.name}, ridge {strength:g}")
    result: dict[str, object] = {"ridge": strength, "fitted": len(train), "questions": len(test)}
    for name, score in scores.items():
        cells, row = [], {}
        for metric in (MAE, RMSE):
            gap = Bootstrap(users).paired(metric, score.samples, scores["text"].samples)
            row[metric.name] = {"value": score.values[metric.name], "difference": [gap.difference, gap.low, gap.high]}
            shown = "" if name == "text" else f"{gap.difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            cells += [f"{score.values[metric.name]:.3f}", shown]
        result[name] = row
        table.add_row(name, *cells)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        Console().print(table)


if __name__ == "__main__":
    main()

"""What there is to win from knowing the user, on ratings of real reviews: least squares in the LLM's place.

    python benchmarks/rating_ceiling.py $PERSONA_SHARED/data/lampstyle/LaMP_3_film [--json]

Ridge regression from the record encoder's vector of a review to its score, fitted to the questions and records of
`train` users, measured on `dev` questions: of the text alone, and with one number on the user, drawn to 0 by three
records that say nothing:

- ``mean``: how far the user's scores lie above the usual one;
- ``kindness``: how far they lie above what the text alone lets expect, the mean over the user's records.

Each is also taken from another user's records. The strength of the ridge is chosen on a fifth of the train users.
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

from persona.encoders.load import load_encoder
from persona.eval.bootstrap import paired_bootstrap
from persona.eval.metrics import MAE, RMSE, evaluate
from persona.lamp.tasks import LampSplit
from persona.readers import read_split
from persona.records import Profile

Vectors = NDArray[np.float64]
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
DRAWN_TO_ZERO = 3


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A review, who wrote it, its score, and the records that may be looked at."""

    user_id: str
    text: str
    score: float
    profile: Profile


def asked_of(split: LampSplit, records: bool) -> list[Asked]:
    """The questions of a split and, if wanted, one from each record of its users, with the others to look at."""
    if split.golds is None:
        raise SystemExit("the scores are missing: name a folder with train_outputs.json and dev_outputs.json")
    made = [
        Asked(one.user_id, split.task.query(one.input), float(split.golds[one.id]), one.profile)
        for one in split.questions
    ]
    for profile in {one.user_id: one.profile for one in split.questions}.values() if records else ():
        for row, record in enumerate(profile):
            if record.target is None:
                continue
            rest = Profile(profile.user_id, profile.records[:row] + profile.records[row + 1 :])
            made.append(Asked(profile.user_id, record.text, float(record.target), rest))
    return made


def ridge(seen: Vectors, scores: Vectors, strength: float) -> Vectors:
    """Weights, the last one the constant's, which is not drawn to 0."""
    with_one = np.c_[seen, np.ones(len(seen))]
    penalty = strength * np.eye(with_one.shape[1])
    penalty[-1, -1] = 0
    return np.asarray(np.linalg.solve(with_one.T @ with_one + penalty, with_one.T @ scores))


def predicted(seen: Vectors, weights: Vectors) -> Vectors:
    return np.asarray(np.c_[seen, np.ones(len(seen))] @ weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    parser.add_argument("data", type=Path, nargs="?", default=shared / "data/lampstyle/LaMP_3_film")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    train, dev = (read_split(options.data, name, task="LaMP_3") for name in ("train", "dev"))
    fitted, tested = asked_of(train, records=True), asked_of(dev, records=False)
    texts = dict.fromkeys(one.text for one in (*fitted, *tested))
    texts |= dict.fromkeys(record.text for one in (*fitted, *tested) for record in one.profile)
    vectors = dict(zip(texts, load_encoder(options.encoder).encode(list(texts)).astype(np.float64), strict=True))

    def seen(some: Sequence[Asked]) -> Vectors:
        return np.stack([vectors[one.text] for one in some])

    scores = np.array([one.score for one in fitted])
    draw = np.random.default_rng(options.seed)
    users = sorted({one.user_id for one in fitted})
    aside = set(draw.permutation(users)[: len(users) // 5].tolist())
    kept = np.array([one.user_id in aside for one in fitted])
    features = seen(fitted)

    def error(strength: float) -> float:
        weights = ridge(features[~kept], scores[~kept], strength)
        return float(np.square(predicted(features[kept], weights) - scores[kept]).mean())

    strength = min(RIDGES, key=error)
    text_alone = ridge(features, scores, strength)
    usual = float(scores.mean())
    expected = {text: float(predicted(vector[None], text_alone)[0]) for text, vector in vectors.items()}

    def on_user(profile: Profile, what: str) -> float:
        beyond = [
            float(record.target) - (usual if what == "mean" else expected[record.text])
            for record in profile
            if record.target is not None
        ]
        return sum(beyond) / (len(beyond) + DRAWN_TO_ZERO)

    others = [
        tested[draw.choice([place for place, one in enumerate(tested) if one.user_id != asked.user_id])].profile
        for asked in tested
    ]
    answers = {"text": predicted(seen(tested), text_alone)}
    for what in ("mean", "kindness"):
        own = np.array([[on_user(one.profile, what)] for one in fitted])
        weights = ridge(np.c_[features, own], scores, strength)
        for name, profiles in ((what, [one.profile for one in tested]), (f"{what}, other user", others)):
            told = np.array([[on_user(profile, what)] for profile in profiles])
            answers[f"text + {name}"] = predicted(np.c_[seen(tested), told], weights)

    golds = {str(place): f"{one.score:g}" for place, one in enumerate(tested)}
    owners = [one.user_id for one in tested]
    found = {
        name: evaluate("LaMP_3", golds, {str(place): f"{value:.4f}" for place, value in enumerate(values)})
        for name, values in answers.items()
    }
    table = Table("seen", "MAE", "difference", "RMSE", "difference", title=f"{options.data.name}, ridge {strength:g}")
    result: dict[str, object] = {"ridge": strength, "fitted": len(fitted), "questions": len(tested)}
    for name, one in found.items():
        cells, row = [], {}
        for metric in (MAE, RMSE):
            gap = paired_bootstrap(metric, one.samples, found["text"].samples, owners)
            row[metric.name] = {"value": one.values[metric.name], "difference": [gap.difference, gap.low, gap.high]}
            cells += [
                f"{one.values[metric.name]:.3f}",
                "" if name == "text" else f"{gap.difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
            ]
        result[name] = row
        table.add_row(name, *cells)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        Console().print(table)


if __name__ == "__main__":
    main()

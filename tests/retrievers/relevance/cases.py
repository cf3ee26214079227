"""Users of a small task, an encoder whose vectors are angles, and a filter whose weights are written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from persona.encoders.hashing import HashingEncoder
from persona.encoders.style import STYLE_DIM, STYLE_NAMES
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.records import Profile, Record
from persona.retrievers.relevance.filters import TrainedFilter, read_queries
from persona.retrievers.vectors.record_vectors import EmbeddedProfile

ENCODER = HashingEncoder(dim=256)
FILM = re.findall(r"\w+", "snow thriller comedy family quiet loud war love train city actor camera plot ending music")


def review(draw: np.random.Generator) -> str:
    return "the film has " + " and ".join(draw.choice(FILM, 5, replace=False).tolist())


def split_of(users: int, seed: int = 0) -> LampSplit:
    draw = np.random.default_rng(seed)
    task = lamp_task("LaMP_3")
    questions = []
    for user in range(users):
        records = tuple(Record(review(draw), target="3", id=str(number)) for number in range(8))
        user_id = f"u{seed}-{user}"
        text = task.make_input(review(draw))
        questions.append(Question(user_id, user_id, text, Profile(user_id, records)))
    return LampSplit(task, tuple(questions), None, None)


class Plane:
    """Vectors by hand: angles in degrees."""

    dim = 2
    fingerprint = "plane"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32).reshape(-1, 2)


SHAPES = {"hidden.weight": (3, 2 + STYLE_DIM), "hidden.bias": (3,), "out.weight": (2, 3), "out.bias": (2,)}


def hand_made(threshold: float = 0.5) -> TrainedFilter:
    """tanh of the query's second number, and of its points, decides: a = softplus(2 + t), b = -1 + 3 t."""
    style = np.zeros(STYLE_DIM)
    style[STYLE_NAMES.index("marks .")] = 1
    weights = {
        "hidden.weight": np.array([[0, 1, *style]], np.float32),
        "hidden.bias": np.zeros(1, np.float32),
        "out.weight": np.array([[1], [3]], np.float32),
        "out.bias": np.array([2, -1], np.float32),
    }
    return TrainedFilter(weights, threshold, "plane|view=text", notes={"report": {"recall": 0.97}})


def embedded(query: str, *records: str) -> EmbeddedProfile:
    return EmbeddedProfile(Plane().encode(records).astype(np.float16), Plane().encode([query])[0], query)


def read_query(query: str) -> NDArray[np.float32]:
    (seen,) = read_queries(Plane().encode([query]), [query])
    return np.asarray(seen)

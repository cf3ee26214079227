"""How often a relevance filter keeps a user's records, for the user's own questions and for those of another domain.

    python benchmarks/relevance.py $PERSONA_SHARED/data/lampstyle --questions 120 [--general]

A filter is trained for each set on its `train` users, with the general questions that come with persona and, where
--general says so, with the other sets' `train` questions, each set a kind of its own. It is measured on `dev` users:
the share of questions that keep their records. Whatever is printed of other domains is of sets that the filter has not
seen, unless --general is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persona.encoders.load import load_encoder
from persona.lamp.tasks import LampSplit
from persona.readers import read_split
from persona.records import Profile
from persona.retrievers import DenseRetriever, RelevanceFilter, RelevanceRetriever
from persona.retrievers.relevance.filters import load_filter
from persona.retrievers.relevance.general import GENERAL
from persona.retrievers.relevance.training import RelevanceTraining, train_relevance

FACTS = tuple(
    f"{ask} {what}?"
    for ask, what in (
        ("Who composed", "The Magic Flute"),
        ("How tall is", "the Eiffel Tower"),
        ("What is the currency of", "Norway"),
        ("How do I convert", "a string to an integer in Java"),
        ("When does daylight saving time end in", "Europe"),
        ("What is the atomic number of", "carbon"),
        ("How many bones are in", "the human body"),
        ("How do I clean", "a cast iron pan"),
        ("What is the difference between", "a lake and a pond"),
        ("How long does it take to fly from London to", "New York"),
        ("What is the integral of", "one over x"),
        ("How do I change", "the password of my router"),
        ("Which vitamin is in", "oranges"),
        ("How does", "a microwave oven heat food"),
        ("What is the opposite of", "transparent"),
        ("Who invented", "the telephone"),
        ("What is the largest desert", "in the world"),
        ("How do I write", "a loop in Bash"),
        ("What does a semicolon do in", "C"),
        ("How much is 15 percent of", "240"),
    )
)
"""Twenty questions of fact that are neither in the background nor in any training."""


class Remembering:
    """An encoder that encodes each text once; the sets' histories overlap."""

    def __init__(self, name: str) -> None:
        self._encoder = load_encoder(name)
        self.dim, self.fingerprint = self._encoder.dim, self._encoder.fingerprint
        self._known: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known.update(zip(missing, self._encoder.encode(missing), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.empty((0, self.dim), np.float32)


def sampled(split: LampSplit, at_most: int, seed: int) -> LampSplit:
    chosen = random.Random(seed).sample(list(split.questions), min(at_most, len(split.questions)))
    return dataclasses.replace(split, questions=tuple(chosen))


def kept(judge: RelevanceFilter, encoder: Remembering, profiles: Sequence[Profile], queries: Sequence[str]) -> float:
    """The share of questions that keep their records."""
    found = RelevanceRetriever(DenseRetriever(encoder), judge, encoder).retrieve_batch(profiles, queries, 1)
    return float(np.mean([bool(some) for some in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("PERSONA_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    parser.add_argument("data", type=Path, nargs="?", default=shared / "data/lampstyle")
    parser.add_argument("--sets", default="LaMP_2_news,LaMP_3_film,LaMP_4_gov")
    parser.add_argument("--questions", type=int, default=120, help="of each train split, at most")
    parser.add_argument("--dev", type=int, default=100, help="of each dev split, at most")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--general", action="store_true", help="train with the other sets' train questions too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = Remembering(options.encoder)
    names = options.sets.split(",")
    train = {name: sampled(read_split(options.data / name, "train"), options.questions, options.seed) for name in names}
    dev = {name: sampled(read_split(options.data / name, "dev"), options.dev, options.seed) for name in names}
    print("| trained on | filter | own questions that keep records | other domains' | questions of fact |")
    print("|---|---|---:|---:|---:|")
    for name in names:
        general = dict(GENERAL)
        for other in names if options.general else ():
            if other != name:
                general[other] = [train[other].task.query(question.input) for question in train[other].questions]
        training = RelevanceTraining(questions=options.questions, seed=options.seed)
        adapter, _ = train_relevance(train[name], encoder, training, general=general)
        profiles = [question.profile for question in dev[name].questions]
        queries = [dev[name].task.query(question.input) for question in dev[name].questions]
        others = [
            (profile, other.task.query(question.input))
            for other_name, other in dev.items()
            if other_name != name
            for profile, question in zip(profiles, other.questions, strict=False)
        ]
        facts = [(profile, FACTS[number % len(FACTS)]) for number, profile in enumerate(profiles)]
        judges: dict[str, RelevanceFilter] = {"trained": adapter, "untrained": load_filter("untrained", encoder)}
        for called, judge in judges.items():
            own = kept(judge, encoder, profiles, queries)
            away = kept(judge, encoder, [p for p, _ in others], [q for _, q in others])
            fact = kept(judge, encoder, [p for p, _ in facts], [q for _, q in facts])
            print(f"| {name} | {called} | {own:.1%} | {away:.1%} | {fact:.1%} |", flush=True)


if __name__ == "__main__":
    main()

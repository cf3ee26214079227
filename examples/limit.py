"""A stress test for retrieval: who likes what, with every pair of people the answer to some question.

    query   Who likes opals?
    record  Ada Blom likes opals, rain, ... and kimchi.             (50 things; right for some 43 queries)

Each of the `queries` asks for another thing, which exactly `relevant` people like, and no two queries have the same
people: the smallest number n of people with C(n, relevant) >= queries carries all the answers (46 for 1,000 queries and
2 people each), and further people, who like nothing that is asked for, make the corpus longer. The words match, a
child could answer; but an encoder with one vector for each text would have to place 46 points so that each pair of
them is the nearest to some query, and that is what it cannot do (LIMIT, Weller et al., arXiv 2508.21038).

The texts are of our own making, in the form of the published set; its small variant has 46 documents, 1,000 queries.
"""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from pathlib import Path

import numpy as np

from persona.errors import InvalidOptionError, check_least
from persona.eval.run import Progress
from persona.protocols import Retriever
from persona.records import Profile, Record

CUTS = (2, 10, 100)
"""Recall is measured at these depths."""
LIKES = 50
"""Things that one person likes."""
_AT_ONCE = 100


def _words(name: str) -> tuple[str, ...]:
    """The different entries of a comma list in the file beside this one, in order."""
    lists = tomllib.loads(Path(__file__).with_name("limit_words.toml").read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(" ".join(entry.split()) for entry in lists[name].split(",")))


FIRST_NAMES, LAST_NAMES, THINGS = map(_words, ("first_names", "last_names", "things"))


@dataclass(frozen=True, slots=True)
class LimitCorpus:
    """Documents, queries and which belong together.

    Attributes:
        documents: name -> text, e.g. ``"Ada Blom likes opals, ... and kimchi."``.
        queries: the questions, e.g. ``"Who likes opals?"``.
        relevant: for each query the names of the right documents.
    """

    documents: Mapping[str, str] = field(repr=False)
    queries: tuple[str, ...] = field(repr=False)
    relevant: tuple[frozenset[str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LimitRow:
    """How one retriever did.

    Attributes:
        method: its name.
        recall: depth -> mean share of the right documents within that depth, 0 to 1.
        exact: share of the queries with all right documents, and none but them, at the top.
        seconds: for all queries, the making of vectors and indexes included.
    """

    method: str
    recall: Mapping[int, float]
    exact: float
    seconds: float


def fewest_documents(queries: int, relevant: int = 2) -> int:
    """The smallest n with C(n, relevant) >= queries.

    >>> fewest_documents(1000)
    46
    """
    n = relevant
    while math.comb(n, relevant) < queries:
        n += 1
    return n


def make_limit(documents: int = 46, queries: int = 1000, relevant: int = 2, seed: int = 0) -> LimitCorpus:
    """A corpus in the form of LIMIT.

    Args:
        documents: how many people; at least `fewest_documents`.
        queries: how many questions.
        relevant: how many people are right for each; at least 1.
        seed: of names, things and who likes what.

    Raises:
        InvalidOptionError: if there are too few documents for so many queries, or fewer names or things than asked for.
    """
    carriers = _checked_carriers(documents, queries, relevant)
    draw = np.random.default_rng(seed)
    everybody = [f"{first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES)]
    names = [everybody[index] for index in draw.choice(len(everybody), documents, replace=False)]
    things = [THINGS[index] for index in draw.permutation(len(THINGS))]
    asked, others = things[:queries], things[queries:]
    groups = list(islice(combinations(range(carriers), relevant), queries))
    # A person may like more than 50 things: what is asked for is never cut.
    likes: list[list[str]] = [[] for _ in names]
    right: dict[str, set[str]] = {}
    for thing, group in zip(asked, (groups[index] for index in draw.permutation(queries)), strict=True):
        right[thing] = {names[person] for person in group}
        for person in group:
            likes[person].append(thing)
    texts = {}
    for name, own in zip(names, likes, strict=True):
        more = max(0, LIKES - len(own))
        own += [others[index] for index in draw.choice(len(others), more, replace=False)]
        shuffled = [own[index] for index in draw.permutation(len(own))]
        texts[name] = f"{name} likes {', '.join(shuffled[:-1])} and {shuffled[-1]}."
    return LimitCorpus(
        {names[index]: texts[names[index]] for index in draw.permutation(documents)},
        tuple(f"Who likes {thing}?" for thing in asked),
        tuple(frozenset(right[thing]) for thing in asked),
    )


def _checked_carriers(documents: int, queries: int, relevant: int) -> int:
    """How many people carry the answers, if there can be such a corpus."""
    check_least(1, documents=documents, queries=queries, relevant=relevant)
    if queries > len(THINGS) - LIKES:
        raise InvalidOptionError(f"`queries` must be at most {len(THINGS) - LIKES}, was: {queries}")
    carriers = fewest_documents(queries, relevant)
    if not carriers <= documents <= len(FIRST_NAMES) * len(LAST_NAMES):
        raise InvalidOptionError(
            f"{queries} queries with {relevant} relevant documents each need at least {carriers} documents, and there "
            f"are names for {len(FIRST_NAMES) * len(LAST_NAMES)}, was: {documents}"
        )
    return carriers


def run_limit(
    corpus: LimitCorpus, retrievers: Mapping[str, Retriever], *, progress: Progress = lambda stage, done, total: None
) -> tuple[LimitRow, ...]:
    """Search `corpus` with some retrievers, as if it were the history of one user.

    Args:
        corpus: what `make_limit` made.
        retrievers: by name.
        progress: called with a retriever's name, the queries done and all there are.
    """
    profile = Profile("limit", tuple(Record(text, id=name) for name, text in corpus.documents.items()))
    rows = []
    for name, retriever in retrievers.items():
        begun = time.perf_counter()
        ranked: list[list[str]] = []
        for start in range(0, len(corpus.queries), _AT_ONCE):
            queries = corpus.queries[start : start + _AT_ONCE]
            batch = retriever.retrieve_batch([profile] * len(queries), queries, min(len(profile), max(CUTS)))
            ranked += [[scored.record.id for scored in found] for found in batch]
            progress(name, len(ranked), len(corpus.queries))
        seconds = time.perf_counter() - begun
        recall = {cut: _mean([_recall(right, ids[:cut]) for right, ids in _pairs(corpus, ranked)]) for cut in CUTS}
        exact = _mean([_recall(right, ids[: len(right)]) == 1 for right, ids in _pairs(corpus, ranked)])
        rows.append(LimitRow(name, recall, exact, seconds))
    return tuple(rows)


def _pairs(corpus: LimitCorpus, ranked: Sequence[list[str]]) -> list[tuple[frozenset[str], list[str]]]:
    return list(zip(corpus.relevant, ranked, strict=True))


def _recall(right: frozenset[str], ids: Sequence[str]) -> float:
    return len(right.intersection(ids)) / len(right)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

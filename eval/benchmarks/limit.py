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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, islice, product
from typing import Any

import numpy as np

from persona.assembly import RetrieverOptions, make_retriever, needs_encoder
from persona.errors import InvalidOptionError
from persona.eval.limit_words import FIRST_NAMES, LAST_NAMES, THINGS
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, Record

CUTS = (2, 10, 100)
"""Recall is measured at these depths."""
LIKES = 50
"""Things that one person likes."""
METHODS = ("bm25-lamp", "bm25", "dense", "hybrid", "late_interaction")
_CHUNK = 100

Progress = Callable[[str, int, int], None]


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
    for name, value in (("documents", documents), ("queries", queries), ("relevant", relevant)):
        if value < 1:
            raise InvalidOptionError(f"`{name}` must be at least 1, was: {value}")
    if queries > len(THINGS) - LIKES:
        raise InvalidOptionError(f"`queries` must be at most {len(THINGS) - LIKES}, was: {queries}")
    carriers = fewest_documents(queries, relevant)
    if documents < carriers:
        raise InvalidOptionError(
            f"{queries} queries with {relevant} relevant documents each need at least {carriers} documents, "
            f"was: {documents}"
        )
    if documents > len(FIRST_NAMES) * len(LAST_NAMES):
        raise InvalidOptionError(
            f"there are {len(FIRST_NAMES) * len(LAST_NAMES)} names, for as many documents at most, was: {documents}"
        )
    draw = np.random.default_rng(seed)
    every = [f"{first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES)]
    names = [every[place] for place in draw.choice(len(every), documents, replace=False)]
    things = [THINGS[place] for place in draw.permutation(len(THINGS))]
    asked, others = things[:queries], things[queries:]
    groups = list(islice(combinations(range(carriers), relevant), queries))
    likes: list[list[str]] = [[] for _ in names]
    for thing, group in zip(asked, (groups[place] for place in draw.permutation(queries)), strict=True):
        for person in group:
            likes[person].append(thing)
    # What is asked for comes first and is never cut: a person may like more than 50 things.
    right: dict[str, set[str]] = {thing: set() for thing in asked}
    texts = {}
    for name, own in zip(names, likes, strict=True):
        for thing in own:
            right[thing].add(name)
        more = max(0, LIKES - len(own))
        own += [others[place] for place in draw.choice(len(others), more, replace=False)]
        shuffled = [own[place] for place in draw.permutation(len(own))]
        texts[name] = f"{name} likes {', '.join(shuffled[:-1])} and {shuffled[-1]}."
    order = draw.permutation(documents)
    return LimitCorpus(
        {names[place]: texts[names[place]] for place in order},
        tuple(f"Who likes {thing}?" for thing in asked),
        tuple(frozenset(right[thing]) for thing in asked),
    )


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


@dataclass(frozen=True, slots=True)
class LimitReport:
    """What a run found.

    Attributes:
        documents: how many.
        queries: how many.
        relevant: right documents of each query.
        seed: of the corpus.
        rows: one for each method.
    """

    documents: int
    queries: int
    relevant: int
    seed: int
    rows: tuple[LimitRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


def run_limit(
    corpus: LimitCorpus,
    methods: Sequence[str] = METHODS,
    *,
    encoder: RecordEncoder | None = None,
    model: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LimitReport:
    """Search `corpus` with some retrievers, as if it were the history of one user.

    Args:
        corpus: what `make_limit` made.
        methods: names of `persona.assembly.RETRIEVERS`.
        encoder: for those that compare vectors.
        model: the multi-vector model of ``late_interaction``.
        seed: of the corpus, for the report.
        progress: called with a method's name, the queries done and all there are.

    Raises:
        UnknownPartError: if there is no retriever of some name.
        InvalidOptionError: if one needs an encoder and none was given.
    """
    profile = Profile("limit", tuple(Record(text, id=name) for name, text in corpus.documents.items()))
    retrievers = {
        name: make_retriever(
            name,
            RetrieverOptions(model=model if name == "late_interaction" else None),
            encoder=encoder if needs_encoder(name) else None,
        )
        for name in methods
    }
    report = progress or (lambda stage, done, total: None)
    rows = tuple(_run(name, retriever, profile, corpus, report) for name, retriever in retrievers.items())
    sizes = {len(names) for names in corpus.relevant}
    return LimitReport(len(profile), len(corpus.queries), max(sizes), seed, rows)


def _run(name: str, retriever: Retriever, profile: Profile, corpus: LimitCorpus, report: Progress) -> LimitRow:
    begun = time.perf_counter()
    deepest = min(len(profile), max(CUTS))
    # Retrievers that do not fuse whole rankings prepare a profile once for each call, so the calls are few.
    step = len(corpus.queries) if len(profile) <= 1_000 else _CHUNK
    found: list[list[str]] = []
    for start in range(0, len(corpus.queries), step):
        queries = corpus.queries[start : start + step]
        batch = retriever.retrieve_batch([profile] * len(queries), queries, deepest)
        found += [[one.record.id for one in some] for some in batch]
        report(name, len(found), len(corpus.queries))
    seconds = time.perf_counter() - begun
    recall = {
        cut: float(
            np.mean(
                [len(right & set(some[:cut])) / len(right) for some, right in zip(found, corpus.relevant, strict=True)]
            )
        )
        for cut in CUTS
    }
    exact = float(
        np.mean([set(some[: len(right)]) == right for some, right in zip(found, corpus.relevant, strict=True)])
    )
    return LimitRow(name, recall, exact, seconds)

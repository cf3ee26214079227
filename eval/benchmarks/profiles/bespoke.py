"""BESPOKE: answers to people's searches, by their own rubrics (Kim et al., arXiv 2509.21106).

Tables of rows, each with ``user`` and, but for the histories, ``query-id``::

    queries/query_table                      query, gold_information_need
    gold_information/gold_information        gold_information_value: {"gold_information": ["claim", ...]} as JSON
    personalized_rubric/personalized_rubric  personalized_rubric_value: text
    evaluation_shot/evaluation_shot          evaluation_shot_value: {"response_list": [{"contents": ...,
                                             "need_alignment": {"score": 4, "feedback": ...}, ...}]} as JSON
    chat_history/..., search_history/...     history: a session as text

A judge scores an answer as the person would, 1 to 5 in four ways, and says of each claim whether it is there.

======================================================  ===========================================================
``rubric``; ``need``, ``depth``, ``tone``,              mean of the four; each of them. 0 for 1 of 5, 1 for 5 of 5
``explanation``
``recall``                                              share of the claims, over the questions that have some;
                                                        corrected for a judge whose rates are known
``undecided``                                           share of what was judged that has no verdict
``official rubric``                                     the published scale: the mean score by 5, so that the worst
                                                        answer has .2
``official recall``                                     the published one: 0 for a question without claims
======================================================  ===========================================================
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from persona.errors import InvalidOptionError
from persona.eval.benchmark import Question
from persona.eval.benchmarks.reading import Part, table_files, table_rows
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios, values_of
from persona.eval.judging.check import KnownItems
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import Metric, Samples
from persona.eval.report import OFFICIAL
from persona.records import Profile, Record

HISTORIES = ("chat", "search")
WAYS: Mapping[str, str] = MappingProxyType(
    {"need": "need_alignment", "depth": "content_depth", "tone": "tone", "explanation": "explanation_style"}
)
"""The four ways in which an answer is scored, and what the tables call them."""

_SHOTS = 5
"""Answers scored by the person that a judge is shown at most."""


@dataclass(frozen=True, slots=True)
class BespokeOptions:
    """What of BESPOKE is read.

    Attributes:
        histories: comma list of chat and search.

    Raises:
        InvalidOptionError: if a name is not known.
    """

    histories: tuple[str, ...] = HISTORIES

    def __post_init__(self) -> None:
        if not self.histories or not set(self.histories) <= set(HISTORIES):
            raise InvalidOptionError(f"`histories` must be of {', '.join(HISTORIES)}, were: {self.histories!r}")


@dataclass(frozen=True, slots=True)
class Need:
    """What a person wants of the answer to one query.

    Attributes:
        need: in a sentence.
        rubric: how the person scores.
        claims: what the answer should say.
        shots: answers that the person has scored: their text, and of each of `WAYS` the score and what was said of it.
    """

    need: str
    rubric: str = ""
    claims: tuple[str, ...] = ()
    shots: tuple[tuple[str, Mapping[str, str]], ...] = field(default=(), repr=False)


class Bespoke(JudgedBenchmark):
    """BESPOKE's queries; see the module.

    Args:
        questions: their golds are the needs.
        needs: by the question's id.
    """

    Options = BespokeOptions
    source = "save yonsei-dli/BESPOKE of the Hugging Face hub"
    name = "bespoke"
    licence = "MIT"
    flaws: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}rubric": "gives the worst answer .2", f"{OFFICIAL}recall": "counts questions without claims as 0"}
    )

    def __init__(self, questions: Sequence[Question], needs: Mapping[str, Need]) -> None:
        self.questions, self._needs = tuple(questions), needs

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge, as the module defines them."""
        plain = [judged_metric(name) for name in ("rubric", *WAYS)]
        official = [judged_metric(f"{OFFICIAL}{name}") for name in ("rubric", "recall")]
        return (*plain, *allowing_for(judged_metric("recall"), rates), UNDECIDED, *official)

    @classmethod
    def read(cls, path: str | PathLike[str], **options: tuple[str, ...]) -> Bespoke:
        """The queries of a folder of tables, as Parquet, JSON or JSON lines.

        Args:
            path: the folder.
            **options: as `BespokeOptions`.

        Raises:
            DataFormatError: if a table is missing or of another form.
        """
        folder, wanted = Path(path), BespokeOptions(**options)
        profiles = _profiles(folder, wanted.histories)
        rubrics = {_key(row): row["personalized_rubric_value"].text for row in _table(folder, "personalized_rubric")}
        claims: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in _table(folder, "gold_information"):
            listed = row["gold_information_value"].json["gold_information"]
            claims[_key(row)] += [claim.short for claim in listed.parts]
        shots = {_key(row): _shots(row["evaluation_shot_value"].json) for row in _table(folder, "evaluation_shot")}
        questions: dict[str, Question] = {}
        needs: dict[str, Need] = {}
        for row in _table(folder, "queries", "query_table"):
            key = user, number = _key(row)
            id_, query, need = f"{user}/{number}", row["query"].filled, row["gold_information_need"].text
            if id_ in questions:
                row["query-id"].refuse(f"two queries of {user!r:.80} have the number {number!r:.80}")
            with row.located():
                profile = profiles.get(user) or Profile(user)
                questions[id_] = Question(id_, user, profile, query, query, gold=need)
            needs[id_] = Need(need, rubrics.get(key, ""), tuple(claims.get(key, ())), shots.get(key, ()))
        return cls(list(questions.values()), needs)

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer: each of `WAYS`, then each claim."""
        return [*self.scored_items(question, answer), *self.claim_items(question, answer)]

    def scored_items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer: each of `WAYS`."""
        need = self._needs[question.id]
        known = {"What the person needs": need.need, "How the person scores": need.rubric}
        items = []
        for way in WAYS:
            shots = {
                f"An answer that the person scored, {number}": f"{text}\n\nScore: {scores[way]}"
                for number, (text, scores) in enumerate(need.shots[:_SHOTS], 1)
                if way in scores
            }
            items.append(
                JudgedItem(f"{question.id}/{way}", f"rubric/{way}", question.query, "", answer, {**known, **shots})
            )
        return items

    def claim_items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer: whether each claim is there."""
        return [
            JudgedItem(f"{question.id}/claim {number}", "claim", question.query, "", answer, {"Claim": claim})
            for number, claim in enumerate(self._needs[question.id].claims)
        ]

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What each measure records; see the module."""
        scored = [some[: len(WAYS)] for some in values_of(verdicts)]
        claims = [[value or 0.0 for value in some[len(WAYS) :]] for some in values_of(verdicts)]
        rubric = [_mean(some) for some in scored]
        samples = {
            "rubric": ratios([(mean or 0, mean is not None) for mean in rubric]),
            "recall": ratios([(sum(some) / len(some), 1) if some else (0, 0) for some in claims]),
            # 1 to 5 by 5, of a value that is 0 for 1 and 1 for 5.
            f"{OFFICIAL}rubric": ratios([((1 + 4 * mean) / 5, 1) if mean is not None else (0, 0) for mean in rubric]),
            f"{OFFICIAL}recall": ratios([(sum(some) / len(some) if some else 0, 1) for some in claims]),
        }
        for number, way in enumerate(WAYS):
            own = [some[number] for some in scored]
            samples[way] = ratios([(value or 0, value is not None) for value in own])
        return samples

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """The person's need in a sentence as the answer: what knowing it alone is worth."""
        return {"the need itself": [self._needs[each.id].need for each in questions]}

    def known_items(self) -> KnownItems:
        """Claims as answers, and vague answers."""
        claims = [item for question in self.questions for item in self.claim_items(question, "")]
        return KnownItems.of_right([replace(item, answer=item.rubric["Claim"]) for item in claims])


def _mean(values: Sequence[float | None]) -> float | None:
    decided = [value for value in values if value is not None]
    return math.fsum(decided) / len(decided) if decided else None


def _table(folder: Path, name: str, file: str = "") -> Iterator[Part]:
    """The rows of a table, which lies in a folder of its name or beside the others."""
    inner = folder / name
    for each in table_files(inner if inner.is_dir() else folder, file or name):
        yield from table_rows(each)


def _key(row: Part) -> tuple[str, str]:
    return row["user"].short, row["query-id"].short


def _profiles(folder: Path, histories: Sequence[str]) -> dict[str, Profile]:
    """The histories by user: sessions as records, in the order of the tables."""
    records: dict[str, list[Record]] = defaultdict(list)
    for kind in histories:
        for row in _table(folder, f"{kind}_history"):
            if row["history"].text.strip():
                with row.located():
                    record = Record(row["history"].text, id=row["id"].short, metadata={"kind": kind})
                records[row["user"].filled].append(record)
    found = {}
    for user, some in records.items():
        with Part(user, str(folder), f"user {user!r:.80}").located():
            found[user] = Profile(user, tuple(some))
    return found


def _shots(shot: Part) -> tuple[tuple[str, Mapping[str, str]], ...]:
    found = []
    for response in shot["response_list"].parts:
        scores: dict[str, str] = {}
        for way, name in WAYS.items():
            if scored := response.get(name):
                said = scored.get("feedback")
                scores[way] = scored["score"].short + (f". {said.text}" if said and said.text.strip() else "")
        found.append((response["contents"].text, scores))
    return tuple(found)

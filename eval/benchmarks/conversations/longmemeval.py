"""LongMemEval: what an assistant remembers of many sessions (Wu et al., arXiv 2410.10813); S, M and oracle alike.

    [{"question_id": "q1_abs", "question_type": "multi-session", "question": ..., "answer": ...,
      "question_date": "2023/05/20 (Sat) 02:21", "haystack_dates": [...], "haystack_session_ids": ["s1", ...],
      "haystack_sessions": [[{"role": "user", "content": ..., "has_answer": true}, ...], ...],
      "answer_session_ids": ["s1"]}]

Each question has a history of its own: the turns of both sides, by date, of sessions that began before it was asked.
Evidence are the turns marked `has_answer`, of the assistant as well; where none is marked, those of the sessions that
are named. Questions whose id ends in ``_abs`` cannot be answered, have no evidence, and are right if they decline.

====================  ==================================================================================================
``correct``           share of the answers that a judge finds right, with what it is to heed by type; an answer that is
                      not there, or that the judge decides nothing on, is not right
``by type``           mean over the types of questions
``official correct``  the published one: any reply with "yes" in it passes, and questions without an answer are left out
``undecided``         share of the answers without a verdict
====================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from types import MappingProxyType

import numpy as np

from persona.eval.benchmark import Question
from persona.eval.benchmarks.reading import Part, turns_of
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios
from persona.eval.judging.check import KnownItems
from persona.eval.judging.judge import Verdict
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import Array, Metric, Samples
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import unlabelled
from persona.formats.text_files import read_elements
from persona.records import Profile, Record

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "single-session-user": "correct",
        "single-session-assistant": "correct",
        "single-session-preference": "correct/preference",
        "temporal-reasoning": "correct/time",
        "knowledge-update": "correct/update",
        "multi-session": "correct",
    }
)
"""Types of questions, and what a judge is to heed with each (`persona.eval.judging.prompts.KINDS`)."""
ABSTENTION = "abstention"
"""The kind of questions that cannot be answered, whatever their type."""

_PROMPT = "Today is {day}.\n{question}"
_DATE, _LIKE = "%Y/%m/%d (%a) %H:%M", "2023/05/20 (Sat) 02:21"


@dataclass(frozen=True, slots=True)
class LongMemEvalOptions:
    """What of LongMemEval is asked.

    Attributes:
        kinds: comma list of types of questions; empty for all.
        first: so many questions are read; 0 for all. A file of the size M fills some gigabytes of memory.
    """

    kinds: tuple[str, ...] = ()
    first: int = 0


class LongMemEval(JudgedBenchmark):
    """LongMemEval's questions; see the module."""

    Options = LongMemEvalOptions
    source = "get xiaowu0162/longmemeval-cleaned of the Hugging Face hub, longmemeval_s, _m or _oracle"
    name = "longmemeval"
    licence = "MIT"
    flaws: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}correct": "passes every reply with `yes` in it, and leaves out questions without an answer"}
    )

    def __init__(self, questions: Sequence[Question], types: Mapping[str, str]) -> None:
        self.questions, self._types = tuple(questions), types

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge, as the module defines them."""
        by_type = Metric("by type", True, unlabelled, _mean_of_ratios)
        official = judged_metric(f"{OFFICIAL}correct")
        return (*allowing_for(judged_metric("correct"), rates), official, by_type, UNDECIDED)

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> LongMemEval:
        """The questions of a file; options as `LongMemEvalOptions`.

        Raises:
            DataFormatError: if the file is of another form.
        """
        wanted = LongMemEvalOptions(**options)  # type: ignore[arg-type]
        questions: list[Question] = []
        types: dict[str, str] = {}
        texts: dict[str, str] = {}
        for row in _rows(path):
            if wanted.first and len(questions) >= wanted.first:
                break
            kind = row["question_type"].filled
            if kind not in KINDS:
                row["question_type"].refuse(f"a type must be one of {', '.join(KINDS)}, was: {kind!r:.80}")
            if not wanted.kinds or kind in wanted.kinds:
                questions.append(_question(row, kind, texts))
                if questions[-1].id in types:
                    row["question_id"].refuse(f"two questions have the id {questions[-1].id!r:.80}")
                types[questions[-1].id] = kind
        return cls(questions, types)

    def known_items(self) -> KnownItems:
        """Golds, and vague answers, for a check of the judge."""
        asked = [each for each in self.questions if each.kind != ABSTENTION]
        return KnownItems.of_golds([item for each in asked for item in self.items(each, "")])

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """The one thing that a judge is asked about an answer."""
        kind = "correct/abstention" if question.kind == ABSTENTION else KINDS[self._types[question.id]]
        return [JudgedItem(question.id, kind, question.query, question.gold or "", answer)]

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What each of `measures` records."""
        right = [float(only.value == 1.0) for (only,) in verdicts]
        names = list(KINDS)
        columns = [names.index(self._types[each.id]) for each in questions]
        by_type = np.zeros((len(questions), 2 * len(names)))
        by_type[np.arange(len(questions)), columns] = right
        by_type[np.arange(len(questions)), np.add(columns, len(names))] = 1.0
        passed = ratios([(value, 1.0) for value in right])
        return {
            "correct": passed,
            f"{OFFICIAL}correct": ratios([official_verdict(*pair) for pair in zip(answers, verdicts, strict=True)]),
            "by type": by_type,
        }


def official_verdict(answer: str, verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Whether an answer passes as published, and whether it counts."""
    return (float("yes" in verdicts[0].raw.lower()), 1.0) if answer.strip() else (0.0, 0.0)


def _mean_of_ratios(sums: Array, count: Array) -> Array:
    """The mean over types of each one's share; those without questions have none."""
    right, number = np.split(sums, 2, axis=-1)  # each (..., types)
    shares = np.divide(right, number, out=np.zeros_like(right), where=number > 0)
    found: Array = shares.sum(axis=-1) / np.maximum((number > 0).sum(axis=-1), 1)
    return found


def _rows(path: str | PathLike[str]) -> Iterator[Part]:
    """The questions of the file, one at a time: those of M do not fit into memory together."""
    for number, value in enumerate(read_elements(path, "data")):
        yield Part(value, fspath(path), f"question {number}")


def _question(row: Part, kind: str, texts: dict[str, str]) -> Question:
    name, asked, moment = row["question_id"].filled, row["question"].filled, row["question_date"].moment(_DATE, _LIKE)
    cannot = name.endswith("_abs")
    records, marked = _turns(row, moment, texts)
    named = {each.text for each in row["answer_session_ids"].parts}
    evidence = marked or [each.id for each in records if each.metadata["conversation"] in named]
    with row.located():
        profile = Profile(name, tuple(records))
    return Question(
        id=name,
        user_id=name,
        profile=profile,
        prompt=_PROMPT.format(day=moment[:10], question=asked),
        query=asked,
        gold=row["answer"].short,
        time=moment,
        kind=ABSTENTION if cannot else kind,
        evidence=() if cannot else tuple(evidence),
    )


def _turns(row: Part, before: str, texts: dict[str, str]) -> tuple[list[Record], list[str]]:
    """The turns before a question, oldest first, and the ids of those that are marked as evidence."""
    sessions, dates, ids = (row[f"haystack_{each}"].parts for each in ("sessions", "dates", "session_ids"))
    if not len(sessions) == len(dates) == len(ids):
        row.refuse(f"sessions, dates and ids must be as many, were: {len(sessions)}, {len(dates)}, {len(ids)}")
    dated = [(date.moment(_DATE, _LIKE), number) for number, date in enumerate(dates)]
    records: list[Record] = []
    marked: list[str] = []
    used: set[str] = set()
    for moment, number in sorted(dated):
        if moment > before:
            continue
        name = ids[number].filled
        while name in used:  # a session may stand in a history twice
            name += "'"
        used.add(name)
        turns = sessions[number].parts
        made = turns_of(turns, name, time=moment)
        records += [_shared(each, texts) for each in made]
        marked += [each.id for each in made if turns[int(each.id.rpartition(":")[2])].mapping.get("has_answer") is True]
    return records, marked


def _shared(record: Record, texts: dict[str, str]) -> Record:
    """A record with the text that an equal one has: sessions stand in the histories of many questions."""
    text = texts.setdefault(record.text, record.text)
    return Record(text, time=record.time, id=record.id, role=record.role, metadata=record.metadata)

"""LoCoMo: questions about long conversations of two people (Maharana et al., arXiv 2402.17753).

    [{"sample_id": "conv-1", "qa": [{"question": ..., "answer": ..., "evidence": ["D1:3"], "category": 2}],
      "conversation": {"session_1_date_time": "1:56 pm on 8 May, 2023",
                       "session_1": [{"speaker": "Ana", "dia_id": "D1:1", "text": "Hello."}], ...}}]

The history of a question is the whole conversation, both speakers' turns: each a record whose id is its `dia_id`.
Questions of category 5 ask for what was never said.

=================  ================================================================================================
``f1``             token F1 as published, over all five categories: of category 5, whether the answer declines, in any
                   usual words; where a gold is given ("No") that is right, too
``official f1``    the published scorer. It reads `answer` of every question and stops at those of category 5, which
                   nearly all have none; what is published leaves that category out, so that nobody measures declining
=================  ================================================================================================

Evidence is repaired: several ids in one string are taken apart, ``D:11:26`` and ``D30:05`` are read as they are meant,
and what names no turn is left out. Category 5 has none: what it names is the trap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType

import numpy as np

from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.baselines import nearest_records
from persona.eval.benchmarks.profiles.meteor import stem
from persona.eval.benchmarks.reading import Part, read_json
from persona.eval.metrics import Metric, Samples, mean_of_sums, ratio_of_sums
from persona.eval.report import OFFICIAL
from persona.eval.results.samples import unlabelled
from persona.records import Profile, Record

CATEGORIES: Mapping[int, str] = {1: "multi-hop", 2: "temporal", 3: "open", 4: "single-hop", 5: "adversarial"}
"""Kinds of questions by their number."""

NOT_MENTIONED = "not mentioned"
"""What the prompt asks for where the conversation does not say it, and the gold of category 5."""

_PROMPT = (
    "{question}\nAnswer from the conversation, in a few words; give dates as day, month and year. If the conversation "
    f"does not say it, answer: {NOT_MENTIONED}"
)
_DATE, _LIKE = "%I:%M %p on %d %B, %Y", "1:56 pm on 8 May, 2023"
_SESSION = re.compile(r"session_(\d+)")
_ID = re.compile(r"D:?(\d+):(\d+)")
_ARTICLES = re.compile(r"\b(a|an|the|and)\b")
_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_DECLINES = re.compile(
    r"\b(not|never|n't|nt) (explicitly |specifically |directly |ever |been )?"
    r"(mention|mentioned|said|say|specif\w+|stated?|known|discussed?|provided?|given|available|clear)\b"
    r"|\bno (information|mention|indication|evidence|record)\b|\b(cannot|can not|can't) be (determined|answered)\b"
    r"|\bunknown\b|\bunanswerable\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LocomoOptions:
    """What of LoCoMo is read.

    Attributes:
        categories: comma list of the categories that are asked, 1 to 5.
        corrections: a file of corrected answers and evidence in the form of dial481/locomo-audit; empty for none.
    """

    categories: tuple[int, ...] = (1, 2, 3, 4, 5)
    corrections: str = ""


class Locomo(Benchmark):
    """LoCoMo's questions. Answers are scored by `f1` and `official_f1`; see the module.

    Args:
        questions: their kinds are values of `CATEGORIES`.
        named: by the question's id its evidence as the file has it.
    """

    Options = LocomoOptions
    source = "get data/locomo10.json of github.com/snap-research/locomo"
    name = "locomo"
    licence = "CC-BY-NC-4.0"
    commercial = False
    defects: Mapping[str, str] = MappingProxyType(
        {f"{OFFICIAL}f1": "leaves out category 5, where its scorer stops: the questions have no answer"}
    )

    def __init__(self, questions: Sequence[Question], named: Mapping[str, Sequence[str]]) -> None:
        self.questions, self._named = tuple(questions), named
        self.metrics = (
            Metric("f1", True, unlabelled, mean_of_sums),
            Metric(f"{OFFICIAL}f1", True, unlabelled, ratio_of_sums),
        )

    @classmethod
    def read(cls, path: str | PathLike[str], **options: object) -> Locomo:
        """The questions of a file; options as `LocomoOptions`.

        Raises:
            DataFormatError: if the file is of another form.
        """
        wanted = LocomoOptions(**options)  # type: ignore[arg-type]
        corrected = _corrections(wanted.corrections)
        questions: list[Question] = []
        named: dict[str, list[str]] = {}
        for conversation in read_json(path).parts:
            for question, evidence in _questions(conversation, wanted.categories, corrected):
                questions.append(question)
                named[question.id] = evidence
        return cls(questions, named)

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> Samples:
        """Both measures of each answer; the official one with whether it counts."""
        pairs = list(zip(questions, answers, strict=True))
        fixed = [[f1(each.kind, each.gold or "", answer)] for each, answer in pairs]
        official = [
            [official_f1(each.kind, each.gold or "", answer), 1.0] if _official_counts(each) else [0.0, 0.0]
            for each, answer in pairs
        ]
        return {"f1": np.array(fixed), f"{OFFICIAL}f1": np.array(official)}

    def official_recall(self, question: Question, found: Sequence[str]) -> float:
        """The published recall of evidence: 1 where none is named, and ids are compared as they stand, so that those
        which are malformed, or several in one string, are never found. Category 5 counts, by its trap."""
        named = self._named[question.id]
        return sum(each in found for each in named) / len(named) if named else 1.0

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """Declining always, and the turn that shares the most words with the question."""
        nearest = [record.text if record else "" for record in nearest_records(questions)]
        return {"always declining": [NOT_MENTIONED] * len(questions), "nearest turn": nearest}


def f1(kind: str, gold: str, answer: str) -> float:
    """The corrected score of an answer, 0 to 1.

    Args:
        kind: one of the values of `CATEGORIES`.
        gold: the right answer.
        answer: the one that was given.
    """
    if kind != CATEGORIES[5]:
        return _score(kind, gold, answer)
    given = gold != NOT_MENTIONED and _token_f1(gold, re.split(r"[.,;:\n]", answer, maxsplit=1)[0]) == 1.0
    return float(given or declines(answer))


def official_f1(kind: str, gold: str, answer: str) -> float:
    """The published score: of category 5 whether the answer has one of two phrases in it."""
    if kind == CATEGORIES[5]:
        return float("no information available" in answer.lower() or NOT_MENTIONED in answer.lower())
    return _score(kind, gold, answer)


def declines(answer: str) -> bool:
    """Whether an answer says, in any usual words, that the conversation does not say it."""
    return _DECLINES.search(answer.replace("’", "'").replace("n't", " not")) is not None


def _official_counts(question: Question) -> bool:
    return question.kind != CATEGORIES[5] or question.gold != NOT_MENTIONED


def _score(kind: str, gold: str, answer: str) -> float:
    if kind == CATEGORIES[1]:
        parts = [part.strip() for part in answer.split(",")]
        golds = [part.strip() for part in gold.split(",")]
        return float(np.mean([max(_token_f1(each, part) for part in parts) for each in golds]))
    return _token_f1(gold.split(";")[0].strip() if kind == CATEGORIES[3] else gold, answer)


def _token_f1(gold: str, answer: str) -> float:
    """F1 of stemmed words, counted as often as they occur in both."""
    ours, theirs = _words(answer), _words(gold)
    rest = list(theirs)
    same = 0
    for word in ours:
        if word in rest:
            rest.remove(word)
            same += 1
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


def _words(text: str) -> list[str]:
    plain = text.replace(",", "").lower().translate(_PUNCTUATION)
    return [stem(word) for word in _ARTICLES.sub(" ", plain).split()]


def _questions(
    sample: Part, categories: Sequence[int], corrected: Mapping[tuple[str, str], tuple[str, Part]]
) -> Iterator[tuple[Question, list[str]]]:
    """The questions of a conversation, each with its evidence as it stands in the file."""
    sample_id = sample["sample_id"].filled
    records = _turns(sample["conversation"])
    known = {record.id for record in records}
    with sample.located():
        profile = Profile(sample_id, records)
    for index, qa in enumerate(sample["qa"].parts):
        category = qa["category"]
        if category.number not in CATEGORIES:
            category.refuse(f"a category must be 1 to 5, was: {category.number}")
        if category.number not in categories:
            continue
        kind, question = CATEGORIES[category.number], qa["question"].filled
        gold = NOT_MENTIONED if kind == CATEGORIES[5] and qa.get("answer") is None else qa["answer"].short
        gold, evidence = corrected.get((question, gold), (gold, qa["evidence"]))
        found = Question(
            id=f"{sample_id}:{index}",
            user_id=sample_id,
            profile=profile,
            prompt=_PROMPT.format(question=question),
            query=question,
            gold=gold,
            time=records[-1].time if records else None,
            kind=kind,
            evidence=() if kind == CATEGORIES[5] else _evidence(evidence, known),
        )
        yield found, [each.text for each in evidence.parts]


def _turns(conversation: Part) -> tuple[Record, ...]:
    """The turns of all sessions, in order, as records."""
    numbers = sorted(int(match[1]) for key in conversation.mapping if (match := _SESSION.fullmatch(key)))
    records: dict[str, Record] = {}
    for number in numbers:
        moment = conversation[f"session_{number}_date_time"].moment(_DATE, _LIKE)
        for turn in conversation[f"session_{number}"].parts:
            place, text = turn["dia_id"], turn["text"].text
            if place.filled in records:
                place.refuse(f"two turns have the id {place.text!r:.80}")
            if caption := turn.get("blip_caption"):
                text = f"{text} [shares a picture: {caption.text}]".lstrip()
            if text.strip():
                with turn.located():
                    session = {"conversation": f"session_{number}"}
                    speaker = turn["speaker"].filled
                    records[place.text] = Record(text, time=moment, id=place.text, speaker=speaker, metadata=session)
    return tuple(records.values())


def _evidence(listed: Part, known: set[str]) -> tuple[str, ...]:
    """The ids of turns in the evidence, repaired; those of no turn are left out."""
    found = (f"D{int(one)}:{int(two)}" for each in listed.parts for one, two in _ID.findall(each.text))
    return tuple(dict.fromkeys(each for each in found if each in known))


def _corrections(path: str) -> dict[tuple[str, str], tuple[str, Part]]:
    """Corrected answer and evidence by question and wrong answer."""
    if not path:
        return {}
    return {
        (each["question"].filled, each["golden_answer"].short): (each["correct_answer"].short, each["correct_evidence"])
        for each in read_json(path).parts
    }

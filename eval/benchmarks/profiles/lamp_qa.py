"""LaMP-QA: personal answers to questions that people asked in public (Salemi and Zamani, arXiv 2506.00137).

    {"id": "q1", "question": "How do I keep a balcony green?", "narrative": "I am away a lot, and ...",
     "category": "Lifestyle and Personal Development", "profile": [{"id": "p1", "text": "I water too much ..."}],
     "rubric_aspects": [{"aspect": "little care", "reason": "...", "evidence": "I am away a lot"}]}

A judge is asked of each aspect that matters to the person how far the answer treats it, 0 to 2.

===================  ==============================================================================================
``rubric``           mean over the aspects of a question that were decided, 0 to 1, then over the questions
``full``             share of all aspects that are treated fully; corrected for a judge whose rates are known
``undecided``        share of aspects without a verdict
``official rubric``  the published one: an aspect whose verdict cannot be read counts 0, as if it were not treated
===================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from persona.errors import check_one_of
from persona.eval.benchmark import Question
from persona.eval.benchmarks.baselines import nearest_records
from persona.eval.benchmarks.reading import Part, table_files, table_rows
from persona.eval.judging.benchmark import UNDECIDED, JudgedBenchmark, Verdicts, judged_metric, ratios, values_of
from persona.eval.judging.check import KnownItems
from persona.eval.judging.prompts import JudgedItem
from persona.eval.judging.rates import Rates, allowing_for
from persona.eval.metrics import Metric, Samples
from persona.eval.report import OFFICIAL
from persona.records import Profile, Record

CATEGORIES = ("Art_and_Entertainment", "Lifestyle_and_Personal_Development", "Society_and_Culture")
SPLITS = ("train", "validation", "test")

_FULL = 1.0


@dataclass(frozen=True, slots=True)
class LampQaOptions:
    """What of LaMP-QA is read.

    Attributes:
        category: Art_and_Entertainment, Lifestyle_and_Personal_Development or Society_and_Culture; empty for all.
        split: train, validation or test.

    Raises:
        InvalidOptionError: if a name is not known.
    """

    category: str = ""
    split: str = "test"

    def __post_init__(self) -> None:
        check_one_of(("", *CATEGORIES), category=self.category)
        check_one_of(SPLITS, split=self.split)


@dataclass(frozen=True, slots=True)
class Aspect:
    """What matters to a person in an answer, why, and where they say so."""

    name: str
    reason: str
    evidence: str


class LampQa(JudgedBenchmark):
    """LaMP-QA's questions; see the module.

    Args:
        questions: their golds are the names of their aspects.
        aspects: by the question's id; at least one each.
        narratives: what the person wrote besides, by the question's id.
    """

    Options = LampQaOptions
    source = "save alireza7/LaMP-QA of the Hugging Face hub, its folders CATEGORY"
    name = "lamp-qa"
    licence = "CC-BY-SA-4.0 (posts of Stack Exchange, by way of SE-PQA); see the data's own page"
    flaws: Mapping[str, str] = MappingProxyType({f"{OFFICIAL}rubric": "counts what the judge did not decide as 0"})

    def __init__(
        self, questions: Sequence[Question], aspects: Mapping[str, Sequence[Aspect]], narratives: Mapping[str, str]
    ) -> None:
        self.questions, self._aspects, self._narratives = tuple(questions), aspects, narratives

    def measures(self, rates: Rates | None) -> tuple[Metric, ...]:
        """The metrics by one judge, as the module defines them."""
        full = allowing_for(judged_metric("full"), rates)
        return (judged_metric("rubric"), *full, UNDECIDED, judged_metric(f"{OFFICIAL}rubric"))

    @classmethod
    def read(cls, path: str | PathLike[str], **options: str) -> LampQa:
        """The questions of a file, or of a folder with ``CATEGORY_SPLIT.json`` or ``CATEGORY/SPLIT...``, as JSON, JSON
        lines or Parquet.

        Args:
            path: the file or the folder.
            **options: as `LampQaOptions`.

        Raises:
            DataFormatError: if a file is of another form.
        """
        wanted = LampQaOptions(**options)
        questions: dict[str, Question] = {}
        aspects: dict[str, Sequence[Aspect]] = {}
        narratives: dict[str, str] = {}
        for file in _files(Path(path), wanted):
            for row in table_rows(file):
                question = _question(row)
                if question.id in questions:
                    row["id"].refuse(f"two questions have the id {question.id!r:.80}")
                questions[question.id] = question
                aspects[question.id] = _aspects(row)
                narratives[question.id] = next((part.text for part in _either(row, "narrative", "details")), "")
        return cls(list(questions.values()), aspects, narratives)

    def items(self, question: Question, answer: str) -> list[JudgedItem]:
        """What a judge is asked about an answer: each aspect."""
        return [
            JudgedItem(
                f"{question.id}/{number}",
                "aspect",
                question.query,
                "",
                answer,
                {
                    "What the person wrote besides": self._narratives[question.id],
                    "Aspect": aspect.name,
                    "Why it matters to this person": aspect.reason,
                    "Where the person says so": aspect.evidence,
                },
            )
            for number, aspect in enumerate(self._aspects[question.id])
        ]

    def judged(self, questions: Sequence[Question], answers: Sequence[str], verdicts: Verdicts) -> Samples:
        """What each measure records; see the module."""
        judged = values_of(verdicts)
        decided = [[value for value in some if value is not None] for some in judged]
        return {
            "rubric": ratios([(sum(some) / len(some), 1) if some else (0, 0) for some in decided]),
            "full": ratios([(some.count(_FULL), len(some)) for some in judged]),
            f"{OFFICIAL}rubric": ratios(
                [(sum(some) / len(all_), 1) for some, all_ in zip(decided, judged, strict=True)]
            ),
        }

    def baselines(self, questions: Sequence[Question]) -> Mapping[str, Sequence[str]]:
        """The person's earlier post that is most like the question, as the answer."""
        return {"nearest post": [record.text if record else "" for record in nearest_records(questions)]}

    def known_items(self) -> KnownItems:
        """Answers that treat an aspect in the rubric's own words, and vague ones."""
        told = [
            replace(item, answer=f"{aspect.name}: {aspect.reason} You say: {aspect.evidence}")
            for question in self.questions
            for item, aspect in zip(self.items(question, ""), self._aspects[question.id], strict=True)
        ]
        return KnownItems.of_right(told)


def _files(place: Path, wanted: LampQaOptions) -> list[Path]:
    if not place.is_dir():
        return [place]
    found: list[Path] = []
    for category in (wanted.category,) if wanted.category else CATEGORIES:
        if (place / category).is_dir():
            found += table_files(place / category, wanted.split)
        elif wanted.category or any(place.glob(f"{category}_{wanted.split}.*")):
            found += table_files(place, f"{category}_{wanted.split}")
    return found or table_files(place, wanted.split)


def _either(row: Part, *names: str) -> list[Part]:
    """The first of some fields that a row has, as a list of at most one."""
    return [part for name in names if (part := row.get(name)) is not None][:1]


def _question(row: Part) -> Question:
    """A row's question. Nothing says which questions are of one person, so each is somebody's own."""
    id_, text = row["id"].short, row["question"].filled
    records = []
    for number, post in enumerate(row["profile"].parts):
        if post["text"].text.strip():
            with post.located():
                records.append(Record(post["text"].text, id=post["id"].short if post.get("id") else str(number)))
    category = row.get("category")
    with row.located():
        return Question(
            id=id_,
            user_id=id_,
            profile=Profile(id_, tuple(records)),
            prompt=text,
            query=text,
            gold="; ".join(aspect.name for aspect in _aspects(row)),
            kind=category.text if category else "",
        )


def _aspects(row: Part) -> tuple[Aspect, ...]:
    listed = next(iter(_either(row, "rubric_aspects", "aspects")), None) or row["rubric_aspects"]
    found = tuple(
        Aspect(
            part["aspect"].filled, *(given.text if (given := part.get(name)) else "" for name in ("reason", "evidence"))
        )
        for part in listed.parts
    )
    if not found:
        listed.refuse("a question must have at least one aspect")
    return found

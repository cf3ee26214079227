"""Knowing when not to: what personalization does to questions that need none, and what restraint costs the others.

General questions (`persona.eval.benchmarks.general_questions`) are asked in the name of a benchmark's users, each with
that user's history, beside the benchmark's own questions. A method *abstains* where nothing personal goes into the
request; then the answer is that of the plain LLM. The report says of each method

- on the general questions: how often it abstained (*restraint*), how often the answer stayed that of the plain LLM to
  the letter (*unchanged*), and how much of it stayed (ROUGE-1 as a token F1, and ROUGE-L);
- on the personal ones: the benchmark's score, and how much of the first method's is *kept* - score over score, for
  errors the other way round; with the unfiltered retriever first, that is what its filter leaves;
- on both the *over-personalization* of the answers: the share of their terms that are the profile's and stand neither
  in the question nor in the reference. ``none``, which saw no profile, is its floor: some words are in every profile.

>>> profile = profile_terms(Profile("ana", (Record("A quiet film about lighthouses."),)))
>>> over_personalization("Oslo, with quiet lighthouses", profile, "What is the capital of Norway?", "Oslo")
0.6666666666666666
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.channels import Ask
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.answers import Answers
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, GeneralQuestion
from persona.eval.bootstrap import Interval, bootstrap_interval, mean_interval
from persona.eval.metrics import rouge
from persona.eval.options import NONE, EvaluationOptions
from persona.eval.report import interval_cell, table, write_results
from persona.eval.run import Progress
from persona.personalizer import Personalizer
from persona.records import Profile
from persona.records import Record as Record
from persona.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

_TERM = re.compile(r"[^\W_]{3,}")
_COMMON = frozenset(
    """
    the and for are was were has have had with that this these those from into not but you your they their its his her
    our can will would should than then them what which who when how why all any about also been does just more most one
    some there where while
    """.split()
)
"""Words that are no terms."""


@dataclass(frozen=True, slots=True)
class RestraintRow:
    """One method; intervals are over users.

    Attributes:
        method: its name.
        restraint: share of the general questions to which nothing personal was added.
        by_domain: the same for each domain of general questions (`GeneralQuestion.domain`).
        unchanged: share of the general questions with the plain LLM's answer, to the letter.
        token_f1: ROUGE-1 between the answers to general questions and the plain LLM's.
        rouge_l: ROUGE-L between them.
        over_general: over-personalization of the answers to general questions.
        score: the benchmark's first metric on the personal questions.
        kept: the share of the first method's score that this one has; None for ``none``, and where the score to be kept
            is 0.
        abstained: share of the personal questions to which nothing was added.
        over_personal: over-personalization of the answers to personal questions.
        tokens_general: mean tokens added to a general question.
        tokens_personal: mean tokens added to a personal question.
    """

    method: str
    restraint: Interval
    by_domain: Mapping[str, float]
    unchanged: Interval
    token_f1: Interval
    rouge_l: Interval
    over_general: Interval
    score: Interval
    kept: float | None
    abstained: Interval
    over_personal: Interval
    tokens_general: float
    tokens_personal: float


@dataclass(frozen=True, slots=True)
class RestraintReport:
    """What a run found.

    Attributes:
        benchmark: the benchmark's name.
        metric: its first metric, the one of `RestraintRow.score`.
        llm: the LLM's fingerprint.
        general: how many general questions were asked.
        personal: how many of the benchmark's own.
        rows: ``none``, then the methods in the order given.
        data: hash of the benchmark's own questions, their profiles and golds.
        config: what else decided the numbers, as the caller says it.
    """

    benchmark: str
    metric: str
    llm: str
    general: int
    personal: int
    rows: tuple[RestraintRow, ...]
    data: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"persona": __version__, **asdict(self)}

    def table(self, title: str) -> Table:
        """The report as a `rich` table."""
        return table(
            self.cells(),
            title=f"{title}: {self.benchmark}, {self.general} general questions beside {self.personal} personal ones",
            caption=f"the columns before {self.metric} are about the general questions, the others about the personal "
            "ones; intervals: 95 %, bootstrap over users",
        )

    def cells(self) -> list[list[str]]:
        """Header and rows as strings; general questions from elsewhere have a column of their own."""
        built_in = {question.domain for question in GENERAL_QUESTIONS}
        others = [domain for domain in self.rows[0].by_domain if domain not in built_in]
        header = [
            *("method", "nothing added", *(f"{domain}: nothing added" for domain in others), "answer unchanged"),
            *("token F1", "ROUGE-L", "over-personalized", "tokens", self.metric, "kept", "personal: nothing added"),
            *("over-personalized", "tokens"),
        ]
        rows = [
            [
                row.method,
                interval_cell(row.restraint),
                *(f"{row.by_domain[domain]:.3f}" for domain in others),
                interval_cell(row.unchanged),
                *(f"{interval.value:.3f}" for interval in (row.token_f1, row.rouge_l, row.over_general)),
                f"{row.tokens_general:.0f}",
                interval_cell(row.score),
                "-" if row.kept is None else f"{row.kept:.1%}",
                f"{row.abstained.value:.3f}",
                f"{row.over_personal.value:.3f}",
                f"{row.tokens_personal:.0f}",
            ]
            for row in self.rows
        ]
        return [header, *rows]


def profile_terms(profile: Profile) -> frozenset[str]:
    """The terms of a profile: words of three and more letters in its texts and targets, without the commonest ones."""
    return _terms(" ".join(f"{record.text} {record.target or ''}" for record in profile))


def over_personalization(answer: str, profile: frozenset[str], question: str, reference: str) -> float:
    """The share of the different terms of `answer` that are in `profile`, but neither in `question` nor `reference`.

    Args:
        answer: what the LLM said.
        profile: the user's terms (`profile_terms`).
        question: what was asked; without the history.
        reference: a right answer.

    Returns:
        0 to 1; 0 for an answer without terms.
    """
    terms = _terms(answer)
    return len((terms & profile) - _terms(question) - _terms(reference)) / len(terms) if terms else 0.0


def evaluate_restraint(
    benchmark: Benchmark,
    methods: Mapping[str, Personalizer],
    general: Sequence[GeneralQuestion] = GENERAL_QUESTIONS,
    *,
    options: EvaluationOptions = EvaluationOptions(),
    out: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> RestraintReport:
    """Ask general questions in the name of a benchmark's users, beside the benchmark's own.

    Args:
        benchmark: questions with their profiles, and golds.
        methods: by name; the first one's score is what the others are to keep. ``none``, the first one without any
            channel, is added.
        general: the questions that need no personalization.
        options: how to run; the seed also says who asks which general question.
        out: folder for answers (a run that was stopped goes on) and ``results.json``; None keeps nothing.
        config: what else decides the numbers (how the methods were made), for the report.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if there is no method.
        EvaluationError: if there are no questions, or no golds.
        GenerationError: if the LLM does not answer.
    """
    if not methods:
        raise InvalidOptionError("there must be at least one method to judge, was given none")
    questions = benchmark.questions[: options.limit]
    if not questions or not general:
        raise EvaluationError("there are no questions to run: the benchmark, or the general questions, are empty")
    if any(question.gold is None for question in questions):
        raise EvaluationError("the personal score needs golds: take a split that has them, train or dev")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    first = next(iter(methods.values()))
    plain = Personalizer(first.llm, first.store, (), builder=first.builder, options=first.options)
    asked = (*_asked_by_users(general, questions, options.seed), *questions)
    answers = Answers(out and out / "answers.jsonl", at_once=options.at_once)
    answered = {}
    for number, (name, method) in enumerate({NONE: plain, **methods}.items()):
        answered[name] = _Answered.of(method, asked, answers)
        progress("methods", number + 1, len(methods) + 1)
    report = RestraintReport(
        benchmark.name,
        benchmark.metrics[0].name,
        first.llm.fingerprint,
        len(general),
        len(questions),
        _Scoring(benchmark, general, asked, options).rows(answered),
        data_hash(questions),
        {**(config or {}), **asdict(options)},
    )
    if out is not None:
        write_results(out, report.as_dict())
    return report


def _asked_by_users(general: Sequence[GeneralQuestion], questions: Sequence[Question], seed: int) -> list[Question]:
    """Each general question in the name of a user, with the profile of one of the user's own questions."""
    askers = np.random.default_rng(seed).permutation(len(questions))
    asked = []
    for number, each in enumerate(general):
        asker = questions[askers[number % len(askers)]]
        query = each.query or each.question
        asked.append(
            Question(f"general-{number}", asker.user_id, asker.profile, each.question, query, gold=each.answer)
        )
    return asked


@dataclass(frozen=True, slots=True)
class _Answered:
    """A method's answers to all questions, in their order; whether it abstained, and how many tokens it added."""

    texts: list[str]
    abstained: list[bool]
    tokens: list[int]

    @classmethod
    def of(cls, method: Personalizer, questions: Sequence[Question], answers: Answers) -> _Answered:
        prepared = method.prepare([Ask(each.profile, each.prompt, each.query) for each in questions])
        generations = [each.generation for each in prepared]
        return cls(
            answers.ask(method, prepared),
            [generation.abstained for generation in generations],
            [generation.tokens_added for generation in generations],
        )


class _Scoring:
    """Scores methods; `asked` are the general questions, then the benchmark's own."""

    def __init__(
        self,
        benchmark: Benchmark,
        general: Sequence[GeneralQuestion],
        asked: Sequence[Question],
        options: EvaluationOptions,
    ) -> None:
        self._benchmark, self._general, self._asked, self._options = benchmark, general, asked, options
        self._split = slice(None, len(general)), slice(len(general), None)
        self._terms = {id(question.profile): profile_terms(question.profile) for question in asked}

    def rows(self, answered: Mapping[str, _Answered]) -> tuple[RestraintRow, ...]:
        """A row for each method; the first one is plain, and what is to be kept is the second one's score."""
        scores = {name: self._score(each.texts) for name, each in answered.items()}
        plain, reference = answered[NONE], list(scores.values())[1].value
        return tuple(
            self._row(name, each, plain, scores[name], None if name == NONE else self._kept(scores[name], reference))
            for name, each in answered.items()
        )

    def _row(self, name: str, method: _Answered, plain: _Answered, score: Interval, kept: float | None) -> RestraintRow:
        general, own = self._split
        abstained, tokens = np.array(method.abstained), np.array(method.tokens)
        pairs = list(zip(plain.texts[general], method.texts[general], strict=True))
        domains = np.array([question.domain for question in self._general])
        return RestraintRow(
            method=name,
            restraint=self._mean(abstained[general], general),
            by_domain={
                str(domain): float(abstained[general][domains == domain].mean()) for domain in dict.fromkeys(domains)
            },
            unchanged=self._mean([before == after for before, after in pairs], general),
            token_f1=self._mean([_overlap("rouge1", *pair) for pair in pairs], general),
            rouge_l=self._mean([_overlap("rougeL", *pair) for pair in pairs], general),
            over_general=self._over(method.texts, general),
            score=score,
            kept=kept,
            abstained=self._mean(abstained[own], own),
            over_personal=self._over(method.texts, own),
            tokens_general=float(tokens[general].mean()),
            tokens_personal=float(tokens[own].mean()),
        )

    def _score(self, texts: Sequence[str]) -> Interval:
        questions = self._asked[self._split[1]]
        samples = self._benchmark.score(questions, texts[self._split[1]])
        users = [question.user_id for question in questions]
        resamples, seed = self._options.resamples, self._options.seed
        return bootstrap_interval(self._benchmark.metrics[0], samples, users, resamples=resamples, seed=seed)

    def _kept(self, score: Interval, reference: float) -> float | None:
        ours, whole = score.value, reference
        over, under = (ours, whole) if self._benchmark.metrics[0].higher_is_better else (whole, ours)
        return over / under if under else None

    def _over(self, texts: Sequence[str], part: slice) -> Interval:
        shares = [
            over_personalization(text, self._terms[id(question.profile)], question.prompt, question.gold or "")
            for text, question in zip(texts[part], self._asked[part], strict=True)
        ]
        return self._mean(shares, part)

    def _mean(self, values: Any, part: slice) -> Interval:
        users = [question.user_id for question in self._asked[part]]
        return mean_interval(values, users, resamples=self._options.resamples, seed=self._options.seed)


def _overlap(kind: str, plain: str, text: str) -> float:
    """How much two answers have in common; ROUGE calls two empty ones different."""
    return 1.0 if plain == text else rouge(kind, plain, text)


def _terms(text: str) -> frozenset[str]:
    return frozenset(_TERM.findall(text.lower())) - _COMMON

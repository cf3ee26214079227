"""Knowing when not to: what personalization does to questions that need none, and what restraint costs the others.

General questions (`persona.eval.benchmarks.general_questions`) are asked in the name of a benchmark's users, each with
that user's history, beside the benchmark's own questions. A method *abstains* where nothing personal goes into the
request; then the answer is that of the plain LLM. What is measured of each method:

===========================  ===========================================================================================
``nothing added``            share of the general questions on which it abstained; `Row.kinds` has it by domain
``unchanged``                share of the general questions with the plain LLM's answer, to the letter
``token F1``, ``ROUGE-L``    ROUGE-1 and ROUGE-L between the answers to general questions and the plain LLM's
``over-personalized``        of the answers to general questions: the share of their terms that are the profile's and
                             stand neither in the question nor in a right answer. ``none``, which saw no profile, is
                             the floor: some words are in every profile
``tokens``                   mean tokens added to a general question
the benchmark's metric       its first one, on its own questions; `Row.kept` is the share of the first method's score
``own: nothing added``       share of the benchmark's own questions on which it abstained
``own: over-personalized``   over-personalization of the answers to them
===========================  ===========================================================================================

>>> profile = profile_terms(Profile("ana", (Record("A quiet film about lighthouses."),)))
>>> over_personalization("Oslo, with quiet lighthouses", profile, "What is the capital of Norway?", "Oslo")
0.6666666666666666
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.answers import Answers, outcomes
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.benchmarks.general_questions import GENERAL_QUESTIONS, GeneralQuestion
from persona.eval.bootstrap import Bootstrap, Interval
from persona.eval.calibration import NO_CALIBRATION, Calibrator
from persona.eval.controls import as_arms
from persona.eval.methods import Method
from persona.eval.metrics import Metric, mean_of_sums, rouge
from persona.eval.options import NONE, EvaluationOptions
from persona.eval.report import Report, Row, write_results
from persona.eval.results.samples import column, unlabelled
from persona.eval.results.scoring import Answered, by_kind
from persona.eval.run import Progress, ask_arms
from persona.personalizer import Personalizer
from persona.records import Profile
from persona.records import Record as Record  # for the example above

_TERM = re.compile(r"[^\W_]{3,}")
_COMMON = frozenset(
    _TERM.findall(
        "the and for are was were has have had with that this these those from into not but you your they their its "
        "his her our can will would should than then them what which who when how why all any about also been does "
        "just more most one some there where while"
    )
)
"""Words that are no terms."""

_ABSTAINED = Metric("nothing added", True, unlabelled, mean_of_sums)


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
    options: EvaluationOptions | None = None,
    out: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
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
        GenerationError: if the LLM answers no request at all.
    """
    options = options or EvaluationOptions()
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
    arms = [Method(name, (each,)) for name, each in {NONE: plain, **methods}.items()]
    asked, own = _asked_by_users(general, questions, options.seed), [replace(each, choices=None) for each in questions]
    answers = Answers(out and out / "answers.jsonl", at_once=options.at_once)
    uncalibrated = Calibrator(benchmark, (), (), EvaluationOptions(calibration=NO_CALIBRATION), answers, progress)
    answered = [ask_arms(as_arms(arms, (), some), some, answers, uncalibrated, progress) for some in (asked, own)]
    failures = [failure for each in answered[0] for failure in each.failures(asked)]
    failures += [failure for each in answered[1] for failure in each.failures(own)]
    report = Report(
        benchmark=benchmark.name,
        questions=len(general) + len(questions),
        users=len({question.user_id for question in questions}),
        llm=first.llm.fingerprint,
        config={**options.as_dict(), **(config or {}), "general": len(general), "personal": len(questions)},
        rows=_Scoring(benchmark, asked, questions, options).rows(*answered),
        data=data_hash(questions),
        failures=tuple(failures),
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
            Question(
                f"general-{number}",
                asker.user_id,
                asker.profile,
                each.question,
                query,
                gold=each.answer,
                kind=each.domain,
            )
        )
    return asked


class _Scoring:
    """Scores methods by their answers to the general questions and to the benchmark's own."""

    def __init__(
        self, benchmark: Benchmark, asked: Sequence[Question], questions: Sequence[Question], options: EvaluationOptions
    ) -> None:
        self._benchmark, self._asked, self._questions = benchmark, asked, questions
        self._terms = {id(each.profile): profile_terms(each.profile) for each in (*asked, *questions)}
        self._draw = partial(Bootstrap, resamples=options.resamples, seed=options.seed)
        self._general, self._own = (self._draw([each.user_id for each in some]) for some in (asked, questions))

    def rows(self, general: Sequence[Answered], own: Sequence[Answered]) -> tuple[Row, ...]:
        """A row for each method; the first one is plain, and what is to be kept is the second one's score."""
        metric = self._benchmark.metrics[0].name
        scores = [self._scores(*both, general[0]) for both in zip(general, own, strict=True)]
        rows: list[Row] = []
        for ours, theirs, found in zip(general, own, scores, strict=True):
            abstained = {_ABSTAINED.name: column(ours.abstained)}
            rows.append(
                Row(
                    ours.method.name,
                    0,
                    None,
                    found,
                    tokens_added=theirs.tokens_added,
                    outcomes=outcomes([*ours.runs[0], *theirs.runs[0]]),
                    kinds=by_kind(_ABSTAINED, abstained, self._asked, self._draw),
                    kept=self._kept(found[metric], scores[1][metric]) if rows else None,
                )
            )
        return tuple(rows)

    def _scores(self, general: Answered, own: Answered, plain: Answered) -> dict[str, Interval]:
        pairs = list(zip(plain.texts[0], general.texts[0], strict=True))
        metric, samples = self._benchmark.metrics[0], self._benchmark.score(self._questions, own.texts[0])
        return {
            _ABSTAINED.name: self._general.mean(general.abstained),
            "unchanged": self._general.mean([float(before == after) for before, after in pairs]),
            "token F1": self._general.mean([_overlap("rouge1", *pair) for pair in pairs]),
            "ROUGE-L": self._general.mean([_overlap("rougeL", *pair) for pair in pairs]),
            "over-personalized": self._general.mean(self._over(general.texts[0], self._asked)),
            "tokens": self._general.mean(general.tokens),
            metric.name: self._own.interval(metric, samples),
            "own: nothing added": self._own.mean(own.abstained),
            "own: over-personalized": self._own.mean(self._over(own.texts[0], self._questions)),
        }

    def _kept(self, score: Interval, reference: Interval) -> float | None:
        over, under = score.value, reference.value
        if not self._benchmark.metrics[0].higher_is_better:
            over, under = under, over
        return over / under if under else None

    def _over(self, texts: Sequence[str], questions: Sequence[Question]) -> list[float]:
        """The over-personalization of each answer."""
        return [
            over_personalization(text, self._terms[id(question.profile)], question.prompt, question.gold or "")
            for text, question in zip(texts, questions, strict=True)
        ]


def _overlap(kind: str, plain: str, text: str) -> float:
    """How much two answers have in common; ROUGE calls two empty ones different."""
    return 1.0 if plain == text else rouge(kind, plain, text)


def _terms(text: str) -> frozenset[str]:
    return frozenset(_TERM.findall(text.lower())) - _COMMON

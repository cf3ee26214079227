"""Evaluation: methods answer the questions of a benchmark, beside controls, and are scored with intervals.

    none, mine = Personalizer(llm, store, ()), Personalizer(llm, store, [Mine()])
    print(evaluate(benchmark, {"none": none, "mine": mine}).markdown())

A method is a `Personalizer` and is asked as a server asks it: it prepares the requests of all questions, and the LLM
answers them. Records are sought by the question's own search query, as a personalizer with the task's wording does. A
gain counts as personalization only if the right user's history beats none (or the training without user) and another
user's does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from persona.channels import Ask
from persona.errors import EvaluationError
from persona.eval.answers import Answers, prompts_hash
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.calibration import NO_CALIBRATION, Calibrator
from persona.eval.controls import Control, EmptyHistory, OtherUser, TrainedWithoutUser, as_arms
from persona.eval.methods import Arm, Method, Run, as_methods
from persona.eval.options import LEFT_OUT, EvaluationOptions
from persona.eval.report import Report, write_results
from persona.eval.results.page import report_page
from persona.eval.results.samples import write_samples
from persona.eval.results.scoring import Answered, Scoring
from persona.files import write_atomically
from persona.generation import Prepared
from persona.protocols import Choices

_TERMS: Mapping[str, Any] = {"licence": "", "commercial": True, "defects": {}}
"""What a benchmark may say of itself, and what holds where it does not."""

Progress = Callable[[str, int, int], object]
"""Called with a stage's name, what is done and what there is to do."""


def evaluate(
    benchmark: Benchmark,
    methods: Mapping[str, Run] | Iterable[Method],
    controls: Sequence[Control] | None = None,
    *,
    options: EvaluationOptions | None = None,
    out: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Answer the questions of `benchmark` with every method and every control of it, and score the answers.

    Args:
        benchmark: questions with their profiles, and golds where there are any.
        methods: personalizers by name, or methods; functions are given the benchmark's training split.
        controls: None takes another user's history, an empty history for soft prompts, and the training without user,
            each for the methods that it says something about.
        options: how to run; None takes the defaults.
        out: folder for answers (a run that was stopped goes on), predictions, ``results.json`` and ``report.html``;
            None keeps nothing.
        config: what decides the numbers besides, for the report.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if two methods or controls have the same name.
        EvaluationError: if there is no question or no method, only some questions have golds, a method needs a training
            split that is not there, or another user's history is wanted and there is one user.
        GenerationError: if an LLM answers no request at all. What arrived before is kept in `out`. A request that fails
            for itself is in `Report.failures`, and asked again by the next run.
    """
    options = options or EvaluationOptions()
    questions = benchmark.questions[: options.limit]
    if not questions:
        raise EvaluationError("there are no questions to run: the benchmark is empty")
    made = [method.made(benchmark) for method in as_methods(methods)]
    if not made:
        raise EvaluationError("there must be at least one method to evaluate, was given none")
    if controls is None:
        controls = (OtherUser(options.seed), EmptyHistory(), TrainedWithoutUser())
    arms = as_arms(made, controls, questions)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    answers = Answers(out and out / "answers.jsonl", at_once=options.at_once)
    calibration = Calibrator(benchmark, made, controls, options, answers, progress)
    answered = ask_arms(arms, questions, answers, calibration, progress)
    report = _report(benchmark, questions, answered, options, config or {})
    if out is not None:
        _save(report, benchmark, out)
    return report


def _report(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answered: Sequence[Answered],
    options: EvaluationOptions,
    config: Mapping[str, Any],
) -> Report:
    """The answers of all arms, scored."""
    failures = tuple(failure for each in answered for failure in each.failures(questions))
    left_out = {failure.question for failure in failures} if options.failures == LEFT_OUT else set()
    scoring = Scoring(benchmark, questions, options, left_out)
    llms = dict.fromkeys(run.llm.fingerprint for each in answered for run in each.method.personalizers)
    return Report(
        benchmark=benchmark.name,
        questions=len(questions),
        users=len({question.user_id for question in questions}),
        llm=", ".join(llms),
        config=options.as_dict() | dict(config) | _judges(benchmark),
        rows=scoring.rows(answered),
        data=data_hash(questions),
        failures=failures,
        left_out=len(left_out),
        ids=scoring.ids,
        groups=scoring.groups,
        **{name: getattr(benchmark, name, default) for name, default in _TERMS.items()},
    )


def working_folder(out: Path | None, stack: ExitStack) -> Path:
    """`out`, made if it is not there, or a folder that is gone when `stack` ends."""
    folder = out or Path(stack.enter_context(TemporaryDirectory()))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _judges(benchmark: Benchmark) -> dict[str, Any]:
    """Who judges the answers, where they are judged: LLM and prompt of each, and how often it is wrong."""
    rates = {judge.name: getattr(judge, "rates", None) for judge in getattr(benchmark, "judges", ())}
    return {"judges": {name: each and asdict(each) for name, each in rates.items()}} if rates else {}


def ask_arms(
    arms: Sequence[Arm], questions: Sequence[Question], answers: Answers, calibrations: Calibrator, progress: Progress
) -> list[Answered]:
    """The answers of all arms. The requests of one arm are prepared together, and gone when they are answered."""
    total = len(questions) * sum(len(arm.method.runs) for arm in arms)
    before = 0
    answered = []
    for arm in arms:
        runs, kinds = [], []
        sent: list[Prepared] = []
        for number, personalizer in enumerate(arm.method.personalizers):
            calibration = calibrations.of(arm.method, number)
            asks = [
                Ask(profile, question.prompt, question.query, calibration.of(Choices.of(question.choices)))
                for profile, question in zip(arm.profiles, questions, strict=True)
            ]
            prepared = personalizer.prepare(asks)
            sent += prepared
            runs.append(answers.ask(personalizer, prepared, partial(_advance, progress, before, total)))
            kinds.append("" if calibration.kind == NO_CALIBRATION else calibration.kind)
            before += len(questions)
        answered.append(
            Answered(
                arm.method,
                tuple(runs),
                tuple(each.generation.tokens_added for each in sent),
                tuple(each.generation.abstained for each in sent),
                tuple(dict.fromkeys(kinds)),
                tuple(map(_evidence_share, questions, sent)),
                _cut(arm, sent),
                prompts_hash(sent),
            )
        )
    return answered


def _evidence_share(question: Question, prepared: Prepared) -> float | None:
    """How much of a question's evidence stood in a request. Another user's record of the same id is none."""
    if not question.evidence:
        return None
    shown = {scored.record.id: scored.record for scored in prepared.generation.records}
    given = sum(shown.get(record.id) == record for record in question.profile if record.id in question.evidence)
    return given / len(set(question.evidence))


def _cut(arm: Arm, sent: Sequence[Prepared]) -> int:
    """How many requests lack a part of a history that they were to have whole."""
    if not any(getattr(channel, "whole", False) for run in arm.method.personalizers for channel in run.channels):
        return 0
    profiles = arm.profiles * len(arm.method.runs)
    return sum(len(each.generation.records) < len(profile) for profile, each in zip(profiles, sent, strict=True))


def _advance(progress: Progress, before: int, total: int, done: int) -> None:
    progress("answers", before + done, total)


def _save(report: Report, benchmark: Benchmark, out: Path) -> None:
    folder = out / "predictions"
    folder.mkdir(exist_ok=True)
    for row in report.rows:
        for name, answers in zip(row.file_names, row.runs, strict=True):
            benchmark.save(folder / name, answers)
    write_results(out, report.as_dict())
    write_atomically(out / "report.html", report_page(report))
    write_samples(out, report, benchmark.metrics)

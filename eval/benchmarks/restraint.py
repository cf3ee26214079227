"""Knowing when not to: what personalization does to questions that need none, and what restraint costs the others.

General questions (`persona.eval.general_questions`) are asked in the name of a split's users, each with that user's
history, beside the split's own questions. A retriever *abstains* where it returns no record; then the prompt is the
question and the answer that of the plain LLM. Of each retriever it is told

- on the general questions: how often nothing personal was added (*restraint*), how often the answer stayed that of the
  plain LLM to the letter (*unchanged*), and how much of it stayed (ROUGE-1 as a token F1, and ROUGE-L);
- on the personal ones: the task's score, and how much of the first retriever's is *kept* - score over score, for errors
  the other way round; with the unfiltered retriever first, that is what its filter leaves;
- on both the *over-personalization* of the answers: the share of their terms that are the profile's and stand neither
  in the question nor in the reference. ``none``, which saw no profile, is its floor: some words are in every profile.

>>> profile = profile_terms(Profile("ana", (Record("A quiet film about lighthouses."),)))
>>> over_personalization("Oslo, with quiet lighthouses", profile, "What is the capital of Norway?", "Oslo")
0.6666666666666666
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.answers import Answers, data_hash
from persona.eval.bootstrap import Interval, bootstrap_interval
from persona.eval.general_questions import GENERAL_QUESTIONS, GeneralQuestion
from persona.eval.lamp_config import Progress
from persona.eval.metrics import METRICS, Array, Metric, evaluate
from persona.eval.rouge import rouge_1, rouge_l
from persona.files import write_atomically
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, Question
from persona.protocols import BuiltPrompt as LampPrompt
from persona.protocols import GenerationOptions, LanguageModel, Request, Retriever
from persona.records import Profile
from persona.version import __version__

NO_USER = "none"
"""The row in which nobody's history is looked at."""

_TERM = re.compile(r"[^\W_]{3,}")
_NO_TERMS = frozenset(
    (
        *("the", "and", "for", "are", "was", "were", "has", "have", "had", "with", "that", "this", "these", "those"),
        *("from", "into", "not", "but", "you", "your", "they", "their", "its", "his", "her", "our", "can", "will"),
        *("would", "should", "than", "then", "them", "what", "which", "who", "when", "how", "why", "all", "any"),
        *("about", "also", "been", "does", "just", "more", "most", "one", "some", "there", "where", "while"),
    )
)


def _no_measure(answers: Sequence[Any], labels: Sequence[str]) -> Array:
    raise EvaluationError("a mean is taken of numbers that are there already")


def _mean(sums: Array, count: Array) -> Array:
    result: Array = sums[..., 0] / count
    return result


_MEAN = Metric("mean", True, _no_measure, _mean)


@dataclass(frozen=True, slots=True)
class RestraintRow:
    """One retriever, or none; intervals are over users.

    Attributes:
        method: the retriever's name, or `NO_USER`.
        restraint: share of the general questions to which nothing personal was added.
        by_domain: the same for each domain of general questions (`GeneralQuestion.domain`).
        unchanged: share of the general questions with the plain LLM's answer, to the letter.
        token_f1: ROUGE-1 between the answers to general questions and the plain LLM's.
        rouge_l: ROUGE-L between them.
        over_general: over-personalization of the answers to general questions.
        score: the task's first metric on the personal questions.
        kept: the share of the first retriever's score that this one has; None for `NO_USER`, and where the score to be
            kept is 0.
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
        task: LaMP task name.
        metric: its first metric, the one of `RestraintRow.score`.
        llm: the LLM's fingerprint.
        k: most records for a question.
        general: how many general questions were asked.
        personal: how many of the task's own.
        rows: `NO_USER`, then the retrievers in the order given.
        data: hash of the task's own questions, their profiles and golds.
        config: what else decided the numbers, as the caller tells it.
    """

    task: str
    metric: str
    llm: str
    k: int
    general: int
    personal: int
    rows: tuple[RestraintRow, ...]
    data: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"persona": __version__, **asdict(self)}


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


def run_restraint(
    split: LampSplit,
    llm: LanguageModel,
    retrievers: Mapping[str, Retriever],
    *,
    k: int = 1,
    limit: int | None = None,
    general: Sequence[GeneralQuestion] = GENERAL_QUESTIONS,
    max_length: int = 256,
    max_new_tokens: int = 64,
    seed: int = 0,
    resamples: int = 2000,
    out: Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> RestraintReport:
    """Ask general questions in the name of a split's users, beside the split's own.

    Args:
        split: questions with their profiles, and golds.
        llm: the frozen LLM.
        retrievers: by name; the first one's score is what the others are to keep.
        k: most records for a question, at least 1.
        limit: only the first questions of the split; None asks all.
        general: the questions that need no personalization.
        max_length: token budget of the official prompt, in which the records stand before either kind of question.
        max_new_tokens: longest answer.
        seed: who asks which general question, and the bootstrap.
        resamples: bootstrap resamples over users.
        out: folder for answers (a run that was stopped goes on) and ``results.json``; None keeps nothing.
        config: what else decides the numbers (how the retrievers were made), for the report.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if `k` is below 1, or there is no retriever.
        EvaluationError: if there are no questions, or no golds.
        GenerationError: if the LLM does not answer.
    """
    if k < 1:
        raise InvalidOptionError(f"`k` must be at least 1, was: {k}")
    if not retrievers:
        raise InvalidOptionError("there must be at least one retriever to judge, was given none")
    questions = split.questions[:limit]
    if not questions or not general:
        raise EvaluationError("there are no questions to run: the split, or the set of general questions, is empty")
    if split.golds is None:
        raise EvaluationError("the personal score needs golds: take a split that has them, train or dev")
    golds = {question.id: split.golds[question.id] for question in questions}
    askers = np.random.default_rng(seed).permutation(len(questions))
    asked = [
        Question(
            f"general-{place}",
            questions[askers[place % len(askers)]].user_id,
            one.question,
            questions[askers[place % len(askers)]].profile,
        )
        for place, one in enumerate(general)
    ]
    queries = [one.query or one.question for one in general] + [split.task.query(one.input) for one in questions]
    prompts: dict[str, list[LampPrompt]] = {NO_USER: [LampPrompt(one.input) for one in (*asked, *questions)]}
    for name, retriever in retrievers.items():
        prompts[name] = _prompts(split, (*asked, *questions), queries, retriever, k, llm, max_length)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    kept = Answers(
        None if out is None else out / "answers.jsonl", llm, GenerationOptions(max_new_tokens=max_new_tokens)
    )
    requests = {name: [Request(one.text) for one in row] for name, row in prompts.items()}
    kept.ask((one for row in requests.values() for one in row), progress or (lambda stage, done, total: None))
    answers = {name: [kept.text(one) for one in row] for name, row in requests.items()}

    owners = [one.user_id for one in asked], [one.user_id for one in questions]
    terms = {id(one.profile): profile_terms(one.profile) for one in (*asked, *questions)}
    metric = METRICS[split.task.metrics[0]]

    def mean(values: Sequence[float], users: Sequence[str]) -> Interval:
        samples = {_MEAN.name: np.array(values, dtype=np.float64)[:, None]}
        return bootstrap_interval(_MEAN, samples, list(users), resamples=resamples, seed=seed)

    def over(said: Sequence[str], of: Sequence[Question], references: Sequence[str], users: Sequence[str]) -> Interval:
        shares = [
            over_personalization(text, terms[id(one.profile)], one.input, reference)
            for text, one, reference in zip(said, of, references, strict=True)
        ]
        return mean(shares, users)

    domains: dict[str, list[int]] = {}
    for place, one in enumerate(general):
        domains.setdefault(one.domain, []).append(place)

    plain = answers[NO_USER][: len(asked)]
    rows: list[RestraintRow] = []
    kept_from: float | None = None
    for name, built in prompts.items():
        said, own = answers[name][: len(asked)], answers[name][len(asked) :]
        added = np.array([one.tokens_added for one in built])
        nothing: NDArray[np.bool_] = added == 0
        predictions = {one.id: text for one, text in zip(questions, own, strict=True)}
        samples = evaluate(split.task, golds, predictions, labels=split.labels).samples
        score = bootstrap_interval(metric, samples, owners[1], resamples=resamples, seed=seed)
        if name != NO_USER and kept_from is None:
            kept_from = score.value
        rows.append(
            RestraintRow(
                name,
                mean([float(each) for each in nothing[: len(asked)]], owners[0]),
                {domain: float(nothing[places].mean()) for domain, places in domains.items()},
                mean([float(one == other) for one, other in zip(said, plain, strict=True)], owners[0]),
                mean([_alike(rouge_1, one, other) for one, other in zip(plain, said, strict=True)], owners[0]),
                mean([_alike(rouge_l, one, other) for one, other in zip(plain, said, strict=True)], owners[0]),
                over(said, asked, [one.answer for one in general], owners[0]),
                score,
                None if kept_from is None else _kept(score.value, kept_from, metric.higher_is_better),
                mean([float(each) for each in nothing[len(asked) :]], owners[1]),
                over(own, questions, list(golds.values()), owners[1]),
                float(added[: len(asked)].mean()),
                float(added[len(asked) :].mean()),
            )
        )
    report = RestraintReport(
        split.task.name,
        metric.name,
        llm.fingerprint,
        k,
        len(asked),
        len(questions),
        tuple(rows),
        data_hash(questions, golds),
        {**(config or {}), "max_length": max_length, "max_new_tokens": max_new_tokens, "seed": seed, "limit": limit},
    )
    if out is not None:
        write_atomically(out / "results.json", json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return report


def _prompts(
    split: LampSplit,
    questions: Sequence[Question],
    queries: Sequence[str],
    retriever: Retriever,
    k: int,
    llm: LanguageModel,
    max_length: int,
) -> list[LampPrompt]:
    found = retriever.retrieve_batch([one.profile for one in questions], queries, k)
    return [
        lamp_prompt(split.task, one.input, [scored.record for scored in best], llm.tokenizer, max_length=max_length)
        for one, best in zip(questions, found, strict=True)
    ]


def _alike(measure: Callable[[str, str], float], plain: str, said: str) -> float:
    """How much two answers have in common; ROUGE calls two empty ones different."""
    return 1.0 if plain == said else measure(plain, said)


def _kept(score: float, reference: float, higher_is_better: bool) -> float | None:
    over, under = (score, reference) if higher_is_better else (reference, score)
    return over / under if under else None


def _terms(text: str) -> frozenset[str]:
    return frozenset(_TERM.findall(text.lower())) - _NO_TERMS

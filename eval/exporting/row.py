"""One row of an evaluation, to be asked elsewhere: its requests as `persona eval` makes them, and its scores.

    row = exported_row("locomo", "locomo10.json", "bm25", k=5)
    row.requests["conv-26:0"].prompt                # records of the conversation, and the question
    row.values([("conv-26:0", "7 May 2023")])       # {"f1": 1.0, "official f1": 1.0}

Text alone can be sent to another tool's model: soft prompts and adapters are refused.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import Any

from persona.channels import Ask, check_way
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.answers import prompts_hash
from persona.eval.benchmark import Benchmark, Question, data_hash
from persona.eval.benchmarks.named import MethodOptions, drawn, made_retrievers, named_controls, named_methods
from persona.eval.benchmarks.registry import benchmark_class, load_benchmark
from persona.eval.controls import as_arms
from persona.eval.judging.benchmark import JudgeOptions
from persona.eval.options import USER_EMBEDDER
from persona.eval.results.environment import environment
from persona.generation import Prepared
from persona.llm.answers.text import answer_text
from persona.llm.load import load_llm
from persona.llm.tokenizers import HuggingFaceTokenizer, WhitespaceTokenizer
from persona.protocols import SOFT_PROMPT, TEXT, Choices, GenerationOptions, Request, TextTokenizer
from persona.store.profile_store import ProfileStore
from persona.version import __version__


@dataclass(frozen=True, slots=True, eq=False)
class ExportedRow:
    """A method, or a control of it, on the questions of a benchmark.

    Attributes:
        benchmark: scores.
        name: what `persona eval` calls the row.
        questions: by their id.
        requests: by the same ids; they hold text and nothing else.
        end: what ends an answer, where the tokenizer is known; else empty.
        max_new_tokens: longest answer.
        about: what decides the numbers, ready for JSON: versions, hashes of data and requests, licence, options.
    """

    benchmark: Benchmark
    name: str
    questions: Mapping[str, Question] = field(repr=False)
    requests: Mapping[str, Request] = field(repr=False)
    end: str
    max_new_tokens: int
    about: Mapping[str, Any] = field(repr=False)

    def answer(self, written: str) -> str:
        """The answer in what a model wrote: without thinking, and without white space around it."""
        return answer_text(written, GenerationOptions(max_new_tokens=self.max_new_tokens)).strip()

    def values(self, answers: Sequence[tuple[str, str]]) -> dict[str, float]:
        """All metrics over some answers: pairs of a question's id and what was answered to it."""
        questions = [self.questions[id_] for id_, _ in answers]
        samples = self.benchmark.score(questions, [answer for _, answer in answers])
        return {metric.name: metric.value(samples) for metric in self.benchmark.metrics}


def exported_row(
    name: str,
    data: str,
    method: str,
    *,
    k: int = 10,
    control: str | None = None,
    tokenizer: str | None = None,
    judge: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ExportedRow:
    """A row of `persona eval NAME DATA`.

    Args:
        name: of a benchmark.
        data: its file or folder.
        method: ``"none"``, ``"full"`` or a retriever.
        k: how many records.
        control: ``"other user"`` or ``"evidence alone"``; None for the method itself.
        tokenizer: folder or hub id of the model's tokenizer, which measures what fits; None counts words.
        judge: who judges, where answers are judged, as `load_llm` takes it.
        options: fields of `MethodOptions` (``limit``, ``seed``, ``max_new_tokens``, ...) and settings of the benchmark.

    Raises:
        UnsupportedChannelError: if the method sends anything but text.
        InvalidOptionError: if an option is not known, or the method has no such control.
        EvaluationError: if there is nothing to score by.
        PersonaError: as `load_benchmark`.
    """
    model = _Elsewhere(tokenizer)
    if method == USER_EMBEDDER:
        check_way(model, SOFT_PROMPT, f"the method {method!r}")
    own = {each.name: each.default for each in fields(benchmark_class(name).Options)}
    known = {each.name: each.default for each in fields(MethodOptions)}
    given = options or {}
    for_methods = {key: _fitting(value, known[key]) for key, value in given.items() if key in known}
    for_data = {key: _fitting(value, own.get(key)) for key, value in given.items() if key in own or key not in known}
    chosen = MethodOptions(methods=(method,), ks=(k,), **for_methods)
    benchmark = drawn(_scorable(load_benchmark(name, data, **for_data), judge), chosen.limit, chosen.seed)
    label, prepared = _prepared(benchmark, model, chosen, control)
    questions = {question.id: question for question in benchmark.questions}
    requests = dict(zip(questions, (each.request for each in prepared), strict=True))
    about = {
        "persona": __version__,
        "benchmark": benchmark.name,
        "row": label,
        "questions": len(questions),
        "data": data_hash(benchmark.questions),
        "prompts": prompts_hash(prepared),
        "licence": benchmark.licence,
        "commercial": benchmark.commercial,
        "defects": dict(benchmark.defects),
        "config": {**chosen.as_dict(), **for_data, "tokenizer": tokenizer, "judge": judge},
        "environment": environment(),
    }
    return ExportedRow(benchmark, label, questions, requests, model.end, chosen.max_new_tokens, about)


def _scorable(benchmark: Benchmark, judge: str | None) -> Benchmark:
    """A benchmark with golds, and with a judge where it needs one; says so where no commercial use is allowed."""
    if judge is not None:
        benchmark = benchmark.judged_by(JudgeOptions().judges(load_llm(judge)))
    if not benchmark.metrics or any(question.gold is None for question in benchmark.questions):
        missing = "golds: take a split that has them" if benchmark.metrics else "a judge: name one (judge=LLM)"
        raise EvaluationError(f"the answers of {benchmark.name} cannot be scored without {missing}")
    if not benchmark.commercial:
        logging.getLogger(__name__).warning("%s: data under %s; no commercial use", benchmark.name, benchmark.licence)
    return benchmark


def _prepared(
    benchmark: Benchmark, model: _Elsewhere, chosen: MethodOptions, control: str | None
) -> tuple[str, list[Prepared]]:
    """The name of a row, and its requests in the order of the questions."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = stack.enter_context(ProfileStore(f"sqlite:///{folder}/vectors.db"))
        retrievers = made_retrievers(benchmark.questions, chosen, store)
        methods = list(named_methods(benchmark, model, chosen, store, retrievers))
        rows = as_arms(methods, named_controls(benchmark, chosen), benchmark.questions)
        arms = {arm.method.control: arm for arm in rows}
        if control not in arms:
            others = ", ".join(filter(None, arms)) or "none here"
            raise InvalidOptionError(f"the controls of {methods[0].label!r} are: {others}; was: {control!r}")
        arm = arms[control]
        (personalizer,) = arm.method.personalizers
        asks = [
            Ask(profile, question.prompt, question.query, Choices.of(question.choices))
            for profile, question in zip(arm.profiles, benchmark.questions, strict=True)
        ]
        return arm.method.label, personalizer.prepare(asks)


def _fitting(value: Any, default: Any) -> Any:
    """The value of an option that was read from JSON, YAML or a command line: a tuple where the default is one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(default, tuple) and not isinstance(value, tuple) else value


class _Elsewhere:
    """Stands for the model of another tool: says how long texts are for it, and takes text."""

    channels = frozenset({TEXT})
    chats = True
    fingerprint = "of another tool"

    def __init__(self, tokenizer: str | None) -> None:
        self.tokenizer: TextTokenizer = WhitespaceTokenizer()
        self.end = ""
        if tokenizer is not None:
            from transformers import AutoTokenizer

            loaded = AutoTokenizer.from_pretrained(tokenizer)
            self.tokenizer, self.end = HuggingFaceTokenizer(loaded), loaded.eos_token or ""

    def refusal(self, way: str) -> str:
        """Why `way` is not taken."""
        return "another tool's model is sent text and nothing else; `persona eval` runs it"

    def generate(self, requests: Sequence[Request], options: GenerationOptions) -> list[str]:
        """Never asked."""
        raise NotImplementedError("another tool asks its own model")

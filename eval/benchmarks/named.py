"""What `persona eval NAME` runs: methods by name on any benchmark, beside the rows that give a number its meaning.

=====================  =================================================================================================
``none``               the question alone
``full``               the whole history, as far as it fits; beside it the evidence alone, where questions name some
a retriever            the k records that it finds (`persona.retrievers.registry.RETRIEVERS`)
``user-embedder``      the soft prompts of trained user embedders, and nothing else
=====================  =================================================================================================

Each is also run with another user's history. A method of one's own goes to `persona.eval.evaluate` with the same
benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from persona.assembly import as_encoder, as_user_embedder
from persona.channels import Channel
from persona.errors import InvalidOptionError, check_least, check_one_of
from persona.eval.benchmark import Benchmark, Question
from persona.eval.benchmarks.retrieval import evaluate_retrieval
from persona.eval.benchmarks.whole_history import EvidenceAlone, WholeHistory
from persona.eval.controls import Control, OtherUser
from persona.eval.methods import Method
from persona.eval.options import NONE, USER_EMBEDDER, EvaluationOptions
from persona.eval.report import Report, write_results
from persona.eval.run import Progress, evaluate, working_folder
from persona.personalizer import Personalizer
from persona.prompts import PromptBuilder
from persona.protocols import ANSWERS, GenerationOptions, LanguageModel, RecordEncoder, Retriever, ScoresChoices
from persona.retrievers.registry import RETRIEVERS, RetrieverOptions, make_retrievers, needs_encoder
from persona.store.profile_store import ProfileStore

if TYPE_CHECKING:
    from persona.soft_prompts.channel import SoftPromptChannel
    from persona.soft_prompts.embedder import UserEmbedder

FULL = "full"
_ALL = 2**31
"""Tokens: no history has as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions(EvaluationOptions):
    """What to run on a benchmark.

    Attributes:
        methods: names, see the module.
        ks: how many records; each retriever runs with each.
        retrieval: how retrievers are made.
        encoder: a record encoder, or what `load_encoder` takes, for what compares vectors.
        user_embedders: user embedders or their folders, one for each seed.
        record_tokens: most tokens that retrieved records may add to a question.
        context_tokens: most tokens of a full history; None for what the LLM takes.
        max_new_tokens: longest answer.
        answers: how questions with choices are answered, one of `persona.protocols.ANSWERS`; empty is by likelihood
            where the LLM gives one.
        controls: also run each method with another user's history.
        seed: of the choice of questions and of other users, of the random retriever and the bootstrap.
        resamples: bootstrap resamples over users.
        limit: so many questions, drawn at random; None takes all.
        calibration: what is taken off the likelihood of choices, one of `CALIBRATIONS`.
        calibration_questions: how many training questions each row is calibrated on.
        failures: how a question counts that was not answered, one of `FAILURES`.
        at_once: answers that are asked for together.

    Raises:
        InvalidOptionError: if a name is not known, or a number is out of range.
    """

    methods: tuple[str, ...] = (NONE, FULL, "bm25")
    ks: tuple[int, ...] = (10,)
    retrieval: RetrieverOptions = field(default_factory=RetrieverOptions)
    encoder: RecordEncoder | str = "minilm"
    user_embedders: tuple[UserEmbedder | str, ...] = ()
    record_tokens: int = 1024
    context_tokens: int | None = None
    max_new_tokens: int = 64
    answers: str = ""
    controls: bool = True

    def __post_init__(self) -> None:
        EvaluationOptions.__post_init__(self)
        for method in self.methods:
            if method not in (NONE, FULL, USER_EMBEDDER, *RETRIEVERS):
                known = ", ".join((NONE, FULL, USER_EMBEDDER, *RETRIEVERS))
                raise InvalidOptionError(f"a method must be one of {known}, was: {method!r}")
        if (USER_EMBEDDER in self.methods) != bool(self.user_embedders):
            raise InvalidOptionError(
                f"the method {USER_EMBEDDER!r} needs `user_embedders`, and no other reads them, were: "
                f"{self.user_embedders!r:.80}"
            )
        for k in self.ks or (0,):
            check_least(1, ks=k)
        check_one_of(("", *ANSWERS), answers=self.answers)
        check_least(1, record_tokens=self.record_tokens, context_tokens=self.context_tokens)
        check_least(1, max_new_tokens=self.max_new_tokens)

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The retrievers among the methods."""
        return tuple(name for name in self.methods if name in RETRIEVERS)

    @property
    def reads_vectors(self) -> bool:
        """Whether anything compares vectors of records."""
        return bool(self.user_embedders) or any(needs_encoder(name, self.retrieval) for name in self.retrievers)


def evaluate_benchmark(
    benchmark: Benchmark,
    llm: LanguageModel,
    options: MethodOptions | None = None,
    *,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Run methods by name on a benchmark, beside their controls and what needs no LLM.

    Args:
        benchmark: e.g. of `persona.eval.load_benchmark`.
        llm: the frozen LLM.
        options: what to run; None takes the defaults.
        out: folder for vectors and answers (a run that was stopped goes on), predictions, ``results.json`` and
            ``samples.json``; None keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        PersonaError: as `evaluate`, or if a method cannot be made.
    """
    options = options or MethodOptions()
    benchmark = drawn(benchmark, options.limit, options.seed)
    if not benchmark.metrics:
        raise InvalidOptionError(f"the answers of {benchmark.name} are judged: name a judge (--judge LLM)")
    with ExitStack() as stack:
        store = stack.enter_context(ProfileStore(f"sqlite:///{working_folder(out, stack) / 'vectors.db'}"))
        retrievers = made_retrievers(benchmark.questions, options, store, progress)
        return evaluate(
            benchmark,
            list(named_methods(benchmark, llm, options, store, retrievers)),
            named_controls(benchmark, options),
            options=options,
            out=out,
            progress=progress,
        )


def evaluate_benchmark_retrieval(
    benchmark: Benchmark,
    options: MethodOptions | None = None,
    *,
    out: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """How much of the evidence the retrievers among the methods find; no LLM is asked.

    Args:
        benchmark: whose questions name evidence.
        options: which retrievers, and how many records; None takes the defaults.
        out: folder for vectors and ``retrieval.json``; None keeps nothing.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        PersonaError: as `evaluate_retrieval`, or if a retriever cannot be made.
    """
    options = options or MethodOptions()
    benchmark = drawn(benchmark, options.limit, options.seed)
    with ExitStack() as stack:
        store = stack.enter_context(ProfileStore(f"sqlite:///{working_folder(out, stack) / 'vectors.db'}"))
        retrievers = made_retrievers(benchmark.questions, options, store, progress)
        given: dict[str, Any] = {"resamples": options.resamples, "seed": options.seed, "config": options.as_dict()}
        report = evaluate_retrieval(benchmark, retrievers, options.ks, **given)
    if out is not None:
        write_results(out, report.as_dict(), "retrieval.json")
    return report


def drawn(benchmark: Benchmark, limit: int | None, seed: int) -> Benchmark:
    """A benchmark with a random sample of its questions, in their order; itself if it has no more."""
    if limit is None or limit >= len(benchmark.questions):
        return benchmark
    chosen = np.random.default_rng(seed).choice(len(benchmark.questions), size=limit, replace=False)
    smaller = copy(benchmark)
    smaller.questions = tuple(benchmark.questions[index] for index in sorted(chosen))
    return smaller


def made_retrievers(
    questions: Sequence[Question],
    options: MethodOptions,
    store: ProfileStore,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Retriever]:
    """The retrievers among the methods; where one compares vectors, those of the questions' records are stored."""
    if not options.retrievers:
        return {}
    encoder = as_encoder(options.encoder) if options.reads_vectors else None
    if encoder is not None:
        from persona.encoders.embedding import embed_users

        store.upsert((question.user_id, record) for question in questions for record in question.profile)
        view = options.retrieval.view
        embed_users(store, encoder, view=view, progress=lambda done, total, _: progress("embed users", done, total))
    retrieval = replace(options.retrieval, seed=options.seed)
    return make_retrievers(options.retrievers, retrieval, encoder=encoder, store=store)


def soft_prompt_channels(llm: LanguageModel, options: MethodOptions, store: ProfileStore) -> list[SoftPromptChannel]:
    """A channel for each of the user embedders, which reads the records' vectors in the store where they are."""
    from persona.soft_prompts.channel import SoftPromptChannel

    embedders = [as_user_embedder(each) for each in options.user_embedders]
    source = as_encoder(options.encoder, embedders[0])
    return [SoftPromptChannel(each, llm, source, store) for each in embedders]


def named_controls(benchmark: Benchmark, options: MethodOptions) -> list[Control]:
    """Another user's history, where that is wanted and there is one, and the evidence alone."""
    several = len({question.user_id for question in benchmark.questions}) > 1
    return [*([OtherUser(options.seed)] if options.controls and several else []), EvidenceAlone()]


def named_methods(
    benchmark: Benchmark,
    llm: LanguageModel,
    options: MethodOptions,
    store: ProfileStore,
    retrievers: dict[str, Retriever],
) -> Iterator[Method]:
    """The methods of `options`, answered by `llm`."""
    from persona.retrievers.channel import RecordsChannel

    by_choice = any(question.choices is not None for question in benchmark.questions)
    way = options.answers or ("likelihood" if by_choice and isinstance(llm, ScoresChoices) else "auto")
    generation = GenerationOptions(max_new_tokens=options.max_new_tokens, answers=way)
    builder = PromptBuilder.of(llm, max_tokens=options.record_tokens)

    def personalizer(*channels: Channel, builder: PromptBuilder = builder) -> Personalizer:
        return Personalizer(llm, store, channels, builder=builder, options=generation)

    for name in options.methods:
        if name == NONE:
            yield Method(NONE, (personalizer(),))
        elif name == FULL:
            channel = WholeHistory(llm, builder, generation, options.context_tokens)
            yield Method("full history", (personalizer(channel, builder=replace(builder, max_tokens=_ALL)),))
        elif name == USER_EMBEDDER:
            channels = soft_prompt_channels(llm, options, store)
            parts = {"user_embedders": [each.embedder.fingerprint for each in channels]}
            yield Method(name, tuple(map(personalizer, channels)), parts=parts)
        else:
            for k in options.ks:
                yield Method(name, (personalizer(RecordsChannel(retrievers[name], k)),), k)

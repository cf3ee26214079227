"""Options of evaluations: how one is run, and what `persona eval lamp` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.errors import InvalidOptionError, check_least, check_one_of
from persona.lamp.prompts import RECORD, SUMMARY_FORMS
from persona.prompts import PLACEMENTS, PROMPT
from persona.protocols import ANSWERS, LanguageModel, RecordEncoder
from persona.retrievers.registry import RETRIEVERS, RetrieverOptions, needs_encoder

if TYPE_CHECKING:
    from persona.adapters.task_adapter import TaskAdapter
    from persona.encoders.user_vectors import UserVectorFile
    from persona.soft_prompts.embedder import UserEmbedder

CALIBRATIONS = ("none", "prior", "content-free", "auto")
"""Priors of choices, see `persona.eval.calibration`."""

EMPTY, LEFT_OUT = "empty", "left-out"
FAILURES = (EMPTY, LEFT_OUT)
"""How a question that was not answered counts: as an empty answer, or in no row."""

NONE = "none"
USER_EMBEDDER = "user-embedder"
SUMMARIES: Mapping[str, str] = {"stats": "stats", "summary": "llm", "stats+summary": "both"}
"""The methods with a summary, and where it comes from (`persona.summaries.channel.SOURCES`)."""
WRITTEN = ("summary", "stats+summary")
"""The methods for which an LLM writes."""
STEERING = "steering"
ADAPTERS = ("lora", "lora+task", "neighbours", "routed", "one-pass")
BESIDE_RECORDS = (USER_EMBEDDER, *SUMMARIES, STEERING, *ADAPTERS)
"""The methods that run alone and with retrieved records beside them."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How an evaluation is run.

    Attributes:
        seed: of the choice of other users and of the bootstrap, at least 0.
        resamples: bootstrap resamples over users, at least 1.
        limit: only the first questions; None asks all.
        at_once: answers that are asked for together, at least 1.
        calibration: whether a prior is taken off the likelihood of choices, one of
            `CALIBRATIONS`; it is measured on training questions, so there is none without a
            training split.
        calibration_questions: how many training questions each row is calibrated on, at least 2.
        failures: how a question counts that was not answered, one of `FAILURES`: as an empty answer, or left out of the
            scores of all rows.

    Raises:
        InvalidOptionError: if a number is out of range, or a name is not known.
    """

    seed: int = 0
    resamples: int = 2000
    limit: int | None = None
    at_once: int = 64
    calibration: str = "auto"
    calibration_questions: int = 48
    failures: str = EMPTY

    def __post_init__(self) -> None:
        check_one_of(CALIBRATIONS, calibration=self.calibration)
        check_one_of(FAILURES, failures=self.failures)
        check_least(0, seed=self.seed)
        check_least(1, resamples=self.resamples, limit=self.limit, at_once=self.at_once)
        check_least(2, calibration_questions=self.calibration_questions)

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON: parts by their fingerprint, folders by their path."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LampOptions(EvaluationOptions):
    """What to run.

    Attributes:
        methods: names, see the module.
        ks: how many records; each retriever runs with each, the other methods alone and beside each.
        beside: the retriever of the records beside other methods.
        retrieval: how retrievers are made; the view and the seed are the task's and the evaluation's.
        encoder: a record encoder, or what `load_encoder` takes, for what compares vectors.
        user_embedders: user embedders or their folders, one for each seed.
        user_embedder_controls: the same, trained without the user; one for each seed, or none.
        user_vectors: the file of user vectors, for user embedders that read those.
        task_adapters: task adapters or their folders, one for each seed.
        adapters_once: one adapter a user, from the profile of the user's earliest question, for all questions of that
            user; else one for each question, from all that is older than it.
        neighbours: how many adapters the method ``neighbours`` takes the mean of.
        summary_form: what a summary is in a prompt, one of `persona.lamp.prompts.SUMMARY_FORMS`.
        summary_llm: writes the summaries, an LLM or what `load_llm` takes; None takes the LLM that answers.
        mask: quote records as serving does (`persona.prompts.PromptBuilder.mask`); False is LaMP's wording to the byte.
        max_length: token budget of the official prompt.
        placement: where what is known of the user stands, one of `persona.prompts.PLACEMENTS`.
        max_new_tokens: longest answer; None is 16 for labels and 64 for texts.
        num_beams: 1 is greedy.
        answers: how questions with choices are answered (`persona.protocols.GenerationOptions.answers`); several ways
            give a row each.
        controls: also run each method with another user's history, and soft prompts with an empty one.
        calibration: what is taken off the likelihood of choices, one of `CALIBRATIONS`.
        calibration_questions: how many training questions each row is calibrated on.
        failures: how a question counts that was not answered, one of `FAILURES`.
        seed: of the random retriever, the choice of other users and the bootstrap.
        resamples: bootstrap resamples over users.
        limit: only the first questions; None asks all.
        at_once: answers that are asked for together.

    Raises:
        InvalidOptionError: if a method lacks what it needs, or something is given that no method reads.
    """

    methods: tuple[str, ...] = (NONE, "bm25-lamp", "recency")
    ks: tuple[int, ...] = (1, 4)
    beside: str = "bm25-lamp"
    retrieval: RetrieverOptions = field(default_factory=RetrieverOptions)
    encoder: RecordEncoder | str = "minilm"
    user_embedders: tuple[UserEmbedder | str | Path, ...] = ()
    user_embedder_controls: tuple[UserEmbedder | str | Path, ...] = ()
    user_vectors: UserVectorFile | str | Path | None = None
    task_adapters: tuple[TaskAdapter | str | Path, ...] = ()
    adapters_once: bool = False
    neighbours: int = 4
    summary_form: str = RECORD
    summary_llm: LanguageModel | str | None = None
    mask: bool = False
    max_length: int = 256
    placement: str = PROMPT
    max_new_tokens: int | None = None
    num_beams: int = 1
    answers: tuple[str, ...] = ("auto",)
    controls: bool = True

    def __post_init__(self) -> None:
        EvaluationOptions.__post_init__(self)
        known = (NONE, *BESIDE_RECORDS, *RETRIEVERS)
        for method in self.methods:
            if method not in known:
                raise InvalidOptionError(f"a method must be one of {', '.join(known)}, was: {method!r}")
        check_one_of(RETRIEVERS, beside=self.beside)
        check_one_of(SUMMARY_FORMS, summary_form=self.summary_form)
        check_one_of(PLACEMENTS, placement=self.placement)
        for k in self.ks or (0,):
            check_least(1, ks=k)
        if not self.answers or any(each not in ANSWERS for each in self.answers):
            raise InvalidOptionError(f"`answers` must be of {', '.join(ANSWERS)}, were: {', '.join(self.answers)}")
        self._check_parts()

    def _check_parts(self) -> None:
        """Refuse methods without what they need, and parts that no method reads."""
        for name, given, readers in (
            ("--user-embedder", self.user_embedders, (USER_EMBEDDER,)),
            ("--adapters", self.task_adapters, ADAPTERS),
            ("`summary_llm`", self.summary_llm, WRITTEN),
        ):
            reading = [method for method in self.methods if method in readers]
            if reading and not given and readers is not WRITTEN:
                raise InvalidOptionError(f"the method {reading[0]!r} needs a folder to read: name it ({name})")
            if given and not reading:
                raise InvalidOptionError(
                    f"{name} is read by the methods {', '.join(readers)}, and none of them is among "
                    f"{', '.join(self.methods)}"
                )
        if (self.user_embedder_controls or self.user_vectors is not None) and not self.user_embedders:
            raise InvalidOptionError(
                "`user_embedder_controls` and `user_vectors` go with user embedders: name some (--user-embedder)"
            )
        if len(self.user_embedder_controls) not in (0, len(self.user_embedders)):
            raise InvalidOptionError(
                f"there must be as many user embedders trained without the user as with it, "
                f"{len(self.user_embedders)}, were: {len(self.user_embedder_controls)}"
            )

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The retrievers that run: those among the methods, and the one beside the others where there are any."""
        beside = (self.beside,) if any(method in BESIDE_RECORDS for method in self.methods) else ()
        return tuple(dict.fromkeys((*(method for method in self.methods if method in RETRIEVERS), *beside)))

    @property
    def reads_vectors(self) -> bool:
        """Whether anything compares vectors of records."""
        embedders = bool(self.user_embedders) and self.user_vectors is None
        return embedders or any(needs_encoder(name, self.retrieval) for name in self.retrievers)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: parts by their fingerprint, folders by their path."""
    if isinstance(value, tuple | list):
        return list(map(plain, value))
    if isinstance(value, RetrieverOptions):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "fingerprint", str(value))

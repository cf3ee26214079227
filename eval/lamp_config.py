"""What an evaluation on a LaMP split is to run: methods, numbers of records, controls, budgets and seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from persona.errors import InvalidOptionError
from persona.eval.adapters import LORA_METHODS
from persona.eval.summary_rows import SUMMARY_FORMS, SUMMARY_METHODS
from persona.retrievers.registry import RETRIEVERS

NO_USER = "none"
"""The method that sends the question alone."""
USER_EMBEDDER = "user-embedder"
"""The method that puts a user embedder's soft prompt before the question."""
VOCABULARY = "vocabulary"
"""The method that lifts the words of a user's own targets (`persona.soft_prompts.vocabulary`)."""
USER_EMBEDDER_VOCABULARY = "user-embedder+vocabulary"
"""The method that does both."""
OTHER_USER = "other user"
"""The control in which each question gets another user's history."""
EMPTY_HISTORY = "empty history"
"""The control with an empty history for the user embedder; records that are retrieved beside it are the user's."""
WITHOUT_USER = "trained without user"
"""The control with a user embedder that was trained in the same way and never saw a history."""
USER_EMBEDDER_METHODS = (USER_EMBEDDER, USER_EMBEDDER_VOCABULARY)
"""The methods with a soft prompt."""
LIFTING_METHODS = (VOCABULARY, USER_EMBEDDER_VOCABULARY)
"""The methods that lift words."""
BESIDE_RECORDS = (USER_EMBEDDER, *SUMMARY_METHODS, VOCABULARY, USER_EMBEDDER_VOCABULARY, *LORA_METHODS)
"""The methods that run alone and with retrieved records beside them."""
NO_RETRIEVERS = (NO_USER, *BESIDE_RECORDS)
"""All methods that are no retrievers."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class LampConfig:
    """What to run.

    Attributes:
        methods: ``none``, ``user-embedder``, `persona.eval.summary_rows.SUMMARY_METHODS`, ``vocabulary``, ``user-embedder+vocabulary``,
            `persona.eval.adapters.LORA_METHODS` and names of `persona.retrievers.registry.RETRIEVERS`.
        ks: how many records; each retriever runs with each; ``user-embedder``, summaries and adapters alone and with each.
        beside: the retriever that finds the records beside a soft prompt, a summary or an adapter.
        lora_once: one adapter a user, from the profile of the user's earliest question, for all questions of that user;
            else one for each question, from all that is older than it.
        summary_form: what a summary is in a prompt, one of `persona.eval.summary_rows.SUMMARY_FORMS`.
        vocabulary: the weight of the methods ``vocabulary`` and ``user-embedder+vocabulary``.
        limit: only the first questions; None runs all.
        controls: also run each method with another user's history.
        encoder: what `load_encoder` takes, for the methods that compare vectors.
        base: for the retrievers in `persona.assembly.BASES`, the one that finds what they look at; None takes the one
            there.
        retriever_model: the model of the retrievers that have one of their own; None takes theirs.
        where: retrievers are handed only the records that fit, e.g. ``"time>=2011"``; None hands them all.
        relevance: a relevance filter over every retriever, ``"untrained"`` or a folder; None filters nothing.
        judge: what the filter judges, one of `persona.retrievers.relevance.retriever.JUDGED`.
        max_length: token budget of the official prompt builder.
        max_new_tokens: longest answer; None is 16 for labels and 64 for texts.
        num_beams: 1 is greedy.
        mbr: ratings: answer with the median of the LLM's distribution over the scores, which has the least expected
            absolute error (minimum Bayes risk decoding, `persona.llm.logits`), and not with the likeliest.
        seed: for the random retriever, the choice of other users and the bootstrap.
        resamples: bootstrap resamples over users.
    """

    methods: tuple[str, ...] = (NO_USER, "bm25-lamp", "recency")
    ks: tuple[int, ...] = (1, 4)
    beside: str = "bm25-lamp"
    lora_once: bool = False
    summary_form: str = "record"
    vocabulary: float = 0.0
    limit: int | None = None
    controls: bool = True
    encoder: str = "minilm"
    base: str | None = None
    retriever_model: str | None = None
    where: str | None = None
    relevance: str | None = None
    judge: str = "question"
    max_length: int = 256
    max_new_tokens: int | None = None
    num_beams: int = 1
    mbr: bool = False
    seed: int = 0
    resamples: int = 2000

    @property
    def with_user_embedder(self) -> bool:
        """Whether a user embedder takes part."""
        return not set(USER_EMBEDDER_METHODS).isdisjoint(self.methods)

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The retrievers that run: those among the methods, and the one beside the others where there are any."""
        beside = (self.beside,) if any(method in BESIDE_RECORDS for method in self.methods) else ()
        return tuple(dict.fromkeys((*(one for one in self.methods if one not in NO_RETRIEVERS), *beside)))

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in NO_RETRIEVERS and method not in RETRIEVERS:
                known = ", ".join((*NO_RETRIEVERS, *RETRIEVERS))
                raise InvalidOptionError(f"a method must be one of {known}, was: {method!r}")
        if self.beside not in RETRIEVERS:
            raise InvalidOptionError(f"`beside` must be one of {', '.join(RETRIEVERS)}, was: {self.beside!r}")
        if self.summary_form not in SUMMARY_FORMS:
            raise InvalidOptionError(
                f"`summary_form` must be one of {', '.join(SUMMARY_FORMS)}, was: {self.summary_form!r}"
            )
        lifting = next((method for method in self.methods if method in LIFTING_METHODS), None)
        if lifting is not None and not 0 < self.vocabulary < math.inf:
            raise InvalidOptionError(
                f"the method {lifting!r} needs a finite weight above 0 (--vocabulary), was: {self.vocabulary}"
            )
        if not self.ks or min(self.ks) < 1:
            raise InvalidOptionError(f"`ks` must be numbers of at least 1, was: {self.ks}")

"""The rows of an evaluation before they are answered: which requests each of them sends.

A row is a retriever with its k, ``none``, or what stands before the question (a soft prompt, a summary, an adapter),
alone and with records beside it; and each of these as a control, with another user's history, an empty one, or trained
without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from persona.channels import check_way
from persona.errors import EvaluationError, InvalidOptionError
from persona.eval.adapters import LORA_METHODS, TASK_ADAPTER, Adapters, UserAdapters, check_llm
from persona.eval.lamp_config import (
    EMPTY_HISTORY,
    LIFTING_METHODS,
    NO_RETRIEVERS,
    NO_USER,
    OTHER_USER,
    USER_EMBEDDER,
    USER_EMBEDDER_METHODS,
    USER_EMBEDDER_VOCABULARY,
    VOCABULARY,
    WITHOUT_USER,
    LampConfig,
    Progress,
)
from persona.eval.soft_prompts import SoftPrompts, UserEmbedders
from persona.eval.summary_rows import SUMMARY_METHODS, summary_rows
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, Question
from persona.protocols import LIFTS, SOFT_PROMPT, LanguageModel, Lifts, Request, Retriever
from persona.protocols import BuiltPrompt as LampPrompt
from persona.records import Profile
from persona.retrievers.registry import RetrieverOptions, make_retrievers, needs_encoder

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM
    from persona.soft_prompts.embedder import UserEmbedder


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of one row: for each seed, in the order of the questions.

    `adapters` are those that the requests of a seed name; none where they name none.
    """

    method: str
    k: int
    control: str | None
    runs: tuple[tuple[Request, ...], ...]
    tokens_added: float
    attention_perplexity: float = 0.0
    adapters: tuple[UserAdapters, ...] = ()


def make_plans(
    split: LampSplit,
    questions: Sequence[Question],
    llm: LanguageModel,
    config: LampConfig,
    folder: Path,
    report: Progress,
    *,
    user_embedders: UserEmbedders | None = None,
    adapters: Adapters | None = None,
    summarizer: LanguageModel | None = None,
    background: LampSplit | None = None,
) -> list[Plan]:
    """The rows that `config` names, in the order of the report.

    Args:
        split: where the questions are from.
        questions: those to run.
        llm: the frozen LLM.
        config: what to run.
        folder: vectors, summaries and adapters are kept here, and found again by a run that was stopped.
        report: told how far it is.
        user_embedders: the user embedders of the method ``user-embedder``.
        adapters: the task adapters of the methods with adapters.
        summarizer: writes the summaries of ``summary`` and ``stats+summary``; None is `llm`.
        background: says what is common to everybody, so that the rest is a user's own words; None is `split`.

    Raises:
        InvalidOptionError: if a method lacks what it needs.
    """
    _check_user_embedders(config, user_embedders, llm)
    _check_adapters(config, adapters, llm, split)
    with ExitStack() as stack:
        parts = _parts(split, questions, llm, config, user_embedders, folder / "vectors.db", stack, report)
        lifted = None
        if not set(LIFTING_METHODS).isdisjoint(config.methods):
            lifted = _Lifts(background or split, llm, config)
        plans = _text_plans(split, questions, parts, llm, config, report)
        if user_embedders is not None and config.with_user_embedder:
            plans += _user_embedder_plans(split, questions, parts, user_embedders, lifted, llm, config, report)
        if any(method in SUMMARY_METHODS for method in config.methods):
            kept = folder / "summaries.jsonl"
            plans += _summary_plans(split, questions, parts, llm, summarizer, config, kept, report)
        if lifted is not None and VOCABULARY in config.methods:
            plans += _vocabulary_plans(split, questions, parts, lifted, llm, config, report)
        if adapters is not None:
            plans += _adapter_plans(split, questions, parts, adapters, llm, config, folder / "adapters", report)
    return plans


def _check_user_embedders(config: LampConfig, user_embedders: UserEmbedders | None, llm: LanguageModel) -> None:
    if not config.with_user_embedder:
        return
    if user_embedders is None:
        method = next(one for one in config.methods if one in USER_EMBEDDER_METHODS)
        raise InvalidOptionError(f"the method {method!r} needs a user embedder: name its folder (--user-embedder)")
    if USER_EMBEDDER_VOCABULARY in config.methods and any(embedder.copies for embedder in user_embedders.with_user):
        raise InvalidOptionError(
            f"a user embedder that copies lifts tokens already, as {USER_EMBEDDER_VOCABULARY!r} does the user's words: "
            "leave that method out"
        )
    if SOFT_PROMPT not in llm.channels or not hasattr(llm, "model"):
        raise InvalidOptionError(
            "the method 'user-embedder' needs an LLM that takes soft prompts, a transformers model (folder, hub id or "
            f"(model, tokenizer)), was: {llm.fingerprint}"
        )


def _check_adapters(config: LampConfig, adapters: Adapters | None, llm: LanguageModel, split: LampSplit) -> None:
    wanted = [method for method in config.methods if method in LORA_METHODS]
    if not wanted:
        return
    if adapters is None:
        raise InvalidOptionError(f"the method {wanted[0]!r} needs a task adapter: name its folder (--adapters)")
    check_llm(llm)
    adapters.check(wanted, split)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What finds the personal part of a prompt.

    Attributes:
        retrievers: by method.
        beside: finds the records beside a soft prompt, a summary or an adapter; None without any.
        soft_prompts: None without user embedders.
    """

    retrievers: Mapping[str, Retriever]
    beside: Retriever | None = None
    soft_prompts: SoftPrompts | None = None


def _text_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[Plan]:
    """Retrieve for every row with records alone, and build its prompts."""
    plans: list[Plan] = []
    if NO_USER in config.methods:
        plans.append(Plan(NO_USER, 0, None, (tuple(Request(question.input) for question in questions),), 0.0))
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls and parts.retrievers:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    total = len(histories) * len(parts.retrievers)
    for number, (method, retriever) in enumerate(parts.retrievers.items()):
        for place, (control, profiles) in enumerate(histories.items()):
            for k, built in _prompts(split, questions, profiles, retriever, llm, config).items():
                requests = tuple(Request(one.text) for one in built)
                plans.append(Plan(method, k, control, (requests,), _mean_tokens(built)))
            report("retrieval", number * len(histories) + place + 1, total)
    return plans


def _user_embedder_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    user_embedders: UserEmbedders,
    lifted: _Lifts | None,
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[Plan]:
    """The rows with soft prompts: alone, with records and with lifted words, of the right user and as controls."""
    assert parts.soft_prompts is not None
    assert parts.beside is not None
    own = [question.profile for question in questions]
    queries = parts.soft_prompts.queries([split.task.query(question.input) for question in questions])
    # What stands in the soft prompt and in the prompt, and which embedders make it.
    rows: list[tuple[str | None, tuple[UserEmbedder, ...], list[Profile], list[Profile]]] = [
        (None, user_embedders.with_user, own, own)
    ]
    nobody = [Profile(question.user_id) for question in questions]
    if config.controls:
        others = other_histories(questions, config.seed)
        rows.append((OTHER_USER, user_embedders.with_user, others, others))
        if user_embedders.vectors is None:  # a file of user vectors has one for every user, whatever the history
            rows.append((EMPTY_HISTORY, user_embedders.with_user, nobody, own))
    if user_embedders.without_user:
        rows.append((WITHOUT_USER, user_embedders.without_user, nobody, own))
    plans = []
    for number, (control, embedders, shown, retrieved) in enumerate(rows):
        histories = parts.soft_prompts.histories(shown)
        made = [parts.soft_prompts.of(embedder, histories, queries) for embedder in embedders]
        perplexity = float(np.mean([spread for _, spread in made]))
        prompts: dict[int, tuple[list[str], float]] = {0: ([question.input for question in questions], 0.0)}
        for k, built in _prompts(split, questions, retrieved, parts.beside, llm, config).items():
            prompts[k] = ([one.text for one in built], _mean_tokens(built))
        # Nobody has no words: these controls are the same for both methods.
        methods = (
            [USER_EMBEDDER]
            if shown is nobody
            else [method for method in USER_EMBEDDER_METHODS if method in config.methods]
        )
        for method in methods:
            words: list[list[Lifts | None]]
            if lifted is not None and method == USER_EMBEDDER_VOCABULARY:
                words = [[*lifted.of(shown)]] * len(embedders)
            else:
                asked = [question.input for question in questions]
                words = [parts.soft_prompts.lifts(embedder, shown, asked) for embedder in embedders]
            for k, (texts, added) in prompts.items():
                runs = tuple(
                    tuple(
                        Request(text, soft, lifts=own_words)
                        for text, soft, own_words in zip(texts, softs, lifts, strict=True)
                    )
                    for (softs, _), lifts in zip(made, words, strict=True)
                )
                named = f"{method} + {config.beside}" if k else method
                plans.append(Plan(named, k, control, runs, added + embedders[0].config.n_tokens, perplexity))
        report("soft prompts", number + 1, len(rows))
    return plans


def _adapter_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    adapters: Adapters,
    llm: LanguageModel,
    config: LampConfig,
    folder: Path,
    report: Progress,
) -> list[Plan]:
    """The rows with adapters, alone and with records: the task adapter alone, the right user's, another user's."""
    methods = [method for method in config.methods if method in LORA_METHODS]
    if not methods:
        return []
    own = [question.profile for question in questions]
    histories: dict[str | None, list[Profile]] = {None: own}
    if config.controls:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    assert parts.beside is not None
    prompts: dict[str | None, dict[int, tuple[list[str], float]]] = {}
    for control, profiles in histories.items():
        prompts[control] = {0: ([question.input for question in questions], 0.0)}
        for k, built in _prompts(split, questions, profiles, parts.beside, llm, config).items():
            prompts[control][k] = ([one.text for one in built], _mean_tokens(built))

    def named(method: str, k: int) -> str:
        return f"{method} + {config.beside}" if k else method

    nobody = tuple(
        UserAdapters(TASK_ADAPTER, adapters, task, check_llm(llm), split, (), folder, report) for task in adapters.tasks
    )
    plans = [
        Plan(named(TASK_ADAPTER, k), k, None, tuple(each.alone(texts) for each in nobody), added, adapters=nobody)
        for k, (texts, added) in prompts[None].items()
    ]
    learnt = dict(histories)
    if config.lora_once:
        earliest = earliest_profiles(questions)
        learnt = {control: [earliest[one.user_id] for one in some] for control, some in histories.items()}
    for method in methods:
        made = tuple(
            UserAdapters(method, adapters, task, check_llm(llm), split, learnt[None], folder, report)
            for task in adapters.tasks
        )
        for control, profiles in learnt.items():
            for k, (texts, added) in prompts[control].items():
                runs = tuple(each.requests(texts, profiles) for each in made)
                plans.append(Plan(named(method, k), k, control, runs, added, adapters=made))
    return plans


def _summary_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    llm: LanguageModel,
    summarizer: LanguageModel | None,
    config: LampConfig,
    kept: Path,
    report: Progress,
) -> list[Plan]:
    """The rows with summaries: alone and with records, of the right user and of another."""
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    assert parts.beside is not None
    rows = summary_rows(
        split,
        questions,
        histories,
        config.methods,
        parts.beside,
        config.beside,
        config.ks,
        llm,
        form=config.summary_form,
        max_length=config.max_length,
        writer=summarizer,
        kept=kept,
        progress=report,
    )
    return [Plan(row.method, row.k, row.control, (row.requests,), row.tokens_added) for row in rows]


def _vocabulary_plans(
    split: LampSplit,
    questions: Sequence[Question],
    parts: _Parts,
    lifted: _Lifts,
    llm: LanguageModel,
    config: LampConfig,
    report: Progress,
) -> list[Plan]:
    """The rows with lifted words, alone and with records: the right user's, and another's words and records."""
    assert parts.beside is not None
    histories: dict[str | None, list[Profile]] = {None: [question.profile for question in questions]}
    if config.controls:
        histories[OTHER_USER] = other_histories(questions, config.seed)
    plans = []
    for number, (control, profiles) in enumerate(histories.items()):
        prompts: dict[int, tuple[list[str], float]] = {0: ([question.input for question in questions], 0.0)}
        for k, built in _prompts(split, questions, profiles, parts.beside, llm, config).items():
            prompts[k] = ([one.text for one in built], _mean_tokens(built))
        for k, (texts, added) in prompts.items():
            requests = tuple(Request(text, lifts=words) for text, words in zip(texts, lifted.of(profiles), strict=True))
            plans.append(Plan(f"{VOCABULARY} + {config.beside}" if k else VOCABULARY, k, control, (requests,), added))
        report("vocabulary", number + 1, len(histories))
    return plans


class _Lifts:
    """What is lifted of each user's words. What is common to everybody is read from all histories of `background`."""

    def __init__(self, background: LampSplit, llm: LanguageModel, config: LampConfig) -> None:
        from persona.soft_prompts.copying import TokenBackground
        from persona.soft_prompts.vocabulary import VocabularyChannel

        check_way(llm, LIFTS, "lifted words")
        model = cast("TransformersLM", llm)  # the only kind that takes lifts
        common = TokenBackground.from_profiles(model, (one.profile for one in background.questions))
        self._channel = VocabularyChannel(llm, common, config.vocabulary)
        self._known: dict[int, Mapping[int, float] | None] = {}

    def of(self, profiles: Sequence[Profile]) -> list[Mapping[int, float] | None]:
        """By profile, each read once; None for one without words."""
        for profile in profiles:
            if id(profile) not in self._known:
                self._known[id(profile)] = self._channel.lifts(profile) or None
        return [self._known[id(profile)] for profile in profiles]


def _prompts(
    split: LampSplit,
    questions: Sequence[Question],
    profiles: Sequence[Profile],
    retriever: Retriever,
    llm: LanguageModel,
    config: LampConfig,
) -> dict[int, list[LampPrompt]]:
    """The official prompts with the best records of `profiles`, by k."""
    queries = [split.task.query(question.input) for question in questions]
    found = retriever.retrieve_batch(profiles, queries, max(config.ks))
    return {
        k: [
            lamp_prompt(
                split.task,
                question.input,
                [scored.record for scored in best[:k]],
                llm.tokenizer,
                max_length=config.max_length,
            )
            for question, best in zip(questions, found, strict=True)
        ]
        for k in config.ks
    }


def _mean_tokens(prompts: Sequence[LampPrompt]) -> float:
    return float(np.mean([prompt.tokens_added for prompt in prompts]))


def _parts(
    split: LampSplit,
    questions: Sequence[Question],
    llm: LanguageModel,
    config: LampConfig,
    user_embedders: UserEmbedders | None,
    vectors: Path,
    stack: ExitStack,
    report: Progress,
) -> _Parts:
    """What the methods need; what compares vectors gets a store at `vectors`, open until `stack` ends."""
    names = [method for method in config.methods if method not in NO_RETRIEVERS]
    used = user_embedders if config.with_user_embedder else None
    embedded = used is not None and used.vectors is None
    wanted = config.retrievers
    compared = any(needs_encoder(name, RetrieverOptions(base=config.base)) for name in wanted)
    encoder = store = relevance = None
    if embedded or compared or config.relevance is not None:
        from persona.encoders.embedding import embed_users
        from persona.encoders.load import load_encoder
        from persona.retrievers.relevance.filters import load_filter
        from persona.store.profile_store import ProfileStore

        encoder = load_encoder(config.encoder, like=used.with_user[0].config.encoder if used and embedded else "")
        relevance = None if config.relevance is None else load_filter(config.relevance, encoder)
        store = stack.enter_context(ProfileStore(f"sqlite:///{vectors}"))
        store.upsert((question.user_id, record) for question in questions for record in question.profile)
        views = [split.task.view] if compared else []
        views += ["text"] if "key_value" in wanted else []
        views += [relevance.view] if relevance is not None else []
        views += used.views if used else ()
        for view in dict.fromkeys(views):
            embed_users(
                store, encoder, view=view, progress=lambda done, total, records: report("embed users", done, total)
            )
    made = make_retrievers(
        wanted,
        RetrieverOptions(
            view=split.task.view,
            seed=config.seed,
            base=config.base,
            model=config.retriever_model,
            where=config.where,
            relevance=relevance,
            judge=config.judge,
        ),
        encoder=encoder,
        store=store,
    )
    retrievers = {name: made[name] for name in names}
    if used is None:
        return _Parts(retrievers, made.get(config.beside))
    source = used.vectors or encoder
    assert source is not None
    soft_prompts = SoftPrompts(used, cast("TransformersLM", llm), source, store)
    return _Parts(retrievers, made[config.beside], soft_prompts)


def other_histories(questions: Sequence[Question], seed: int) -> list[Profile]:
    """For each question the profile of a question of another user; never one of its own user's.

    The users stand in a random circle and each takes the histories of the next, so that every history is used about
    as often as it would be by its owner.

    Raises:
        EvaluationError: if there is only one user.
    """
    owned: dict[str, list[Profile]] = {}
    for question in questions:
        owned.setdefault(question.user_id, []).append(question.profile)
    if len(owned) < 2:
        raise EvaluationError(
            "the control with another user's history needs questions of at least 2 users, was: 1; "
            "raise --limit or use --no-controls"
        )
    circle = [list(owned)[index] for index in np.random.default_rng(seed).permutation(len(owned))]
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    asked = dict.fromkeys(owned, 0)
    chosen = []
    for question in questions:
        others = owned[after[question.user_id]]
        chosen.append(others[asked[question.user_id] % len(others)])
        asked[question.user_id] += 1
    return chosen


def earliest_profiles(questions: Sequence[Question]) -> dict[str, Profile]:
    """By user the profile of the earliest question, which holds nothing that a later question does not know either."""
    found: dict[str, Question] = {}
    for question in questions:
        first = found.setdefault(question.user_id, question)
        if (question.time or "", len(question.profile)) < (first.time or "", len(first.profile)):
            found[question.user_id] = question
    return {user_id: question.profile for user_id, question in found.items()}

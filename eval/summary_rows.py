"""Summaries in an evaluation: ``stats``, ``summary`` and ``stats+summary``, alone and beside retrieved records.

``stats`` is what is computed exactly from a profile (`persona.summaries.statistics`), ``summary`` what an LLM wrote about it
(`persona.summaries.writing`); ``stats+summary`` has both, where they differ. In front of an official prompt a summary takes one
of two forms (`SUMMARY_FORMS`):

``record``
    one target that stands for all of the user's, worded as the task words a record, before the other records::

        4 is the score for "a typical review of this user" , and 5 is the score for "great thing" . What is the ...

    For LLMs that were trained on LaMP's prompts, which know records and nothing else.
``sentence``
    words about the user before everything else::

        About this user: "This user gave 39 scores: ..." . 5 is the score for "great thing" . What is the score ...

In both forms the budget of the official prompt holds for summary and records together, a summary of words takes at most
half of what the question leaves, and where the question leaves nothing there is no summary. LaMP_1 and LaMP_7, whose
users give no target of their own making, have the sentence only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from persona.errors import InvalidOptionError
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, LampTask, Question
from persona.prompts import quoted
from persona.protocols import BuiltPrompt as LampPrompt
from persona.protocols import LanguageModel, Request, Retriever, TextTokenizer
from persona.records import Profile, Record
from persona.summaries.prompts import INSTRUCT, TASK
from persona.summaries.statistics import profile_stats
from persona.summaries.writing import SummaryOptions, WrittenSummaries

STATS, SUMMARY, BOTH = SUMMARY_METHODS = ("stats", "summary", "stats+summary")
"""Names of the methods: exact statistics, what an LLM wrote, and both."""

RECORD, SENTENCE = SUMMARY_FORMS = ("record", "sentence")

_HEAD = 'About this user: "{}" . '


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One row's requests, in the order of the questions."""

    method: str
    k: int
    control: str | None
    requests: tuple[Request, ...]
    tokens_added: float


def summary_form(task: LampTask, form: str) -> str:
    """The form that a task's summaries take where `form` is wanted.

    Raises:
        InvalidOptionError: if there is no such form.
    """
    if form not in SUMMARY_FORMS:
        raise InvalidOptionError(f"`summary_form` must be one of {', '.join(SUMMARY_FORMS)}, was: {form!r}")
    return form if task.typical_record is not None else SENTENCE


def summary_prompt(
    task: LampTask,
    input: str,
    records: Sequence[Record],
    summaries: Sequence[str],
    tokenizer: TextTokenizer,
    *,
    form: str,
    max_length: int,
) -> LampPrompt:
    """The official prompt with summaries before its records.

    Args:
        task: whose wording to use.
        input: the question as LaMP gives it; it is never cut.
        records: retrieved ones, best first; may be none.
        summaries: targets in the form ``record``, words in the form ``sentence``; an empty one adds nothing.
        tokenizer: the LLM's.
        form: one of `SUMMARY_FORMS`.
        max_length: the budget for question, records and summaries, in tokens, at least 1.
    """
    summaries = list(dict.fromkeys(stripped for each in summaries if (stripped := each.strip())))
    if not summaries:
        return lamp_prompt(task, input, records, tokenizer, max_length=max_length)
    input_tokens, special = tokenizer.count(input), tokenizer.count("")
    if summary_form(task, form) == RECORD:
        typical = [Record(task.typical_record or "", target=each) for each in summaries]
        built = lamp_prompt(task, input, [*typical, *records], tokenizer, max_length=max_length)
        return LampPrompt(built.text, tuple(one for one in built.records if one not in typical), built.tokens_added)
    room = (max_length - input_tokens) // 2
    frame = tokenizer.count(_HEAD.format("word")) - special - 1
    words = quoted(" ".join(summaries))
    if tokenizer.count(words) - special > room - frame:
        words = "" if room <= frame else quoted(tokenizer.truncate(words, room - frame + special))
    if not words:
        return lamp_prompt(task, input, records, tokenizer, max_length=max_length)
    head = _HEAD.format(words)
    left = max_length - (tokenizer.count(head) - special)
    built = lamp_prompt(task, input, records, tokenizer, max_length=max(left, 1))
    text = head + built.text
    return LampPrompt(text, built.records, max(tokenizer.count(text) - input_tokens, 0))


def summary_rows(
    split: LampSplit,
    questions: Sequence[Question],
    histories: Mapping[str | None, Sequence[Profile]],
    methods: Sequence[str],
    retriever: Retriever,
    name: str,
    ks: Sequence[int],
    llm: LanguageModel,
    *,
    form: str,
    max_length: int,
    writer: LanguageModel | None = None,
    kept: Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[SummaryRow]:
    """The rows of the methods in `SUMMARY_METHODS`: each alone, and beside each of `ks` records.

    Args:
        split: where the questions are from.
        questions: to be answered.
        histories: by control (None is the right user), the profile of each question.
        methods: which of `SUMMARY_METHODS`, other names are passed over.
        retriever: finds the records beside a summary.
        name: the retriever's, for the rows.
        ks: how many records.
        llm: answers, and measures prompts.
        form: one of `SUMMARY_FORMS`.
        max_length: token budget of a prompt, and of a prompt for a summary.
        writer: writes summaries; None is `llm`.
        kept: file for summaries that were written, read again by the next run; None keeps none.
        progress: called with a stage's name, what is done and what there is to do.

    Raises:
        InvalidOptionError: if there is no such form.
    """
    task = split.task
    queries = [task.query(question.input) for question in questions]
    rows = []
    for method in (each for each in methods if each in SUMMARY_METHODS):
        for control, profiles in histories.items():
            texts: list[list[str]] = [[] for _ in profiles]
            if method in (STATS, BOTH):
                texts = [[_stats(task, profile, form)] for profile in profiles]
            if method in (SUMMARY, BOTH):
                written = _written(split, profiles, writer or llm, form, max_length, kept, progress)
                texts = [[*said, more] for said, more in zip(texts, written, strict=True)]
            found = retriever.retrieve_batch(profiles, queries, max(ks))
            for k in (0, *ks):
                built = [
                    summary_prompt(
                        task,
                        question.input,
                        [scored.record for scored in best[:k]],
                        text,
                        llm.tokenizer,
                        form=form,
                        max_length=max_length,
                    )
                    for question, best, text in zip(questions, found, texts, strict=True)
                ]
                rows.append(
                    SummaryRow(
                        f"{method} + {name}" if k else method,
                        k,
                        control,
                        tuple(Request(one.text) for one in built),
                        float(np.mean([one.tokens_added for one in built])),
                    )
                )
    return rows


def _stats(task: LampTask, profile: Profile, form: str) -> str:
    stats = profile_stats(profile, task.name)
    return stats.target or "" if summary_form(task, form) == RECORD else stats.text


def _written(
    split: LampSplit,
    profiles: Sequence[Profile],
    llm: LanguageModel,
    form: str,
    context_tokens: int,
    path: Path | None,
    progress: Callable[[str, int, int], object] | None,
) -> list[str]:
    """What the LLM writes about each profile, see `WrittenSummaries`."""
    asked = TASK if summary_form(split.task, form) == RECORD else INSTRUCT
    writer = WrittenSummaries(
        llm,
        SummaryOptions(task=split.task.name, form=asked, context_tokens=context_tokens),
        labels=split.labels,
        path=path,
        progress=None if progress is None else lambda done, total: progress("summaries", done, total),
    )
    return [text for text, _ in writer(profiles)]

"""Summaries that an LLM writes from profiles, without a store.

A history longer than the context is read in parts: part by part in the order of time, then the summaries of parts as if
they were records, until one is left (map-reduce). The parts of many users make one batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from persona.errors import GenerationError, check_least
from persona.files import JsonLines
from persona.llm.answers.modes import answers
from persona.protocols import Answer, BoundedPrompt, GenerationOptions, LanguageModel, Request, answer_settings
from persona.records import Profile
from persona.summaries.prompts import INSTRUCT, parts, prompt_version, summary_form
from persona.summaries.statistics import FREE, check_task

STALE_AFTER = 10
"""How many new records a summary may lag behind, unless something else is said."""

_PROFILES_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryOptions:
    """How summaries are written.

    Attributes:
        task: what they are for: a LaMP task's name, or `FREE`.
        form: how to ask, one of `persona.summaries.prompts.FORMS`; ``task`` is for tasks in which users give targets.
        stale_after: how many new records a stored summary may lag behind before it is written anew.
        context_tokens: the longest prompt in the LLM's tokens; less where the LLM itself takes less.
        max_new_tokens: the longest summary, and the longest summary of a part.
        users_at_once: users asked about together and stored in one transaction, at least 1: what a kill can cost.

    Raises:
        InvalidOptionError: if an option is out of range, or the form does not go with the task.
        UnknownTaskError: if there is no such task.
    """

    task: str = FREE
    form: str = INSTRUCT
    stale_after: int = STALE_AFTER
    context_tokens: int = 2048
    max_new_tokens: int = 96
    users_at_once: int = 64

    def __post_init__(self) -> None:
        summary_form(self.form, check_task(self.task))
        check_least(0, stale_after=self.stale_after)
        check_least(1, users_at_once=self.users_at_once)


def each_summary(
    llm: LanguageModel,
    profiles: Sequence[Profile],
    options: SummaryOptions | None = None,
    *,
    labels: Sequence[str] | None = None,
) -> Iterator[tuple[int, str | GenerationError]]:
    """Index and summary of each profile, or why there is none, when it is there. Nothing is stored.

    Args:
        llm: any that `load_llm` makes.
        profiles: of any users; all are asked about together. An empty one has an empty summary.
        options: how.
        labels: what the form ``task`` lets choose from, in place of the task's own labels.

    Raises:
        InvalidOptionError: if the context has no room for a record.
        GenerationError: if the LLM answers no request at all.
    """
    options = options or SummaryOptions()
    form = summary_form(options.form, check_task(options.task), labels)
    generation = GenerationOptions(max_new_tokens=min(options.max_new_tokens, form.max_new_tokens))
    limit = options.context_tokens
    if isinstance(llm, BoundedPrompt) and (own := llm.prompt_limit(generation)) is not None:
        limit = min(limit, own)
    records = {index: form.records(profile) for index, profile in enumerate(profiles)}
    merging = False
    while records:
        yield from ((index, "") for index, some in records.items() if not some)
        chunks = {
            index: list(parts(some, form, merging, limit, llm.tokenizer)) for index, some in records.items() if some
        }
        asked = [(index, part) for index, some in chunks.items() for part in some]
        requests = [Request(form.prompt(part, merging)) for _, part in asked]
        written: dict[int, dict[int, str]] = {index: {} for index in chunks}
        records = {}
        for number, answered in answers(llm, requests, generation):
            index = asked[number][0]
            if index not in written:
                continue  # another part of it has failed
            if isinstance(answered, GenerationError) or answered.finish == "refusal":
                del written[index]
                yield index, _failure(llm, answered)
                continue
            written[index][number] = " ".join(answered.text.split())
            if len(written[index]) == len(chunks[index]):
                texts = [text for _, text in sorted(written[index].items()) if text]
                if len(texts) > 1:
                    records[index] = list(map(form.merged, texts))
                else:
                    yield index, "".join(texts)
        merging = True


def _failure(llm: LanguageModel, answered: Answer | GenerationError) -> GenerationError:
    if isinstance(answered, GenerationError):
        return answered
    return GenerationError(f"{llm.fingerprint} refused to write: {answered.text.strip() or 'without a reason'}")


class WrittenSummaries:
    """Has an LLM write the summary of each profile that it is called with, and keeps them in a file for the next run.

    A profile whose summary fails goes without one in this run (`failures`); the next run asks for it again.

    A line of the file: ``{"key": "9f...", "text": "..."}``. The key is made of the profile's records, the LLM and the
    prompts, so equal profiles are asked about once. A run that was killed goes on where it ended.

    Args:
        llm: writes.
        options: how.
        labels: see `each_summary`.
        path: the file; None keeps nothing.
        progress: called with the number of summaries written and that of all which are missing.

    Attributes:
        failures: why there is no summary, by user.
    """

    def __init__(
        self,
        llm: LanguageModel,
        options: SummaryOptions,
        *,
        labels: Sequence[str] | None = None,
        path: Path | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self.llm, self._options, self._labels = llm, options, labels
        self._progress = progress
        self._task = check_task(options.task)
        self._version = prompt_version(options.form)
        self._file = JsonLines(path)
        self._texts: dict[str, str] = {line["key"]: line["text"] for line in self._file.read()}
        self.failures: dict[str, str] = {}

    def __call__(self, profiles: Sequence[Profile]) -> list[tuple[str, str]]:
        """For each profile its summary, and where that comes from."""
        keys = [self._key(profile) for profile in profiles]
        missing = {key: profile for key, profile in zip(keys, profiles, strict=True) if key not in self._texts}
        pending = list(missing.items())
        done = 0
        if pending and self._progress is not None:
            self._progress(done, len(pending))
        for start in range(0, len(pending), _PROFILES_AT_ONCE):
            chunk = pending[start : start + _PROFILES_AT_ONCE]
            some = [profile for _, profile in chunk]
            for index, summary in each_summary(self.llm, some, self._options, labels=self._labels):
                key, profile = chunk[index]
                if isinstance(summary, GenerationError):
                    self.failures[profile.user_id] = " ".join(str(summary).split())
                    self._texts[key] = ""
                else:
                    self._texts[key] = summary
                    self._file.add({"key": key, "text": summary})
                done += 1
                if self._progress is not None:
                    self._progress(done, len(pending))
        source = f"llm:{self._task}:{self._version}:{self.llm.fingerprint}"
        return [(self._texts[key], source if self._texts[key] else "") for key in keys]

    def _key(self, profile: Profile) -> str:
        content = [
            *(self.llm.fingerprint, answer_settings(self.llm), self._version, self._task),
            *(self._labels, self._options.context_tokens),
            [record.content_hash for record in profile],
        ]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

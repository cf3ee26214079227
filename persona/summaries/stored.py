"""Summaries in the store: written once for each user, read by requests, written anew when they are stale.

They are stored as the user's other derived data are: a summary goes when a record is deleted, and is erased with the
user. It names the records it rests on. Where one of them is gone or says something else now, the summary is stale at
once: it may repeat what the user has corrected.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from persona.errors import GenerationError, check_least
from persona.llm.counting import Cost, counting_llm
from persona.protocols import LanguageModel
from persona.records import Profile
from persona.store.derived import StoredIndex
from persona.store.profile_store import ProfileStore
from persona.summaries.prompts import prompt_version
from persona.summaries.statistics import FREE, check_task
from persona.summaries.writing import STALE_AFTER, SummaryOptions, each_summary

_SECONDS_AT_RISK = 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What an LLM wrote about a user.

    Attributes:
        user_id: about whom.
        task: what for: a LaMP task's name or `FREE`.
        text: the summary; empty if the LLM had nothing to say.
        prompt: version of the prompt that it answers.
        llm: fingerprint of the LLM.
        revision: of the profile that it was written from.
        records: the records it rests on: id -> `Record.content_hash`.
    """

    user_id: str
    task: str
    text: str
    prompt: str
    llm: str
    revision: int
    records: Mapping[str, str]

    @property
    def source(self) -> str:
        """Where it comes from, for the provenance of an answer."""
        return f"llm:{self.task}:{self.prompt}:{self.llm}"

    def behind(self, profile: Profile) -> int:
        """How many records of `profile` are new since it was written."""
        return sum(record.id not in self.records for record in profile)

    def stale(self, profile: Profile, stale_after: int | None = STALE_AFTER) -> bool:
        """Whether it should be written anew, and not be read until then.

        Args:
            profile: the user's records now.
            stale_after: how many new records it may lag behind; None for any number.

        Returns:
            True if a record that it rests on is gone or has another content, or too many are new.
        """
        if profile.revision == self.revision and profile.revision:
            return False
        now = {record.id: record.content_hash for record in profile}
        if any(now.get(id) != content for id, content in self.records.items()):
            return True
        return stale_after is not None and self.behind(profile) > stale_after


class StoredSummaries:
    """Reads the summaries of users from a store. It never asks an LLM.

    Args:
        store: where they are.
        task: what they are for: a LaMP task's name, or `FREE`.
        stale_after: a summary that lags more new records behind is not used; None allows any number.

    Raises:
        InvalidOptionError: if `stale_after` is negative.
        UnknownTaskError: if there is no such task.
    """

    def __init__(self, store: ProfileStore, task: str = FREE, *, stale_after: int | None = STALE_AFTER) -> None:
        check_least(0, stale_after=stale_after)
        self._store, self._task, self._stale_after = store, check_task(task), stale_after

    def __call__(self, profiles: Sequence[Profile]) -> list[tuple[str, str]]:
        """For each profile its user's summary, and where that comes from; both empty if there is none to be used."""
        return [self._of(profile) for profile in profiles]

    def _of(self, profile: Profile) -> tuple[str, str]:
        summary = stored_summary(self._store, profile.user_id, self._task) if len(profile) else None
        if summary is None or not summary.text or summary.stale(profile, self._stale_after):
            return "", ""
        return summary.text, summary.source


@dataclass(frozen=True, slots=True)
class SummarizeReport:
    """What one run did.

    Attributes:
        users: users of the store.
        written: summaries that were written and stored.
        fresh: users whose summary was there and not stale.
        empty: of those written, how many the LLM left empty.
        passed_over: users who were forgotten or changed while their summary was being written.
        seconds: how long it took.
        failures: users whose summary was not answered, or refused, and why; the next run asks for theirs alone.
    """

    users: int
    written: int
    fresh: int
    empty: int
    passed_over: int
    seconds: float
    failures: Mapping[str, str] = field(default_factory=dict)


def summarize_users(
    store: ProfileStore,
    llm: LanguageModel,
    options: SummaryOptions | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> SummarizeReport:
    """Write the summaries that are missing, stale, or from another LLM or prompt, and put them into `store`.

    It may be killed at any moment and run again: what was stored stays, and only the rest is written. A summary does
    not depend on the other users of its batch, as far as the LLM's answers do not.

    Args:
        store: holds the records and gets the summaries.
        llm: writes them; it need not be the one that will read them.
        options: how.
        progress: called with the number of users whose summaries are stored or fresh, and that of all.

    Raises:
        GenerationError: if the LLM answers no request at all. What was stored before stays.
    """
    options = options or SummaryOptions()
    begun = time.perf_counter()
    task, version = check_task(options.task), prompt_version(options.form)
    store.remove_expired()  # what is made before would be removed with it
    total = store.counts().users
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    waiting = _due(store, llm, options, counts)
    while profiles := list(islice(waiting, options.users_at_once)):
        ready: list[Summary] = []
        stored = time.monotonic()
        try:
            for index, text in each_summary(llm, profiles, options):
                profile = profiles[index]
                if isinstance(text, GenerationError):
                    failures[profile.user_id] = " ".join(str(text).split())
                    continue
                contents = {record.id: record.content_hash for record in profile}
                ready.append(Summary(profile.user_id, task, text, version, llm.fingerprint, profile.revision, contents))
                # Where answers come one by one, a kill costs those of a second.
                if time.monotonic() - stored > _SECONDS_AT_RISK:
                    counts += _put(store, ready)
                    stored = time.monotonic()
        finally:
            counts += _put(store, ready)
        if progress is not None:
            progress(counts["users"], total)
    if progress is not None:
        progress(total, total)
    numbers = {name: counts[name] for name in ("users", "written", "fresh", "empty", "passed_over")}
    return SummarizeReport(**numbers, seconds=time.perf_counter() - begun, failures=failures)


def summarize_cost(store: ProfileStore, llm: LanguageModel, options: SummaryOptions | None = None) -> Cost:
    """What `summarize_users` would ask of the LLM, without asking it; partial summaries as long as they may be."""
    options, counting = options or SummaryOptions(), counting_llm(llm)
    waiting = _due(store, counting, options, Counter())
    while profiles := list(islice(waiting, options.users_at_once)):
        list(each_summary(counting, profiles, options))
    return counting.cost


def _due(store: ProfileStore, llm: LanguageModel, options: SummaryOptions, counts: Counter[str]) -> Iterator[Profile]:
    """The profiles whose summary is to be written; counts the users seen and those whose summary is fresh."""
    task, wanted = check_task(options.task), (prompt_version(options.form), llm.fingerprint)
    for user_id in store.user_ids():
        profile = store.profile(user_id)
        counts["users"] += 1
        summary = stored_summary(store, user_id, task) if len(profile) else None
        if (
            summary is not None
            and (summary.prompt, summary.llm) == wanted
            and not summary.stale(profile, options.stale_after)
        ):
            counts["fresh"] += 1
        elif len(profile):
            yield profile


def _put(store: ProfileStore, ready: list[Summary]) -> Counter[str]:
    """Store what is ready, and empty the list; what became of it."""
    written = store.put_indexes(map(_to_index, ready)) if ready else 0
    counts = Counter(written=written, passed_over=len(ready) - written, empty=sum(not each.text for each in ready))
    ready.clear()
    return counts


def summary_kind(task: str) -> str:
    """The kind (`StoredIndex.kind`) that summaries for a task are stored as; each user has one for each task."""
    return f"summary:{check_task(task)}"


def stored_summary(store: ProfileStore, user_id: str, task: str = FREE) -> Summary | None:
    """The user's summary for a task, stale or not; None if there is none, or it cannot be read."""
    index = store.index(user_id, summary_kind(task))
    if index is None:
        return None
    try:
        data = json.loads(index.data)
        text, task, prompt, llm = (str(data[name]) for name in ("text", "task", "prompt", "llm"))
        records = {str(id): str(content) for id, content in data["records"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged one counts as none
    return Summary(user_id, task, text, prompt, llm, index.revision, records)


def _to_index(summary: Summary) -> StoredIndex:
    data = {name: getattr(summary, name) for name in ("text", "task", "prompt", "llm")}
    written = json.dumps({**data, "records": dict(summary.records)}, ensure_ascii=False).encode()
    return StoredIndex(summary.user_id, summary_kind(summary.task), summary.revision, written)

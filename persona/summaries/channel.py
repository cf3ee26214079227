"""The channel of summaries: what is typical of a user, in few tokens, beside records or in their place.

>>> from persona.records import Record
>>> history = Profile("critic-7", tuple(Record(f"film {n}", target=score) for n, score in enumerate("24433")))
>>> (given,) = SummaryChannel("stats", task="LaMP_3").contribute([Ask(history, "What is the score of ...", "...")])
>>> given.notes
('This user gave 5 scores: 2 once, 3 twice, 4 twice; median 3, mean 3.2; last, newest first: 3, 3, 4, 4, 2.',)

Source: Richardson et al., "Integrating Summarization and Retrieval for Enhanced Personalization via Large Language
Models" (arXiv 2310.20081): a summary for the task beside one retrieved record is to do as much as four records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from persona.channels import Ask, Channel, Contribution
from persona.errors import InvalidOptionError, check_one_of
from persona.records import Profile
from persona.summaries.statistics import FREE, check_task, profile_stats

STATS, LLM, BOTH = SOURCES = ("stats", "llm", "both")
"""Where a summary comes from: exact statistics, an LLM, or the one followed by the other."""


class SummaryChannel(Channel):
    """Contributes a user's summary as notes.

    Args:
        source: ``stats``, ``llm`` or ``both`` (`SOURCES`).
        written: gives what an LLM wrote about each of some users, and where that comes from; both empty for nothing:
            `persona.summaries.stored.StoredSummaries` for requests, which never wait for a summary, or
            `persona.summaries.writing.WrittenSummaries`. Not needed for ``stats``.
        task: what the summaries are for: a LaMP task's name, or `FREE`.
        as_target: contribute what stands for all of the user's targets (`ProfileStats.target`) in place of the
            statistics in words; for a wording whose notes are targets (`LampWording.notes_are_targets`).

    Raises:
        InvalidOptionError: if there is no such source, or nothing that gives what an LLM wrote.
        UnknownTaskError: if there is no such task.
    """

    name = "summary"

    def __init__(
        self,
        source: str = LLM,
        written: Callable[[Sequence[Profile]], Sequence[tuple[str, str]]] | None = None,
        *,
        task: str = FREE,
        as_target: bool = False,
    ) -> None:
        check_one_of(SOURCES, source=source)
        if written is None and source != STATS:
            raise InvalidOptionError(
                f"the summary {source!r} is written by an LLM: give `StoredSummaries(store, task)`, or take 'stats'"
            )
        self.source = source
        self.task = check_task(task)
        self._written = written
        self._as_target = as_target

    def contribute(self, asks: Sequence[Ask]) -> list[Contribution]:
        """The summaries of the users of `asks`; nothing for users without one."""
        profiles = {id(ask.profile): ask.profile for ask in asks}
        parts: dict[int, list[tuple[str, str]]] = {key: [] for key in profiles}
        if self.source in (STATS, BOTH):
            for key, profile in profiles.items():
                parts[key].append(self._statistics(profile))
        if self.source in (LLM, BOTH) and self._written is not None:
            for key, part in zip(profiles, self._written(list(profiles.values())), strict=True):
                parts[key].append(part)
        return [_contribution(parts[id(ask.profile)]) for ask in asks]

    def _statistics(self, profile: Profile) -> tuple[str, str]:
        stats = profile_stats(profile, self.task)
        return (stats.target or "") if self._as_target else stats.text, f"{STATS}:{self.task}:{stats.kind}"


def _contribution(parts: Sequence[tuple[str, str]]) -> Contribution:
    parts = [(text, source) for text, source in parts if text]
    notes = tuple(text for text, _ in parts)
    return Contribution(notes=notes, source=" + ".join(source for _, source in parts)) if notes else Contribution()

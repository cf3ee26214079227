"""A profile as exact statistics, in a sentence: what an LLM need not be asked for.

>>> from persona.records import Record
>>> films = [Record(f"film {n}", target=score) for n, score in enumerate("24433")]
>>> stats = profile_stats(Profile("critic-7", tuple(films)), "LaMP_3")
>>> print(stats.text)
This user gave 5 scores: 2 once, 3 twice, 4 twice; median 3, mean 3.2; last, newest first: 3, 3, 4, 4, 2.
>>> stats.target
'3'

What is counted follows from the task, or for histories of no task from the targets themselves:

======  ===============================  ======================================  ======================
kind    when                             `ProfileStats.text`                     `ProfileStats.target`
======  ===============================  ======================================  ======================
scores  LaMP_3; all targets are numbers  how often each, median, mean, the last  the median
labels  LaMP_2, LaMP_2N; targets repeat  how often the most frequent, the last   the most frequent five
titles  LaMP_1, 4, 5, 6; other targets   length, casing, last mark, words again  the most typical one
texts   LaMP_7; no targets               the same of the texts                   none
======  ===============================  ======================================  ======================

- Targets *repeat* if at most half of them are different, or some come again and none has more than two words.
- *Casing* is ``lower case`` without any capital, ``capitals`` without any small letter, ``title case`` where two thirds
  of the words of four and more letters begin with a capital, else ``sentence case``.
- *Words that come again* stand in at least a quarter of the texts and in two: one word or a pair, no stop words. A word
  that stands nowhere but in a pair is left out.
- The *most typical* title is the one whose words, on average, stand in most of the other titles.
- Of equals the later one wins.

Everything is computed from the records at hand in one pass, so it is never stale and nothing of it is stored.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median

from persona.formats.fields import number_in
from persona.lamp.tasks import lamp_task
from persona.records import Profile

SCORES, LABELS, TITLES, TEXTS = KINDS = ("scores", "labels", "titles", "texts")
"""What a profile's targets are."""

FREE = "free"
"""The task of a history that belongs to no LaMP task."""

_KIND_OF = {"LaMP_2": LABELS, "LaMP_2N": LABELS, "LaMP_3": SCORES, "LaMP_7": TEXTS}

_LABELS_NAMED = 5
_LAST_SCORES = 5
_LAST_LABELS = 3
_WORDS_NAMED = 5
_LEAST_SHARE = 0.25
_TEXTS_READ = 256  # the newest ones, and the first words of each: a bound on the time
_WORDS_READ = 32
_MOST_SCORES = 11
_LABEL_WORDS = 2
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP_WORDS = frozenset(
    (
        *("a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by"),
        *("can", "could", "did", "do", "does", "for", "from", "get", "had", "has", "have", "he", "her", "him"),
        *("his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "like", "me", "more", "most", "my"),
        *("no", "not", "now", "of", "on", "one", "or", "our", "out", "over", "she", "so", "some", "than", "that"),
        *("the", "their", "them", "then", "there", "these", "they", "this", "to", "up", "us", "was", "we", "were"),
        *("what", "when", "which", "who", "why", "will", "with", "would", "you", "your"),
    )
)
_TIMES = {1: "once", 2: "twice"}


@dataclass(frozen=True, slots=True)
class ProfileStats:
    """What the records of one user amount to.

    Attributes:
        kind: one of `KINDS`.
        records: how many records were counted: those with a target, or for texts all of them.
        text: the statistics in one sentence; empty where there is nothing to count.
        target: what stands for all of the targets, in their own form: the median, the most typical title, or the most
            frequent labels with commas between; None for texts and where there are no targets.
    """

    kind: str
    records: int
    text: str
    target: str | None


def check_task(task: str) -> str:
    """The name of a LaMP task as `persona.lamp.tasks` spells it, or `FREE`.

    Raises:
        UnknownTaskError: if there is no such task.
    """
    return task if task == FREE else lamp_task(task).name


def profile_stats(profile: Profile, task: str = FREE) -> ProfileStats:
    """The statistics of a profile.

    Args:
        profile: whose records, in any order; where the newest count, undated ones are the oldest.
        task: a LaMP task's name; `FREE` goes by the targets.

    Raises:
        UnknownTaskError: if there is no such task.
    """
    records = sorted(profile.records, key=lambda record: record.time or "")
    targets = [target for record in records if (target := (record.target or "").strip())]
    name = check_task(task)
    kind = _kind(targets) if name == FREE else _KIND_OF.get(name, TITLES)
    if kind == SCORES:
        return _scores([score for target in targets if (score := number_in(target)) is not None])
    if kind == LABELS:
        return _labels(targets)
    if kind == TITLES:
        return ProfileStats(TITLES, len(targets), _written("title", targets), _most_typical(targets))
    texts = [record.text for record in records]
    return ProfileStats(TEXTS, len(texts), _written("text", texts), None)


def _kind(targets: Sequence[str]) -> str:
    if not targets:
        return TEXTS
    different = len(set(targets))
    if all(number_in(target) is not None for target in targets) and different <= _MOST_SCORES:
        return SCORES
    # A few short words that come again are labels, even if most of them were given once so far.
    short = all(len(target.split()) <= _LABEL_WORDS for target in targets)
    return LABELS if 2 * different <= len(targets) or (short and different < len(targets)) else TITLES


def _scores(scores: Sequence[float]) -> ProfileStats:
    if not scores:
        return ProfileStats(SCORES, 0, "", None)
    counts = Counter(scores)
    # The median of an even number may lie between two scores: the one that the user gave last is the answer.
    middle = median(scores)
    closest = min(abs(score - middle) for score in counts)
    target = next(score for score in reversed(scores) if abs(score - middle) == closest)
    given = ", ".join(f"{_shown(score)} {_times(counts[score])}" for score in sorted(counts))
    last = ", ".join(_shown(score) for score in reversed(scores[-_LAST_SCORES:]))
    text = (
        f"This user gave {_counted(len(scores), 'score')}: {given}; median {_shown(middle)}, "
        f"mean {sum(scores) / len(scores):.1f}; last, newest first: {last}."
    )
    return ProfileStats(SCORES, len(scores), text, _shown(target))


def _labels(labels: Sequence[str]) -> ProfileStats:
    if not labels:
        return ProfileStats(LABELS, 0, "", None)
    ranked = _ranked(labels)
    given = ", ".join(f"{label} {_times(count)}" for label, count in ranked[:_LABELS_NAMED])
    more = f" and {len(ranked) - _LABELS_NAMED} more" if len(ranked) > _LABELS_NAMED else ""
    last = ", ".join(reversed(labels[-_LAST_LABELS:]))
    text = f"This user gave {_counted(len(labels), 'label')}: {given}{more}; last, newest first: {last}."
    return ProfileStats(LABELS, len(labels), text, ", ".join(label for label, _ in ranked[:_LABELS_NAMED]))


def _written(noun: str, texts: Sequence[str]) -> str:
    """How `texts` are written, in a sentence."""
    newest = texts[-_TEXTS_READ:]
    words = [_WORD.findall(text) for text in newest]
    if not any(words):
        return ""
    lengths = sorted(len(each) for each in words if each)
    casing, casing_share = _most([_casing(text, each) for text, each in zip(newest, words, strict=True) if each])
    mark, mark_share = _most([_last_mark(text) for text in newest])
    habits = [
        f"median length {_counted(median(lengths), 'word')} ({lengths[0]} to {lengths[-1]})",
        f"in {casing} ({casing_share:.0%})",
        f'ending in "{mark}" ({mark_share:.0%})' if mark else f"without a mark at the end ({mark_share:.0%})",
    ]
    again = _come_again(words)
    often = f"; often with {', '.join(f'“{phrase}”' for phrase in again)}" if again else ""
    return f"This user wrote {_counted(len(texts), noun)}: {', '.join(habits)}{often}."


def _come_again(texts: Sequence[Sequence[str]]) -> list[str]:
    """Words and pairs of words that stand in many of `texts`, the most frequent first."""
    lowered = [[word.lower() for word in words[:_WORDS_READ]] for words in texts]
    least = max(2, math.ceil(_LEAST_SHARE * len(texts)))
    counts = Counter(chain.from_iterable(map(set, lowered)))
    often: dict[tuple[str, ...], int] = {
        (word,): count for word, count in counts.items() if count >= least and word not in _STOP_WORDS
    }
    # A pair is never more frequent than its words, so most texts need not be cut into pairs.
    words = {word for (word,) in often}
    pairs: Counter[tuple[str, str]] = Counter()
    for each in lowered:
        pairs.update({pair for pair in pairwise(each) if pair[0] in words and pair[1] in words})
    inside: set[tuple[str, ...]] = set()
    for pair, count in pairs.items():
        if count >= least:
            often[pair] = count
            inside.update((word,) for word in pair if counts[word] == count)
    # By count, then pairs before words, then by the alphabet: the order does not hang on the order of a set.
    kept = sorted(often.keys() - inside, key=lambda phrase: (-often[phrase], -len(phrase), phrase))
    return [" ".join(phrase) for phrase in kept[:_WORDS_NAMED]]


def _most_typical(titles: Sequence[str]) -> str | None:
    newest = titles[-_TEXTS_READ:]
    words = [frozenset(word.lower() for word in _WORD.findall(title)) for title in newest]
    counts = Counter(word for each in words for word in each)
    # Not counting the title itself, so that words of its own speak against it.
    scores = [sum(counts[word] - 1 for word in each) / len(each) if each else -1.0 for each in words]
    best = max(range(len(newest)), key=lambda index: (scores[index], index), default=None)
    return None if best is None else newest[best]


def _casing(text: str, words: Sequence[str]) -> str:
    if text.lower() == text:
        return "lower case"
    if text.upper() == text:
        return "capitals"
    long = [word for word in words if len(word) > 3]
    capitals = sum(word[0].isupper() for word in long)
    return "title case" if long and 3 * capitals >= 2 * len(long) else "sentence case"


def _last_mark(text: str) -> str:
    stripped = text.rstrip()
    if stripped.endswith(("...", "…")):
        return "..."
    last = stripped[-1:]
    return "" if not last or last.isalnum() or last in "\"'”’)]" else last


def _most(values: Sequence[str]) -> tuple[str, float]:
    """The most frequent value and its share; among equals the last."""
    value, count = _ranked(values)[0]
    return value, count / len(values)


def _ranked(values: Sequence[str]) -> list[tuple[str, int]]:
    """The different values with their counts, the most frequent first; among equals the one that came last."""
    last = {value: index for index, value in enumerate(values)}
    return sorted(Counter(values).items(), key=lambda each: (-each[1], -last[each[0]]))


def _shown(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def _times(count: int) -> str:
    return _TIMES.get(count, f"{count} times")


def _counted(count: float, noun: str) -> str:
    return f"{_shown(count)} {noun}" if count == 1 else f"{_shown(count)} {noun}s"

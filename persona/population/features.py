"""What users share: labels, words and fields, each as ``kind:value``; and which of them tell a group from the others.

>>> from persona.records import Record
>>> features_of(Profile("ana", (Record("A lighthouse.", target="sea", metadata={"country": "IE"}),)))
Counter({'label:sea': 1, 'word:lighthouse': 1, 'country:IE': 1})
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from persona.records import Profile

LEAST = 10
"""Users who must share a feature, and the least size of a segment: nothing is said of fewer."""

Features = Mapping[str, Mapping[str, int]]
"""User id -> feature -> how often."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_LABEL_WORDS = 2
_CHANCE = 0.05
_MOST = 20


def features_of(profile: Profile) -> Counter[str]:
    """What a profile shares with others: targets as ``label:...``, words, and the fields of its metadata.

    The words are those of texts, and of targets that have more than two.
    """
    found: Counter[str] = Counter()
    for record in profile:
        if record.target is not None:
            found[f"label:{record.target}"] += 1
        written = record.target if record.target and len(record.target.split()) > _LABEL_WORDS else ""
        found.update(words_of(f"{record.text} {written}"))
        found.update(f"{key}:{value}" for key, value in record.metadata.items())
    return found


def words_of(text: str) -> Counter[str]:
    """The different words of a text as features, such as those of a new user's question."""
    return Counter(f"word:{word}" for word in dict.fromkeys(_WORD.findall(text.lower())))


def telling(users: Sequence[Counter[str]], sizes: Sequence[int], least: int = LEAST) -> Iterator[dict[str, float]]:
    """The features that tell each of some groups from the others, with their z, the highest first.

    If y of a group's n users have a feature, and y' of the n' others, then with .5 added to each number

        z = log(y (n' - y') / ((n - y) y')) / sqrt(1 / y + 1 / (n - y) + 1 / y' + 1 / (n' - y'))

    It must be higher than 19 in 20 tables of so many features would show anywhere by chance (Bonferroni's bound).

    Args:
        users: of each group, how many users have a feature.
        sizes: of the groups.
        least: users of the group who must have it.
    """
    total, everybody = sum(users, Counter()), sum(sizes)
    tried = sum(y >= least for counts in users for y in counts.values())
    sure = NormalDist().inv_cdf(1 - _CHANCE / max(1, tried))
    for counts, n in zip(users, sizes, strict=True):
        found = []
        for feature, y in counts.items():
            if y >= least and n < everybody:
                cells = np.array([y, everybody - n - (total[feature] - y), n - y, total[feature] - y]) + 0.5
                z = np.log(cells[:2] / cells[2:]).sum() / np.sqrt((1 / cells).sum())
                found.append((round(float(-z), 2), feature))
        yield {feature: -z for z, feature in sorted(found)[:_MOST] if z < -sure}

"""Which concepts a record is about: those whose name is its target, or a word of it.

    v_c = 1 if the target is the name of concept c, or the name is a word of text or target, else 0

Names are given (``concepts(names=['jazz', 'opera'])``, e.g. skills), or taken from the training split by
`new_user_embedder`: the labels of the task, then the `words` words with the highest df * log(users / df), where df is
the number of users who wrote the word: those that tell users apart and that many use. Words of one user alone are none,
nor are those of fewer than four letters.

Source: SESA, Supervised Explicit Semantic Analysis (arXiv 1708.03246). `persona.soft_prompts.parts.poolings.concepts`
makes a user's vector of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.lamp.tasks import LampSplit
from persona.records import Profile, Record
from persona.soft_prompts.parts.base import View

_WORD = re.compile(r"[^\W\d_]+")
_LEAST_USERS, _LEAST_LETTERS = 2, 4


class ConceptsView(View):
    """The indicators of the module's docstring."""

    def __init__(self, *, names: Sequence[str] = ()) -> None:
        self.columns = {name.casefold(): column for column, name in enumerate(names)}
        self.dim = len(names)
        if not self.columns or len(self.columns) < self.dim:
            raise InvalidOptionError(f"the view 'concepts' needs different `names`, was given: {list(names)!r:.80}")

    def read(self, profile: Profile) -> NDArray[np.float32]:
        """See the module.  # (records, names)"""
        read = np.zeros((len(profile), self.dim), np.float32)
        for row, record in enumerate(profile):
            read[row, [self.columns[name] for name in _said(record) if name in self.columns]] = 1
        return read

    @classmethod
    def fitted(cls, split: LampSplit, **options: Any) -> dict[str, Any]:
        """The names from a training split, unless they are given; `words` says how many words are among them."""
        if "names" in options:
            return options
        users: dict[str, set[str]] = defaultdict(set)
        for question in split.questions:
            for record in question.profile:
                users[question.user_id] |= _said(record)
        golds = [gold.strip() for gold in (split.golds or {}).values()]
        repeated = set(golds) if 2 * len(set(golds)) <= len(golds) else set()
        labels = {label.casefold() for label in split.labels or split.task.labels or repeated}
        counts = Counter(word for said in users.values() for word in said - labels if _WORD.fullmatch(word))
        worth = {
            word: count * math.log(len(users) / count)
            for word, count in counts.items()
            if count >= _LEAST_USERS and len(word) >= _LEAST_LETTERS
        }
        words = sorted(worth, key=lambda word: (-worth[word], word))[: options.get("words", 64)]
        return {"names": [*sorted(labels), *words]}


def _said(record: Record) -> set[str]:
    """The target and all words of a record, in lower case."""
    target = (record.target or "").strip().casefold()
    return {target, *_WORD.findall(f"{record.text} {target}".casefold())} - {""}

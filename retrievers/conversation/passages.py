"""A turn with its neighbours in time, and a search of these passages by their words.

A turn alone often does not say what it is about ("Yes, on Friday!"): the turns around it do, and a question that names
what they say has to find it. So a turn is searched together with the two before it and the two after it, as far as they
are of the same conversation: the same ``metadata["conversation"]`` or, where there is none, the same day. A record that
nobody spoke (no speaker, role or conversation) stands alone.

Words are compared by their first five characters, which makes most forms of a word one (``paint``, ``painted``,
``painting``), in any language that inflects at the end, and without a list of any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from persona.records import Profile, Record

from ..base import check_k, view_texts
from ..words.bm25 import BM25Retriever
from ..words.tokens import words

NEIGHBOURS = 2
"""How many turns before a turn, and after it, are searched with it."""

_BEGINNING = 5


def conversations(profile: Profile) -> list[list[int]]:
    """The positions of the records of each conversation, each in profile order."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, record in enumerate(profile):
        found[_conversation(record) or position].append(position)
    return list(found.values())


def passages(profile: Profile, neighbours: int = NEIGHBOURS, view: str = "turn") -> list[str]:
    """Each record as a string together with its neighbours, in profile order.

    Args:
        profile: the records.
        neighbours: how many before a record, and after it, at least 0.
        view: how a record reads (`Record.view`).
    """
    texts = view_texts(profile, view)
    found = list(texts)
    for own in conversations(profile):
        for place, position in enumerate(own):
            around = own[max(place - neighbours, 0) : place + neighbours + 1]
            found[position] = "\n".join([texts[each] for each in around])
    return found


class PassageRetriever(BM25Retriever):
    """Retrieves the records whose passages have the greatest BM25+ score, by the beginnings of words.

    Args:
        view: how a record reads (`Record.view`).
        neighbours: how many records before a record, and after it, are searched with it.

    Raises:
        InvalidOptionError: if there is no such view, or `neighbours` is below 0.
    """

    def __init__(self, view: str = "turn", *, neighbours: int = NEIGHBOURS) -> None:
        super().__init__(view)
        self.neighbours = check_k(neighbours, least=0)

    def texts(self, profile: Profile) -> list[str]:
        """The passages."""
        return passages(profile, self.neighbours, self.view)

    def tokens(self, text: str) -> list[str]:
        """The first five characters of each word."""
        return [word[:_BEGINNING] for word in words(text)]


def _conversation(record: Record) -> Hashable:
    """Names the conversation that a record is a turn of; None for none."""
    named = record.metadata.get("conversation")
    if named is not None:
        return "conversation", named
    return ("day", (record.time or "")[:10]) if record.speaker or record.role else None

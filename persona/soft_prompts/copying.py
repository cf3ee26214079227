"""Copying: what stands in the question or in the user's own answers is made likelier while an answer is written.

A soft prompt can say what kind of answer a user gives, and hardly which words; a small LLM copies even the words of the
question badly. So ten trained numbers w stand beside a user embedder (`persona.soft_prompts.copy_training`), and at every step

    logits[v] += w . x(v)

where x(v) says where token v stands, and v runs over the tokens of the question and of the user's answers:

===================  =================================================================================================
``user``             log(1 + tf(v) idf(v)), tf the share of the user's answers that hold v
``user_pair``        log(1 + p(v) idf(v)), p how often v follows the last token there: n(last, v) / (n(last) + 1),
                     n(last) how often anything does
``user_triple``      the same after the last two tokens
``question``         log(1 + idf(v)) if v stands in the question
``question_pair``    as ``user_pair``, in the question
``question_triple``  as ``user_triple``, in the question
``both``             ``user``, if v stands in the question as well
``written``          1 if v stands in the answer already; then ``user``, ``question`` and ``both`` are 0
``again``            1 if v is the last token
``end``              1 if v is the token that ends answers in training
===================  =================================================================================================

``idf = log((1 + N) / (1 + df))`` over N answers of many users says what is common to everybody. The first row is the
copy term of DHAP (arXiv 2108.09355); pairs and triples are a cache language model (Kuhn and De Mori, 1990), as a
pointer into the question they stand where a pointer-generator (arXiv 1704.04368) has its attention. Nothing is
generated twice and the LLM stays as it is: its logits are read, and added to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.records import Profile

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM

FEATURES = (
    "user",
    "user_pair",
    "user_triple",
    "question",
    "question_pair",
    "question_triple",
    "both",
    "written",
    "again",
    "end",
)
"""What is known of a token, see the module; the order of the numbers in w and x."""

_USER, _PAIR, _TRIPLE, _QUESTION, _QUESTION_PAIR, _QUESTION_TRIPLE, _BOTH, _WRITTEN, _AGAIN, _END = range(10)
_WORDS = [_USER, _QUESTION, _BOTH, _END]
_IS_WRITTEN = np.eye(10, dtype=np.float32)[_WRITTEN]

_BEGIN = -1
"""Stands before an answer's first token."""
_NONE = np.zeros(0, np.int64), np.zeros(0)

MOST_RECORDS = 512
"""A user's newest records that are read at most."""

MOST_TOKENS = 4096
"""Tokens that are read at most of a user's newest answers, and of a question, its first."""

_AT_ONCE = 64
"""Answers that are tokenized together."""


def token_idf(texts: int, counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """idf of each token, see the module.

    Args:
        texts: N, how many texts were counted.
        counts: df, in how many of them each token stands.  # (vocabulary,)

    Returns:
        # (vocabulary,)
    """
    return np.log((1 + texts) / (1 + counts.astype(np.float64))).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Texts:
    """Some texts in tokens.

    Attributes:
        ids: of all texts, one behind the other.  # (places,)
        number: how many texts these are.
        words: the different tokens, ascending.  # (words,)
        held: in how many of the texts each stands.  # (words,)
    """

    ids: NDArray[np.int64]
    number: int
    words: NDArray[np.int64]
    held: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], begin: Sequence[int] = ()) -> _Texts:
        """The texts, with `begin` before each."""
        ids = np.array([token for text in texts for token in (*begin, *text)], np.int64)
        words, held = np.unique([token for text in texts for token in set(text)], return_counts=True)
        return cls(ids, len(texts), words.astype(np.int64), held)

    def followers(self, last: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What stands behind some tokens, ascending, and how often: n(last, v) / (n(last) + 1)."""
        n = len(self.ids) - len(last)
        if n <= 0:
            return _NONE
        there = self.ids[:n] == last[0]
        for place, token in enumerate(last[1:], 1):
            there &= self.ids[place : place + n] == token
        behind = self.ids[np.flatnonzero(there) + len(last)]
        if not len(behind):
            return _NONE
        tokens, counts = np.unique(behind[behind != _BEGIN], return_counts=True)
        return tokens, counts / (counts.sum() + 1)


class CopySource:
    """What may be copied into one answer.

    Args:
        user: the user's answers.
        question: the question.
        idf: of every token of the LLM.  # (vocabulary,)
        end: id of the token that ends an answer; None for an LLM without one.
    """

    def __init__(self, user: _Texts, question: _Texts, idf: NDArray[np.float32], end: int | None) -> None:
        copied = np.union1d(user.words, question.words)
        tokens = copied if end is None else np.union1d(copied, [end])
        self._tokens = np.append(tokens, _BEGIN)  # what is larger than all is not found at the end
        self._idf = idf[tokens]
        self._sources = ((user, _PAIR, _TRIPLE), (question, _QUESTION_PAIR, _QUESTION_TRIPLE))
        tf = np.zeros(len(tokens), np.float32)
        places, known = self._places(user.words)
        tf[places] = user.held[known] / max(1, user.number)
        held = np.isin(tokens, question.words)
        # What does not depend on what was written, but for the tokens written.
        self._words = np.zeros((len(tokens), len(_WORDS)), np.float32)
        self._words[:, _WORDS.index(_USER)] = np.log1p(tf * self._idf)
        self._words[:, _WORDS.index(_QUESTION)] = held * np.log1p(self._idf)
        self._words[:, _WORDS.index(_BOTH)] = held * self._words[:, _WORDS.index(_USER)]
        if end is not None:
            self._words[np.searchsorted(tokens, end)] = [word == _END for word in _WORDS]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids it knows something of, ascending; `end` is one of them.  # (tokens,)"""
        return self._tokens[:-1]

    def features(self, written: Sequence[int]) -> NDArray[np.float32]:
        """x of each of `tokens`, after some that were written.  # (tokens, features)"""
        found = np.zeros((len(self._idf), len(FEATURES)), np.float32)
        found[:, _WORDS] = self._words
        places, known = self._places(np.array(written, np.int64))
        found[places] = _IS_WRITTEN
        if known[-1:].any():
            found[places[-1], _AGAIN] = 1
        before = [_BEGIN, *written[-2:]][-2:]
        for texts, pair, triple in self._sources:
            for column, last in ((pair, before[-1:]), (triple, before)):
                if column == pair or len(before) == 2:
                    tokens, shares = texts.followers(last)
                    if len(tokens):
                        places, known = self._places(tokens)
                        found[places, column] = np.log1p(shares[known] * self._idf[places])
        return found

    @property
    def fingerprint(self) -> str:
        """Names all that decides `features`: BLAKE2b, 32 hexadecimal digits."""
        digest = hashlib.blake2b(self._tokens.tobytes() + self._words.tobytes() + self._idf.tobytes(), digest_size=16)
        for texts, _, _ in self._sources:
            digest.update(texts.ids.tobytes())
        return digest.hexdigest()

    def _places(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where those of some tokens that are in `tokens` stand there, and which these are."""
        places = np.searchsorted(self.tokens, tokens)
        known = self._tokens[places] == tokens
        return places[known], known


@dataclass(frozen=True, slots=True, eq=False)
class CopyLifts:
    """What is added to the scores of one answer's next token, whatever was written before.

    Attributes:
        source: what may be copied.
        weights: w, see the module.  # (features,)
    """

    source: CopySource
    weights: NDArray[np.float32]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids of the tokens that are lifted.  # (tokens,)"""
        return self.source.tokens

    def after(self, written: Sequence[int]) -> NDArray[np.float32]:
        """What is added to the score of each of `tokens`.  # (tokens,)"""
        lifts: NDArray[np.float32] = self.source.features(written) @ self.weights
        return lifts

    @property
    def fingerprint(self) -> str:
        """Two of the same change an answer in the same way."""
        return f"{self.source.fingerprint} {self.weights.tolist()}"


class Copying:
    """Makes lifts for requests to one LLM.

    Args:
        llm: the frozen LLM.
        idf: of its tokens.  # (vocabulary,)
        weights: w, see the module.  # (features,)
    """

    def __init__(self, llm: TransformersLM, idf: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        self.llm = llm
        self.weights = weights
        self._idf = idf
        self._special = frozenset(llm.special_tokens)
        end = llm.target_ids([""])[0]
        self._end = end[-1] if end else None

    def sources(self, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[CopySource]:
        """What may be copied into the answer to each prompt, from it and from its profile.

        A profile is read once for all its prompts, and nothing is kept: one batch may hold a user as of two days.
        """
        different = {id(profile): profile for profile in profiles}
        users = {place: self._of_user(profile) for place, profile in different.items()}
        questions = [_Texts.of([ids[:MOST_TOKENS]]) for ids in self._ids(prompts)]
        return [
            CopySource(users[id(profile)], question, self._idf, self._end)
            for profile, question in zip(profiles, questions, strict=True)
        ]

    def lifts(self, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[CopyLifts | None]:
        """What is lifted in the answer to each prompt; None where w is 0."""
        if not self.weights.any():
            return [None] * len(prompts)
        return [CopyLifts(source, self.weights) for source in self.sources(profiles, prompts)]

    def _of_user(self, profile: Profile) -> _Texts:
        """The newest answers, as far as they are read."""
        newest = sorted(profile, key=lambda record: record.time or "")[-MOST_RECORDS:][::-1]
        kept: list[list[int]] = []
        room = MOST_TOKENS
        for start in range(0, len(newest), _AT_ONCE):
            for ids in self._ids(record.written for record in newest[start : start + _AT_ONCE]):
                if room:
                    kept.append(ids[:room])
                    room -= len(kept[-1])
            if not room:
                break
        return _Texts.of(kept, (_BEGIN,))

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of texts, without an end token; nor with another special one, should its name stand in a text."""
        given = list(texts)
        ids = self.llm.target_ids(given) if given else []
        return [[token for token in one if token not in self._special] for one in ids]

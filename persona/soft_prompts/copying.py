"""Copying: tokens of the question and of the user's own answers are made likelier while an answer is written.

A soft prompt can say what kind of answer a user gives, and hardly which words. So ten trained numbers w stand beside a
user embedder (`persona.soft_prompts.training.copying`), and at every step

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

``idf`` (`TokenBackground.idf`) says what is common to all users. The first feature is the copy term of DHAP (arXiv
2108.09355); pairs and triples are a cache language model (Kuhn and De Mori, 1990), and as a pointer into the question
they do what the attention of a pointer-generator (arXiv 1704.04368) does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona.errors import InvalidOptionError
from persona.llm.lifts import vocabulary_size
from persona.records import Profile

if TYPE_CHECKING:
    from persona.llm.transformers import TransformersLM

FEATURES = (
    *("user", "user_pair", "user_triple", "question", "question_pair", "question_triple"),
    *("both", "written", "again", "end"),
)
"""What is known of a token, see the module; the order of the numbers in w and x."""

_USER, _PAIR, _TRIPLE, _QUESTION, _QUESTION_PAIR, _QUESTION_TRIPLE, _BOTH, _WRITTEN, _AGAIN, _END = range(10)
_ONE_OF_TEN = np.eye(len(FEATURES), dtype=np.float32)

_BEGIN = -1
"""Stands before an answer's first token."""
_NOTHING = np.zeros(0, np.int64), np.zeros(0)

MOST_RECORDS = 512
"""A user's newest records that are read at most."""

MOST_TOKENS = 4096
"""Tokens that are read at most of a user's newest answers, and of a question, its first."""

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class TokenBackground:
    """What is common to all users: the number of their texts (N), and in how many of them each token stands (df)."""

    texts: int
    counts: NDArray[np.int32]  # (vocabulary,)

    @classmethod
    def from_texts(cls, llm: TransformersLM, texts: Iterable[str]) -> TokenBackground:
        """Count the tokens of texts such as the LLM is to write.

        Raises:
            InvalidOptionError: if the LLM does not say how many tokens it can write.
        """
        counts = np.zeros(vocabulary_of(llm), np.int32)
        given = list(texts)
        for start in range(0, len(given), _TEXTS_AT_ONCE):
            for ids in llm.target_ids(given[start : start + _TEXTS_AT_ONCE]):
                counts[list(set(ids))] += 1
        return cls(len(given), counts)

    @classmethod
    def from_profiles(cls, llm: TransformersLM, profiles: Iterable[Profile]) -> TokenBackground:
        """Count what the users of `profiles` have written; a text that stands in several is counted once."""
        return cls.from_texts(llm, sorted({record.written for profile in profiles for record in profile}))

    @cached_property
    def idf(self) -> NDArray[np.float32]:
        """``log((1 + N) / (1 + df))``: 0 for a token of every text.  # (vocabulary,)"""
        return np.log((1 + self.texts) / (1 + self.counts.astype(np.float64))).astype(np.float32)


def vocabulary_of(llm: TransformersLM) -> int:
    """How many tokens `llm` can write.

    Raises:
        InvalidOptionError: if its configuration does not say.
    """
    size = vocabulary_size(llm.model.config)
    if size is None:
        raise InvalidOptionError(
            f"the configuration of {llm.fingerprint} does not say how many tokens it can write, so none can be made "
            "likelier: leave copying out"
        )
    return size


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedTexts:
    """Some texts as token ids: all of them, one text after the other, and the different ones, ascending."""

    ids: NDArray[np.int64]  # (all tokens,)
    texts: int
    tokens: NDArray[np.int64]  # (tokens,)
    counts: NDArray[np.int64]  # in how many of the texts each of `tokens` stands  (tokens,)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], begin: Sequence[int] = ()) -> TokenizedTexts:
        """The texts, with `begin` before each."""
        ids = np.array([token for text in texts for token in (*begin, *text)], np.int64)
        tokens, counts = np.unique([token for text in texts for token in set(text)], return_counts=True)
        return cls(ids, len(texts), tokens.astype(np.int64), counts)

    def followers(self, last: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that follow some tokens, ascending, and how often: n(last, v) / (n(last) + 1)."""
        n = len(self.ids) - len(last)
        if n <= 0:
            return _NOTHING
        matches = self.ids[:n] == last[0]
        for offset, token in enumerate(last[1:], 1):
            matches &= self.ids[offset : offset + n] == token
        following = self.ids[np.flatnonzero(matches) + len(last)]
        if not len(following):
            return _NOTHING
        tokens, counts = np.unique(following[following != _BEGIN], return_counts=True)
        return tokens, counts / (counts.sum() + 1)


class CopySource:
    """What may be copied into one answer: from the user's answers and from the question.

    Args:
        user: the user's answers, each behind `_BEGIN`.
        question: the question.
        idf: of every token of the LLM.  # (vocabulary,)
        end: id of the token that ends an answer; None for an LLM without one.
    """

    def __init__(
        self, user: TokenizedTexts, question: TokenizedTexts, idf: NDArray[np.float32], end: int | None
    ) -> None:
        copied = np.union1d(user.tokens, question.tokens)
        tokens = copied if end is None else np.union1d(copied, [end])
        self._tokens = np.append(tokens, _BEGIN)  # a token that is larger than all others is compared with this
        self._idf = idf[tokens]
        self._sources = ((user, _PAIR, _TRIPLE), (question, _QUESTION_PAIR, _QUESTION_TRIPLE))
        tf = np.zeros(len(tokens), np.float32)
        columns, known = self._columns(user.tokens)
        tf[columns] = user.counts[known] / max(1, user.texts)
        in_question = np.isin(tokens, question.tokens)
        # x before anything is written, without pairs and triples.
        self._at_first = np.zeros((len(tokens), len(FEATURES)), np.float32)
        self._at_first[:, _USER] = np.log1p(tf * self._idf)
        self._at_first[:, _QUESTION] = in_question * np.log1p(self._idf)
        self._at_first[:, _BOTH] = in_question * self._at_first[:, _USER]
        if end is not None:
            self._at_first[np.searchsorted(tokens, end)] = _ONE_OF_TEN[_END]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids of the tokens that have features, ascending; `end` is one of them.  # (tokens,)"""
        return self._tokens[:-1]

    def features(self, written: Sequence[int]) -> NDArray[np.float32]:
        """x of each of `tokens`, once the tokens `written` stand.  # (tokens, features)"""
        x = self._at_first.copy()
        columns, known = self._columns(np.array(written, np.int64))
        x[columns] = _ONE_OF_TEN[_WRITTEN]
        if known[-1:].any():
            x[columns[-1], _AGAIN] = 1
        before = [_BEGIN, *written[-2:]][-2:]
        for texts, pair, triple in self._sources:
            for feature, last in ((pair, before[-1:]), (triple, before)):
                if feature == pair or len(before) == 2:
                    tokens, shares = texts.followers(last)
                    if len(tokens):
                        columns, known = self._columns(tokens)
                        x[columns, feature] = np.log1p(shares[known] * self._idf[columns])
        return x

    @property
    def fingerprint(self) -> str:
        """Names all that decides `features`: BLAKE2b, 32 hexadecimal digits."""
        numbers = (self._tokens, self._at_first, self._idf, *(texts.ids for texts, _, _ in self._sources))
        return hashlib.blake2b(b"".join(each.tobytes() for each in numbers), digest_size=16).hexdigest()

    def _columns(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The positions in `self.tokens` of those of some tokens that are there, and which these are."""
        columns = np.searchsorted(self.tokens, tokens)
        known = self._tokens[columns] == tokens
        return columns[known], known


@dataclass(frozen=True, slots=True, eq=False)
class CopyLifts:
    """The lifts of one answer, as `persona.protocols.StepLifts`."""

    source: CopySource
    weights: NDArray[np.float32]  # (features,)

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
    """Makes lifts for requests to one LLM, from the idf of its tokens (vocabulary,) and from w (features,)."""

    def __init__(self, llm: TransformersLM, idf: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        self.llm = llm
        self.idf = idf
        self.weights = weights
        self._special = frozenset(llm.special_tokens)
        end = llm.target_ids([""])[0]
        self._end = end[-1] if end else None

    def sources(self, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[CopySource]:
        """What may be copied into the answer to each prompt, from it and from its profile.

        A profile is read once for all its prompts, and nothing is cached: one batch may hold a user as of two days.
        """
        different = {id(profile): profile for profile in profiles}
        users = {identity: self._of_user(profile) for identity, profile in different.items()}
        questions = [TokenizedTexts.of([ids[:MOST_TOKENS]]) for ids in self._ids(prompts)]
        return [
            CopySource(users[id(profile)], question, self.idf, self._end)
            for profile, question in zip(profiles, questions, strict=True)
        ]

    def lifts(self, profiles: Sequence[Profile], prompts: Sequence[str]) -> list[CopyLifts | None]:
        """What is lifted in the answer to each prompt; None where w is 0."""
        if not self.weights.any():
            return [None] * len(prompts)
        return [CopyLifts(source, self.weights) for source in self.sources(profiles, prompts)]

    def _of_user(self, profile: Profile) -> TokenizedTexts:
        """The newest answers, as far as they are read."""
        newest = sorted(profile, key=lambda record: record.time or "")[-MOST_RECORDS:][::-1]
        answers: list[list[int]] = []
        room = MOST_TOKENS
        for start in range(0, len(newest), _TEXTS_AT_ONCE):
            for ids in self._ids(record.written for record in newest[start : start + _TEXTS_AT_ONCE]):
                if room:
                    answers.append(ids[:room])
                    room -= len(answers[-1])
            if not room:
                break
        return TokenizedTexts.of(answers, (_BEGIN,))

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of texts, without any special token; its name may stand in a text."""
        given = list(texts)
        ids = self.llm.target_ids(given) if given else []
        return [[token for token in text if token not in self._special] for text in ids]

"""The choice that log-likelihoods decide for, and the choice that an answer names.

>>> stars = Choices(("1", "2", "3"), ordered=True)
>>> chosen([-1.0, -1.2, -1.1], stars), chosen([-1.0, -1.2, -1.1], replace(stars, ordered=False))
('2', '1')
>>> named_choice("I think it is **Comedy**.", Choices(("comedy", "action")))
'comedy'

**The likeliest choice** is that of the highest log-likelihood as a whole answer, its end included, less its prior
(`Choices.prior`)::

    argmax_a log p(a, end | prompt) - prior(a)

Sums are compared, as in "acc" of lm-evaluation-harness, not means per token or byte: with the end of the answer counted
p is a distribution over answers of any length.

**The median** is the answer of ordered choices with the least expected absolute error (minimum Bayes risk), which is
how ratings are judged. After Lukasik et al., "Regression-aware Inference with LLMs" (arXiv 2403.04182, section 3)::

    argmin_a sum_b p(b) |a - b| = the first a with p(1) + ... + p(a) >= 1/2

p is the distribution over the choices alone, prior taken off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace as replace

import numpy as np
from numpy.typing import NDArray

from persona.errors import GenerationError
from persona.protocols import Choices


def chosen(scores: Sequence[float], choices: Choices) -> str:
    """The choice that the LLM answers with.

    Args:
        scores: log-likelihood of each choice, nats.
        choices: the choices; of equals the first one is taken.

    Raises:
        GenerationError: if a score is not a number.
    """
    adjusted = _adjusted(scores, choices)
    if not choices.ordered:
        return choices.texts[int(adjusted.argmax())]
    return choices.texts[int((_odds(adjusted) < 0).sum())]


def margin(scores: Sequence[float], choices: Choices) -> float:
    """How far the scores may move before `chosen` changes, in nats; infinity for a single choice."""
    adjusted = _adjusted(scores, choices)
    if len(adjusted) == 1:
        return float("inf")
    if choices.ordered:
        return float(np.abs(_odds(adjusted)).min())
    second, first = np.partition(adjusted, -2)[-2:]
    return float(first - second)


def named_choice(text: str, choices: Choices) -> str | None:
    """The choice that an answer in the LLM's own words names; None where it names none, or several.

    White space, case, Markdown emphasis and punctuation around a choice do not count, and a choice inside another one
    that is named ("comedy" in "dark comedy") is not named by it.
    """
    plain = {_plain(choice): choice for choice in choices.texts}
    if (whole := plain.get(_plain(text))) is not None:
        return whole
    # The longest first, so that a choice within a longer one is read as that.
    alternatives = "|".join(re.escape(each) for each in sorted(plain, key=len, reverse=True))
    found = set(re.findall(rf"(?<!\w)(?:{alternatives})(?!\w)", _spaced(text))) if alternatives else set()
    return plain[found.pop()] if len(found) == 1 else None


def _adjusted(scores: Sequence[float], choices: Choices) -> NDArray[np.float64]:
    adjusted = np.asarray(scores, dtype=np.float64)
    if choices.prior:
        adjusted = adjusted - np.asarray(choices.prior)
    if np.isnan(adjusted).any():
        raise GenerationError("the LLM's scores of choices are not numbers: its weights, or an adapter's, are broken")
    return adjusted


def _odds(adjusted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of the choices up to each border between two, against those above it; ascending.  # (choices - 1,)"""
    below = np.logaddexp.accumulate(adjusted)[:-1]
    above = np.logaddexp.accumulate(adjusted[::-1])[::-1][1:]
    return below - above


def _spaced(text: str) -> str:
    return " ".join(re.sub(r"[*_`\"“”]+", " ", text).casefold().split())


def _plain(text: str) -> str:
    """`text` without what an LLM may put around a bare answer."""
    return _spaced(text).strip(" .,:;!")

"""Lookalikes: who is most like the users of a list.

Of UNICON's two the one that starts from seed users: a classifier of seeds (1) against everybody else (0) on users'
vectors, here a logistic regression with both sides of equal weight; or, without a fit, the mean cosine to the seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from persona.errors import InvalidOptionError
from persona.population.features import LEAST
from persona.population.vectors import UserTable


def lookalikes(
    table: UserTable,
    seeds: Iterable[str],
    *,
    by: Literal["classifier", "cosine"] = "classifier",
    least: int = LEAST,
    seed: int = 0,
) -> list[tuple[str, float]]:
    """The other users and how like the seeds they are, the likest first; of equals in the order of the table.

    Args:
        table: of users with vectors.
        seeds: user ids; those without a vector are left out.
        by: a probability (0 to 1) of the classifier, or a cosine (-1 to 1).
        least: how many seeds there must be: the ranking would say too much of fewer.
        seed: of the draw of other users, at most 20 for each seed.

    Raises:
        InvalidOptionError: if there are fewer seeds with vectors, or nobody else.
    """
    wanted = set(seeds)
    is_seed = np.array([user_id in wanted for user_id in table.user_ids]) & table.known
    others = np.flatnonzero(~is_seed & table.known)
    if is_seed.sum() < least or not len(others):
        raise InvalidOptionError(
            f"lookalikes need {least} users or more with vectors in the list, and others: "
            f"there are {is_seed.sum()} and {len(others)}"
        )
    if by == "cosine":
        unit = table.matrix / np.linalg.norm(table.matrix, axis=1, keepdims=True).clip(1e-12)
        scores = unit[others] @ unit[is_seed].mean(axis=0)
    else:
        from sklearn.linear_model import LogisticRegression

        rows = np.random.default_rng(seed).permutation(others)[: 20 * int(is_seed.sum())]
        rows = np.concatenate((np.flatnonzero(is_seed), rows))
        fitted = LogisticRegression(class_weight="balanced", max_iter=1000).fit(table.matrix[rows], is_seed[rows])
        scores = fitted.predict_proba(table.matrix[others])[:, 1]
    order = np.argsort(-scores, kind="stable")
    return [(table.user_ids[others[place]], float(scores[place])) for place in order]

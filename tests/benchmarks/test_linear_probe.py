"""What a linear map reads out of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.linear_probe import linear_probe
from persona.errors import EvaluationError
from persona.eval.benchmarks.profiles.probes import ProbeOptions, Probes
from persona.records import Profile
from tests.eval.benchmarks.profiles.test_probes import ANA, LABELS, profile


def test_it_needs_other_users() -> None:
    with pytest.raises(EvaluationError, match="fitted on probes of other users"):
        linear_probe(Probes([ANA]), lambda profiles: np.zeros((len(profiles), 1)))


def shares(profiles: Sequence[Profile]) -> NDArray[np.float64]:
    """How often each user gave each label: a vector that knows the commonest ones and not the newest."""
    return np.array([[sum(r.target == label for r in p) / len(p) for label in LABELS] for p in profiles])


def test_a_linear_map_reads_what_a_vector_holds() -> None:
    draw = np.random.default_rng(0)
    people = [profile(f"u{n}", draw.choice(LABELS, p=draw.dirichlet([0.5] * 5), size=30).tolist()) for n in range(300)]
    kinds = ProbeOptions(kinds=("top three", "count", "last item", "drift"))
    training = Probes(people[:200], kinds, labels=LABELS)
    probes = Probes(people[200:], kinds, training, labels=LABELS)
    right: dict[str, list[float]] = {kind: [] for kind in kinds.kinds}
    for knowing in (shares, lambda some: draw.normal(size=(len(some), 5))):
        said = linear_probe(probes, knowing)
        for kind, found in right.items():
            pairs = [(a, q.gold) for q, a in zip(probes.questions, said, strict=True) if q.kind == kind]
            found.append(float(np.mean([a == gold for a, gold in pairs])))
    assert right["top three"][0] > 0.7
    assert right["count"][0] > 0.6
    # A vector of chance knows no more than what is common.
    assert right["top three"][1] < 0.5
    assert right["count"][0] - right["count"][1] > 0.2
    split = training.as_split()
    assert split.task.query(split.questions[0].input).startswith("which") or "how many" in split.questions[0].input
    assert split.golds is not None
    assert split.golds[split.questions[0].id] == training.questions[0].gold

"""Poolings by hand-computed numbers and exact properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.poolings.aspects import AspectsPooling, paired
from persona.soft_prompts.parts.poolings.clusters import ClustersPooling
from persona.soft_prompts.parts.poolings.concepts import ConceptsPooling
from persona.soft_prompts.parts.poolings.difference import DifferencePooling
from persona.soft_prompts.parts.poolings.queries import QueriesPooling
from persona.soft_prompts.parts.poolings.sequence import SequencePooling, newest

CONFIG = UserEmbedderConfig(2, 8, width=2)


def records_of(hidden: Any, **given: Tensor) -> Records:
    """Records of width 2, all there, unless more is given."""
    hidden = torch.as_tensor(hidden)
    nothing = torch.zeros(*hidden.shape[:2], 1)
    fields: dict[str, Any] = {
        "keys": hidden,
        "values": nothing,
        "mask": torch.ones(hidden.shape[:2], dtype=torch.bool),
        "query": None,
        "days": None,
        "weights": nothing,
        "null": torch.zeros(2),
        "null_records": torch.tensor(1.0),
    }
    return Records(hidden=hidden, **{**fields, **given})


def test_the_difference_from_others_by_hand() -> None:
    """What is usual of such a record is taken off it; what is usual is learned from records and from nothing else."""
    pooling = DifferencePooling(CONFIG, weight=0.5)
    pooling.usual.weight.data, pooling.usual.bias.data = torch.eye(2) / 2**0.5, torch.tensor([0.0, 1.0])
    hidden = torch.tensor([[[3.0, 4.0], [1.0, 1.0], [0.0, 0.0]]], requires_grad=True)
    keys, mask = torch.tensor([[[2.0, 1.0], [1.0, 0.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])
    read = pooling(records_of(hidden, keys=keys, mask=mask))
    # Usual are (2, 2) and (1, 1).
    torch.testing.assert_close(read, torch.tensor([[(4 - 1.5) / 3, (5 - 1.5) / 3]]))
    assert pooling.loss is not None
    torch.testing.assert_close(pooling.loss, torch.tensor((1 + 4) / 2 / 2))
    pooling.loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert hidden.grad is None
    read.sum().backward()
    torch.testing.assert_close(pooling.usual.bias.grad, torch.tensor([-0.5, -1.0]))
    pooling.eval()(records_of(hidden, keys=keys))
    assert pooling.loss is None


def test_concepts_of_a_user_by_hand() -> None:
    """Row 6: 4 of 8 records and a null record weigh the root of 4/9; what is below the threshold is exactly 0."""
    config = replace(CONFIG, views="time + concepts(names=['jazz', 'opera', 'noir'])", pooling="concepts")
    pooling = ConceptsPooling(config)
    pooling.scale.data.fill_(math.log(math.e**3 - 1))
    pooling.threshold.data.fill_(math.log(math.e - 1))
    values = torch.zeros(1, 8, config.value_dim)
    values[0, :4, -3], values[0, :1, -2] = 1, 1
    torch.testing.assert_close(pooling(records_of(torch.zeros(1, 8, 2), values=values)), torch.tensor([[1.0, 0, 0]]))
    profile = Profile("ana", tuple(Record(f"{word} {n}") for n, word in enumerate(("Jazz",) * 4 + ("x",) * 4)))
    ((name, weight, records),) = pooling.explained(profile, torch.tensor(1.0))
    assert (name, records) == ("jazz", 4)
    assert weight == pytest.approx(1.0)
    with pytest.raises(InvalidOptionError, match="reads the view of that name, `views` was: 'time'"):
        ConceptsPooling(replace(CONFIG, views="time"))


def test_clusters_by_hand() -> None:
    """Rows 45 and 52: two records at one interest, one at another; the wider one comes first."""
    pooling = ClustersPooling(CONFIG, clusters=2, steps=1).eval()
    pooling.seeds.data = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    read = pooling(records_of([[[0.0, 3.0], [6.0, 0.0], [0.0, 6.0]]]))
    # (3 + 6 + 9) / 3 and (6 + 9) / 2; weights (2 + 1/2) / 4 and (1 + 1/2) / 4.
    torch.testing.assert_close(read, torch.tensor([[0.0, 6.0, 7.5, 0.0, 0.625, 0.375]]), atol=1e-2, rtol=0)


def test_some_clusters_are_left_out_in_training_and_never_all() -> None:
    """Row 45: union sampling."""
    pooling = ClustersPooling(CONFIG, clusters=4, drop=0.9)
    torch.manual_seed(0)
    read = pooling.train()(records_of(torch.randn(64, 5, 2)))
    left = read[:, :8].view(64, 4, 2).any(2).sum(1)
    assert left.min() == 1
    assert left.max() < 4
    assert bool((read[:, 8:] > 0).all())


def test_newest_records_first() -> None:
    """Row 16."""
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    rows, there = newest(mask, 2)
    assert rows.tolist() == [[2, 1], [0, 0]]
    assert there.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("length", [3, 9])
def test_a_sequence_reads_its_newest_records_in_their_order(length: int) -> None:
    """Row 16: older records than the newest four change nothing, and the order of these does."""
    torch.manual_seed(0)
    pooling = SequencePooling(CONFIG, records=4, dim=8).eval()
    hidden = torch.randn(1, length, 2)
    read = pooling(records_of(hidden))
    assert read.shape == (1, 8)
    last = hidden[:, -4:]
    torch.testing.assert_close(pooling(records_of(last)), read)
    assert (pooling(records_of(last.flip(1))) - read).abs().max() > 1e-3


def test_without_records_queries_read_the_null_record() -> None:
    """Row 21: with the null record alone, attention weighs it 1, whatever the padding says."""
    torch.manual_seed(0)
    pooling = QueriesPooling(CONFIG, queries=3, dim=8).eval()
    null, none = torch.tensor([1.0, 2.0]), torch.zeros(1, 2, dtype=torch.bool)
    empty = pooling(records_of(torch.randn(1, 2, 2), mask=none, null=null))
    same = pooling(records_of(null.expand(1, 5, 2), null=null))
    assert empty.shape == (1, 24)
    torch.testing.assert_close(empty, same)
    assert (pooling(records_of(torch.randn(1, 2, 2), null=null)) - empty).abs().max() > 1e-3


def test_pairs_of_an_aspect_by_hand() -> None:
    """Row 36: a pair at 60 degrees against one at right angles: log(1 + e^(0 - 5)); another user's is no pair."""
    vectors = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]])
    same, others = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = others[0, 2] = True
    torch.testing.assert_close(paired(vectors, same, others), torch.tensor(math.log1p(math.exp(-5))))
    torch.testing.assert_close(paired(vectors, same, ~same & others & False), torch.tensor(0.0))
    torch.testing.assert_close(paired(vectors, same & False, others), torch.tensor(0.0))


def test_aspects_learn_labels_and_authors() -> None:
    """Row 36: after some steps records of one target are near in the space of topics, those of a user in the other."""
    torch.manual_seed(0)
    pooling = AspectsPooling(replace(CONFIG, encoder_dim=8, width=8), dim=4)
    users, labels = torch.arange(4).repeat_interleave(6), torch.arange(24) % 2
    keys = torch.cat((torch.eye(2)[labels], torch.randn(24, 6)), dim=1).view(4, 6, 8)
    hidden = torch.cat((torch.eye(4)[users], torch.randn(24, 4)), dim=1).view(4, 6, 8)
    targets = torch.eye(8)[labels].view(4, 6, 8)
    records = records_of(hidden, keys=keys, values=torch.cat((keys, targets), dim=2))
    optimizer = torch.optim.Adam(pooling.parameters(), 0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        pooling(records)
        assert pooling.loss is not None
        pooling.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(pooling.loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for weight, informative in ((pooling.topic.weight, 2), (pooling.style.weight, 4)):
        norms = weight.detach().norm(dim=0)
        assert norms[:informative].mean() > norms[informative:].mean()

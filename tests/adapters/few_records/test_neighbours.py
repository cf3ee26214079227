"""Adapters as means of neighbours' adapters: means of products, of those that fit the few records at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, history_examples
from persona.adapters.family import AdaptedModule, Family, LoraSpec
from persona.adapters.few_records.neighbours import Neighbours, mean_of_products, trained_rows
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import train_users
from persona.errors import InvalidOptionError, UnknownAdapterError
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore

FAMILY = Family("m", LoraSpec(r=3), (AdaptedModule("q", 20, 17), AdaptedModule("v", 2, 19)))


def products(row: Tensor) -> list[Tensor]:
    return [b[0] @ a[0] for a, b in FAMILY.pairs(row[None])]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_mean_is_the_best_of_its_rank(n: int) -> None:
    rows = torch.randn(n, FAMILY.size, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    weights = torch.softmax(torch.arange(float(n)), 0)
    found = products(mean_of_products(FAMILY, rows, weights))
    for place, product in enumerate(found):
        exact = torch.stack([w * products(row)[place] for w, row in zip(weights.double(), rows, strict=True)]).sum(0)
        u, s, v = torch.linalg.svd(exact, full_matrices=False)
        best = u[:, :3] * s[:3] @ v[:3]
        torch.testing.assert_close(product, best, rtol=0, atol=1e-9)
        # Means of A and of B apart are something else.
        if n > 1:
            a, b = FAMILY.pairs((weights.double()[:, None] * rows).sum(0)[None])[place]
            assert not torch.allclose(b[0] @ a[0], exact, atol=0.1)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    """Users who answer always 1 and users who answer always 2; two of them have two records only."""
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert(
            (f"user {user}", Record(f"film {place}", target=f"{1 + user % 2}", id=f"{place}"))
            for user in range(8)
            for place in range(2 if user < 2 else 8)
        )
        store.upsert([("silent", Record("a text"))])
        yield AdapterBank(store)


def test_a_user_gets_what_fits(bank: AdapterBank, llm: TransformersLM) -> None:
    trainer = AdapterTrainer(llm, LoraSpec(r=2, alpha=4), TrainingOptions(learning_rate=0.02, epochs=6))
    with pytest.raises(UnknownAdapterError, match="no family"):
        trained_rows(bank, trainer.family)
    train_users(trainer, bank, history_examples)
    rows = trained_rows(bank, trainer.family)
    make: Any = Neighbours
    for option in ("k", "records"):
        with pytest.raises(InvalidOptionError, match=f"`{option}` must be at least 1, was: 0"):
            make(trainer, rows, **{option: 0})
    report = Neighbours(trainer, rows, k=2).publish(bank, history_examples)
    assert (report.users, report.published, report.too_few) == (2, 2, 1)
    # The newest record alone chooses for one whose older ones would have it otherwise.
    bank.store.upsert(("turned", Record(f"film {at}", f"{2 if at == 3 else 1}", f"2020-01-0{at}")) for at in (1, 2, 3))
    Neighbours(trainer, rows, k=2, records=1).publish(bank, history_examples, user_ids=["turned"])
    for user, right, wrong in (("user 0", "1", "2"), ("user 1", "2", "1"), ("turned", "2", "1")):
        current = bank.current(user, trainer.family)
        assert current is not None
        assert current.metrics["loss_untrained"] < current.metrics["loss_prior"] / 2
        row = bank.row(current)[None]
        losses = [trainer.losses(row, trainer.tokens([Example("film 77", answer)])) for answer in (right, wrong)]
        assert losses[0] < losses[1]
    assert list(bank.stale_users(trainer.family)) == ["silent"]
    # Adapters that were not trained are nobody's neighbours.
    assert len(trained_rows(bank, trainer.family)) == len(rows)

"""Gated rank-one edits (row 55): the formula by hand, keys that stay, and what takes none of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.family import Family, LoraSpec
from persona.adapters.few_records.neighbours import mean_of_products
from persona.adapters.peft_format import export_adapter
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.training.keys import _read, keyed
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import train_users
from persona.errors import InvalidOptionError
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Record
from persona.store.profile_store import ProfileStore

SPEC = LoraSpec(r=2, alpha=2, targets=("v_proj",), gate=0.75)


@pytest.fixture
def layer() -> Any:
    """A model that is one linear layer, ``y = x`` of two numbers."""

    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v_proj = nn.Linear(2, 2, bias=False)
            self.v_proj.weight.data = torch.eye(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value: torch.Tensor = self.v_proj(x)
            return value

    return OneLayer()


def test_edits_by_hand(layer: Any) -> None:
    """Row 55: y = W x + sum_j o_j sigmoid((sim_j - gate) / 0.1); edits of several keys add."""
    row = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 11.0])  # keys (1, 0) and (0, 1); o (3, 7) and (5, 11)
    x = torch.tensor([[[0.95, 0.65]]])
    opened, shut = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    with StackedLoRA(layer, SPEC, slots=3) as stack:
        stack.write(1, row)
        for slot, number in ((2, 0), (3, 1)):  # one of the edits alone
            alone = stack.family.pairs(row[None].clone())
            alone[0][1][0, :, 1 - number] = 0
            stack.write(slot, torch.cat([part.reshape(-1) for part in alone[0]]))
        with torch.no_grad(), stack.rows([1, 2, 3, None]):
            both, first, second, plain = layer(x.repeat(4, 1, 1))[:, 0]
    expected = [0.95 + 3 * opened + 5 * shut, 0.65 + 7 * opened + 11 * shut]
    torch.testing.assert_close(both, torch.tensor(expected))
    torch.testing.assert_close(both - plain, (first - plain) + (second - plain))
    assert plain.equal(x[0, 0])


def test_a_shut_gate_is_bit_equal(layer: Any) -> None:
    """Row 55: where the gate is 0, so far from the key that it rounds to it, outputs are those without the edit."""
    x = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    with StackedLoRA(layer, SPEC, slots=1) as stack, torch.no_grad():
        stack.write(1, torch.tensor([-1e3, 0, 0, -1e3, 3.0, 5.0, 7.0, 11.0]))
        with stack.rows([1]):
            assert layer(x).equal(x)
            assert not layer(-x).equal(-x)


@pytest.fixture
def trainer(llm: TransformersLM) -> AdapterTrainer:
    return AdapterTrainer(llm, SPEC, TrainingOptions(learning_rate=0.05, epochs=4, holdout=0.2, min_records=2))


def test_keys_are_the_records_and_stay(tmp_path: Path, llm: TransformersLM, trainer: AdapterTrainer) -> None:
    """Row 55: the mean similarity of a key's own tokens is 1; training moves the edits and not the keys."""
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        texts = ["snow snow snow", "snow and snow", "a loud dog", "the loud dogs", "loud dogs"]
        store.upsert(("ana", Record(text, target="zz", time=f"{2000 + n}")) for n, text in enumerate(texts))
        bank = AdapterBank(store)
        tokens = trainer.tokens(history_examples(store.profile("ana")))
        lesson = trainer.lesson("ana", tokens)
        assert lesson is not None
        for others in ((), tokens[:3]):
            one = AdapterTrainer(llm, replace(SPEC, r=1), trainer.options)
            start = keyed(one, others=others)([lesson])[0].start
            assert start is not None
            with one.stacked(None) as losses:
                read = [_read(losses, each) for each in lesson.train]
            for place, (a, b) in enumerate(one.family.pairs(start[None])):
                similarity = torch.cat([own[place] for own in read]) @ a[0, 0]
                torch.testing.assert_close(similarity.mean(), torch.tensor(1.0), rtol=0, atol=1e-4)
                assert not b.any()
        report = train_users(trainer, bank, history_examples)
        assert report.published == 1
        row = bank.row(bank.current("ana", trainer.family))  # type: ignore[arg-type]
        start = keyed(trainer)([lesson])[0].start
        assert start is not None
        for (a, b), (key, _) in zip(trainer.family.pairs(row[None]), trainer.family.pairs(start[None]), strict=True):
            assert a.equal(key)
            assert len(a[0].unique(dim=0)) == 2  # type: ignore[no-untyped-call]
            assert bool(b.any())
        with AdapterPool(bank, llm):
            own = Request("a loud dog", adapter="ana@1")
            answers = llm.generate([own, Request("a loud dog")], GenerationOptions(max_new_tokens=4))
        assert answers[1] == llm.generate([Request("a loud dog")], GenerationOptions(max_new_tokens=4))[0]
        with pytest.raises(InvalidOptionError, match="gate"):
            export_adapter(bank, bank.current("ana", trainer.family), tmp_path / "out", base_name="x")  # type: ignore[arg-type]


def test_what_a_gate_is_not_for(trainer: AdapterTrainer) -> None:
    assert Family.from_name(trainer.family.name) == trainer.family
    plain = replace(trainer.family, spec=replace(SPEC, gate=None))
    assert "gate" not in plain.name
    with pytest.raises(InvalidOptionError, match="value projections"):
        LoraSpec(gate=0.5)
    with pytest.raises(InvalidOptionError, match="without a gate"):
        mean_of_products(trainer.family, torch.zeros(1, trainer.family.size), torch.ones(1))

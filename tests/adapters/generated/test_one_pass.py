"""Written adapters are adapters like any other: the bank, mixed batches, PEFT, vLLM, the gate and `forget`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.from_profiles import ProfileAdapters
from persona.adapters.generated.generator import VECTOR, AdapterGenerator, GeneratorConfig
from persona.adapters.generated.ledger import Ledger
from persona.adapters.generated.one_pass import OnePass
from persona.adapters.peft_format import export_adapter
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.serving.vllm import ServedAdapters
from persona.adapters.task_adapter import TaskAdapter
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.versions import PRIOR, PUBLISHED, AdapterDraft
from persona.channels import Ask
from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.llm.inputs import ModelInput
from persona.protocols import GenerationOptions, Request
from persona.records import Profile, Record
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[0, 5, 6, 7, 8]])


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert(
            (user, Record(f"{user} film {number}", target=str(number % 5), id=f"{user}-{number}"))
            for user in ("ana", "bo")
            for number in range(8)
        )
        yield AdapterBank(store)


@pytest.fixture
def one_pass(generator: AdapterGenerator, trainer: AdapterTrainer) -> OnePass:
    return OnePass(generator, trainer, history_examples)


def test_it_is_served_beside_others_exported_and_named(
    one_pass: OnePass, bank: AdapterBank, trainer: AdapterTrainer, llama_folder: Path, tmp_path: Path
) -> None:
    done = one_pass.publish(bank, gate=False)
    assert (done.users, done.published, done.examples) == (2, 2, 16)
    family, llm = trainer.family, trainer.llm
    current = bank.current("ana", family)
    assert current is not None
    assert current.state == PUBLISHED
    assert torch.equal(bank.row(current), one_pass.row(bank.store.profile("ana")))
    # Bo's was trained, for all the stack knows.
    bank.publish(family, [AdapterDraft("bo", torch.randn(family.size), bank.store.profile("bo").revision)])
    with AdapterPool(bank, llm):
        asked = [Request("A film?", adapter=name) for name in ("ana@1", None, "bo@2")]
        mixed = llm.generate(asked, GenerationOptions(4))
        assert mixed == [llm.generate([each], GenerationOptions(4))[0] for each in asked]
        with llm.attached([ModelInput((), adapter="ana@1")]), torch.inference_mode():
            expected = llm.model(input_ids=IDS).logits
    place = export_adapter(bank, current, tmp_path / "out", base_name=str(llama_folder))
    loaded: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), place)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    served = ServedAdapters(bank, family)
    assert served.find(served.name("ana@1")) == current


def test_the_gate_publishes_what_beats_the_prior(
    one_pass: OnePass, generator: AdapterGenerator, bank: AdapterBank, trainer: AdapterTrainer
) -> None:
    one_pass.publish(bank)
    for user in ("ana", "bo"):
        current = bank.current(user, trainer.family)
        assert current is not None
        better = current.metrics["loss_untrained"] < current.metrics["loss_prior"]
        assert current.state == (PUBLISHED if better else PRIOR)
    # An untrained generator changes nothing, which is no better than the prior.
    untrained = OnePass(AdapterGenerator(generator.config), trainer, history_examples)
    assert untrained.publish(bank, user_ids=["ana"]).kept_prior == 1


def test_the_gate_judges_on_records_that_were_not_read(
    one_pass: OnePass, bank: AdapterBank, trainer: AdapterTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.store.upsert([("ana", Record("no answer", id="ana-z"))])
    profile = bank.store.profile("ana")
    assert profile[-1].target is None
    tokens = trainer.tokens(history_examples(profile))
    judged = []
    losses = AdapterTrainer.losses

    def seen(self: AdapterTrainer, rows: torch.Tensor, some: Any, **prior: Any) -> list[float]:
        judged.append((rows[0], some))
        return losses(self, rows, some, **prior)

    monkeypatch.setattr(AdapterTrainer, "losses", seen)
    one_pass.publish(bank, user_ids=["ana"])
    ((row, some),) = judged
    assert some == tokens[-2:]
    assert torch.equal(row, one_pass.row(Profile("ana", profile.records[:-3])))
    # What is published is written from all of them, as are the chunks that are kept.
    assert {held.fresh for held in holdings(bank.store, "ana").indexes} == {True}
    bank.store.upsert([("cy", Record("one film", target="3", id="c"))])
    assert one_pass.publish(bank, user_ids=["cy"]).kept_prior == 1  # one record says nothing


def test_deleting_a_record_takes_the_adapter_and_one_chunk(
    one_pass: OnePass, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, store = one_pass.generator.family, bank.store
    one_pass.publish(bank, gate=False)
    others = holdings(store, "bo").indexes
    made: list[Profile] = []
    numbers = Ledger._numbers
    monkeypatch.setattr(Ledger, "_numbers", lambda self, chunk: made.append(chunk) or numbers(self, chunk))  # type: ignore[func-returns-value]
    store.delete_records("ana", ["ana-3"])
    assert bank.versions("ana", family) == ()
    one_pass.publish(bank, gate=False)
    assert len(made) <= 1
    assert all("ana-3" not in {record.id for record in chunk} for chunk in made)
    current = bank.current("ana", family)
    assert current is not None
    assert bank.payload(current) == family.encode(one_pass.row(store.profile("ana")))
    bank.forget("ana")
    assert bank.current("ana", family) is None
    assert "ana" not in store
    assert holdings(store, "bo").indexes == others != ()


def test_a_vector_of_any_kind_is_read(trainer: AdapterTrainer) -> None:
    shape = GeneratorConfig(VECTOR, trainer.family.name, dim=3, width=8, heads=2)
    generator = AdapterGenerator(shape)
    for head in generator.writer.heads_b:
        torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
    given = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    writer = OnePass(generator, trainer, history_examples, vectors=lambda profile: given[: len(profile)])
    profile = Profile("ana", (Record("a", target="1", id="1"), Record("b", target="2", id="2")))
    assert torch.equal(writer.row(profile), generator.of_vectors(torch.full((1, 3), 2.0), torch.tensor([2.0]))[0])
    assert not writer.row(Profile("ana")).any()
    own = AdapterGenerator(GeneratorConfig(VECTOR, trainer.family.name, dim=64, width=8, heads=2))
    assert OnePass(own, trainer, history_examples).row(profile).shape == (trainer.family.size,)
    with pytest.raises(FingerprintMismatchError, match="another generator"):
        OnePass(own, trainer, history_examples, prior=torch.ones(trainer.family.size))


def test_an_evaluation_makes_one_for_each_profile_and_the_control_the_same_for_all(
    trainer: AdapterTrainer, generator: AdapterGenerator, tmp_path: Path
) -> None:
    llm, row = trainer.llm, torch.full((trainer.family.size,), 0.01)
    TaskAdapter(trainer.family, row, trainer.options, "LaMP_3").save(tmp_path / "task")
    task = TaskAdapter.load(tmp_path / "task")
    with pytest.raises(InvalidOptionError, match="'one-pass' needs a task adapter that was trained with `generator`"):
        ProfileAdapters("one-pass", task, llm, history_examples, tmp_path / "made")
    over = trainer.family.over(row).name
    for name, with_user in (("generator", True), ("generator-without-user", False)):
        shape = replace(generator.config, family=over, kind=VECTOR, dim=64, with_user=with_user)
        made = AdapterGenerator(shape)
        for head in made.writer.heads_b:
            torch.nn.init.normal_(head.weight)  # type: ignore[arg-type]
        made.save(tmp_path / "task" / name)
    profiles = [Profile(user, (Record(f"by {user}", target=user, id="1"),)) for user in "123"]
    asks = [Ask(profile, "A film?", "A film?") for profile in profiles]
    identities = {
        method: [
            one.identity
            for one in ProfileAdapters(method, task, llm, history_examples, tmp_path / "made").contribute(asks)
        ]
        for method in ("one-pass", "one-pass without user")
    }
    assert [len(set(each)) for each in identities.values()] == [3, 1]

"""Routed adapters: the algebra of meta-adapters, the user's vector, and users of two kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.few_records.routed import Router, record_vectors
from persona.adapters.generated.generator import ROUTED, AdapterGenerator, GeneratorConfig, load_generator
from persona.adapters.generated.one_pass import OnePass
from persona.adapters.generated.training import GeneratorTraining, train_generator
from persona.adapters.training.task import router_training
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.versions import PUBLISHED
from persona.errors import InvalidOptionError
from persona.llm.transformers import TransformersLM
from persona.records import Profile, Record
from persona.store.profile_store import ProfileStore

OPTIONS = GeneratorTraining(
    ROUTED, steps=60, users=4, learning_rate=0.03, evaluate_every=20, validation=0.2, width=8, chunk_rank=2
)


@pytest.fixture
def trainer(llm: TransformersLM) -> AdapterTrainer:
    return AdapterTrainer(llm, LoraSpec(r=4, alpha=8))


def answers(user: int, count: int) -> list[Example]:
    """Even users answer always 1, odd ones always 2."""
    return [Example(f"film {user} {place}", str(1 + user % 2)) for place in range(count)]


def test_a_row_is_the_weighted_sum_of_products(trainer: AdapterTrainer) -> None:
    """Row 49 of docs/papers.md: a user's adapter is n numbers, the weights of shared ones."""
    router = Router(trainer.family, 3, n=2, width=8, seed=0)
    router.meta.data = torch.randn(router.meta.shape, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    rows = router.rows(weights).detach()
    assert rows.shape == (2, trainer.family.size)
    for (a, b), (meta_a, meta_b) in zip(
        trainer.family.pairs(rows), trainer.family.pairs(router.meta.detach()[None]), strict=True
    ):
        parts = [meta_b[0, :, part] @ meta_a[0, part] for part in (slice(0, 2), slice(2, 4))]
        for user in range(2):
            expected = weights[user, 0] * parts[0] + weights[user, 1] * parts[1]
            torch.testing.assert_close(b[user] @ a[user], expected, rtol=1e-5, atol=1e-5)


def test_a_vector_is_the_gradient_of_the_answers_log_likelihood(trainer: AdapterTrainer) -> None:
    examples = trainer.tokens([Example("a film", "12"), Example("another, longer film", "3")])
    made = record_vectors(trainer, examples)
    model = trainer.llm.model
    for place, example in enumerate(examples):
        ids = torch.tensor([[*example.prompt, *example.target]])
        with torch.no_grad():
            output = model(ids, output_hidden_states=True)
        start = len(example.prompt) - 1
        hidden = output.hidden_states[-1][0, start:-1]
        surprise = -output.logits[0, start:-1].softmax(1)
        surprise[range(len(example.target)), list(example.target)] += 1
        expected = torch.cat(((surprise @ model.get_output_embeddings().weight).sum(0), hidden.mean(0)))
        torch.testing.assert_close(made[place], expected.detach(), rtol=1e-3, atol=1e-3)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_few_records_tell_users_apart(trainer: AdapterTrainer, tmp_path: Path) -> None:
    users = [trainer.tokens(answers(user, 6)) for user in range(20)]
    prior = trainer.train_prior([one for user in range(20) for one in answers(user, 2)]).row
    done = train_generator(trainer, users, OPTIONS, prior=prior)
    assert done.loss < done.loss_before / 2
    done.generator.save(tmp_path / "router")
    kept = OnePass(load_generator(tmp_path / "router"), trainer, history_examples, prior=prior)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert(
            (f"user {user}", Record(one.prompt, target=one.target, id=str(place)))
            for user in (100, 101)
            for place, one in enumerate(answers(user, 2))
        )
        store.upsert([("silent", Record("a text"))])
        bank = AdapterBank(store)
        report = kept.publish(bank)
        assert (report.users, report.published, report.too_few) == (2, 2, 1)
        for user in (100, 101):
            current = bank.current(f"user {user}", trainer.family.over(prior))
            assert current is not None
            assert current.state == PUBLISHED
            row = bank.row(current)[None]
            right, wrong = (
                trainer.losses(row, trainer.tokens([Example("film 9 9", answer)]), prior=prior)
                for answer in (str(1 + user % 2), str(2 - user % 2))
            )
            assert right < wrong


def test_no_more_records_are_read_than_in_training(trainer: AdapterTrainer) -> None:
    shape = GeneratorConfig(ROUTED, trainer.family.name, 2 * 32, width=4, chunk_rank=2, records=3)
    generator = AdapterGenerator(shape)
    assert isinstance(generator.vectors, Router)
    generator.vectors.meta.data.normal_(generator=torch.Generator().manual_seed(0))
    one_pass = OnePass(generator, trainer, history_examples)
    records = [Record(one.prompt, target=one.target) for one in (*answers(0, 3), *answers(1, 4))]
    many, three, two = (one_pass.row(Profile("ana", tuple(records[-n:]))) for n in (7, 3, 2))
    assert torch.equal(many, three)
    assert not torch.equal(three, two)
    assert torch.equal(one_pass.row(Profile("ana", (Record("without a label"), *records[-2:]))), two)


def test_meta_adapters_share_the_rank(trainer: AdapterTrainer) -> None:
    with pytest.raises(InvalidOptionError, match="`routed` must divide the adapters' rank, 4, was: 3"):
        router_training(4, 3, steps=1)

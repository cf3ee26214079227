"""From records to published adapters: the gate, windows, killed runs, and what helps users with little data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.little_data import compose, half, in_half, warmed_up, with_others
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, history_examples, text_examples
from persona.adapters.family import LoraSpec
from persona.adapters.training.lessons import Lesson, TokenExample
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import prior_examples, train_users
from persona.adapters.versions import AdapterDraft
from persona.errors import InvalidOptionError
from persona.lamp.tasks import lamp_task
from persona.llm.transformers import TransformersLM
from persona.records import Profile, Record
from persona.store.profile_store import ProfileStore
from tests.started import Starter

SPEC = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))
OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=4, min_steps=0, window=4, chunk_tokens=64)
WORDS = ["quiet", "loud", "snow", "film", "dog", "a", "the", "moody", "stylish", "plot"]


def fill(store: ProfileStore, users: int = 12) -> None:
    """User 0 has one record, the others five and more."""
    store.upsert(
        (
            f"user {user}",
            Record(f"{WORDS[at % 10]} {WORDS[user % 10]}", target=f"{user % 5}", id=f"{at}", time=f"{2000 + at}"),
        )
        for user in range(users)
        for at in range(1 if user == 0 else 5 + user % 3)
    )


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        fill(store)
        yield AdapterBank(store)


@pytest.fixture
def trainer(llm: TransformersLM) -> AdapterTrainer:
    return AdapterTrainer(llm, SPEC, OPTIONS)


def all_examples(bank: AdapterBank) -> list[Example]:
    return [one for user in bank.store.user_ids() for one in history_examples(bank.store.profile(user))]


def lesson_of(trainer: AdapterTrainer, bank: AdapterBank, user_id: str) -> Lesson:
    lesson = trainer.lesson(user_id, trainer.tokens(history_examples(bank.store.profile(user_id))))
    assert lesson is not None
    return lesson


def test_only_what_beats_the_prior_is_published(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    progress: list[int] = []
    report = train_users(trainer, bank, history_examples, progress=lambda users, seconds: progress.append(users))
    assert (report.users, report.too_few, report.passed_over) == (11, 1, 0)
    assert report.published + report.kept_prior == 11
    assert report.published > 0
    assert progress[-1] == 11
    for adapter in bank.current_adapters(trainer.family):
        wins = adapter.metrics["loss"] < adapter.metrics["loss_prior"]
        assert adapter.state == ("published" if wins else "prior")
        assert adapter.revision == 1
    # So small a rate moves no loss, and helps nobody.
    still = AdapterTrainer(trainer.llm, SPEC, replace(OPTIONS, learning_rate=1e-30))
    assert train_users(still, bank, history_examples, user_ids=["user 3"]).kept_prior == 1
    current = bank.current("user 3", trainer.family)
    assert current is not None
    assert (current.state, current.version) == ("prior", 2)


def test_who_is_published_learns_from_the_held_out_records_too(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    train_users(trainer, bank, history_examples)
    published = 0
    for adapter in bank.current_adapters(trainer.family):
        lesson = lesson_of(trainer, bank, adapter.user_id)
        (evaluated,) = trainer.train_lessons([lesson])
        # Whether it is published is still said by records that the evaluated one has not seen.
        assert evaluated.loss == pytest.approx(adapter.metrics["loss"], rel=1e-4)
        if adapter.state == "published":
            published += 1
            examples = (*lesson.train, *lesson.held_out)
            (whole,) = trainer.train_lessons([Lesson(adapter.user_id, examples)])
            torch.testing.assert_close(bank.row(adapter), whole.row, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(bank.row(adapter), evaluated.row, rtol=1e-3, atol=1e-4)
            assert adapter.metrics["examples"] == len(examples)
    assert published
    as_evaluated = AdapterTrainer(trainer.llm, SPEC, replace(OPTIONS, refit=False, holdout=0.0))
    train_users(as_evaluated, bank, history_examples, user_ids=["user 3"])
    current = bank.current("user 3", trainer.family)
    assert current is not None
    assert (current.state, "loss" in current.metrics) == ("published", False)


def test_only_users_with_new_records_are_trained(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    train_users(trainer, bank, history_examples)
    assert train_users(trainer, bank, history_examples).users == 0
    bank.store.upsert([("user 5", Record("new", target="1"))])
    assert train_users(trainer, bank, history_examples).users == 1
    current = bank.current("user 5", trainer.family)
    assert current is not None
    assert (current.version, current.revision) == (2, 2)


def test_the_prior_is_learnt_from_all_and_kept_with_the_family(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    prior = trainer.train_prior(all_examples(bank)).row
    assert torch.equal(prior, trainer.train_prior(all_examples(bank)).row)
    train_users(trainer, bank, history_examples, prior=prior)
    (family,) = bank.families()
    assert family == trainer.family.over(prior)
    found = bank.prior(family)
    assert found is not None
    assert torch.equal(found, prior)


TRAIN = """
import sys
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import train_users
from persona.llm.load import load_llm
from persona.store.profile_store import ProfileStore
options = TrainingOptions(learning_rate=1e-2, epochs=4, min_steps=0, window=4, chunk_tokens=64)
spec = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))
trainer = AdapterTrainer(load_llm(sys.argv[2]), spec, options)
progress = lambda users, seconds: print(users, flush=True)
train_users(trainer, AdapterBank(ProfileStore(sys.argv[1])), history_examples, progress=progress)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(starter: Starter, tmp_path: Path, llama_folder: Path) -> None:
    found = {}
    for name in ("whole", "killed"):
        url = f"sqlite:///{tmp_path / name}.db"
        with ProfileStore(url) as store:
            fill(store)
        command = ("-c", TRAIN, url, llama_folder)
        if name == "killed":
            with starter.begin(*command) as process:
                while int(process.stdout.readline()) <= 5:  # in the middle of a window
                    pass
                process.kill()
            with ProfileStore(url) as store:
                bank = AdapterBank(store)
                done = len(list(bank.current_adapters(bank.families()[0])))
                assert 0 < done < 11
        with starter.begin(*command) as process:
            assert process.stdout.read()
        assert process.returncode == 0
        with ProfileStore(url) as store:
            bank = AdapterBank(store)
            (family,) = bank.families()
            found[name] = {one.user_id: (one.version, one.sha256) for one in bank.current_adapters(family)}
    assert len(found["whole"]) == 11
    assert found["whole"] == found["killed"]


def test_each_chunk_is_published_when_it_is_trained(
    bank: AdapterBank, trainer: AdapterTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[list[str]] = []
    publish = bank.publish

    def counted(family: Any, drafts: Any, **options: Any) -> Any:
        published.append([draft.user_id for draft in drafts])
        return publish(family, drafts, **options)

    monkeypatch.setattr(bank, "publish", counted)
    train_users(trainer, bank, history_examples)
    users = [user_id for chunk in published for user_id in chunk]
    assert len(users) == len(set(users)) == 11
    assert len(published) > 3
    assert max(map(len, published)) <= OPTIONS.window


def test_a_window_does_not_depend_on_who_is_published(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    bank.store.upsert([(f"reader {number}", Record("A dull book.", target="2")) for number in range(300)])
    bank.add_family(trainer.family)
    before = list(bank.stale_windows(trainer.family, 32))
    assert len(before) > 3
    assert max(map(len, before)) <= 64
    assert [user_id for window in before for user_id in window] == list(bank.stale_users(trainer.family))
    gone = {user_id for window in before for user_id in window[::3]}
    bank.publish(
        trainer.family, [AdapterDraft(user_id, None, bank.store.profile(user_id).revision) for user_id in gone]
    )
    left = [[user_id for user_id in window if user_id not in gone] for window in before]
    assert list(bank.stale_windows(trainer.family, 32)) == [window for window in left if window]


def test_examples_that_do_not_fit_are_left_out_and_counted(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    bank.store.upsert([("user 5", Record("long " * 100, target="1"))])
    report = train_users(trainer, bank, history_examples, user_ids=["user 5"])
    assert (report.users, report.too_long) == (1, 1)
    # The official input of LaMP_3 alone has more bytes than this model has positions.
    asked = partial(history_examples, task=lamp_task("LaMP_3"))
    report = train_users(trainer, bank, asked, user_ids=["user 5"])
    assert (report.users, report.too_few, report.too_long) == (0, 1, 8)


def test_what_is_held_out_of_a_user_is_not_in_the_prior(bank: AdapterBank, llm: TransformersLM) -> None:
    trainer = AdapterTrainer(llm, SPEC, TrainingOptions(holdout=0.4))
    examples = [Example(f"film {at}" if at % 3 else "long " * 100, str(at)) for at in range(9)]
    lesson = trainer.lesson("user 5", trainer.tokens(examples))
    assert lesson is not None
    assert len(lesson.held_out) == 3
    learnt = list(prior_examples(trainer, bank.store, lambda profile: examples, ["user 5"]))
    assert learnt == [examples[at] for at in (1, 2, 4)]
    assert trainer.tokens(learnt) == lesson.train


def test_examples_of_others_are_mixed_in_and_never_held_out(bank: AdapterBank, trainer: AdapterTrainer) -> None:
    """Row 43: prior preservation."""
    users = ["user 4", "user 5"]
    lessons = [lesson_of(trainer, bank, user) for user in users]
    everybody = [example for lesson in lessons for example in (*lesson.train, *lesson.held_out)]
    for lesson, other, mixed in zip(lessons, lessons[::-1], with_others(everybody, 0.5)(lessons), strict=True):
        assert (mixed.train, mixed.held_out) == (lesson.train, lesson.held_out)
        assert len(mixed.others) == round(0.5 * len(lesson.train))
        assert set(mixed.others) <= {*other.train, *other.held_out} - {*lesson.train, *lesson.held_out}
        options = TrainingOptions(batch_size=2)
        per_epoch = mixed.steps_per_epoch(options)
        for epoch in range(2):
            batches = [mixed.batch(epoch * per_epoch + step, options) for step in range(per_epoch)]
            seen = [example for batch in batches for example in batch]
            assert sorted(seen, key=repr) == sorted((*mixed.train, *mixed.others), key=repr)
    (plain,) = trainer.train_lessons(lessons[:1])
    (beside_others,) = trainer.train_lessons([*with_others(everybody, 0.5)(lessons)][:1])
    assert not torch.equal(plain.row, beside_others.row)


def test_a_warm_up_on_text_teaches_the_text(bank: AdapterBank, llm: TransformersLM) -> None:
    """Row 37 of docs/papers.md: the user's own texts, without a label, before an adapter learns from few."""
    options = TrainingOptions(epochs=1, min_steps=0, learning_rate=0.02, holdout=0, min_records=1)
    bank.store.upsert([("writer", Record("quiet snow quiet snow quiet snow", target="1"))])
    examples = text_examples(bank.store.profile("writer"))
    assert examples == (Example("quiet snow quiet", "snow quiet snow"),)
    trainer = AdapterTrainer(llm, SPEC, options)
    found = []
    for prepare in (warmed_up(trainer, bank.store, epochs=24), None):
        train_users(trainer, bank, history_examples, user_ids=["writer"], prepare=prepare)
        current = bank.current("writer", trainer.family)
        assert current is not None
        found += trainer.losses(bank.row(current)[None], trainer.tokens(examples))
    assert found[0] < found[1] / 2
    assert text_examples(Profile("nobody", (Record("word"),))) == ()


def test_halves_share_no_number_and_add_up(bank: AdapterBank, llm: TransformersLM) -> None:
    """Row 58 of docs/papers.md: no gradient in the other half, and one adapter of the same rank computes the sum."""
    options = TrainingOptions(epochs=2, min_steps=0, learning_rate=0.02)
    trainer = AdapterTrainer(llm, LoraSpec(r=4, alpha=8, targets=SPEC.targets), options)
    family = trainer.family
    prior = trainer.train_prior(all_examples(bank), start=half(family, family.initial(), "task")).row
    assert torch.equal(half(family, prior, "task"), prior)
    assert prior.abs().sum() > 0
    start = half(family, torch.randn(family.size), "user")
    with trainer.stacked(prior) as losses:
        gradient = losses.gradients(start[None], [trainer.tokens(all_examples(bank)[:3])])[0]
    assert torch.equal(half(family, gradient, "user"), gradient)
    assert gradient.abs().sum() > 0
    train_users(trainer, bank, history_examples, prior=prior, prepare=in_half(family, "user"))
    rows = [bank.row(one) for one in bank.current_adapters(family.over(prior)) if one.state == "published"]
    assert rows
    for row in rows:
        both = compose(family, prior, row)
        pairs = zip(*(family.pairs(each[None]) for each in (both, prior, row)), strict=True)
        for (a, b), (task_a, task_b), (own_a, own_b) in pairs:
            torch.testing.assert_close(b[0] @ a[0], task_b[0] @ task_a[0] + own_b[0] @ own_a[0])
    with pytest.raises(InvalidOptionError, match="the task's half of the rank alone"):
        compose(family, family.initial(), rows[0])
    with pytest.raises(InvalidOptionError, match="a half must be one of task, user, was: 'left'"):
        half(family, prior, "left")


def test_a_lesson_starts_from_the_adapter_that_it_is_given(trainer: AdapterTrainer) -> None:
    example = TokenExample((5,), (6,))
    still = AdapterTrainer(trainer.llm, SPEC, replace(OPTIONS, learning_rate=1e-30, weight_decay=0.0))
    start = torch.randn(trainer.family.size)
    (learnt,) = still.train_lessons([Lesson("ana", (example,), start=start)])
    torch.testing.assert_close(learnt.row, start)

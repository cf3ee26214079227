"""Training many users at once: what each learns is what a plain PEFT loop over that user learns."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from persona.adapters.adamw import PerUserAdamW
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, history_examples, text_examples
from persona.adapters.family import LoraSpec
from persona.adapters.training import AdapterTrainer, Learnt, Lesson, TokenExample, TrainingOptions, chunks
from persona.errors import InvalidOptionError
from persona.eval.world.world import World
from persona.lamp.tasks import lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Profile, Record
from persona.store.profile_store import ProfileStore

# PEFT reads an attribute that transformers has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SPEC = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))
WORDS = ["quiet", "loud", "snow", "film", "dog", "a", "the", "moody", "stylish", "plot"]


def exact_norm(self: Any, hidden: Tensor) -> Tensor:
    """Root mean square norm in the type that comes in; the models' own goes through float32."""
    epsilon = getattr(self, "variance_epsilon", 0.0)
    normed: Tensor = self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)
    return normed


def load(folder: Path, **options: Any) -> TransformersLM:
    llm = load_llm(folder, **options)
    assert isinstance(llm, TransformersLM)
    return llm


def exact(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TransformersLM, LoraSpec]:
    """A model that computes in float64 throughout."""
    llama = load(folder, dtype="float64")
    if kind == "llama":
        monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
        return llama, SPEC
    monkeypatch.setattr(T5LayerNorm, "forward", exact_norm)
    make: Any = T5Config
    build: Any = T5ForConditionalGeneration
    torch.manual_seed(0)
    config = make(
        vocab_size=258,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return TransformersLM(build(config).double().eval(), llama._tokenizer), LoraSpec(
        r=2, alpha=4, targets=("q", "v", "wo")
    )


def lesson(llm: TransformersLM, user: int, count: int, held_out: int = 0) -> Lesson:
    """Examples of uneven length."""
    texts = [f"{WORDS[(user + place) % 10]} {WORDS[user % 7] * (place % 3)}" for place in range(count + held_out)]
    targets = [f"{(user * place) % 5}{'!' * (place % 2)}" for place in range(count + held_out)]
    made = [
        TokenExample(tuple(prompt), tuple(target))
        for prompt, target in zip(llm.prompt_ids(texts), llm.target_ids(targets), strict=True)
    ]
    return Lesson(f"user {user}", tuple(made[:count]), tuple(made[count:]))


def loss_of(llm: TransformersLM, model: Any, examples: Sequence[TokenExample]) -> Tensor:
    """The mean over examples of the mean over target tokens, each example computed alone."""
    losses = []
    for example in examples:
        target = torch.tensor([example.target])
        if llm.encoder_decoder:
            logits = model(input_ids=torch.tensor([example.prompt]), labels=target).logits
        else:
            ids = torch.tensor([[*example.prompt, *example.target]])
            logits = model(input_ids=ids).logits[:, len(example.prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits[0], target[0]))
    return torch.stack(losses).mean()


def peft_loop(llm: TransformersLM, trainer: AdapterTrainer, lesson: Lesson) -> Tensor:
    """The same training with PEFT and PyTorch alone, as one vector.  # (size,)"""
    options, family = trainer.options, trainer.family
    config = LoraConfig(
        r=family.spec.r, lora_alpha=4, target_modules=[module.name for module in family.modules], lora_dropout=0.0
    )
    wrapped: Any = get_peft_model(llm.model, config, autocast_adapter_dtype=False)
    layers = dict(wrapped.named_modules())
    weights = []
    for module, (a, b) in zip(family.modules, family.pairs(family.initial(dtype=torch.float64)[None]), strict=True):
        layer = layers[f"base_model.model.{module.name}"]
        for part, start in ((layer.lora_A, a), (layer.lora_B, b)):
            part["default"].weight.data = start[0].clone()
            weights.append(part["default"].weight)
    optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=options.weight_decay)
    steps = options.epochs * lesson.steps_per_epoch(options)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate(step, steps)
        optimizer.zero_grad()
        loss: Any = loss_of(llm, wrapped, lesson.batch(step, options))
        loss.backward()
        if options.clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, options.clip)
        optimizer.step()
    wrapped.unload()
    for parameter in llm.model.parameters():
        parameter.requires_grad_(True)
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_it_is_what_a_peft_loop_over_each_user_gives(
    kind: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, spec = exact(kind, llama_folder, monkeypatch)
    options = TrainingOptions(learning_rate=5e-3, epochs=3, min_steps=0, batch_size=3, clip=0.05, weight_decay=0.1)
    trainer = AdapterTrainer(llm, spec, options)
    lessons = [lesson(llm, user, count) for user, count in enumerate((1, 3, 4, 7, 8))]
    learnt = trainer.train_lessons(lessons)
    assert [one.steps for one in learnt] == [3, 3, 6, 9, 9]
    start = trainer.family.initial(dtype=torch.float64)
    for one, whose in zip(learnt, lessons, strict=True):
        expected = peft_loop(llm, trainer, whose)
        assert float((one.row - expected).abs().max()) < 1e-9
        assert float((expected - start).abs().max()) > 1e-3


def test_a_prior_lies_under_and_gets_no_gradient(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, spec = exact("llama", llama_folder, monkeypatch)
    trainer = AdapterTrainer(llm, spec, TrainingOptions(epochs=2, min_steps=0))
    prior = torch.randn(trainer.family.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
    lessons = [lesson(llm, user, 5, held_out=2) for user in range(3)]
    untouched = prior.clone()
    together = trainer.train_lessons(lessons, prior=prior)
    assert torch.equal(prior, untouched)
    for one, whose in zip(together, lessons, strict=True):
        (alone,) = trainer.train_lessons([whose], prior=prior)
        assert float((one.row - alone.row).abs().max()) < 1e-9
        assert alone.loss == pytest.approx(one.loss, abs=1e-9)
        # The prior merged into the weights, and no stack: the very same loss.
        merged = trainer._stack(None)
        family = trainer.family
        before = {module.name: llm.model.get_submodule(module.name).weight.clone() for module in family.modules}
        for module, (a, b) in zip(family.modules, family.pairs(prior[None]), strict=True):
            llm.model.get_submodule(module.name).weight.data += spec.scale * (b[0] @ a[0])
        with torch.no_grad():
            assert one.loss_prior == pytest.approx(float(loss_of(llm, llm.model, whose.held_out)), abs=1e-9)
        for name, weight in before.items():
            llm.model.get_submodule(name).weight.data = weight
        merged.remove()


def test_gradients_in_float32_are_those_of_each_user_alone(llama_folder: Path) -> None:
    llm = load(llama_folder)
    trainer = AdapterTrainer(llm, SPEC)
    batches = [lesson(llm, user, 3).train for user in range(4)]
    rows = torch.randn(4, trainer.family.size, generator=torch.Generator().manual_seed(0)) * 0.1
    with trainer._stack(None) as stack:
        together = trainer._gradients(stack, rows, batches)
        for place, batch in enumerate(batches):
            alone = trainer._gradients(stack, rows[place : place + 1], [batch])
            torch.testing.assert_close(together[place], alone[0], rtol=1e-4, atol=1e-5)


def test_training_one_user_leaves_another_bit_equal(llama_folder: Path) -> None:
    llm = load(llama_folder)
    trainer = AdapterTrainer(llm, SPEC, TrainingOptions(epochs=2, min_steps=0, batch_size=2, weight_decay=0.5))
    others = [lesson(llm, 1, 2), lesson(llm, 2, 4)]
    longest = lesson(llm, 3, 9)
    # The first is done after 2 steps, the second after 4, while the third goes on to 10.
    short, middle, long = trainer.train_lessons([*others, longest])
    other_words = tuple(TokenExample((*one.prompt[:-1], 77), (*one.target[:-1], 1)) for one in longest.train)
    again = trainer.train_lessons([*others, Lesson("user 3", other_words)])
    assert torch.equal(again[0].row, short.row)
    assert torch.equal(again[1].row, middle.row)
    assert not torch.equal(again[2].row, long.row)


def test_each_row_of_the_optimizer_is_an_adamw() -> None:
    rows = torch.randn(3, 5, dtype=torch.float64)
    ours = PerUserAdamW(rows.clone(), weight_decay=0.2, clip=0.7)
    theirs = [row.clone().requires_grad_() for row in rows]
    optimizers = [torch.optim.AdamW([row], lr=1.0, weight_decay=0.2) for row in theirs]
    for step in range(6):
        gradients, rates = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
        if step == 4:  # the second user is done
            ours.keep(torch.tensor([0, 2]))
        left = [0, 1, 2] if step < 4 else [0, 2]
        for place in left:
            theirs[place].grad = gradients[place].clone()
            torch.nn.utils.clip_grad_norm_([theirs[place]], 0.7)
            optimizers[place].param_groups[0]["lr"] = float(rates[place])
            optimizers[place].step()
        ours.step(gradients[left].clone(), rates[left])
    torch.testing.assert_close(ours.rows, torch.stack([theirs[0], theirs[2]]).detach(), rtol=0, atol=1e-14)


def test_training_leaves_the_model_as_it_was(llama_folder: Path) -> None:
    llm = load(llama_folder)
    before = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    answer = llm.generate([Request("A quiet film")], GenerationOptions(8))
    AdapterTrainer(llm, SPEC).train_lessons([lesson(llm, 1, 4, held_out=1)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in llm.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llm.model.parameters())
    assert llm.generate([Request("A quiet film")], GenerationOptions(8)) == answer


def test_patience_takes_the_best_epoch(llama_folder: Path) -> None:
    llm = load(llama_folder)
    lessons = [lesson(llm, user, 4, held_out=3) for user in range(4)]

    def trained(epochs: int, patience: int | None) -> list[Learnt]:
        options = ConstantRate(learning_rate=3e-2, epochs=epochs, min_steps=0, patience=patience)
        return AdapterTrainer(llm, SPEC, options).train_lessons(lessons)

    steps = 12
    by_epoch = [[one.loss or 0.0 for one in trained(epochs, None)] for epochs in range(1, steps + 1)]
    for place, one in enumerate(trained(steps, steps)):
        losses = [epoch[place] for epoch in by_epoch]
        assert one.loss == pytest.approx(min(losses), abs=1e-4)
        assert one.steps == losses.index(min(losses)) + 1
    assert all(one.steps < steps for one in trained(100, 2))


class ConstantRate(TrainingOptions):
    """An epoch is the same whatever comes after it."""

    def rate(self, step: int, steps: int) -> float:
        return self.learning_rate


def test_chunks_keep_their_budget() -> None:
    options = TrainingOptions(batch_size=2, chunk_tokens=100)
    example = {length: TokenExample((1,) * (length - 1), (1,)) for length in (10, 30, 80)}
    lessons = [Lesson(f"{length}", (example[length],) * 4) for length in (10, 80, 30, 10, 30, 10)]
    found = [[lesson.longest for lesson in chunk] for chunk in chunks(lessons, options)]
    assert found == [[80], [30], [30], [10, 10, 10]]
    assert sorted(lesson.user_id for chunk in chunks(lessons, options) for lesson in chunk) == sorted(
        lesson.user_id for lesson in lessons
    )


def test_examples_are_the_users_own_answers() -> None:
    profile = Profile.from_records(
        "ana",
        [Record("Loud.", target="2", time="2012"), Record("Quiet.", target="5", time="2011"), Record("No score.")],
    )
    assert history_examples(profile) == (Example("Quiet.", "5"), Example("Loud.", "2"))
    asked = history_examples(profile, lamp_task("LaMP_3"))
    assert asked[0] == Example(lamp_task("LaMP_3").make_input("Quiet."), "5")
    with pytest.raises(InvalidOptionError, match="LaMP_1 names two papers"):
        history_examples(profile, lamp_task("LaMP_1"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            ("epochs", 0),
            ("min_steps", -1),
            ("learning_rate", 0.0),
            ("holdout", 1.0),
            ("window", 0),
            ("min_records", 0),
        ],
        *[("learning_rate", math.inf), ("margin", math.nan), ("margin", math.inf), ("seed", -1), ("seed", 2**70)],
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InvalidOptionError, match=f"`{option}` must be .* was: {value}"):
        TrainingOptions(**{option: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_users_own_adapter_knows_the_user_and_anothers_does_not() -> None:
    llm = load_llm("tiny")
    assert isinstance(llm, TransformersLM)
    world, task = World(0), lamp_task("LaMP_3")
    users = [world.user("dev", index) for index in range(6)]
    trainer = AdapterTrainer(llm, LoraSpec(), TrainingOptions(learning_rate=4e-3, epochs=4, max_holdout=10))
    lessons = []
    for user in users:
        records = world.records(user, task.name, 60)
        made = trainer.lesson(user.user_id, history_examples(Profile(user.user_id, records), task))
        assert made is not None
        lessons.append(made)
    learnt = trainer.train_lessons(lessons)
    rows = torch.stack([one.row for one in learnt])
    own, others, plain = [], [], []
    for place, one in enumerate(lessons):
        losses = trainer.losses(rows, one.held_out)
        own.append(losses.pop(place))
        others.append(sum(losses) / len(losses))
        plain.append(learnt[place].loss_prior or 0.0)
    assert sum(own) < 0.7 * sum(plain)
    # Another user's adapter knows the task too, but not the user.
    assert sum(own) < 0.8 * sum(others)


# ----------------------------------------------------------------------------------------------------- into the bank


def fill(store: ProfileStore, users: int = 12) -> None:
    """User 0 has one record, the others five and more."""
    store.upsert(
        (
            f"user {user}",
            Record(
                f"{WORDS[place % 10]} {WORDS[user % 10]}", target=f"{user % 5}", id=f"{place}", time=f"{2000 + place}"
            ),
        )
        for user in range(users)
        for place in range(1 if user == 0 else 5 + user % 3)
    )


OPTIONS = TrainingOptions(learning_rate=1e-2, epochs=4, min_steps=0, window=4, chunk_tokens=64)


@pytest.fixture
def bank(tmp_path: Path) -> AdapterBank:
    store = ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}")
    fill(store)
    return AdapterBank(store)


def test_only_what_beats_the_prior_is_published(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    told: list[int] = []
    report = trainer.train_users(bank, history_examples, progress=lambda users, seconds: told.append(users))
    assert (report.users, report.too_few, report.passed_over) == (11, 1, 0)
    assert report.published + report.kept_prior == 11
    assert report.published > 0
    assert told[-1] == 11
    for adapter in bank.current_adapters(trainer.family):
        wins = adapter.metrics["loss"] < adapter.metrics["loss_prior"]
        assert adapter.state == ("published" if wins else "prior")
        assert adapter.revision == 1
    strict = AdapterTrainer(load(llama_folder), SPEC, TrainingOptions(margin=0.99, epochs=1, min_steps=0))
    assert strict.train_users(bank, history_examples, user_ids=["user 3"]).kept_prior == 1
    current = bank.current("user 3", trainer.family)
    assert current is not None
    assert (current.state, current.version) == ("prior", 2)


def test_who_is_published_learns_from_what_judged_too(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, replace(OPTIONS, refit=False))
    trainer.train_users(bank, history_examples)
    again = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    again.train_users(bank, history_examples, user_ids=bank.store.user_ids())
    published = 0
    for adapter in bank.current_adapters(trainer.family):
        examples = trainer.tokens(history_examples(bank.store.profile(adapter.user_id)))
        lesson = trainer.lesson(adapter.user_id, history_examples(bank.store.profile(adapter.user_id)))
        assert lesson is not None
        (judged,) = trainer.train_lessons([lesson])
        # Whether it is published is still said by records that the judged one has not seen.
        assert judged.loss == pytest.approx(adapter.metrics["loss"], rel=1e-4)
        if adapter.state == "published":
            published += 1
            (whole,) = trainer.train_lessons([Lesson(adapter.user_id, examples)])
            torch.testing.assert_close(bank.row(adapter), whole.row, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(bank.row(adapter), judged.row, rtol=1e-3, atol=1e-4)
            assert adapter.metrics["examples"] == len(examples)
    assert published


def test_a_refit_makes_as_many_epochs_as_were_judged_best() -> None:
    example = TokenExample((1,), (1,))
    lesson = Lesson("ana", (example,) * 4, (example,) * 3, text=(example,) * 2)
    options = TrainingOptions(batch_size=2, warm_up=1, patience=2, epochs=50)
    # One step of warm-up, and the best after three epochs of two steps.
    whole = lesson.refitted(7, options)
    assert (len(whole.train), whole.held_out, whole.epochs) == (7, (), 3)
    assert whole.steps(options) == 1 + 3 * 4


def test_few_examples_are_seen_more_often() -> None:
    example = TokenExample((1,), (1,))
    options = TrainingOptions(epochs=3, min_steps=10, batch_size=4)
    found = [Lesson("ana", (example,) * count).steps(options) for count in (1, 5, 12, 40)]
    assert found == [10, 10, 12, 30]


def test_only_users_with_new_records_are_trained(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    trainer.train_users(bank, history_examples)
    assert trainer.train_users(bank, history_examples).users == 0
    bank.store.upsert([("user 5", Record("new", target="1"))])
    assert trainer.train_users(bank, history_examples).users == 1
    current = bank.current("user 5", trainer.family)
    assert current is not None
    assert (current.version, current.revision) == (2, 2)


def test_the_prior_is_learnt_from_all_and_kept_with_the_family(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    examples = [one for user in bank.store.user_ids() for one in history_examples(bank.store.profile(user))]
    prior = trainer.train_prior(examples).row
    assert torch.equal(prior, trainer.train_prior(examples).row)
    trainer.train_users(bank, history_examples, prior=prior)
    (family,) = bank.families()
    assert family == trainer.family.over(prior)
    found = bank.prior(family)
    assert found is not None
    assert torch.equal(found, prior)
    with pytest.raises(InvalidOptionError, match="a prior needs examples"):
        trainer.train_prior([])


TRAIN = """
import sys
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.training import AdapterTrainer, TrainingOptions
from persona.llm.load import load_llm
from persona.store.profile_store import ProfileStore
options = TrainingOptions(learning_rate=1e-2, epochs=4, min_steps=0, window=4, chunk_tokens=64)
spec = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))
trainer = AdapterTrainer(load_llm(sys.argv[2]), spec, options)
told = lambda users, seconds: print(users, flush=True)
trainer.train_users(AdapterBank(ProfileStore(sys.argv[1])), history_examples, progress=told)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, llama_folder: Path) -> None:
    found = {}
    for name in ("whole", "killed"):
        url = f"sqlite:///{tmp_path / name}.db"
        with ProfileStore(url) as store:
            fill(store)
        command = [sys.executable, "-c", TRAIN, url, str(llama_folder)]
        if name == "killed":
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
            assert process.stdout is not None
            with process.stdout as lines:
                while int(lines.readline()) <= 5:  # in the second window
                    pass
                process.kill()
            process.wait()
        if name == "killed":
            with ProfileStore(url) as store:
                bank = AdapterBank(store)
                done = len(list(bank.current_adapters(bank.families()[0])))
                assert 0 < done < 11
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with ProfileStore(url) as store:
            bank = AdapterBank(store)
            (family,) = bank.families()
            found[name] = {one.user_id: (one.version, one.sha256) for one in bank.current_adapters(family)}
    assert len(found["whole"]) == 11
    assert found["whole"] == found["killed"]


def test_a_stream_of_users_is_trained_in_windows(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    batches: list[int] = []
    publish = bank.publish

    def counted(family: Any, drafts: Any, **options: Any) -> Any:
        drafts = list(drafts)
        batches.append(len(drafts))
        return publish(family, drafts, **options)

    bank.publish = counted  # type: ignore[method-assign]
    trainer.train_users(bank, history_examples)
    assert batches == [4, 4, 3]


def test_examples_that_do_not_fit_are_left_out_and_counted(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, OPTIONS)
    bank.store.upsert([("user 5", Record("long " * 100, target="1"))])
    report = trainer.train_users(bank, history_examples, user_ids=["user 5"])
    assert (report.users, report.too_long) == (1, 1)
    # The official input of LaMP_3 alone has more bytes than this model has positions.
    report = trainer.train_users(bank, partial(history_examples, task=lamp_task("LaMP_3")), user_ids=["user 5"])
    assert (report.users, report.too_few, report.too_long) == (0, 1, 8)


def test_what_is_held_out_of_a_user_is_not_in_the_prior(bank: AdapterBank, llama_folder: Path) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, TrainingOptions(holdout=0.4))
    made = [Example(f"film {place}" if place % 3 else "long " * 100, str(place)) for place in range(9)]
    lesson = trainer.lesson("user 5", made)
    assert lesson is not None
    assert len(lesson.held_out) == 3
    learnt = list(trainer.prior_examples(bank.store, lambda profile: made, ["user 5"]))
    assert learnt == [made[place] for place in (1, 2, 4)]
    assert trainer.tokens(learnt) == lesson.train


def test_a_users_own_examples_are_not_those_of_others(
    bank: AdapterBank, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = AdapterTrainer(load(llama_folder), SPEC, replace(OPTIONS, aux_ratio=0.5))
    users = ["user 4", "user 5"]
    examples = {user: history_examples(bank.store.profile(user)) for user in users}
    lessons: dict[str, Lesson] = {}
    train = AdapterTrainer._train_chunk

    def seen(self: AdapterTrainer, stack: Any, chunk: Sequence[Lesson], options: TrainingOptions) -> list[Learnt]:
        lessons.update((lesson.user_id, lesson) for lesson in chunk)
        return train(self, stack, chunk, options)

    monkeypatch.setattr(AdapterTrainer, "_train_chunk", seen)
    trainer.train_users(bank, history_examples, user_ids=users, aux=[*examples["user 4"], *examples["user 5"]])
    for user, other in (users, users[::-1]):
        own = set(trainer.tokens(examples[user]))
        expected = tuple(one for one in trainer.tokens(examples[other]) if one not in own)
        assert expected
        assert lessons[user].aux == expected


def test_a_halved_prior_that_learnt_nothing_has_the_tasks_half_alone(bank: AdapterBank, llama_folder: Path) -> None:
    # So small a rate moves no loss: no epoch is better than the adapter that changes nothing.
    options = replace(OPTIONS, learning_rate=1e-30, epochs=1, half="user")
    trainer = AdapterTrainer(load(llama_folder), SPEC, options)
    learnt = trainer.train_prior([Example("a film", "1")] * 4, held_out=[Example("a film", "2")])
    assert learnt.steps == 0
    assert torch.equal(trainer.family.half(learnt.row, "task"), learnt.row)
    assert learnt.row.abs().sum() > 0
    assert trainer.train_users(bank, history_examples, prior=learnt.row, user_ids=["user 5"]).users == 1


def test_halves_share_no_number_and_add_up(bank: AdapterBank, llama_folder: Path) -> None:
    """The gradient in the other half is zero exactly, and what is served is the sum."""
    spec = LoraSpec(r=4, alpha=8, targets=SPEC.targets)
    trainer = AdapterTrainer(
        load(llama_folder), spec, TrainingOptions(epochs=2, min_steps=0, learning_rate=0.02, half="user")
    )
    family = trainer.family
    examples = [one for user in bank.store.user_ids() for one in history_examples(bank.store.profile(user))]
    prior = trainer.train_prior(examples).row
    assert torch.equal(family.half(prior, "task"), prior)
    assert prior.abs().sum() > 0
    start = family.half(family.initial(), "user") + family.half(torch.randn(family.size), "user")
    with trainer._stack(prior) as stack:
        gradient = trainer._gradients(stack, start[None], [trainer.tokens(examples[:3])])[0]
    assert torch.equal(family.half(gradient, "task"), torch.zeros_like(gradient))
    assert torch.equal(family.half(gradient, "user"), gradient)
    assert gradient.abs().sum() > 0
    trainer.train_users(bank, history_examples, prior=prior)
    over = family.over(prior)
    rows = [bank.row(one) for one in bank.current_adapters(over) if one.state == "published"]
    assert rows
    for row in rows:
        assert torch.equal(family.half(row, "user"), row)
        pairs = zip(*(family.pairs(each[None]) for each in (prior + row, prior, row)), strict=True)
        for (a, b), (task_a, task_b), (own_a, own_b) in pairs:
            torch.testing.assert_close(b[0] @ a[0], task_b[0] @ task_a[0] + own_b[0] @ own_a[0])
    whole = family.initial(seed=1)
    with pytest.raises(InvalidOptionError, match="the task's half alone"):
        trainer.train_users(bank, history_examples, prior=whole)
    with pytest.raises(InvalidOptionError, match="a half must be one of task, user, was: 'left'"):
        family.half(whole, "left")
    with pytest.raises(InvalidOptionError, match="`half` must be one of task, user"):
        TrainingOptions(half="left")


def test_a_warm_up_comes_first_and_examples_of_others_are_mixed_in() -> None:
    def example(number: int) -> TokenExample:
        return TokenExample((number,), (1,))

    options = TrainingOptions(epochs=3, min_steps=0, batch_size=2, warm_up=2, aux_ratio=0.5)
    own = tuple(example(number) for number in range(4))
    text = tuple(example(number) for number in range(100, 103))
    aux = tuple(example(number) for number in range(200, 250))
    lesson = Lesson("ana", own, (example(50),), text=text, aux=aux)
    assert (lesson.warm_steps(options), lesson.steps_per_epoch(options), lesson.steps(options)) == (4, 3, 13)
    seen = [[one.prompt[0] for one in lesson.batch(step, options)] for step in range(lesson.steps(options))]
    for epoch in range(2):
        assert sorted(chain.from_iterable(seen[2 * epoch : 2 * epoch + 2])) == [100, 101, 102]
    mixed = []
    for epoch in range(3):
        numbers = list(chain.from_iterable(seen[4 + 3 * epoch : 7 + 3 * epoch]))
        assert sorted(number for number in numbers if number < 50) == [0, 1, 2, 3]
        others = [number for number in numbers if number >= 200]
        assert len(others) == 2
        mixed += others
    assert len(set(mixed)) > 2
    assert [step for step in range(13) if lesson.ends_epoch(step, options)] == [6, 9, 12]
    assert all(len(batch) <= 2 for batch in seen)
    # Without either a lesson is what it was.
    bare = Lesson("ana", own)
    plain = TrainingOptions(epochs=3, min_steps=0, batch_size=2)
    assert [bare.batch(step, options) for step in range(6)] == [bare.batch(step, plain) for step in range(6)]


def test_a_warm_up_on_text_teaches_the_text(bank: AdapterBank, llama_folder: Path) -> None:
    options = TrainingOptions(epochs=1, min_steps=0, learning_rate=0.02, warm_up=24, holdout=0, min_records=1)
    bank.store.upsert([("writer", Record("quiet snow quiet snow quiet snow", target="1"))])
    examples = text_examples(bank.store.profile("writer"))
    assert [(one.prompt, one.target) for one in examples] == [("quiet snow quiet", "snow quiet snow")]
    found = []
    for warm_up in (24, 0):
        trainer = AdapterTrainer(load(llama_folder), SPEC, replace(options, warm_up=warm_up))
        trainer.train_users(bank, history_examples, user_ids=["writer"], text=text_examples)
        current = bank.current("writer", trainer.family)
        assert current is not None
        found += trainer.losses(bank.row(current)[None], trainer.tokens(examples))
    assert found[0] < found[1] / 2
    assert text_examples(Profile("nobody", (Record("word"),))) == ()

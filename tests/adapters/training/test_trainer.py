"""Training many users at once: what each learns is what a plain PEFT loop over that user learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from examples.world.world import World
from persona.adapters.examples import Example, history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.training.adamw import PerUserAdamW
from persona.adapters.training.lessons import Lesson, TokenExample, chunks
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.planning import plan
from persona.adapters.training.trainer import AdapterTrainer, Learnt
from persona.errors import InvalidOptionError
from persona.lamp.tasks import lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Profile, Record

# PEFT reads an attribute that transformers has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SPEC = LoraSpec(r=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))
WORDS = ["quiet", "loud", "snow", "film", "dog", "a", "the", "moody", "stylish", "plot"]
EXAMPLE = TokenExample((1,), (1,))


def exact_norm(self: Any, hidden: Tensor) -> Tensor:
    """Root mean square norm in the type that comes in; the models' own goes through float32."""
    epsilon = getattr(self, "variance_epsilon", 0.0)
    normed: Tensor = self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)
    return normed


def exact(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TransformersLM, LoraSpec]:
    """A model that computes in float64 throughout."""
    llama = load_llm(folder, dtype="float64")
    assert isinstance(llama, TransformersLM)
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
    t5 = TransformersLM(build(config).double().eval(), llama._tokenizer)
    return t5, LoraSpec(r=2, alpha=4, targets=("q", "v", "wo"))


def lesson(llm: TransformersLM, user: int, count: int, held_out: int = 0) -> Lesson:
    """Examples of uneven length."""
    texts = [f"{WORDS[(user + place) % 10]} {WORDS[user % 7] * (place % 3)}" for place in range(count + held_out)]
    targets = [f"{(user * place) % 5}{'!' * (place % 2)}" for place in range(count + held_out)]
    examples = [
        TokenExample(tuple(prompt), tuple(target))
        for prompt, target in zip(llm.prompt_ids(texts), llm.target_ids(targets), strict=True)
    ]
    return Lesson(f"user {user}", tuple(examples[:count]), tuple(examples[count:]))


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
    family = trainer.family
    prior = torch.randn(family.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
    lessons = [lesson(llm, user, 5, held_out=2) for user in range(3)]
    untouched = prior.clone()
    together = trainer.train_lessons(lessons, prior=prior)
    assert torch.equal(prior, untouched)
    alone = [trainer.train_lessons([whose], prior=prior)[0] for whose in lessons]
    # The prior merged into the weights, and no stack: the very same loss.
    for module, (a, b) in zip(family.modules, family.pairs(prior[None]), strict=True):
        llm.model.get_submodule(module.name).weight.data += spec.scale * (b[0] @ a[0])
    for one, other, whose in zip(together, alone, lessons, strict=True):
        assert float((one.row - other.row).abs().max()) < 1e-9
        assert other.loss == pytest.approx(one.loss, abs=1e-9)
        with torch.no_grad():
            assert one.loss_prior == pytest.approx(float(loss_of(llm, llm.model, whose.held_out)), abs=1e-9)


def test_gradients_in_float32_are_those_of_each_user_alone(llm: TransformersLM) -> None:
    trainer = AdapterTrainer(llm, SPEC)
    batches = [lesson(llm, user, 3).train for user in range(4)]
    rows = torch.randn(4, trainer.family.size, generator=torch.Generator().manual_seed(0)) * 0.1
    with trainer.stacked(None) as losses:
        together = losses.gradients(rows, batches)
        for user, batch in enumerate(batches):
            alone = losses.gradients(rows[user : user + 1], [batch])
            torch.testing.assert_close(together[user], alone[0], rtol=1e-4, atol=1e-5)


def test_training_one_user_leaves_another_bit_equal(llm: TransformersLM) -> None:
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
        for user in left:
            theirs[user].grad = gradients[user].clone()
            torch.nn.utils.clip_grad_norm_([theirs[user]], 0.7)
            optimizers[user].param_groups[0]["lr"] = float(rates[user])
            optimizers[user].step()
        ours.step(gradients[left].clone(), rates[left])
    torch.testing.assert_close(ours.rows, torch.stack([theirs[0], theirs[2]]).detach(), rtol=0, atol=1e-14)


def test_training_leaves_the_model_as_it_was(llm: TransformersLM) -> None:
    before = {name: tensor.clone() for name, tensor in llm.model.state_dict().items()}
    answer = llm.generate([Request("A quiet film")], GenerationOptions(8))
    AdapterTrainer(llm, SPEC).train_lessons([lesson(llm, 1, 4, held_out=1)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in llm.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llm.model.parameters())
    assert llm.generate([Request("A quiet film")], GenerationOptions(8)) == answer


class ConstantRate(TrainingOptions):
    """An epoch is the same whatever comes after it."""

    def rate(self, step: int, steps: int) -> float:
        return self.learning_rate


def test_patience_takes_the_best_epoch(llm: TransformersLM) -> None:
    lessons = [lesson(llm, user, 4, held_out=3) for user in range(4)]

    def trained(epochs: int, patience: int | None) -> list[Learnt]:
        options = ConstantRate(learning_rate=3e-2, epochs=epochs, min_steps=0, patience=patience)
        return AdapterTrainer(llm, SPEC, options).train_lessons(lessons)

    steps = 12
    by_epoch = [[one.loss or 0.0 for one in trained(epochs, None)] for epochs in range(1, steps + 1)]
    for user, one in enumerate(trained(steps, steps)):
        losses = [epoch[user] for epoch in by_epoch]
        assert one.loss == pytest.approx(min(losses), abs=1e-4)
        assert one.steps == losses.index(min(losses)) + 1
    assert all(one.steps < steps for one in trained(100, 2))


def test_chunks_keep_their_budget() -> None:
    options = TrainingOptions(batch_size=2, chunk_tokens=100)
    example = {length: TokenExample((1,) * (length - 1), (1,)) for length in (10, 30, 80)}
    lessons = [Lesson(f"{length}", (example[length],) * 4) for length in (10, 80, 30, 10, 30, 10)]
    found = [[lesson.longest for lesson in chunk] for chunk in chunks(lessons, options)]
    assert found == [[80], [30], [30], [10, 10, 10]]
    assert sorted(lesson.user_id for chunk in chunks(lessons, options) for lesson in chunk) == sorted(
        lesson.user_id for lesson in lessons
    )


def test_a_refit_makes_as_many_epochs_as_were_evaluated_best() -> None:
    lesson = Lesson("ana", (EXAMPLE,) * 4, (EXAMPLE,) * 3)
    options = TrainingOptions(batch_size=2, patience=2, epochs=50)
    # The best after three epochs of two steps.
    whole = lesson.refitted(6, options)
    assert (len(whole.train), whole.held_out, whole.epochs) == (7, (), 3)
    assert whole.steps(options) == 3 * 4


def test_few_examples_are_seen_more_often() -> None:
    options = TrainingOptions(epochs=3, min_steps=10, batch_size=4)
    found = [Lesson("ana", (EXAMPLE,) * count).steps(options) for count in (1, 5, 12, 40)]
    assert found == [10, 10, 12, 30]


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
        *[("epochs", 0), ("min_steps", -1), ("holdout", 1.0), ("window", 0), ("min_records", 0)],
        *[("learning_rate", 0.0), ("learning_rate", math.inf), ("seed", -1), ("seed", 2**70)],
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(InvalidOptionError, match=f"`{option}` must be .* was: {value}"):
        TrainingOptions(**{option: value})  # type: ignore[arg-type]


def test_a_prior_that_helps_nobody_changes_nothing(llm: TransformersLM) -> None:
    """So small a rate moves no loss: no epoch is better than the adapter that changes nothing."""
    trainer = AdapterTrainer(llm, SPEC, TrainingOptions(learning_rate=1e-30))
    learnt = trainer.train_prior([Example("a film", "1")] * 4, held_out=[Example("a film", "2")])
    assert learnt.steps == 0
    assert learnt.loss == learnt.loss_prior
    assert not any(b.any() for _, b in trainer.family.pairs(learnt.row[None]))
    with pytest.raises(InvalidOptionError, match="a prior needs examples"):
        trainer.train_prior([])


def test_a_plan_counts_bytes_and_measures_time(llm: TransformersLM) -> None:
    trainer = AdapterTrainer(llm, SPEC, TrainingOptions(epochs=1, min_steps=0))
    few, many = (plan(trainer, users, lesson(llm, 1, 4, held_out=1)) for users in (1, 1000))
    assert many.bytes_at_rest == 1000 * few.bytes_at_rest == 1000 * 4 * trainer.family.size
    assert many.seconds > 10 * few.seconds > 0


@pytest.mark.slow
def test_the_users_own_adapter_knows_the_user_and_anothers_does_not() -> None:
    llm = load_llm("tiny")
    assert isinstance(llm, TransformersLM)
    world, task = World(0), lamp_task("LaMP_3")
    users = [world.user("dev", index) for index in range(6)]
    trainer = AdapterTrainer(llm, LoraSpec(), TrainingOptions(learning_rate=4e-3, epochs=4))
    lessons = []
    for user in users:
        profile = Profile(user.user_id, world.records(user, task.name, 60))
        whose = trainer.lesson(user.user_id, trainer.tokens(history_examples(profile, task)))
        assert whose is not None
        lessons.append(whose)
    learnt = trainer.train_lessons(lessons)
    rows = torch.stack([one.row for one in learnt])
    own, others, plain = [], [], []
    for user_number, one in enumerate(lessons):
        losses = trainer.losses(rows, one.held_out)
        own.append(losses.pop(user_number))
        others.append(sum(losses) / len(losses))
        plain.append(learnt[user_number].loss_prior or 0.0)
    assert sum(own) < 0.7 * sum(plain)
    # Another user's adapter knows the task too, but not the user.
    assert sum(own) < 0.8 * sum(others)

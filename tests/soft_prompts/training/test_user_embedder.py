"""Training a user embedder: resume to the same weights, what each stage may change, a frozen LLM, several processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.world.world import World
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import EvaluationError, InvalidOptionError, PersonaError
from persona.lamp.tasks import LampSplit, lamp_task
from persona.llm.checkpoint import hash_parameters
from persona.llm.frozen.options import TransformersOptions
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Profile
from persona.retrievers import LampBM25Retriever, RecencyRetriever
from persona.soft_prompts.channel import soft_prompts
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import History, HistoryReader
from persona.soft_prompts.instruction import InstructionWords, answer_ids
from persona.soft_prompts.training.loop import TrainingProgress
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import CHECKPOINT, new_user_embedder
from persona.soft_prompts.training.warm_up import _parts
from tests.soft_prompts.splits import fresh, train, world_split
from tests.started import Starter

SMALL = UserEmbedderTraining(
    warm_up=4, steps=6, batch=4, ks=(0, 1), leave_one_out=2, evaluate_every=2, validation_users=0.25, new_user_steps=4
)


def trained(llm: Any, encoder: Any, out: Path, options: UserEmbedderTraining = SMALL, **others: Any) -> UserEmbedder:
    embedder = fresh(llm, encoder)
    split = others.pop("split", None) or world_split("LaMP_3", 8)
    train(embedder, split, llm, encoder, options, out, **others)
    return embedder


def stopping(stage: str, at: int) -> Callable[[TrainingProgress], None]:
    """Progress that stops the training as Ctrl-C does."""

    def stop(progress: TrainingProgress) -> None:
        if (progress.stage, progress.done) == (stage, at):
            raise KeyboardInterrupt

    return stop


def assert_equal_weights(first: UserEmbedder, second: UserEmbedder) -> None:
    others = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, others[name]), name


def test_training_leaves_the_llm_bit_equal(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    request, options = [Request("review: The battery is superb.")], GenerationOptions(max_new_tokens=4)
    before, answer = hash_parameters(tiny.model), tiny.generate(request, options)
    flags = [(parameter.requires_grad, parameter.grad) for parameter in tiny.model.parameters()]
    embedder = trained(tiny, encoder, tmp_path)
    assert hash_parameters(tiny.model) == before
    assert tiny.generate(request, options) == answer
    assert [(parameter.requires_grad, parameter.grad) for parameter in tiny.model.parameters()] == flags
    assert embedder.config.task == load_user_embedder(tmp_path).config.task == "LaMP_3"
    # Safetensors would make the weights their owner's alone.
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_a_stopped_run_resumes_to_the_same_weights(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    whole = trained(tiny, encoder, tmp_path / "whole")
    out, steps = tmp_path / "stopped", []

    def noted(stop: Callable[[TrainingProgress], None] | None) -> Callable[[TrainingProgress], None]:
        def note(progress: TrainingProgress) -> None:
            steps.append((progress.stage, progress.done))
            if stop is not None:
                stop(progress)

        return note

    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, out, progress=stopping("answers", 5))
    assert (out / CHECKPOINT).is_file()
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, out, progress=noted(stopping("new users", 3)))
    # The checkpoint was written after step 4.
    assert steps == [("answers", 5), ("answers", 6), ("new users", 1), ("new users", 2), ("new users", 3)]
    steps.clear()
    resumed = trained(tiny, encoder, out, progress=noted(None))
    assert steps == [("new users", 3), ("new users", 4)]
    assert_equal_weights(whole, resumed)
    assert not list(out.glob("*checkpoint*"))
    notes = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert notes["report"]["questions_from_records"] == 12
    assert load_user_embedder(out).fingerprint == resumed.fingerprint


@pytest.mark.parametrize(
    ("stage", "at", "options"),
    [
        # An evaluation before the stop does not count twice: here the second in a row without a better one ends it.
        (
            "answers",
            2,
            replace(
                SMALL, warm_up=5, steps=14, leave_one_out=8, evaluate_every=1, patience=2, new_user_steps=0, seed=2
            ),
        ),
        # Stopped before the first evaluation of the stage: the gradients of the stage before it are gone, and may not
        # count when gradients are clipped.
        (
            "new users",
            3,
            replace(SMALL, warm_up=30, steps=20, evaluate_every=20, new_user_steps=20, learning_rate=3e-3, seed=1),
        ),
    ],
)
def test_a_run_stopped_at_a_bad_moment_resumes_to_the_same_weights(
    tiny: Any, encoder: Any, tmp_path: Path, stage: str, at: int, options: UserEmbedderTraining
) -> None:
    whole = trained(tiny, encoder, tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path / "cut", options, progress=stopping(stage, at))
    assert_equal_weights(whole, trained(tiny, encoder, tmp_path / "cut", options))


def test_the_new_user_checkpoint_of_another_training_is_not_used(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path / "out", replace(SMALL, learning_rate=1e-4), progress=stopping("new users", 3))
    (tmp_path / "out" / CHECKPOINT).unlink()
    assert_equal_weights(trained(tiny, encoder, tmp_path / "alone"), trained(tiny, encoder, tmp_path / "out"))


def test_a_checkpoint_of_another_run_is_refused(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path, progress=stopping("answers", 5))
    others: list[dict[str, Any]] = [
        {"options": replace(SMALL, seed=1)},
        {"retriever": RecencyRetriever()},
        {"retriever": LampBM25Retriever(view="target")},
        {"split": world_split("LaMP_3", 8, world=1)},
    ]
    for other in others:
        with pytest.raises(InvalidOptionError, match="is the checkpoint of a run with other options, data or models"):
            trained(tiny, encoder, tmp_path, **other)
    for broken in (b"broken", b"", b"PK\x03\x04broken", b"\x80\x02broken"):
        (tmp_path / CHECKPOINT).write_bytes(broken)
        with pytest.raises(PersonaError, match=r"the checkpoint cannot be read, delete it to begin anew$"):
            trained(tiny, encoder, tmp_path)


def test_the_stage_of_new_users_changes_no_other_soft_prompt(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    embedders, reports = {}, {}
    stages: list[Any] = []
    for steps in (0, 40):
        embedder = embedders[steps] = fresh(tiny, encoder)
        options = replace(SMALL, batch=8, new_user_steps=steps, evaluate_every=5, ks=(0,), patience=9)
        split = world_split("LaMP_3", 40)
        reports[steps] = train(embedder, split, tiny, encoder, options, tmp_path / f"{steps}", progress=stages.append)
        assert all(parameter.requires_grad for parameter in embedder.parameters())
    without, tuned = embedders[0], embedders[40]
    assert (stages[-1].stage, stages[-1].done, stages[-1].total) == ("new users", 40, 40)
    assert reports[0].new_user_loss is None
    assert (reports[40].new_user_loss or 9) < (reports[40].new_user_loss_before or 0)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, without.state_dict()[name])}
    assert changed == {"pooling.new_user"}
    profiles = [question.profile for question in world_split("LaMP_3", 2, "dev").questions]
    known = HistoryReader(tuned.config, encoder).read(profiles)
    for first, second in zip(soft_prompts(without, known), soft_prompts(tuned, known), strict=True):
        assert torch.equal(first, second)
    nobody = [History(np.zeros((0, tuned.config.value_dim), np.float16))]
    assert not torch.equal(soft_prompts(without, nobody)[0], soft_prompts(tuned, nobody)[0])


def test_training_learns_something_about_the_user(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    steps: list[TrainingProgress] = []
    options = UserEmbedderTraining(warm_up=20, steps=30, batch=8, ks=(0,), leave_one_out=4, evaluate_every=10)
    split = world_split("LaMP_3", 30)
    report = train(fresh(tiny, encoder), split, tiny, encoder, options, tmp_path, progress=steps.append)
    assert report.validation_loss < report.validation_loss_before
    losses = [progress.loss or 0.0 for progress in steps if progress.stage == "answers"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_usual_answer_is_fitted_to_the_training_users_answers(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    """Users who always give one score: the mean of their targets says it, and few records outweigh the null record."""
    questions, golds = [], {}
    for number, question in enumerate(world_split("LaMP_3", 24).questions):
        score = golds[question.id] = "1" if number % 2 else "5"
        profile = Profile(question.user_id, tuple(replace(record, target=score) for record in question.profile))
        questions.append(replace(question, profile=profile))
    split = LampSplit(lamp_task("LaMP_3"), tuple(questions), golds, None)
    embedder = UserEmbedder.for_llm(tiny, encoder, words=InstructionWords.of(split, tiny, encoder))
    options = UserEmbedderTraining(warm_up=1, steps=1, batch=4, ks=(0,), leave_one_out=2)
    train(embedder, split, tiny, encoder, options, tmp_path)

    reader = HistoryReader(embedder.config, encoder)
    ones, fives = soft_prompts(embedder, reader.read([questions[1].profile, questions[0].profile]))
    (one,), (five,) = answer_ids(tiny, ["1", "5"])
    embed = tiny.model.get_input_embeddings().weight.detach()
    between = embed[five] - embed[one]
    for prompt, share in ((ones, 0.0), (fives, 1.0)):
        said = (prompt[embedder.config.answer_start] - embed[one]) @ between / between.square().sum()
        assert float(said) == pytest.approx(share, abs=0.35)


def test_long_histories_are_validated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona.soft_prompts.training.warm_up._PADDED_RECORDS", 20)
    lengths = [0, 3, 50, 7, 1, 4, 4, 9, 2, 5]
    histories = [History(np.zeros((n, 2), np.float16)) for n in lengths]
    parts = list(_parts(histories, np.random.default_rng(0)))
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert all(len(part) * max(1, *(lengths[number] for number in part)) <= 20 for part in parts if len(part) > 1)
    assert 2 < len(parts) < 10


def test_without_user_no_history_is_ever_seen(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    embedder, before = fresh(tiny, encoder), fresh(tiny, encoder).state_dict()
    states: list[dict[str, torch.Tensor]] = []

    def keep(_: TrainingProgress) -> None:
        states.append({name: tensor.clone() for name, tensor in embedder.state_dict().items()})

    options = replace(SMALL, ks=(0,), without_user=True)
    train(embedder, world_split("LaMP_3", 8), tiny, encoder, options, tmp_path, progress=keep)
    after = states[-1]
    assert not torch.equal(before["instruction"], after["instruction"])
    for name in ("pooling.value.weight", "pooling.value.bias", "pooling.key.weight", "pooling.query.weight"):
        decayed = before[name] * (after[name].sum() / before[name].sum())  # weight decay alone
        torch.testing.assert_close(after[name], decayed, rtol=1e-5, atol=1e-7)


def test_bad_data_is_refused(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    embedder, split = fresh(tiny, encoder), world_split("LaMP_3", 4)
    with pytest.raises(EvaluationError, match="this split has none"):
        train(embedder, replace(split, golds=None), tiny, encoder, SMALL, tmp_path)
    with pytest.raises(EvaluationError, match="at least 2 users, was: 1"):
        train(embedder, world_split("LaMP_3", 1), tiny, encoder, SMALL, tmp_path)
    with pytest.raises(InvalidOptionError, match="reads at most 511 tokens, 600 soft ones leave none"):
        train(fresh(tiny, encoder, n_tokens=600), split, tiny, encoder, SMALL, tmp_path)
    with pytest.raises(InvalidOptionError, match="need a retriever"):
        train(embedder, split, tiny, encoder, SMALL, tmp_path, retriever=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"learning_rate": rate}, "a number above 0, was: ") for rate in (0.0, float("nan"), float("inf"))),
        *(({"seed": seed}, "`seed` must be from 0 to ") for seed in (-1, 2**70)),
        ({"validation_users": 1.0}, "`validation_users` must be above 0 and below 1, was: 1.0"),
        ({"ks": ()}, "`ks` must be numbers of at least 0"),
        ({"new_user_steps": -1}, "`new_user_steps` must be at least 0, was: -1"),
        ({"steps": 0}, "`steps` must be at least 1, was: 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        UserEmbedderTraining(**options)
    with pytest.raises(InvalidOptionError, match="`mode` must be one of attention, persona-plug, was: 'vectors'"):
        UserEmbedderShape(mode="vectors")
    with pytest.raises(InvalidOptionError, match="`n_tokens` must be at least 1, was: 0"):
        UserEmbedderShape(n_tokens=0)


def test_a_prompt_that_the_llm_cannot_read_is_refused_or_cut(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    split = world_split("LaMP_3", 4)
    long = replace(
        split,
        questions=tuple(
            replace(question, input=question.input + " the battery is superb" * 300) for question in split.questions
        ),
    )
    options = replace(SMALL, ks=(0,), leave_one_out=0, steps=1)
    assert train(fresh(tiny, encoder), long, tiny, encoder, options, tmp_path).steps == 1  # overlong="truncate"
    plain = load_llm("tiny")
    with pytest.raises(InvalidOptionError, match=r"a prompt may have \d+ tokens here"):
        train(fresh(plain, encoder), long, plain, encoder, options, tmp_path)


def test_training_reads_what_generating_reads_behind_a_chat_template(encoder: Any, tmp_path: Path) -> None:
    plain: Any = load_llm("tiny")
    plain._tokenizer.chat_template = "user : {{ messages[0]['content'] }} assistant : "
    chat = TransformersLM(plain.model, plain._tokenizer, TransformersOptions(max_prompt_tokens=40))
    limit = chat.prompt_limit(GenerationOptions(max_new_tokens=2))
    assert limit is not None
    assert 20 < limit < 40  # the template takes the rest
    full = next(text for n in range(limit) if chat.tokenizer.count(text := "a " * n) == limit - 2)  # two soft tokens
    split = world_split("LaMP_3", 8)
    asked = replace(split, questions=tuple(replace(question, input=full) for question in split.questions))
    options = replace(SMALL, ks=(0,), leave_one_out=0, steps=1, new_user_steps=0)
    assert train(fresh(chat, encoder), asked, chat, encoder, options, tmp_path).steps == 1
    soft = torch.zeros(2, chat.hidden_size)
    assert chat.generate([Request(full, soft)], GenerationOptions(max_new_tokens=2))
    with pytest.raises(InvalidOptionError):
        chat.generate([Request(full + "a a a", soft)], GenerationOptions(max_new_tokens=2))


def test_a_new_embedder_is_what_the_options_describe(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    split = world_split("LaMP_4", 6)
    worded = new_user_embedder(tiny, split, encoder, UserEmbedderShape(width=16)).config
    assert (worded.mode, worded.width, worded.view) == ("attention", 16, "text")
    assert worded.n_answer_tokens > 0
    assert worded.copy_tokens > 0
    paper = new_user_embedder(tiny, split, encoder, UserEmbedderShape(mode="persona-plug")).config
    assert (paper.n_tokens, paper.view, paper.copy_tokens) == (2, split.task.view, 0)
    np.save(tmp_path / "users.npy", np.ones((1, 5), np.float32))
    (tmp_path / "users.ids.jsonl").write_text('"ana"\n')
    vectors = UserVectorFile(tmp_path / "users.npy")
    config = new_user_embedder(tiny, split, vectors, UserEmbedderShape(n_tokens=3)).config
    assert (config.mode, config.n_tokens, config.encoder) == ("vectors", 3, vectors.fingerprint)
    with pytest.raises(InvalidOptionError, match="leave `mode` out"):
        new_user_embedder(tiny, split, vectors, UserEmbedderShape(mode="persona-plug"))


def test_the_llm_may_be_in_bfloat16(encoder: Any, tmp_path: Path) -> None:
    narrow: Any = load_llm("tiny", dtype="bfloat16", overlong="truncate")
    before = hash_parameters(narrow.model)
    embedder = trained(narrow, encoder, tmp_path)
    assert hash_parameters(narrow.model) == before
    assert {parameter.dtype for parameter in embedder.parameters()} == {torch.float32}
    report = json.loads((tmp_path / "training.json").read_text())["report"]
    assert report["steps"] == SMALL.steps
    assert 0 < report["validation_loss"] <= report["validation_loss_before"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(starter: Starter, tiny: Any, encoder: Any, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path / "data", "LaMP_3", {"train": 12}, 6)
    # With 8 steps one process surely shows some prompts without the question where the other does not.
    # In two parts of a batch one process has two and one examples, the other two and none.
    options = "steps=8 batch=5 evaluate_every=4 warm_up=0 n_tokens=2 leave_one_out=2 ks=0 seed=2"
    options += " with_question=true accumulate=2"
    settings = [word for text in options.split() for word in ("--set", text)]
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    for out, launcher in (("one", ()), ("two", torchrun)):
        command = ["python", *launcher, "-m", "persona", "train", "user-embedder", "data", "--llm", "tiny"]
        done = starter.run([*command, "--encoder", "hashing", "--out", out, *settings], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best_step") == 1  # the main process alone reports
    begun = UserEmbedder.for_llm(tiny, encoder, n_tokens=2, with_question=True, copies=True, seed=2).state_dict()
    one, two = (load_user_embedder(tmp_path / out).state_dict() for out in ("one", "two"))
    assert torch.equal(one["copying.counts"], two["copying.counts"])
    # What is copied is fitted to what the rest became, and may be nothing at all for one of them.
    names = [name for name in begun if not name.startswith("copying.")]
    first, second = (torch.cat([(state[name] - begun[name]).flatten() for name in names]) for state in (one, two))
    assert first.abs().max() > 1e-4
    # Not to the bit: AdamW divides by the gradient's size, and where that is next to nothing rounding decides.
    assert torch.cosine_similarity(first, second, dim=0) > 0.98


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port

"""Adapters written in one pass beside adapters that were trained, on the generated world.

    python -m benchmarks.one_pass_adapters FOLDER [--only quality,gate,speed,removal] [--llm tiny] [--seeds 3]
                                           [--kinds vector,activations] [--tasks LaMP_2,LaMP_3,LaMP_4] [--json]

- ``quality``: of each task and seed a task adapter, a generator over it for each of `--kinds`, and the same generator
  trained without the user learn from training users with 20 records. Then held-out users, others for each seed, with 20
  and with 50 records: adapters that are trained for each (`train_users`, with its gate), and adapters that are
  written. All are asked 4 further questions of the user; scores are the loss of the user's answer in nats per token,
  and how often every token of it is the LLM's likeliest. The share of a method is its gain over the task adapter alone,
  divided by that of the trained adapters; intervals are 95 %, bootstrap over users, all seeds together.
- ``speed``: users per second: written, trained one after the other, trained many at once. Best of some
  rounds, taking turns.
- ``gate``: over the generators of ``quality``, held-out users with 5, 20 and 50 records: the gain that a gate sees (on
  records that were read; on the newest, held out; on four parts, each judged by the adapter of the others), less that
  on further questions; what it publishes gains. With own records, and with all but the newest fifth another user's.
- ``removal``: one record of 50 is deleted and the adapter made anew, beside training it anew; best of five.

What was done lies in FOLDER, a cell for each task and seed, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.world.world import World
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import Example, history_examples
from persona.adapters.family import LoraSpec
from persona.adapters.generated.generator import ACTIVATIONS, VECTOR, load_generator
from persona.adapters.generated.one_pass import OnePass
from persona.adapters.generated.training import GeneratorTraining, train_generator
from persona.adapters.task_adapter import NAME, TaskAdapter
from persona.adapters.training.lessons import TokenExample
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.training.users import train_users
from persona.adapters.versions import PUBLISHED
from persona.lamp.tasks import lamp_task
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.records import Profile, Record
from persona.store.profile_store import ProfileStore

LENGTHS, QUESTIONS, RESAMPLES = (20, 50), 4, 2000
TRAINING_RECORDS, TASK_EXAMPLES = 20, 1200
READING = (VECTOR, ACTIVATIONS)
WORLD = World(0)


def profile(split: str, index: int, task: str, records: int) -> Profile:
    """A user of the world."""
    user = WORLD.user(split, index)
    return Profile(user.user_id, WORLD.records(user, task, records))


def asked(index: int, task: str) -> list[Example]:
    """Further questions of a held-out user, with the answers."""
    user = WORLD.user("dev", index)
    made = [WORLD.question(task, user, 0, number, QUESTIONS) for number in range(QUESTIONS)]
    return [Example(each.question.input, each.gold) for each in made]


def cell(llm: TransformersLM, task: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The scores of held-out users by number of records and arm; those that are there are kept."""
    found: dict[str, Any] = {str(length): {} for length in LENGTHS}
    if (folder / "cell.json").is_file():
        found = json.loads((folder / "cell.json").read_text())
    if found["50"].keys() >= set(arms_of(options.kinds)):
        return found
    examples = partial(history_examples, task=lamp_task(task))
    trainer = AdapterTrainer(llm, LoraSpec(), TrainingOptions(seed=seed))
    users = [examples(profile("train", index, task, TRAINING_RECORDS)) for index in range(options.training_users)]
    if not (folder / f"{NAME}.json").is_file():
        once = AdapterTrainer(llm, trainer.spec, replace(trainer.options, epochs=1))
        row = once.train_prior([one for own in users for one in own], max_examples=TASK_EXAMPLES).row
        TaskAdapter(trainer.family, row, trainer.options, task).save(folder)
    shared = TaskAdapter.load(folder)
    for kind in options.kinds.split(","):
        for name, with_user in ((kind, True), (f"{kind}-without-user", False)):
            if not (folder / name / "model.safetensors").is_file():
                how = training(kind, options, with_user=with_user, seed=seed)
                tokens = [trainer.tokens(own) for own in users]
                done = train_generator(trainer, tokens, how, prior=shared.row, folder=folder)
                print(f"{folder.name} {name}: {done}", file=sys.stderr, flush=True)
                done.generator.save(folder / name)
    people = range(seed * options.users, (seed + 1) * options.users)
    questions = [trainer.tokens(asked(index, task)) for index in people]
    for length in LENGTHS:
        profiles = [profile("dev", index, task, length) for index in people]
        for name in arms_of(options.kinds):
            if name not in found[str(length)]:
                rows = rows_of(name, trainer, shared, profiles, examples)
                found[str(length)][name] = scores(trainer, shared.row, rows, questions)
    (folder / "cell.json").write_text(json.dumps(found))
    return found


def training(kind: str, options: argparse.Namespace, *, with_user: bool, seed: int) -> GeneratorTraining:
    """How a generator is trained; the control shorter: it has nothing to learn that the task adapter lacks."""
    return GeneratorTraining(
        kind,
        options.steps if with_user else options.steps // 8,
        users=8,
        targets=4,
        records=TRAINING_RECORDS,
        evaluate_every=25,
        chunk_rank=options.chunk_rank,
        with_user=with_user,
        seed=seed,
    )


def arms_of(kinds: str) -> list[str]:
    """The names of what is compared."""
    made = [name for kind in kinds.split(",") for name in (kind, f"{kind}-without-user", f"{kind}, another user")]
    return ["task adapter", "trained", *made]


def rows_of(
    arm: str, trainer: AdapterTrainer, shared: TaskAdapter, profiles: Sequence[Profile], examples: Any
) -> Tensor:
    """The adapters of an arm.  # (users, size)"""
    if arm == "task adapter":
        return torch.zeros(len(profiles), trainer.family.size)
    if arm == "trained":
        return trained(trainer, shared, profiles, examples)
    kind, _, other = arm.partition(", ")
    assert shared.folder is not None
    writer = OnePass(load_generator(shared.folder / kind), trainer, examples, prior=shared.row)
    rows = torch.stack([writer.row(each) for each in profiles])
    return rows.roll(1, dims=0) if other else rows


def trained(trainer: AdapterTrainer, shared: TaskAdapter, profiles: Sequence[Profile], examples: Any) -> Tensor:
    """The adapters that training makes, zeros where the gate keeps the prior.  # (users, size)"""
    family = trainer.family.over(shared.row)
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/store.db") as store:
        store.upsert((each.user_id, record) for each in profiles for record in each)
        bank = AdapterBank(store)
        train_users(trainer, bank, examples, prior=shared.row, user_ids=[each.user_id for each in profiles])
        current = [bank.current(each.user_id, family) for each in profiles]
        return torch.stack(
            [
                bank.row(one) if one is not None and one.state == PUBLISHED else torch.zeros(family.size)
                for one in current
            ]
        )


@torch.no_grad()
def scores(
    trainer: AdapterTrainer, prior: Tensor, rows: Tensor, questions: Sequence[Sequence[TokenExample]]
) -> list[list[float]]:
    """Of each user the mean loss of the answers, and the share of answers that the LLM would write.  # (users, 2)"""
    loss, found = TargetLoss(trainer.llm), []
    with trainer.stacked(prior) as losses:
        for row, own in zip(rows, questions, strict=True):
            with losses.stack.using(row.expand(len(own), -1)):
                read = loss.log_probabilities([one.prompt for one in own], [one.target for one in own])
            pairs = [(each, torch.tensor(one.target)) for each, one in zip(read, own, strict=True)]
            nats = [-float(each.gather(1, target[:, None]).mean()) for each, target in pairs]
            right = [float((each.argmax(1) == target).all()) for each, target in pairs]
            found.append([float(np.mean(nats)), float(np.mean(right))])
    return found


def quality(llm: TransformersLM, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each task, number of records and arm."""
    lines = []
    for task in options.tasks.split(","):
        cells = [cell(llm, task, seed, options.folder / f"{task}-{seed}", options) for seed in range(options.seeds)]
        for length in map(str, LENGTHS):
            arms = {
                name: np.concatenate([np.array(each[length][name]) for each in cells])
                for name in arms_of(options.kinds)
            }
            # Loss below, right answers above: both as gains, (users, 2).
            gains = {name: (arms["task adapter"] - found) * np.array([1, -1]) for name, found in arms.items()}
            for name, gain in gains.items():
                kind = name.partition(",")[0].removesuffix("-without-user")
                lines.append(
                    {
                        "task": task,
                        "records": int(length),
                        "arm": name,
                        "users": len(gain),
                        "loss": float(arms[name][:, 0].mean()),
                        "right": float(arms[name][:, 1].mean()),
                        "gain": interval(gain[:, 0]),
                        "share": share(gain[:, 0], gains["trained"][:, 0]),
                        "share of right": share(gain[:, 1], gains["trained"][:, 1]),
                        "behind the right user's": interval(gains[kind][:, 0] - gain[:, 0]) if kind in gains else None,
                    }
                )
    return lines


def gates(writer: OnePass, trainer: AdapterTrainer, prior: Tensor, examples: Any, own: Profile) -> dict[str, float]:
    """The gain of a user's adapter over the prior as each gate sees it, in nats per token."""

    def gain(read: Sequence[Record], judged: Sequence[Record]) -> float:
        row = writer.row(Profile(own.user_id, tuple(read)))
        tokens = trainer.tokens(examples(Profile(own.user_id, tuple(judged))))
        loss, without = trainer.losses(torch.stack((row, torch.zeros_like(row))), tokens, prior=prior)
        return without - loss

    records, newest = own.records, trainer.options.held_out(len(own))
    folds = [(records[fold::4], [each for at, each in enumerate(records) if at % 4 != fold]) for fold in range(4)]
    return {
        "read": gain(records, records[-16:]),
        "newest held out": gain(records[:-newest], records[-newest:]),
        "in four parts": float(np.mean([gain(others, judged) for judged, others in folds])),
    }


def gate(llm: TransformersLM, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each task, kind, number of records, whose records, and gate."""
    lines = []
    for task, kind in product(options.tasks.split(","), options.kinds.split(",")):
        shared = TaskAdapter.load(options.folder / f"{task}-0")
        examples = partial(history_examples, task=lamp_task(task))
        trainer = AdapterTrainer(llm, LoraSpec(), TrainingOptions())
        writer = OnePass(load_generator(options.folder / f"{task}-0" / kind), trainer, examples, prior=shared.row)
        questions = [trainer.tokens(asked(index, task)) for index in range(options.users)]
        alone = np.array(scores(trainer, shared.row, torch.zeros(len(questions), trainer.family.size), questions))[:, 0]
        for length, mixed in product((5, *LENGTHS), (False, True)):
            whole = [profile("dev", index, task, length) for index in range(options.users)]
            if mixed:
                kept, others = length - trainer.options.held_out(length), [*whole[1:], whole[0]]
                parts = [(a.user_id, b.records[:kept] + a.records[kept:]) for a, b in zip(whole, others, strict=True)]
                whole = [Profile(*each) for each in parts]
            rows = torch.stack([writer.row(each) for each in whole])
            gains = alone - np.array(scores(trainer, shared.row, rows, questions))[:, 0]
            seen = [gates(writer, trainer, shared.row, examples, each) for each in whole]
            for name, judged in ((name, np.array([each[name] for each in seen])) for name in seen[0]):
                line = {"task": task, "kind": kind, "records": length, "another user's": mixed, "gate": name}
                line |= {"too much": interval(judged - gains), "published": float((judged > 0).mean())}
                lines.append({**line, "gained": interval(gains * (judged > 0)), "ungated": interval(gains)})
    return lines


def resampled(users: int) -> np.ndarray[Any, Any]:
    """Users drawn with replacement.  # (resamples, users)"""
    return np.random.default_rng(0).integers(users, size=(RESAMPLES, users))


def interval(values: np.ndarray[Any, Any]) -> list[float]:
    """The mean over users, and its interval."""
    means = values[resampled(len(values))].mean(1)
    return [float(values.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]


def share(own: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> list[float]:
    """The mean of one gain as a share of that of another, and its interval."""
    draws = resampled(len(own))
    shares = own[draws].mean(1) / whole[draws].mean(1)
    return [float(own.mean() / whole.mean()), *map(float, np.quantile(shares, [0.025, 0.975]))]


def made(
    llm: TransformersLM, folder: Path, records: int, users: int
) -> tuple[AdapterTrainer, Any, ProfileStore, dict[str, OnePass]]:
    """A trainer, examples, a store of users, and generators of both kinds, whose training is no matter here."""
    task = "LaMP_3"
    examples = partial(history_examples, task=lamp_task(task))
    trainer = AdapterTrainer(llm, LoraSpec(), TrainingOptions())
    own = [trainer.tokens(examples(profile("train", index, task, 3))) for index in range(4)]
    shapes = {kind: GeneratorTraining(kind, 1, users=1, evaluate_every=1, records=TRAINING_RECORDS) for kind in READING}
    writers = {
        kind: OnePass(train_generator(trainer, own, shape).generator, trainer, examples)
        for kind, shape in shapes.items()
    }
    store = ProfileStore(f"sqlite:///{folder}/store.db")
    people = (profile("dev", index, task, records) for index in range(users))
    store.upsert((each.user_id, record) for each in people for record in each)
    return trainer, examples, store, writers


def timed(run: Callable[[], object]) -> float:
    """Seconds of computing, of one thread: others at work on the machine do not count."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def speed(llm: TransformersLM, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Users per second of the three ways."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, examples, store, writers = made(llm, Path(folder), options.records, options.timed_users)
        bank, everybody = AdapterBank(store), list(store.user_ids())
        alone = AdapterTrainer(llm, trainer.spec, replace(trainer.options, window=1))
        ways: dict[str, Callable[[], object]] = {
            **{f"one pass, {name}": partial(written, each, store) for name, each in writers.items()},
            "trained one by one": lambda: train_users(alone, bank, examples, user_ids=everybody),
            "trained many at once": lambda: train_users(trainer, bank, examples, user_ids=everybody),
        }
        rounds = [{name: timed(run) for name, run in ways.items()} for _ in range(options.rounds)]
        best = {name: len(everybody) / min(each[name] for each in rounds) for name in ways}
        store.close()
    return [
        {
            "what": name,
            "llm": options.llm,
            "records": options.records,
            "users per second": rate,
            **{f"one pass, {kind} / it": best[f"one pass, {kind}"] / rate for kind in READING},
        }
        for name, rate in best.items()
    ]


def written(writer: OnePass, store: ProfileStore) -> None:
    """Write everybody's adapter, from nothing."""
    for user in store.user_ids():
        writer.row(store.profile(user))


def removal(llm: TransformersLM, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Taking one record of 50 out of an adapter, and training the adapter anew without it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, examples, store, writers = made(llm, Path(folder), 50, 1)
        writer = writers[ACTIVATIONS]
        (user,) = store.user_ids()
        writer.row(store.profile(user), store)
        seconds, same = [], True
        for number in range(5):
            gone = store.profile(user)[number].id
            seconds.append(timed(partial(without, writer, store, user, gone)))
            fresh = writer.row(store.profile(user))
            same &= torch.equal(writer.row(store.profile(user), store), fresh)
        bank = AdapterBank(store)
        anew = timed(lambda: train_users(trainer, bank, examples, user_ids=[user]))
        store.close()
    times = {"seconds": min(seconds), "seconds to train anew": anew, "ratio": anew / min(seconds)}
    return [
        {"what": "one record of 50 removed", "llm": options.llm, **times, "bytes as if it had never been there": same}
    ]


def without(writer: OnePass, store: ProfileStore, user: str, record_id: str) -> None:
    """Delete a record and make the adapter of the others."""
    store.delete_records(user, [record_id])
    writer.row(store.profile(user), store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="quality,gate,speed,removal")
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--tasks", default="LaMP_2,LaMP_3,LaMP_4")
    parser.add_argument("--kinds", default="vector,activations")
    parser.add_argument("--chunk-rank", type=int, default=1, help="of kind activations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--training-users", type=int, default=120)
    parser.add_argument("--users", type=int, default=8, help="held-out users of each seed")
    parser.add_argument("--records", type=int, default=50, help="of a user whose making is timed")
    parser.add_argument("--timed-users", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    llm = load_llm(options.llm, overlong="truncate")
    assert isinstance(llm, TransformersLM)
    parts = {"quality": quality, "gate": gate, "speed": speed, "removal": removal}
    found = {name: parts[name](llm, options) for name in options.only.split(",")}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for lines in found.values():
        for line in lines:
            cells = (f"{name} {shown(value)}" for name, value in line.items() if value is not None)
            print(" | ".join(cells))


def shown(value: object) -> str:
    """A value of a table."""
    if isinstance(value, list):
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

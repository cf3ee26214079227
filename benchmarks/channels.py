"""Every channel on one world: what it keeps of a user, takes to make, adds to a request, and brings.

    python -m benchmarks.channels OUT [--task LaMP_3] [--records 5,20,50] [--seed 0] [--users 20] [--json]

The frozen LLM is `tiny`. What is trained once for all users - a user embedder, a task adapter, generators of adapters,
and the same without the user - is trained by `persona train` on the same training users of the generated world, with 20
records each. Then held-out users are asked by `persona.eval.lamp.evaluate_lamp`, with their newest 5, 20 and 50
records: by each channel alone, beside one record, with another user's history, and trained without the user. `none`,
the baseline and the best that can be had without and with the user (`examples.world.bounds`) stand beside.

Bytes are what the store holds of a user besides the records (`persona.store.holdings`). Times are seconds of computing
of one thread, the median over some users, each alone in a store of its own: everything made from nothing, made again
after a record was added, and after one was deleted. Text is put together with each request; that is its time.

Every part that is done lies in OUT, so a run that was stopped goes on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from examples.world.bounds import no_user_score, oracle_score
from examples.world.world import World
from persona.adapters.bank import AdapterBank
from persona.adapters.examples import history_examples
from persona.adapters.generated.generator import ACTIVATIONS, VECTOR, load_generator
from persona.adapters.generated.one_pass import OnePass
from persona.adapters.task_adapter import GENERATOR, GENERATOR_WITHOUT_USER, TaskAdapter
from persona.adapters.training.users import train_users
from persona.channels import Ask, Channel
from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.eval.lamp import evaluate_lamp
from persona.eval.options import LampOptions
from persona.eval.report import markdown
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.records import Profile
from persona.retrievers.channel import RecordsChannel
from persona.retrievers.registry import RetrieverOptions, make_retriever
from persona.soft_prompts.channel import store_soft_prompts
from persona.soft_prompts.embedder import load_user_embedder
from persona.soft_prompts.histories import history_views
from persona.steering.contrast import Contrast
from persona.steering.users import steer_users
from persona.store.holdings import holdings
from persona.store.profile_store import ProfileStore
from persona.summaries.channel import SummaryChannel

TRAINING_RECORDS = 20
ANSWERS = {"LaMP_3": "likelihood"}
"""Scores are answered with the median of the LLM's distribution."""

CHANNELS = {
    "nothing": "none",
    "one record": "bm25 k=1",
    "four records": "bm25 k=4",
    "summary (exact statistics)": "stats",
    "soft prompt": "user-embedder",
    "steering vector": "steering",
    "one-pass adapter, `vector`": "one-pass",
    "one-pass adapter, `activations`": "one-pass activations",
    "trained adapter": "lora+task",
}
"""What is compared, by its name in the evaluation."""

BESIDE = [f"{name} + bm25 k=1" for name in list(CHANNELS.values())[3:]]
"""The same beside one record."""

WORLD = World(0)


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or is made now."""
    if not path.is_file():
        began = time.perf_counter()
        made = make()
        path.write_text(json.dumps(made, indent=1))
        print(f"{path.stem}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text())


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train what all users share; seconds of computing for each part."""
    out, data, task = options.out, str(options.out / "data"), str(options.out / "task")
    if not (out / "data").is_dir():
        WORLD.write_lamp(data, options.task, {"train": options.training_users}, TRAINING_RECORDS)
    seed, shared = f"seed={options.seed}", ["--llm", "tiny"]
    copies = "copies=false" if options.task != "LaMP_4" else "copies=true"  # labels have nothing to copy
    steps = [f"steps={options.embedder_steps}", "evaluate_every=50", "patience=4", copies, seed]
    embedder = ["user-embedder", data, *shared, *settings(*steps, f"vectors={out / 'vectors.db'}")]
    lora = ["adapters", data, *shared]
    parts: dict[str, list[str]] = {
        "user embedder": [*embedder, "--out", str(out / "embedder"), *settings("new_user_steps=0")],
        "user embedder without user": [*embedder, "--out", str(out / "embedder-0"), *settings("without_user=true")],
        "task adapter": [*lora, "--out", task, *settings("task.epochs=1", "task.examples=2400", seed)],
    }
    for kind in (VECTOR, ACTIVATIONS):
        for with_user in (True, False):
            steps = [f"steps={options.steps if with_user else options.steps // 4}", "users=8", "targets=4"]
            steps += [f"kind={kind}", f"records={TRAINING_RECORDS}", "evaluate_every=25", seed]
            steps += [f"with_user={str(with_user).lower()}"]
            how = settings(*(f"generator.{each}" for each in steps), f"task.users={options.generator_users}")
            name = f"generator {kind}{'' if with_user else ' without user'}"
            parts[name] = [*lora, "--task-adapter", str(task_folder(out, kind)), *how]
    return {name: once(out / f"{name}.json", partial(trained, out, parts[name])) for name in parts}


def settings(*values: str) -> list[str]:
    """Settings for the command line."""
    return [each for value in values for each in ("--set", value)]


def task_folder(out: Path, kind: str) -> Path:
    """Where the task adapter lies with the generator of that kind."""
    return out / ("task" if kind == VECTOR else f"task-{kind}")


def trained(out: Path, command: Sequence[str]) -> float:
    """Run a training of `persona train`; its seconds of computing."""
    if str(copy := task_folder(out, ACTIVATIONS)) in command and not copy.is_dir():
        shutil.copytree(out / "task", copy, ignore=shutil.ignore_patterns(GENERATOR, GENERATOR_WITHOUT_USER))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "persona", "train", *command], check=True, stdout=sys.stderr)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def people(options: argparse.Namespace) -> range:
    """The held-out users, other ones for each seed."""
    return range(options.seed * options.users, (options.seed + 1) * options.users)


def benchmark(options: argparse.Namespace, records: int) -> LampBenchmark:
    """The questions, all with the users' newest records."""
    asked, longest = WORLD.questions, max(options.records)
    made = list(asked(options.task, "dev", people(options), longest, options.questions))
    questions = []
    for each in made:
        one = each.question
        profile = Profile(one.user_id, one.profile.records[-records:])
        questions.append(Question(one.id, one.user_id, one.input, profile, one.time))
    golds = {each.question.id: each.gold for each in made}
    return LampBenchmark(LampSplit(task := lamp_task(options.task), tuple(questions), golds, task.labels))


def scores(llm: TransformersLM, options: argparse.Namespace, records: int) -> dict[str, Any]:
    """The rows of the evaluations by name."""
    runs: dict[str, tuple[tuple[str, ...], tuple[int, ...], str]] = {
        "text": (("none", "bm25"), (1, 4), VECTOR),
        "trained": (("none", "stats", "user-embedder", "steering", "lora+task", "one-pass"), (1,), VECTOR),
        ACTIVATIONS: (("none", "one-pass"), (1,), ACTIVATIONS),
    }
    rows: dict[str, Any] = {}
    for name, (methods, ks, kind) in runs.items():
        embedder = name == "trained"
        how = LampOptions(
            methods=methods,
            ks=ks,
            beside="bm25",
            user_embedders=(options.out / "embedder",) if embedder else (),
            user_embedder_controls=(options.out / "embedder-0",) if embedder else (),
            task_adapters=() if name == "text" else (task_folder(options.out, kind),),
            answers=(ANSWERS.get(options.task, "auto"),),
            seed=options.seed,
        )
        report = evaluate_lamp(benchmark(options, records), llm, how, out=options.out / f"{name}-{records}")
        suffix = " activations" if name == ACTIVATIONS else ""
        rows |= {row["name"].replace("one-pass", f"one-pass{suffix}"): row for row in report.as_dict()["rows"]}
    return rows


def bounds(options: argparse.Namespace) -> dict[str, float]:
    """The best scores that can be had for these questions without the user, and with."""
    asked = list(WORLD.questions(options.task, "dev", people(options), 1, options.questions))
    return {
        "without the user": fmean(no_user_score(each.content) for each in asked),
        "oracle": fmean(oracle_score(each.content, each.user.traits) for each in asked),
    }


def makers(llm: TransformersLM, options: argparse.Namespace) -> dict[str, Callable[[ProfileStore], object]]:
    """By channel what makes everything of the one user in a store."""
    task = lamp_task(options.task)
    examples = partial(history_examples, task=task)
    shared, encoder = TaskAdapter.load(options.out / "task"), load_encoder("minilm")
    trainer, embedder = shared.trainer(llm), load_user_embedder(options.out / "embedder")
    contrast, prompt = Contrast(llm, examples), WORLD.question(options.task, WORLD.user("dev", 0), 0).question.input
    retriever = make_retriever("bm25", RetrieverOptions(view=task.view))

    def text(channel: Channel, store: ProfileStore) -> None:
        (user,) = store.user_ids()
        channel.contribute([Ask(store.profile(user), prompt, task.query(prompt))])

    def soft_prompt(store: ProfileStore) -> None:
        for view in history_views(embedder.config):
            embed_users(store, encoder, view=view)
        store_soft_prompts(store, embedder, encoder)

    def written(kind: str) -> Callable[[ProfileStore], object]:
        generator = load_generator(task_folder(options.out, kind) / GENERATOR)
        writer = OnePass(generator, trainer, examples, prior=shared.row)
        return lambda store: writer.publish(AdapterBank(store), gate=False)

    return {
        "bm25 k=1": partial(text, RecordsChannel(retriever, 1)),
        "bm25 k=4": partial(text, RecordsChannel(retriever, 4)),
        "stats": partial(text, SummaryChannel("stats", task=options.task, as_target=True)),
        "user-embedder": soft_prompt,
        "steering": lambda store: steer_users(AdapterBank(store), contrast),
        "one-pass": written(VECTOR),
        "one-pass activations": written(ACTIVATIONS),
        "lora+task": lambda store: train_users(trainer, AdapterBank(store), examples, prior=shared.row),
    }


def costs(llm: TransformersLM, options: argparse.Namespace, records: int) -> dict[str, dict[str, float]]:
    """By channel the bytes, and the milliseconds to make a user from nothing, with one record more, with one less."""
    found: dict[str, dict[str, float]] = {}
    for name, make in makers(llm, options).items():
        users = [cost(make, options.task, index, records) for index in range(options.timed_users + 1)][1:]  # a warm-up
        found[name] = {key: statistics.median(each[key] for each in users) for key in users[0]}
        found[name]["bytes"] = max(each["bytes"] for each in users)  # of one whom a gate left without, there are none
    return found


def cost(make: Callable[[ProfileStore], object], task: str, index: int, records: int) -> dict[str, float]:
    """What one user costs."""
    user = WORLD.user("dev", index)
    *own, newest = WORLD.records(user, task, records + 1)
    with tempfile.TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/store.db") as store:
        store.upsert((user.user_id, record) for record in own)
        [store.profile(each) for each in store.user_ids()]  # the first query of a process is no part of it
        made = milliseconds(lambda: make(store))
        held = holdings(store, user.user_id)
        size = sum(each.size for each in (*held.vectors, *held.indexes, *held.adapters))
        store.upsert([(user.user_id, newest)])
        added = milliseconds(lambda: make(store))
        store.delete_records(user.user_id, [own[records // 2].id])
        deleted = milliseconds(lambda: make(store))
    text = sum(len(record.text.encode()) + len((record.target or "").encode()) for record in own)
    return {"bytes": size, "records' bytes": text, "made": made, "added": added, "deleted": deleted}


def milliseconds(run: Callable[[], object]) -> float:
    """Of computing: others at work on the machine do not count."""
    began = time.process_time()
    run()
    return 1000 * (time.process_time() - began)


def tables(found: Mapping[str, Any], options: argparse.Namespace) -> str:
    """What was found, as Markdown."""
    lengths = [str(each) for each in options.records]
    metric, most = lamp_task(options.task).metrics[0], lengths[-1]
    cost_head = ["channel", *(f"bytes, {each} records" for each in lengths), *(f"ms, {each}" for each in lengths)]
    cost_rows = [[*cost_head, "ms, one more", "ms, one less", "tokens added"]]
    score_rows = [[f"{options.task}, {metric}", *(f"{each} records" for each in lengths)]]

    def score(name: str) -> list[str]:
        return [cell(found["scores"][each].get(name), metric) for each in lengths]

    def add(label: str, name: str) -> None:
        score_rows.append([f"**{label}**", *score(name)])
        own = found["scores"][most]
        without = name.replace("lora+task", "task adapter")
        for control in (f"{name}, other user", f"{name}, trained without user", without):
            if control in own and control != name:
                score_rows.append([control.rpartition(", ")[2] if ", " in control else control, *score(control)])

    for label, name in CHANNELS.items():
        by_length = [found["costs"][each].get(name, {}) for each in lengths]
        times = [f"{by_length[-1][key]:,.1f}" if by_length[-1] else "0" for key in ("added", "deleted")]
        sizes = [f"{each.get('bytes', 0):,.0f}" for each in by_length]
        tokens = f"{found['scores'][most][name]['tokens_added']:.0f}"
        cost_rows.append([label, *sizes, *(f"{each.get('made', 0):,.1f}" for each in by_length), *times, tokens])
        add(label, name)
    for name in BESIDE:
        add(name, name)
    baselines = [name for name, row in found["scores"][most].items() if not row["answered"]]
    score_rows += [[f"without an LLM: {name}", *score(name)] for name in baselines]
    once_for_all = "".join(f"- {name}: {seconds:.0f} s\n" for name, seconds in found["training"].items())
    ends = ", ".join(f"{name} {value:.3f}" for name, value in found["bounds"].items())
    size = found["costs"][most]["stats"]["records' bytes"]
    return (
        f"{options.users} users, {options.questions} questions each, seed {options.seed}; best possible {metric}: "
        f"{ends}. The {most} records themselves are {size:,.0f} bytes.\n\n{markdown(cost_rows)}\n"
        f"{markdown(score_rows)}\nTrained once for all users, seconds of computing:\n\n{once_for_all}"
    )


def cell(row: Mapping[str, Any] | None, metric: str) -> str:
    """A score with its interval."""
    if row is None:
        return "-"
    score = row["scores"][metric]
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="LaMP_3")
    parser.add_argument("--records", default="5,20,50", type=lambda text: sorted(map(int, text.split(","))))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=20, help="held-out users")
    parser.add_argument("--questions", type=int, default=3, help="of each")
    parser.add_argument("--timed-users", type=int, default=2)
    parser.add_argument("--training-users", type=int, default=600)
    parser.add_argument("--embedder-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100, help="of a generator")
    parser.add_argument("--generator-users", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"training": train(options), "bounds": bounds(options), "costs": {}, "scores": {}}
    llm = load_llm("tiny", overlong="truncate")
    assert isinstance(llm, TransformersLM)
    for records in options.records:
        for what, part in (("costs", costs), ("scores", scores)):
            made = once(options.out / f"{what}-{records}.json", partial(part, llm, options, records))
            found[what][str(records)] = made
    print(json.dumps(found, indent=2) if options.json else tables(found, options))


if __name__ == "__main__":
    main()

"""Steering vectors: is a planted axis found, what does a batch of them cost, do they know their users?

    python -m benchmarks.steering planted --json
    python -m benchmarks.steering speed
    python -m benchmarks.steering world --data LaMP_4 --folder run
    python -m benchmarks.steering users --data $PERSONA_SHARED/data/histories/blogs.jsonl.gz --llm smollm2

**planted**: an adapter gives the LLM `tiny` a style axis of known direction and size: some rare words write it behind
block 1, and what stands there makes these words likelier. Users' texts are the LLM's own with such words put in.
**speed**: 32 users' vectors in a batch against the plain model, in turns. **users**: how likely a user's newest texts
are with nothing, their own vector, another user's, and the mean of the others'.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.world.world import World
from persona.adapters.examples import Example, history_examples
from persona.channels import Ask
from persona.eval.benchmarks.lamp import LampBenchmark
from persona.llm.frozen.steering import Steered
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, Request
from persona.records import Profile, Record
from persona.steering.choosing import capped, choose, losses
from persona.steering.contrast import Contrast, Differences
from persona.steering.from_profiles import EverybodysSteering, ProfileSteering
from persona.steering.options import SteeringOptions
from persona.steering.preference import trained_direction
from persona.store.profile_store import ProfileStore

_BLOCK = 1
_STYLE_WORDS = 16


@dataclass(frozen=True)
class Planted:
    """An LLM with a style axis: its direction behind `_BLOCK`, and the words (tokens) that go with it."""

    llm: TransformersLM
    direction: Tensor
    words: Sequence[str]
    ids: Tensor


def planted(size: float, gain: float, seed: int) -> Planted:
    """`tiny` with an axis `size` times as long as its hidden states, which makes its words likelier by `gain`."""
    plain = _tiny()
    model, tokenizer = copy.deepcopy(plain.model), plain._tokenizer
    rng = np.random.default_rng(seed)
    direction = torch.from_numpy(rng.standard_normal(plain.hidden_size)).float()
    direction /= direction.norm()
    words = _rare_words(tokenizer, rng)
    ids = torch.tensor([_ids(tokenizer, f"a {word}")[-1] for word in words])
    texts = [_styled(text, words, 0.3, rng) for text in _articles(seed, 120)]
    block, next_block = model.model.layers[_BLOCK], model.model.layers[_BLOCK + 1]
    found: dict[str, Tensor] = {}
    hooks = [
        block.mlp.down_proj.register_forward_hook(lambda module, inputs, output: found.update(read=inputs[0])),
        block.register_forward_hook(lambda module, inputs, output: found.update(states=output)),
    ]
    inputs, marks, lengths = [], [], []
    for text in texts:
        row = torch.tensor([_ids(tokenizer, text)])
        with torch.no_grad():
            model(row)
        inputs.append(found["read"][0])
        marks.append(torch.isin(row[0], ids).float())
        lengths.append(found["states"][0].norm(dim=1))
    for hook in hooks:
        hook.remove()
    read, mark, length = torch.cat(inputs), torch.cat(marks), float(torch.cat(lengths).mean())
    ridge = 1e-3 * read.square().sum() / read.shape[1] * torch.eye(read.shape[1])
    detects = torch.linalg.solve(read.T @ read + ridge, read.T @ mark)
    readout = model.lm_head.weight.detach() * model.model.norm.weight.detach()
    wanted = torch.zeros(len(readout)).index_fill(0, ids, 1.0)
    writes = torch.linalg.solve(readout.T @ readout + 1e-3 * torch.eye(readout.shape[1]), readout.T @ wanted)
    with torch.no_grad():
        # Three updates of rank 1: style words write the axis, attention reads it, and makes them likelier.
        block.mlp.down_proj.weight += size * length * torch.outer(direction, detects)
        head = next_block.self_attn
        head.v_proj.weight[0] += direction / next_block.input_layernorm.weight.detach()
        head.o_proj.weight[:, 0] += gain * writes / writes.norm()
    return Planted(TransformersLM(model, tokenizer), direction, words, ids)


def planted_axis(options: argparse.Namespace) -> dict[str, Any]:
    """Cosine of the recovered direction to the planted one, and dose and response."""
    cosines: dict[str, list[float]] = {}
    lengths: dict[str, list[float]] = {}
    doses: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for size in options.sizes:
            world = planted(size, options.gain, seed)
            for rate in options.rates:
                vector = _recovered(world, rate, seed, options)
                cosine = float(torch.cosine_similarity(vector, world.direction, dim=0))
                cosines.setdefault(f"size {size:g}, rate {rate:g}", []).append(cosine)
                lengths.setdefault(f"size {size:g}, rate {rate:g}", []).append(float(vector @ world.direction))
            if size == options.sizes[-1]:
                for dose in options.doses:
                    doses.setdefault(f"{dose:g}", []).append(_response(world, dose * vector, seed))
    means = [statistics.mean(each) for each in doses.values()]
    return {
        "cosine": cosines,
        "along the axis": lengths,
        "probability of a style word by dose": doses,
        "monotone": all(one <= two for one, two in pairwise(means)),
    }


def _recovered(world: Planted, rate: float, seed: int, options: argparse.Namespace) -> Tensor:
    rng = np.random.default_rng([seed, 7])
    articles = _articles(seed + 1000, options.records)
    written = world.llm.generate([Request(article) for article in articles], GenerationOptions(16))
    records = [
        Record(article, target=_styled(text, world.words, rate, rng), id=f"{number}")
        for number, (article, text) in enumerate(zip(articles, written, strict=True))
    ]
    chosen = SteeringOptions(
        blocks=(_BLOCK,), most_tokens=24, states=options.states, bipo=options.bipo, learning_rate=0.05
    )
    contrast = Contrast(world.llm, history_examples, chosen)
    with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/world.db") as store:
        store.upsert(("user", record) for record in records)
        profile = store.profile("user")
        if not options.bipo:
            return torch.from_numpy(contrast.differences(store, profile).vectors[:, 0].mean(0))
        own = contrast.own_texts(profile)
        neutral = contrast.neutral(store, profile, own)
        texts = [neutral[each.record_id] for each in own]
        return trained_direction(contrast.loss, _BLOCK, own, texts, contrast.options)


def _response(world: Planted, vector: Tensor, seed: int) -> float:
    """The probability of a style word, over the places of the LLM's own answers."""
    llm = world.llm
    articles = _articles(seed + 2000, 24)
    prompts = llm.prompt_ids(articles)
    targets = llm.target_ids(llm.generate([Request(article) for article in articles], GenerationOptions(16)))
    loss = TargetLoss(llm)
    loss(prompts[:1], targets[:1])  # what the model can do is found out before anything is added
    with llm.turns, Steered(llm.frozen.blocks, [{_BLOCK: vector}] * len(prompts)):
        places = torch.cat(loss.log_probabilities(prompts, targets))
    return float(places.exp()[:, world.ids].sum(1).mean())


def _tiny() -> TransformersLM:
    llm = load_llm("tiny")
    assert isinstance(llm, TransformersLM)
    return llm


def _articles(seed: int, count: int) -> list[str]:
    questions = World(seed).questions("LaMP_4", "dev", users=count, records_per_user=1)
    return [each.question.input for each in islice(questions, count)]


def _styled(text: str, words: Sequence[str], rate: float, rng: np.random.Generator) -> str:
    """`text` with a style word behind each of its words at that rate."""
    put = [[word, str(rng.choice(words))] if rng.random() < rate else [word] for word in text.split() or ["News"]]
    return " ".join(word for pair in put for word in pair)


def _rare_words(tokenizer: Any, rng: np.random.Generator) -> list[str]:
    """Words of one token, from the rarer half of the vocabulary."""
    size = len(tokenizer)
    words = [tokenizer.decode([token]).strip() for token in range(size // 2, size)]
    fitting = sorted({each for each in words if each.isalpha() and each.islower() and len(each) > 3})
    whole = [each for each in fitting if len(_ids(tokenizer, f"a {each}")) == len(_ids(tokenizer, "a")) + 1]
    return [str(each) for each in rng.choice(whole, _STYLE_WORDS, replace=False)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of 32 requests with 32 vectors, and plain, in turns, with the ratio of each pair.

    The vectors are too short to change a token, so both write the same.
    """
    llm = load_llm(options.llm)
    assert isinstance(llm, TransformersLM)
    torch.manual_seed(0)
    middle = len(llm.frozen.blocks) // 2
    plain = [Request(f"{number}. {article}") for number, article in enumerate(_articles(0, 32))]
    steered = [replace(each, steering={middle: 1e-6 * torch.randn(llm.hidden_size)}) for each in plain]
    decoding = GenerationOptions(max_new_tokens=options.tokens)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(options.rounds + 1):
        for with_it in (False, True) if turn % 2 else (True, False):
            began = time.process_time()
            llm.generate(steered if with_it else plain, decoding)
            if turn:  # the first round warms up
                times[with_it].append(time.process_time() - began)
    ratios = sorted(one / other for one, other in zip(times[True], times[False], strict=True))
    return {
        "seconds plain": statistics.median(times[False]),
        "seconds steered": statistics.median(times[True]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def world(options: argparse.Namespace) -> dict[str, Any]:
    """Loss of the right answers to a LaMP task's questions with each of several vectors, nats per token, by user."""
    benchmark, llm = LampBenchmark.read(options.data), load_llm(options.llm)
    contrast = Contrast(llm, partial(history_examples, task=benchmark.task, labels=benchmark.labels))
    profiles = [question.profile for question in benchmark.questions]
    own = ProfileSteering(contrast, options.folder)
    made = [each.steering for each in own.of(profiles)]
    everybody = EverybodysSteering(own, profiles).contribute([Ask(each, "", "") for each in profiles])
    rows: dict[str, list[float]] = {}
    for place, question in enumerate(benchmark.questions):
        record = Record(question.prompt, target=question.gold)
        plain = Contrast(llm, history_examples, replace(contrast.options, most_tokens=256))
        (text,) = plain.own_texts(Profile(question.user_id, (record,)))
        other = made[(place + 1) % len(made)]
        tried = {"plain": None, "own": made[place], "another": other, "others' mean": everybody[place].steering}
        for key, value in zip(tried, losses(contrast.loss, text, list(tried.values())).tolist(), strict=True):
            rows.setdefault(key, []).append(value)
    return {
        "published": sum(each is not None for each in made),
        "loss": {key: statistics.mean(each) for key, each in rows.items()},
        "own less": {key: _paired(rows["own"], rows[key]) for key in rows if key != "own"},
    }


def continued(profile: Profile) -> list[Example]:
    """A post's first words, which the LLM is to go on from in a new line, and what comes next."""
    split = ((words[:20], words[20:64]) for words in (record.text.split() for record in profile))
    return [Example(" ".join(begin) + "\n", " ".join(rest)) for begin, rest in split if rest]


def users(options: argparse.Namespace) -> dict[str, Any]:
    """Held-out loss of users' own texts with each of several vectors, nats per token, paired by user."""
    llm = load_llm(options.llm, chat_template="off")
    chosen = SteeringOptions(
        strengths=(1.0, 2.0), most_tokens=options.tokens, states=options.states, gate=options.gate, holdout=0.34
    )
    contrast = Contrast(llm, continued, chosen)
    loss = contrast.loss
    profiles = _bloggers(options)
    with TemporaryDirectory() as folder, ProfileStore(f"sqlite:///{folder}/blogs.db") as store:
        store.upsert((profile.user_id, record) for profile in profiles for record in profile.records[: options.records])
        read = [contrast.differences(store, store.profile(profile.user_id)) for profile in profiles]
    tests = [contrast.own_texts(Profile(each.user_id, each.records[options.records :])) for each in profiles]
    everybody = np.mean([each.vectors.mean(0) for each in read], axis=0)  # (blocks, hidden)
    found: dict[str, dict[str, list[float]]] = {}
    gated = 0
    for name, centre in (("mean difference", 0.0 * everybody), ("less the mean of all users", everybody)):
        made = [_vector(contrast, each, centre, chosen) for each in read]
        gated = gated or sum(wins for _, wins in made)
        rows: dict[str, list[float]] = {}
        for place, texts in enumerate(tests):
            others = [vector for other, (vector, _) in enumerate(made) if other != place]
            tried = {
                "plain": None,
                "own": made[place][0],
                "another user's": made[(place + 1) % len(made)][0],
                "mean of the others'": _mean(others),
                "own where the gate lets it": made[place][0] if made[place][1] else None,
            }
            each = np.mean([losses(loss, text, list(tried.values())) for text in texts], axis=0)
            for key, value in zip(tried, each.tolist(), strict=True):
                rows.setdefault(key, []).append(value)
        found[name] = rows
    return {
        "users": len(profiles),
        "published": gated,
        "loss": {name: {key: statistics.mean(each) for key, each in rows.items()} for name, rows in found.items()},
        "own less": {
            name: {key: _paired(rows["own"], rows[key]) for key in ("plain", "another user's", "mean of the others'")}
            for name, rows in found.items()
        },
        "gated less plain": {
            name: _paired(rows["own where the gate lets it"], rows["plain"]) for name, rows in found.items()
        },
    }


def _vector(
    contrast: Contrast, read: Differences, centre: np.ndarray, options: SteeringOptions
) -> tuple[dict[int, Tensor], bool]:
    """A user's vector with the block and strength that are best on held-out records, and whether the gate lets it."""
    lengths = {block: float(read.lengths[:, place].mean()) for place, block in enumerate(contrast.blocks)}
    train = len(read.own) - options.held_out(len(read.own))

    def directions(first: int) -> dict[int, Tensor]:
        means = read.vectors[:first].mean(0) - centre
        return {block: torch.from_numpy(means[place]).float() for place, block in enumerate(contrast.blocks)}

    best = choose(contrast.loss, directions(train), lengths, read.own[train:], options)
    whole = directions(len(read.own))[best.block] * best.strength
    return {best.block: capped(whole, lengths[best.block], options.cap)}, best.wins


def _mean(vectors: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    blocks = sorted({block for each in vectors for block in each})
    return {
        block: sum((each[block] for each in vectors if block in each), torch.tensor(0.0)) / len(vectors)
        for block in blocks
    }


def _paired(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Mean difference with its 95 % interval over users (percentile bootstrap, 2,000 resamples)."""
    differences = np.array(one) - np.array(other)
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (2000, len(differences)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def _bloggers(options: argparse.Namespace) -> list[Profile]:
    """Users with enough long posts, by name, with their first posts of that kind."""
    posts: dict[str, list[Record]] = {}
    count = options.records + options.tests
    with gzip.open(options.data, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            own = posts.setdefault(row["user_id"], [])
            if len(row["text"].split()) >= 64 and len(own) < count:
                own.append(Record(row["text"], id=f"{number}"))
    full = [Profile(user, tuple(own)) for user, own in sorted(posts.items()) if len(own) == count]
    return full[: options.users]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "speed", "world", "users"))
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--data", type=Path, help="JSON lines with user_id and text, gzipped; or a LaMP task")
    parser.add_argument("--folder", type=Path, default=Path("run"), help="that of `persona eval lamp`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", type=int, default=None, help="of a user; 50 planted, 8 else")
    parser.add_argument("--tests", type=int, default=3, help="held-out texts of a user")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--gate", type=float, default=1.0)
    parser.add_argument("--states", default="mean", choices=("mean", "last"))
    parser.add_argument("--bipo", type=int, default=0, help="epochs of training by preference, in planted")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of the axis, in hidden states")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="of style words")
    parser.add_argument("--doses", type=float, nargs="+", default=[-2.0, -1.0, 0.0, 1.0, 2.0, 4.0])
    parser.add_argument("--gain", type=float, default=100.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.records = options.records or (50 if options.what == "planted" else 8)
    done = {"planted": planted_axis, "speed": speed, "world": world, "users": users}[options.what](options)
    print(json.dumps(done, indent=None if options.json else 2))


if __name__ == "__main__":
    main()

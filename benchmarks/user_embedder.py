"""The user embedder beside the published recipe, plain generation and retrieval, in the same run.

    python -m benchmarks.user_embedder [--rounds 5] [--users 10000] [--json]

**Training step.** Histories of 185 records, prompts as long as those of real rating questions, a T5 from a config with
random weights, 8 questions in a step; every arm trains in a process of its own, so that its peak memory is its own.

- ``recipe``: what the released code of Persona-Plug does: 512 slots of history whatever its length,
  both layers of the projector on every slot, inputs padded to 276 tokens and answers to 128. (It also trains a second
  encoder of 110 million parameters; that is left out here, in its favour.)
- ``persona``: `train_user_embedder`'s own parts: only records that are there, the last layer after pooling, padding to
  the longest of the batch.

**Generation** on questions of the generated world: plain, with a soft prompt, with 4 retrieved records, and with both.
Twice: ratings with `tiny`, whose answers of 2 tokens leave hardly anything but the prompt to compute, and headlines
with a larger Llama of random weights, whose answers all have 32 tokens. Eight soft tokens are a sixth of a bare
question and a twentieth of one with records, so the price of a soft prompt is given for both; for questions as long as
those for a paper's title; and beside the same number of tokens of text, which is the least that reading them can cost.
Where the embedder copies (`persona.soft_prompts.copying`) every step looks up what may be copied: measured with weights
of next to nothing, so that the answers stay the same.

**Soft prompts** for many users whose vectors are in memory: users per second, and how much of the time is not spent in
matrix products, by torch's profiler; and how much it would be if these ran as fast as in large pieces alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from examples.world.world import World
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import lamp_task
from persona.llm.load import load_llm
from persona.protocols import GenerationOptions, Request
from persona.retrievers import LampBM25Retriever
from persona.soft_prompts.channel import soft_prompts
from persona.soft_prompts.config import PAPER_TOKENS, UserEmbedderConfig
from persona.soft_prompts.copying import FEATURES, Copying
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import History

RECORDS, SLOTS, BATCH = 185, 512, 8
PADDED_INPUT, PADDED_OUTPUT = 276, 128
INPUT_LENGTHS = (58, 61, 66, 70, 74, 79, 88, 104)
"""Tokens of eight rating questions: the eighths of LaMP-style film reviews in T5's tokens."""
LONG_INPUT = 211
"""Tokens of a question: the mean of LaMP-style paper abstracts in BERT's tokens."""
TARGET = 2
ENCODER_DIM = 768
NEXT_TO_NOTHING = 1e-6
MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
TARGETS = {"training step": 3.0, "peak memory": 0.5, "soft prompt / plain": 1.05, "4 records / soft prompt": 1.5}


def t5() -> Any:
    """A T5 of the small size with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=8000, d_model=512, d_ff=1024, num_layers=8, num_heads=6, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    return model.requires_grad_(False)


def recipe_step(model: Any) -> Callable[[], None]:
    """One question after the other padded to the full, as the released code does."""
    hidden = model.config.d_model
    projector = nn.Sequential(nn.Linear(ENCODER_DIM, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    instruction = nn.Sequential(nn.Linear(ENCODER_DIM, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    constant = nn.Parameter(torch.rand(ENCODER_DIM))
    optimizer = torch.optim.AdamW([*projector.parameters(), *instruction.parameters(), constant], lr=1e-4)
    histories = torch.randn(BATCH, SLOTS, ENCODER_DIM)
    mask = torch.zeros(BATCH, SLOTS, dtype=torch.bool)
    mask[:, :RECORDS] = True
    queries = torch.randn(BATCH, ENCODER_DIM)
    ids = torch.randint(2, 8000, (BATCH, PADDED_INPUT))
    attention = torch.zeros(BATCH, PADDED_INPUT + 2, dtype=torch.long)
    labels = torch.full((BATCH, PADDED_OUTPUT), -100)
    for row, length in enumerate(INPUT_LENGTHS):
        attention[row, : length + 2] = 1
        labels[row, :TARGET] = 5

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        scores = torch.einsum("bd,bnd->bn", queries, histories).masked_fill(~mask, -torch.inf)
        user = (scores.softmax(-1)[..., None] * projector(histories)).sum(1)
        first = instruction(constant).expand(BATCH, -1)
        embeddings = torch.cat((torch.stack((first, user), 1), model.get_input_embeddings()(ids)), dim=1)
        model(inputs_embeds=embeddings, attention_mask=attention, labels=labels).loss.backward()
        optimizer.step()

    return step


def persona_step(model: Any, mode: str) -> Callable[[], None]:
    """The same questions through the user embedder."""
    shape = {"n_tokens": PAPER_TOKENS} if mode == "persona-plug" else {}
    embedder = UserEmbedder(UserEmbedderConfig(ENCODER_DIM, model.config.d_model, mode=mode, **shape))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=1e-4)
    keys = torch.randn(BATCH, RECORDS, ENCODER_DIM)
    values = torch.randn(BATCH, RECORDS, embedder.config.value_dim)
    mask = torch.ones(BATCH, RECORDS, dtype=torch.bool)
    queries = torch.randn(BATCH, ENCODER_DIM)
    longest, tokens = max(INPUT_LENGTHS), embedder.config.n_tokens
    ids = torch.randint(2, 8000, (BATCH, longest))
    attention = torch.zeros(BATCH, longest + tokens, dtype=torch.long)
    for row, length in enumerate(INPUT_LENGTHS):
        attention[row, : length + tokens] = 1
    labels = torch.full((BATCH, TARGET), 5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        embeddings = torch.cat((embedder(keys, values, mask, queries), model.get_input_embeddings()(ids)), dim=1)
        model(inputs_embeds=embeddings, attention_mask=attention, labels=labels).loss.backward()
        optimizer.step()

    return step


def training_arm(arm: str, rounds: int) -> dict[str, float]:
    """Median seconds of a step, and the process's peak memory over that of the model alone, in MiB."""
    model = t5()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = recipe_step(model) if arm == "recipe" else persona_step(model, arm)
    seconds = timed([step], rounds + 1)[0][1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "mebibytes": (peak - before) / 1024}


def timed(arms: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each arm in each round; the arms take turns."""
    seconds: list[list[float]] = [[] for _ in arms]
    for _ in range(rounds):
        for place, arm in enumerate(arms):
            begun = time.perf_counter()
            arm()
            seconds[place].append(time.perf_counter() - begun)
    return seconds


def random_llama() -> Any:
    """A Llama of 28 million random weights with `tiny`'s tokenizer; it ends no answer early."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from persona.llm.transformers import TransformersLM

    tiny: Any = load_llm("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.model.config.vocab_size,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[[tiny.target_ids(["a"])[0][-1], config.eos_token_id]] = 0  # never the likeliest
    return TransformersLM(model, tiny._tokenizer)


def generation(
    llm: Any, task_name: str, tokens: int, rounds: int, *, length: int = 0, questions: int = 64
) -> dict[str, float]:
    """Median seconds for some questions, by what stands before them (`requests`); answers of one length.

    With a `length` the questions are filled up to so many tokens, and records are left out.
    """
    asked = [one.question for one in World(0).questions(task_name, "test", questions, 20)]
    task, retriever = lamp_task(task_name), LampBM25Retriever()
    soft = llm.model.get_input_embeddings().weight[:8].detach().clone()
    plain = [Request(with_tokens(llm, one.input, length - llm.tokenizer.count(one.input))) for one in asked]
    with_records = []
    for one in asked if not length else ():
        records = [scored.record for scored in retriever.retrieve(one.profile, task.query(one.input), 4)]
        with_records.append(Request(lamp_prompt(task, one.input, records, llm.tokenizer, max_length=512).text))
    # An own tensor for each, as for users who differ.
    softs = [soft + 1e-4 * place for place in range(len(asked))]
    longer = [Request(with_tokens(llm, one.prompt, len(soft))) for one in plain]
    copying = Copying(
        llm, np.ones(llm.model.config.vocab_size, np.float32), np.full(len(FEATURES), NEXT_TO_NOTHING, np.float32)
    )
    lifts = copying.lifts([one.profile for one in asked], [one.prompt for one in plain])
    requests = {
        "plain": plain,
        "as long text": longer,
        "soft prompt": [Request(one.prompt, soft) for one, soft in zip(plain, softs, strict=True)],
        "copying": [
            Request(one.prompt, soft, lifts=copied) for one, soft, copied in zip(plain, softs, lifts, strict=True)
        ],
    }
    if with_records:
        requests["4 records"] = with_records
        requests["both"] = [Request(one.prompt, soft) for one, soft in zip(with_records, softs, strict=True)]
    options = GenerationOptions(max_new_tokens=tokens)
    seconds = timed([lambda some=some: llm.generate(some, options) for some in requests.values()], rounds + 1)
    return {name: statistics.median(each[1:]) for name, each in zip(requests, seconds, strict=True)}


def with_tokens(llm: Any, prompt: str, tokens: int) -> str:
    """`prompt` with words before it, so that it has `tokens` tokens more; as it is for none."""
    if tokens <= 0:
        return prompt
    wanted = llm.tokenizer.count(prompt) + tokens
    for words in ("so ", "a ", "so a "):
        for n in range(1, 4 * tokens):
            if (length := llm.tokenizer.count(text := words * n + prompt)) == wanted:
                return text
            if length > wanted:
                break
    raise SystemExit(f"no number of words makes a prompt {tokens} tokens longer for {llm.name}")


def many_users(users: int, rounds: int) -> dict[str, float]:
    """Users per second, and the share of the time outside matrix products."""
    config = UserEmbedderConfig(384, 1024)
    embedder = UserEmbedder(config).eval()
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((4096, config.value_dim)).astype(np.float16)
    histories = []
    for _ in range(users):
        chosen = draw.integers(0, len(rows), int(draw.integers(20, 80)))
        histories.append(History(rows[chosen]))
    records = sum(map(len, histories))
    products = [
        (records, config.value_dim, config.width),
        (records, 384, config.heads * 64),
        (users, (config.heads + 1) * config.width, config.width),
        (users, config.width, config.n_tokens * config.llm_hidden),
    ]
    pairs = [(torch.randn(min(n, 16384), k), torch.randn(k, m), n / min(n, 16384)) for n, k, m in products]

    def bare() -> None:
        for left, right, times in pairs:
            for _ in range(round(times)):
                torch.mm(left, right)

    with torch.inference_mode():
        ours, alone = timed([lambda: soft_prompts(embedder, histories), bare], rounds)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            begun = time.perf_counter()
            soft_prompts(embedder, histories)
            profiled = time.perf_counter() - begun
    inside = sum(one.self_cpu_time_total for one in seen.key_averages() if one.key in MATRIX_PRODUCTS) / 1e6
    whole = statistics.median(ours)
    return {
        "users/s": users / whole,
        "outside matrix products": 1 - inside / profiled,
        "outside, with products as fast as alone": 1 - statistics.median(alone) / whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--arm", choices=("recipe", "attention", "persona-plug"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(training_arm(options.arm, options.rounds)))
        return
    arms: dict[str, dict[str, float]] = {}
    for arm in ("recipe", "persona-plug", "attention"):
        command = [sys.executable, __file__, "--arm", arm, "--rounds", str(options.rounds)]
        arms[arm] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    answered = generation(load_llm("tiny"), "LaMP_3", 2, options.rounds)
    abstracts = generation(load_llm("tiny"), "LaMP_3", 2, options.rounds, length=LONG_INPUT)
    llama = random_llama()
    long = generation(llama, "LaMP_4", 32, options.rounds)
    long_abstracts = generation(llama, "LaMP_4", 32, options.rounds, length=LONG_INPUT)
    users = many_users(options.users, max(2, options.rounds // 2))
    found = {
        "training step": arms["recipe"]["seconds"] / arms["attention"]["seconds"],
        "training step, persona-plug": arms["recipe"]["seconds"] / arms["persona-plug"]["seconds"],
        "peak memory": arms["attention"]["mebibytes"] / arms["recipe"]["mebibytes"],
        "soft prompt / plain": answered["soft prompt"] / answered["plain"],
        "copying / soft prompt": answered["copying"] / answered["soft prompt"],
        "soft prompt / as long text": answered["soft prompt"] / answered["as long text"],
        "soft prompt / plain, records in both": answered["both"] / answered["4 records"],
        "soft prompt / plain, questions of 211 tokens": abstracts["soft prompt"] / abstracts["plain"],
        "4 records / soft prompt": answered["4 records"] / answered["soft prompt"],
        "soft prompt / plain, answers of 32 tokens": long["soft prompt"] / long["plain"],
        "copying / soft prompt, answers of 32 tokens": long["copying"] / long["soft prompt"],
        "soft prompt / as long text, answers of 32 tokens": long["soft prompt"] / long["as long text"],
        "soft prompt / plain, records in both, answers of 32 tokens": long["both"] / long["4 records"],
        "soft prompt / plain, questions of 211, answers of 32 tokens": long_abstracts["soft prompt"]
        / long_abstracts["plain"],
        "4 records / soft prompt, answers of 32 tokens": long["4 records"] / long["soft prompt"],
    }
    result = {
        "ratios": found,
        "targets": TARGETS,
        "arms": arms,
        "generation": answered,
        "generation, questions of 211 tokens": abstracts,
        "generation, 32 tokens": long,
        "generation, questions of 211, answers of 32 tokens": long_abstracts,
        "many users": users,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    table = Table("what", "ratio", "target", title="user embedder")
    for name, ratio in found.items():
        target = TARGETS.get(name.split(",")[0])
        table.add_row(name, f"{ratio:.2f}", "" if target is None else f"{target:.2f}")
    table.add_row("soft prompts, users/s", f"{users['users/s']:,.0f}", "")
    table.add_row("  of it outside matrix products", f"{users['outside matrix products']:.0%}", "20%")
    table.add_row("  with products as fast as alone", f"{users['outside, with products as fast as alone']:.0%}", "")
    Console().print(table)
    for arm, one in arms.items():
        print(f"{arm:8} {one['seconds'] * 1000:8.0f} ms a step, {one['mebibytes']:6.0f} MiB over the model")


if __name__ == "__main__":
    main()

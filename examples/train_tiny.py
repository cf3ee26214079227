"""Train `tiny`, the small LLM that comes with persona, from scratch: tokenizer, weights and model card.

    python -m examples.train_tiny --out persona/tiny                       # two CPU cores, under two hours
    python -m examples.train_tiny --out /tmp/tiny --steps 200              # a trial

Run it from the root of a clone. The text is the generated world's (`examples.world`), made on the fly from
users of its ``pretrain`` split, who are in no evaluation split. The loss is on every answer, on the records' targets,
and with a small weight on a sample of all other tokens. The same seed, steps and machine give the same weights.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from examples.tiny_recipe.scores import card, measure
from examples.tiny_recipe.sequences import HISTORY, LAST_SHARE, Sequences
from examples.tiny_recipe.tokenizer import make_tokenizer, world_texts
from examples.tiny_recipe.training import Schedule, make_model, train
from examples.world.world import World

WORLDS = (0, 1, 2)
"""Seeds of the worlds whose users it is scored on."""


def train_and_save(options: argparse.Namespace) -> None:
    """Train a model and write it to `options.out`, with the facts of the run in training.json."""
    schedule = Schedule(options.short_steps, options.steps, options.batch, options.muon, options.adam)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    device = torch.device(chosen)
    torch.manual_seed(options.seed)
    world = World(options.seed)
    tokenizer = make_tokenizer(world_texts(world))
    model = make_model(tokenizer, options.hidden, options.layers)
    model.to(device)  # type: ignore[arg-type]
    whole_from = schedule.short_steps * schedule.batch
    last_from = whole_from + round((1 - LAST_SHARE) * schedule.steps) * schedule.batch
    sequences = Sequences(world, tokenizer, options.seed, whole_from, last_from)
    seconds, tokens = train(model, sequences, schedule, options.log)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=40,
        do_sample=False,
    )
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    n_sequences = (schedule.short_steps + schedule.steps) * schedule.batch
    run = {
        "data": f"`examples.world.world`, seed {options.seed}, split `pretrain`, made on the fly: "
        f"{n_sequences:,} sequences, each of another user",
        "tokens": f"{tokens:,} with padding",
        "steps": f"{schedule.short_steps:,} short and {schedule.steps:,} whole, {schedule.batch} sequences each",
        "optimizers": f"Muon {schedule.muon}, AdamW {schedule.adam}, cosine",
        "seed": options.seed,
        "hardware": hardware(device),
        "time": f"{seconds / 60:.0f} minutes",
        "software": f"torch {torch.__version__}, transformers {transformers_version}",
    }
    (options.out / "training.json").write_text(json.dumps(run, indent=1) + "\n")


def hardware(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU thread(s), {platform.processor() or platform.machine()}"


def main() -> None:
    usual = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, made if it is not there")
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--short-steps", type=int, default=usual.short_steps, help="steps on short sequences, first")
    parser.add_argument("--batch", type=int, default=usual.batch, help="sequences per step")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon", type=float, default=usual.muon, help="learning rate of matrices")
    parser.add_argument("--adam", type=float, default=usual.adam, help="learning rate of embeddings and norms")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all cores")
    parser.add_argument("--users", type=int, default=100, help="test users per world and task to score")
    parser.add_argument("--log", type=Path, help="file for a line on every 25th step")
    parser.add_argument("--card-only", action="store_true", help="score the model in --out and write its card again")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.card_only:
        train_and_save(options)
    run = json.loads((options.out / "training.json").read_text())
    model = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.out)
    rows = measure(model, tokenizer, users=options.users, seeds=WORLDS)
    users = f"{options.users} `test` users and {HISTORY} records each in each of the worlds {WORLDS}"
    text = card(model, rows, run=run, users=users)
    (options.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

"""Per-user adapters beside PEFT, in the same run.

    python benchmarks/adapters.py [--rounds 5] [--adapters 10000] [--loaded 300] [--disk 2000] [--threads 1] [--json]
                              [--only generate,load,train,disk]

A random Llama (hidden 256, 4 layers, float32), rank 8; adapters of q and v are 32,768 numbers, 64 KiB in float16.

- ``generate``: 32 prompts of 32 tokens, 32 new tokens each, every row with another adapter. Arms: the plain model,
  PEFT's `adapter_names`, and the stack with as many slots as said. Arms take turns; the best time of each counts.
  Tokens must be equal to PEFT's.
- ``load``: the bank holds `--adapters`; one that was not in use yet is put into a slot, 500 times. PEFT: `load_adapter`
  from a folder, with `--loaded` adapters loaded.
- ``train``: each user's rows in a step, AdamW, clipping, warm-up. Arms: `AdapterTrainer`; a loop over users with one
  PEFT model whose weights are set back (the best case of a loop: no loading, no wrapping); `transformers.Trainer` for
  each user, on a few of them.
- ``disk``: bytes of the bank's database per byte of adapters, and of a PEFT folder each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

import persona
from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family, LoraSpec
from persona.adapters.serving.pool import AdapterPool
from persona.adapters.stacked import StackedLoRA
from persona.adapters.training.lessons import Lesson, TokenExample, chunks
from persona.adapters.training.options import TrainingOptions
from persona.adapters.training.trainer import AdapterTrainer
from persona.adapters.versions import AdapterDraft
from persona.llm.frozen.options import TransformersOptions
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore

QV, ALL = ("q_proj", "v_proj"), ("all-linear",)
BATCH, PROMPT, NEW = 32, 32, 32
VOCABULARY = 2048
STEPS = 4

warnings.filterwarnings("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description="per-user adapters beside PEFT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--loaded", type=int, default=300)
    parser.add_argument("--disk", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="generate,load,train,disk")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        "generate": lambda folder: generate(arguments.rounds),
        "load": lambda folder: load(folder, arguments.adapters, arguments.loaded),
        "train": lambda folder: train(folder, arguments.rounds),
        "disk": lambda folder: disk(folder, arguments.disk),
    }
    rows: list[dict[str, Any]] = []
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            some = parts[name](Path(folder))
        rows += some
        for row in [] if arguments.json else some:
            print(f"{row['what']:72} {row['ours']:>14} {row['theirs']:>22} {row['ratio']:>9.3f}x  {row['target']}")
    if arguments.json:
        print(json.dumps(rows, indent=2))


def line(what: str, ours: str, theirs: str, ratio: float, target: str, **more: Any) -> dict[str, Any]:
    return {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "target": target, **more}


def model(hidden: int = 256, layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=688,
        num_hidden_layers=layers,
        num_attention_heads=4,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    build: Any = LlamaForCausalLM
    return build(config).eval()


def language_model() -> TransformersLM:
    return TransformersLM(
        model(),
        AutoTokenizer.from_pretrained(Path(persona.__file__).parent / "tiny"),
        TransformersOptions(name="random"),
    )


def adapter_rows(family: Family, count: int) -> torch.Tensor:
    return torch.randn(count, family.size, generator=torch.Generator().manual_seed(1)) * 0.1


def peft_model(base: Any, family: Family, rows: torch.Tensor) -> Any:
    """PEFT with an adapter for each row, named 0, 1, ..."""
    spec = family.spec
    names = [module.name for module in family.modules]
    config = LoraConfig(r=spec.r, lora_alpha=int(spec.alpha), target_modules=names)
    wrapped: Any = get_peft_model(base, config, adapter_name="0")
    for number in range(1, len(rows)):
        wrapped.add_adapter(str(number), config)
    layers = dict(wrapped.named_modules())
    for module, (a, b) in zip(family.modules, family.pairs(rows), strict=True):
        layer = layers[f"base_model.model.{module.name}"]
        for number in range(len(rows)):
            layer.lora_A[str(number)].weight.data.copy_(a[number])
            layer.lora_B[str(number)].weight.data.copy_(b[number])
    return wrapped.eval()


def best_times(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each arm, the best of `rounds` turns, after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(1 + rounds):
        for name, arm in arms.items():
            begun = time.perf_counter()
            arm()
            if turn:
                found[name].append(time.perf_counter() - begun)
    return {name: min(times) for name, times in found.items()}


def generate(rounds: int) -> list[dict[str, Any]]:
    lines = []
    ids = torch.randint(3, VOCABULARY, (BATCH, PROMPT), generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
    }
    for name, targets, peft_target, plain_target in (
        ("q,v", QV, ">= 2.5x", "<= 1.15x"),
        ("all linear", ALL, ">= 4.5x", ""),
    ):
        spec = LoraSpec(r=8, alpha=16, targets=targets)
        plain, stacked = model(), {}
        for slots in (BATCH, 4000) if targets == QV else (BATCH,):
            base = model()
            stacked[slots] = base, StackedLoRA(base, spec, slots)
        stack = stacked[BATCH][1]
        rows = adapter_rows(stack.family, BATCH)
        for _, each in stacked.values():
            for slot, row in enumerate(rows):
                each.write(each.slots - slot, row)
        wrapped = peft_model(model(), stack.family, rows)

        def ours(slots: int, stacked: dict[int, Any] = stacked) -> torch.Tensor:
            base, each = stacked[slots]
            with torch.inference_mode(), each.rows([slots - number for number in range(BATCH)]):
                return base.generate(**options)

        def theirs(wrapped: Any = wrapped) -> torch.Tensor:
            with torch.inference_mode():
                return wrapped.generate(**options, adapter_names=[str(number) for number in range(BATCH)])

        def without(plain: Any = plain) -> torch.Tensor:
            with torch.inference_mode():
                return plain.generate(**options)

        assert all(torch.equal(ours(slots), theirs()) for slots in stacked), "tokens must be those of PEFT"
        assert not torch.equal(ours(BATCH), without()), "adapters must change something"
        arms: dict[str, Callable[[], Any]] = {"plain": without, "peft": theirs}
        arms |= {f"{slots}": lambda slots=slots: ours(slots) for slots in stacked}
        times = best_times(arms, rounds)
        best = times[f"{BATCH}"]
        lines.append(
            line(
                f"generate, {BATCH} adapters in a batch, {name}, vs PEFT adapter_names",
                f"{1000 * best:.0f} ms",
                f"{1000 * times['peft']:.0f} ms",
                times["peft"] / best,
                peft_target,
            )
        )
        for slots in stacked:
            lines.append(
                line(
                    f"generate, {slots} slots, {name}, share of the plain model's time",
                    f"{1000 * times[f'{slots}']:.0f} ms",
                    f"{1000 * times['plain']:.0f} ms",
                    times[f"{slots}"] / times["plain"],
                    plain_target,
                )
            )
    return lines


def load(folder: Path, adapters: int, loaded: int) -> list[dict[str, Any]]:
    llm = language_model()
    spec = LoraSpec(r=8, alpha=16, targets=QV, dtype="float16")
    times: list[float] = []
    with ProfileStore(f"sqlite:///{folder / 'persona.db'}") as store:
        bank = AdapterBank(store)
        family = StackedLoRA(llm.model, spec, 1, base=llm.fingerprint).family
        fill(bank, family, adapters)
        with AdapterPool(bank, llm, slots=64) as pool:
            for number in range(500):
                user = f"user {(number * 7919) % adapters}"
                begun = time.perf_counter()
                adapter = bank.current(user, family)
                assert adapter is not None
                pool.load(adapter.name)
                times.append(time.perf_counter() - begun)
    row = adapter_rows(family, 1)
    wrapped = peft_model(model(), family, row)
    wrapped.save_pretrained(folder / "peft", selected_adapters=["0"])
    place = folder / "peft" / "0"
    for number in range(1, loaded):
        wrapped.load_adapter(str(place), f"{number}", low_cpu_mem_usage=True)
    theirs = []
    for number in range(5):
        begun = time.perf_counter()
        wrapped.load_adapter(str(place), f"more {number}", low_cpu_mem_usage=True)
        theirs.append(time.perf_counter() - begun)
    middle, worst = statistics.median(times), statistics.quantiles(times, n=100)[98]
    peft = statistics.median(theirs)
    return [
        line(
            f"one of {adapters} adapters into a slot, vs PEFT with {loaded} loaded",
            f"{1000 * middle:.2f} ms",
            f"{1000 * peft:.0f} ms",
            peft / middle,
            ">= 500x",
        ),
        line("its 99th percentile, of 5 ms", f"{1000 * worst:.2f} ms", "5 ms", 1000 * worst / 5, "<= 1x"),
    ]


def fill(bank: AdapterBank, family: Family, count: int) -> None:
    """A user and an adapter each, some hundred in a transaction."""
    bank.add_family(family)
    rows = adapter_rows(family, 64)
    for start in range(0, count, 500):
        users = [f"user {number}" for number in range(start, min(start + 500, count))]
        bank.store.upsert((user, Record("a record", id="1")) for user in users)
        bank.publish(family, [AdapterDraft(user, rows[place % 64], 1) for place, user in enumerate(users)])


def lessons(users: int, batch: int, tokens: int) -> list[Lesson]:
    generator = torch.Generator().manual_seed(3)

    def example() -> TokenExample:
        ids = torch.randint(3, VOCABULARY, (tokens,), generator=generator).tolist()
        return TokenExample(tuple(ids[: tokens // 2]), tuple(ids[tokens // 2 :]))

    return [Lesson(f"{user}", tuple(example() for _ in range(batch))) for user in range(users)]


def train(folder: Path, rounds: int) -> list[dict[str, Any]]:
    lines = []
    for name, targets, users, batch, tokens, target in (
        ("q,v", QV, 64, 1, 32, ">= 2.5x"),
        ("all linear", ALL, 64, 1, 32, ">= 2.5x"),
        ("q,v", QV, 16, 4, 32, ">= 0.98x"),
        ("q,v", QV, 16, 4, 128, ">= 0.98x"),
        ("all linear", ALL, 16, 4, 128, ">= 0.98x"),
    ):
        spec = LoraSpec(r=8, alpha=16, targets=targets)
        some = lessons(users, batch, tokens)
        llm = language_model()
        options = TrainingOptions(epochs=STEPS, min_steps=0, batch_size=batch)
        trainer = AdapterTrainer(llm, spec, options)
        wrapped = peft_model(model(), trainer.family, adapter_rows(trainer.family, 1))
        arms: dict[str, Callable[[], Any]] = {
            "persona": lambda trainer=trainer, some=some: trained(trainer, some),
            "loop": lambda wrapped=wrapped, some=some, options=options: peft_loop(wrapped, some, options),
        }
        times = best_times(arms, max(2, rounds // 2))
        ours = times["persona"] / users / STEPS
        loop = times["loop"] / users / STEPS
        what = f"train {users} users, {batch} x {tokens} tokens, {name}"
        lines.append(
            line(f"{what}, vs a PEFT loop", f"{1 / ours:.0f} steps/s", f"{1 / loop:.0f} steps/s", loop / ours, target)
        )
        if users == 64:
            few = some[:4]
            begun = time.perf_counter()
            for lesson in few:
                trainer_of_one_user(folder, trainer.family, lesson, options)
            theirs = (time.perf_counter() - begun) / len(few) / STEPS
            lines.append(
                line(
                    f"{what}, vs a Trainer each",
                    f"{1 / ours:.0f} steps/s",
                    f"{1 / theirs:.0f} steps/s",
                    theirs / ours,
                    ">= 8x",
                )
            )
    return lines


def trained(trainer: AdapterTrainer, some: list[Lesson]) -> None:
    for chunk in chunks(some, trainer.options):
        trainer.train_lessons(chunk)


def tensors(lesson: Lesson) -> dict[str, torch.Tensor]:
    """All of the lesson's examples, which are equally long, with the loss on the targets only."""
    ids = torch.tensor([[*one.prompt, *one.target] for one in lesson.train])
    labels = ids.clone()
    labels[:, : len(lesson.train[0].prompt)] = -100
    return {"input_ids": ids, "labels": labels}


def peft_loop(wrapped: Any, some: list[Lesson], options: TrainingOptions) -> None:
    weights = [parameter for name, parameter in wrapped.named_parameters() if "lora_" in name]
    for parameter in wrapped.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    start = [weight.detach().clone() for weight in weights]
    for lesson in some:
        for weight, first in zip(weights, start, strict=True):
            weight.data.copy_(first)
        optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=options.weight_decay)
        inputs = tensors(lesson)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = options.rate(step, STEPS)
            optimizer.zero_grad()
            wrapped(**inputs, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()


def trainer_of_one_user(folder: Path, family: Family, lesson: Lesson, options: TrainingOptions) -> None:
    """What scripts do: wrap, train, save, unwrap."""
    base = model()
    names = [module.name for module in family.modules]
    wrapped: Any = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=names))
    inputs = tensors(lesson)
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(len(lesson.train))]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=len(rows),
        learning_rate=options.learning_rate,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    make: Any = Trainer
    trainer = make(model=wrapped, args=arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    wrapped.save_pretrained(folder / "trainer" / lesson.user_id)


def disk(folder: Path, count: int) -> list[dict[str, Any]]:
    spec = LoraSpec(r=8, alpha=16, targets=QV, dtype="float16")
    base = model()
    family = StackedLoRA(base, spec, 1).family
    (folder / "bank").mkdir()
    with ProfileStore(f"sqlite:///{folder / 'bank' / 'persona.db'}") as store:
        store.upsert((f"user {number}", Record("a record", id="1")) for number in range(count))
    before = on_disk(folder / "bank")
    with ProfileStore(f"sqlite:///{folder / 'bank' / 'persona.db'}") as store:
        fill(AdapterBank(store), family, count)
    ours = (on_disk(folder / "bank") - before) / count
    wrapped = peft_model(base, family, adapter_rows(family, 1)).half()
    few = 20
    for number in range(few):
        wrapped.save_pretrained(folder / "peft" / f"{number}", selected_adapters=["0"])
    theirs = on_disk(folder / "peft") / few
    files = sum(path.is_file() for path in (folder / "bank").iterdir())
    payload = family.nbytes
    return [
        line(
            f"{count} adapters of {payload // 1024} KiB on disk, per byte of adapters ({files} file)",
            f"{ours:.0f} B each",
            f"{theirs:.0f} B each (PEFT)",
            ours / payload,
            "<= 1.02x",
            peft_ratio=theirs / payload,
        )
    ]


def on_disk(folder: Path) -> int:
    """Bytes of the blocks that all files take."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()

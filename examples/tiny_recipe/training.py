"""The training loop of `tiny`: matrices with Muon (Jordan et al., 2024), embeddings and norms with AdamW."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_recipe.sequences import ANSWER_WEIGHT, Sequences, micro_batches
from examples.tiny_recipe.tokenizer import CONTEXT
from examples.world.world import WORLD_TASKS

MICRO_TOKENS = 1_536
EMBEDDING_STD = 0.1
COPYING = 0.5


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised by Newton-Schulz iterations, in float32.

    `torch.optim.Muon` iterates in bfloat16, which CPUs without bf16 units emulate at a tenth of the speed.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].mul_(group["momentum"]).add_(parameter.grad)
                update = _orthogonal(parameter.grad + group["momentum"] * velocity)
                rows, columns = parameter.shape
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest semi-orthogonal matrix: all singular values become about 1."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    orthogonal: torch.Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return orthogonal


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings and heads of 32.

    Embeddings start large, and the value projections of every attention layer start as the identity: attention copies
    what it attends to from the first step on and only has to learn where to attend. With the usual noise of 0.02 that
    takes ten times as long. (After "mimetic initialization", Trockman and Kolter 2023.)
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(std=EMBEDDING_STD)
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight.copy_(torch.eye(hidden))
            layer.self_attn.o_proj.weight.copy_(COPYING * torch.eye(hidden))
            layer.mlp.down_proj.weight.zero_()
    return model


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        short_steps: steps on short sequences, at the beginning.
        steps: steps on whole prompts, after them.
        batch: sequences in a step.
        muon: learning rate of the matrices.
        adam: learning rate of embeddings and norms.
    """

    short_steps: int = 1_200
    steps: int = 2_600
    batch: int = 16
    muon: float = 0.01
    adam: float = 2e-3

    def factor(self, step: int) -> float:
        """Factor of the learning rates: 50 steps of warm-up, 1 during short sequences, then half a cosine to 0.02."""
        progress = max(0.0, (step - self.short_steps) / self.steps)
        return min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * progress))


def train(
    model: LlamaForCausalLM, sequences: Sequences, schedule: Schedule, log: Path | None = None
) -> tuple[float, int]:
    """Train in place, with a progress bar.

    Returns:
        Seconds and tokens, padding included.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    model.train()
    embeddings = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings]
    others = [p for p in model.parameters() if p.ndim != 2 or p is embeddings]
    optimizers = (
        (Muon(matrices, schedule.muon), schedule.muon),
        (torch.optim.AdamW(others, schedule.adam, betas=(0.9, 0.98), weight_decay=0.0), schedule.adam),
    )
    stream = iter(sequences)
    recent = torch.zeros(len(WORLD_TASKS), 2)
    start, tokens = time.perf_counter(), 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        shown = bar.add_task("", total=schedule.short_steps + schedule.steps)
        for step in range(schedule.short_steps + schedule.steps):
            groups = micro_batches(stream, schedule.batch, MICRO_TOKENS, model.device)
            loss, answers = _backward(model, groups)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss must be finite, was: {loss} in step {step}")
            tokens += sum(ids.numel() for ids, _ in groups)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * schedule.factor(step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            recent = recent * 0.95 + answers * 0.05
            seconds = time.perf_counter() - start
            by_task = " ".join(f"{nats:.3f}" for nats in (recent[:, 0] / recent[:, 1]).tolist())
            line = f"answers {by_task}, loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s"
            bar.update(shown, advance=1, description=line)
            if log is not None and step % 25 == 0:
                with log.open("a") as lines:
                    lines.write(f"{step} {seconds:.0f}s {line}\n")
    return time.perf_counter() - start, tokens


def _backward(
    model: LlamaForCausalLM, groups: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[float, torch.Tensor]:
    """Add the gradients of a step; its loss, and for each task the loss and number of answer tokens.  # (tasks, 2)"""
    embeddings = model.model.embed_tokens.weight
    total_weight = sum(weights.sum() for _, weights in groups)
    loss = 0.0
    answers = torch.zeros(len(WORLD_TASKS), 2)
    for ids, weights in groups:
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        weighted = weights[:, 1:] > 0
        weight = weights[:, 1:][weighted]
        losses = F.cross_entropy(F.linear(hidden[weighted], embeddings), ids[:, 1:][weighted], reduction="none")
        part = (losses * weight).sum() / total_weight
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
        for row, task in enumerate(WORLD_TASKS):
            of_task = weight == ANSWER_WEIGHT[task]
            answers[row] += torch.stack((losses.detach()[of_task].sum(), of_task.sum())).cpu()
    return loss, answers

"""What `tiny` scores on users of the generated world, and its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_recipe.sequences import HISTORY
from examples.tiny_recipe.tokenizer import CONTEXT, NO_LIMIT
from examples.world.bounds import no_user_score, oracle_score
from examples.world.world import WORLD_TASKS, World, WorldQuestion
from persona.eval.bootstrap import Bootstrap, Interval
from persona.eval.metrics import METRICS, score_lamp
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import lamp_task
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import Retriever
from persona.records import Profile, Record
from persona.retrievers import BM25Retriever, LampBM25Retriever
from persona.retrievers.recency import RecencyRetriever


@dataclass(frozen=True, slots=True)
class Row:
    """The score of one method on one task, and the share of the gap between the bounds that it closes."""

    task: str
    metric: str
    no_user: float
    oracle: float
    method: str
    score: float
    share: Interval


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, users: int, seeds: Sequence[int]
) -> list[Row]:
    """The frozen model on `test` users of several worlds, with their own history and with another user's.

    `dev` users would flatter it: the recipe was chosen on them.
    """
    model.eval()  # type: ignore[no-untyped-call]
    rows = []
    for task in WORLD_TASKS:
        asked = [question for seed in seeds for question in World(seed).questions(task, "test", users, HISTORY)]
        ids = [str(number) for number in range(len(asked))]
        golds = dict(zip(ids, [each.gold for each in asked], strict=True))
        no_user = fmean(no_user_score(each.content) for each in asked)
        oracle = fmean(oracle_score(each.content, each.user.traits) for each in asked)
        metric = METRICS[lamp_task(task).metrics[0]]
        for method, records in _retrieved(task, asked).items():
            answers = _generate(
                model,
                tokenizer,
                [
                    lamp_prompt(
                        lamp_task(task), each.question.input, some, WhitespaceTokenizer(), max_length=NO_LIMIT
                    ).text
                    for each, some in zip(asked, records, strict=True)
                ],
            )
            scores = score_lamp(task, golds, dict(zip(ids, answers, strict=True)))
            share = Bootstrap(ids).gap_share(metric, scores.samples, floor=no_user, ceiling=oracle)
            rows.append(Row(task, metric.name, no_user, oracle, method, scores.values[metric.name], share))
    return rows


def _retrieved(task: str, asked: Sequence[WorldQuestion]) -> dict[str, list[tuple[Record, ...]]]:
    """The records in front of each question, by method."""
    own = [each.question.profile for each in asked]
    others = [*own[1:], own[0]]

    def best(retriever: Retriever, k: int, profiles: Sequence[Profile] = own) -> list[tuple[Record, ...]]:
        queries = [lamp_task(task).query(each.question.input) for each in asked]
        found = retriever.retrieve_batch(profiles, queries, k)
        return [tuple(scored.record for scored in each) for each in found]

    return {
        "none": [() for _ in asked],
        "bm25-lamp, k=4": best(LampBM25Retriever(), 4),
        "bm25, k=1": best(BM25Retriever(), 1),
        "bm25, k=4": best(BM25Retriever(), 4),
        "recency, k=4": best(RecencyRetriever(), 4),
        "bm25, k=4, another user's": best(BM25Retriever(), 4, others),
    }


@torch.no_grad()
def _generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], batch: int = 64
) -> list[str]:
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        encoded = tokenizer([prompts[row] for row in rows], return_tensors="pt", padding=True).to(model.device)
        generated = model.generate(  # type: ignore[misc]
            **encoded, max_new_tokens=40, do_sample=False
        )
        texts = tokenizer.batch_decode(generated[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    return answers


def card(model: LlamaForCausalLM, measured: Sequence[Row], *, run: dict[str, object], users: str) -> str:
    """The model card in Markdown: what the model is, how it was trained, and what it scores."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        "---",
        "license: apache-2.0",
        "language: en",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        "",
        "# tiny",
        "",
        f"A Llama with {parameters:,} parameters, the embedded default language model of `persona`. It knows three",
        "tasks in LaMP's official wording (LaMP_2 film tags, LaMP_3 review scores, LaMP_4 headlines), on the plain",
        "English of `examples.world.world`, and it can use records of a user's history in front of a question.",
        "It exists so that personalization can be seen and tested without a download. It is no general language model.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("persona/tiny")',
        'model = AutoModelForCausalLM.from_pretrained("persona/tiny")',
        "```",
        "",
        "The tokenizer puts `<bos>` before a prompt and `<answer>` after it; the model answers and ends with `<eos>`.",
        f"The context is {CONTEXT} tokens. Decode greedily.",
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *[f"| {name} | {value} |" for name, value in run.items()],
        "",
        "## Scores",
        "",
        f"Weights as stored, greedy decoding, {users}.",
        "The share is (score - no user) / (oracle - no user): no user is the best that can be had without knowing the",
        "user, oracle the best with all their traits known, both computed exactly (`examples.world.bounds`).",
        "",
        "| task | metric | no user | oracle | method | score | share of the gap (95 % interval over users) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        share = f"{row.share.value:.1%} ({row.share.low:.1%} to {row.share.high:.1%})"
        bounds = f"{row.no_user:.3f} | {row.oracle:.3f}"
        lines.append(f"| {row.task} | {row.metric} | {bounds} | {row.method} | {row.score:.3f} | {share} |")
    return "\n".join([*lines, ""])

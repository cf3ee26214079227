"""Train `tiny`, the language model that persona carries, from nothing: its tokenizer, its weights and its model card.

    python examples/train_tiny.py --out persona/tiny                       # two CPU cores, under two hours
    python examples/train_tiny.py --out /tmp/tiny --steps 200              # a trial

The text is the seeded world's (`persona.eval.world.world`), made on the fly from users of its ``pretrain`` split, who are in no
evaluation split. A training sequence is what the model will meet, and more of it: an official LaMP prompt with 0 to 8
records, the answer, and further questions of the same user, so that one history teaches several answers::

    <bos> 4 is the score for "..." , and 5 is ... . What is the score ... review: ... <answer> 4 <eos>
    <bos> What is the score ... review: ... <answer> 5 <eos> ...

The loss is on every answer, on the records' own targets, and with a small weight on a sample of all other tokens.
Matrices are trained with Muon (Jordan et al., 2024), embeddings and norms with AdamW. Same seed, steps and machine
give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers import __version__ as transformers_version

from persona.eval.bootstrap import Interval, gap_share
from persona.eval.metrics import METRICS, evaluate
from persona.eval.world.bounds import no_user_answer, no_user_score, oracle_score
from persona.eval.world.traits import TagContent
from persona.eval.world.words import FAMILIES
from persona.eval.world.world import WORLD_TASKS, World, WorldQuestion
from persona.lamp.labels import MOVIE_TAGS
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import lamp_task
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.protocols import Retriever
from persona.records import Profile, Record
from persona.retrievers.bm25 import BM25Retriever, LampBM25Retriever
from persona.retrievers.recency import RecencyRetriever

PAD, BOS, EOS, ANSWER = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<answer>")
CONTEXT = 512
CAPITAL = "⇧"
PRETOKENS = r""" ?"(?: (?= ))?| ?\.\.\.| ?\p{L}+(?:[-']\p{L}+)*| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"""
N_MERGES = 300
HISTORY = 20
UNCUT = 1_000_000
MICRO_TOKENS = 1_536
EMBEDDING_STD = 0.1
COPYING = 0.5


# --------------------------------------------------------------------------------------------------------- tokenizer


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of `texts` is one token, however it is written.

    To copy a word from a lower-case article into a headline in title case, a small model must see one token in both.
    So the normaliser writes a capital as a mark and the small letter (``" Mayor"`` is ``⇧`` and ``" mayor"``), and
    puts a blank after each quotation mark and before the text, so that a word has its blank wherever it stands. The
    decoder takes all of it back: any text comes back as it was, words never seen as merged bytes.
    """
    tokenizer = _bare_tokenizer(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + len(alphabet) + N_MERGES,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    words = {
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    }
    for word in sorted(words):
        vocabulary.setdefault(word, len(vocabulary))
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = _bare_tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {ANSWER}",
        pair=f"{BOS} $A $B {ANSWER}",
        special_tokens=[(token, vocabulary[token]) for token in (BOS, ANSWER)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[ANSWER],
        padding_side="left",
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _bare_tokenizer(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    letters = string.ascii_uppercase
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Prepend(" "),
            normalizers.Replace(CAPITAL, f"{CAPITAL}."),
            normalizers.Replace('"', '" '),
            *[normalizers.Replace(f" {letter}", f"{CAPITAL} {letter.lower()}") for letter in letters],
            *[normalizers.Replace(letter, f"{CAPITAL}{letter.lower()}") for letter in letters],
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *[decoders.Replace(f"{CAPITAL} {letter.lower()}", f" {letter}") for letter in letters],
            *[decoders.Replace(f"{CAPITAL}{letter.lower()}", letter) for letter in letters],
            decoders.Replace('" ', '"'),
            decoders.Replace(f"{CAPITAL}.", CAPITAL),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def world_texts(world: World, users: int = 1_000) -> list[str]:
    """Enough text of pretrain users to hold every word of the world and of the official prompts."""
    texts = []
    for task in WORLD_TASKS:
        for asked in world.questions(task, "pretrain", users, records_per_user=8):
            prompt = lamp_prompt(
                lamp_task(task),
                asked.question.input,
                asked.question.profile.records,
                WhitespaceTokenizer(),
                max_length=UNCUT,
            )
            texts.append(f"{prompt.text} {asked.gold}")
    return texts


# -------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One training sequence: token ids, and for each the weight of predicting it."""

    ids: list[int]
    weights: list[float]


ANSWER_WEIGHT = {"LaMP_2": 2.0, "LaMP_3": 4.0, "LaMP_4": 1.0}
"""A score is one token and a headline a dozen; the weights let each task be heard."""
TARGET_WEIGHT = {"LaMP_2": 2.0, "LaMP_3": 0.5, "LaMP_4": 0.5}
OTHER_SHARE = {"LaMP_2": 0.2, "LaMP_3": 0.5, "LaMP_4": 0.6}
OTHER_WEIGHT = 0.4
"""An article repeats the words of the headline before it, and so trains copying; a review's words tell its score."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the sequences of one task look like in one part of the training.

    Attributes:
        k_odds: number of records -> how common it is, as parts of their sum.
        turns: questions in one sequence.
        kin: share of the sequences whose records are of the question's own family of tags.
        default: whether a question without a history has the best answer to nobody in particular as its gold, and
            stands alone. A user's own answer would teach the likeliest style or score, which is not the one with the
            best expected ROUGE or error.
    """

    k_odds: Mapping[int, int]
    turns: int
    kin: float = 0.0
    default: bool = False


SHORT_TASKS = ("LaMP_4", "LaMP_2", "LaMP_4", "LaMP_3")
SHORT_PLANS = {
    "LaMP_2": Plan({2: 1, 3: 1, 4: 1}, turns=1, kin=1.0),
    "LaMP_3": Plan({0: 1, 1: 1}, turns=2),
    "LaMP_4": Plan({0: 1, 1: 1}, turns=2),
}
"""The beginning is short, and shows each habit where little else is in sight: to copy words out of an article, and a
tag from a film of the same family, is learnt there in a tenth of the time."""

WHOLE_TASKS = ("LaMP_2", "LaMP_3", "LaMP_2", "LaMP_4", "LaMP_2", "LaMP_3", "LaMP_2", "LaMP_4")
WHOLE_PLANS = {
    "LaMP_2": Plan({0: 2, 1: 2, 2: 2, 4: 6, 8: 8}, turns=1, kin=0.5),
    "LaMP_3": Plan({0: 2, 1: 3, 2: 3, 3: 2, 4: 10}, turns=4),
    "LaMP_4": Plan({0: 2, 1: 4, 2: 3, 3: 2, 4: 9}, turns=4),
}
"""Official prompts. A film description needs one question only, because its records are questions already."""

LAST_SHARE = 0.4
LAST_PLANS = {
    "LaMP_2": Plan({0: 5, 1: 2, 2: 2, 4: 8, 8: 4}, turns=1, kin=0.3, default=True),
    "LaMP_3": Plan({0: 5, 1: 3, 2: 3, 3: 2, 4: 10}, turns=4, default=True),
    "LaMP_4": Plan({0: 5, 1: 4, 2: 3, 3: 2, 4: 9}, turns=4, default=True),
}
"""The last part of the whole prompts adds default answers."""

_FAMILY = {MOVIE_TAGS[tag]: number for number, tags in enumerate(FAMILIES) for tag in tags}


class Sequences:
    """Endless training sequences of pretrain users, each user met once.

    Args:
        world: whose pretrain users.
        tokenizer: of the model.
        seed: of all choices.
        whole_from: how many sequences are short before whole prompts come.
        last_from: from which number on default answers come.
    """

    def __init__(
        self, world: World, tokenizer: PreTrainedTokenizerFast, seed: int, whole_from: int, last_from: int
    ) -> None:
        self.whole_from, self.last_from = whole_from, last_from
        self.world = world
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.bm25 = LampBM25Retriever()
        self.whitespace = WhitespaceTokenizer()
        self.eos = tokenizer.convert_tokens_to_ids(EOS)

    def __iter__(self) -> Iterator[TrainingSequence]:
        for number in count():
            tasks = SHORT_TASKS if number < self.whole_from else WHOLE_TASKS
            plans = WHOLE_PLANS if number < self.last_from else LAST_PLANS
            if number < self.whole_from:
                plans = SHORT_PLANS
            task = tasks[number % len(tasks)]
            yield self.sequence(task, number, plans[task])

    def sequence(self, task: str, index: int, plan: Plan) -> TrainingSequence:
        """The sequence of pretrain user `index` for `task`."""
        user = self.world.user("pretrain", index)
        k = self.random.choices(list(plan.k_odds), list(plan.k_odds.values()))[0]
        first = self.world.question(task, user, 2 * HISTORY, 0, plan.turns)
        records = self._records(task, first, k, plan.kin)
        alone = plan.default and not records
        prompt = lamp_prompt(lamp_task(task), first.question.input, records, self.whitespace, max_length=UNCUT).text
        ids, weights = self._prompt(task, prompt, records)
        gold = no_user_answer(first.content) if alone else first.gold
        ids, weights = self._answered(task, ids, weights, gold)
        for number in range(1, 1 if alone else plan.turns):
            asked = self.world.question(task, user, 0, number, plan.turns)
            more, their_weights = self._prompt(task, asked.question.input, ())
            more, their_weights = self._answered(task, more, their_weights, asked.gold)
            ids, weights = ids + more, weights + their_weights
        return TrainingSequence(ids[:CONTEXT], weights[:CONTEXT])

    def _records(self, task: str, asked: WorldQuestion, k: int, kin: float) -> tuple[Record, ...]:
        """`k` records: of the same family as the question, or found by BM25, or any."""
        profile = asked.question.profile
        how = self.random.random()
        if k == 0:
            return ()
        if how < kin:
            assert isinstance(asked.content, TagContent)
            family = asked.content.family
            return tuple(record for record in profile if _FAMILY[record.target or ""] == family)[:k]
        if how < kin + (1 - kin) / 2:
            query = lamp_task(task).query(asked.question.input)
            return tuple(found.record for found in self.bm25.retrieve(profile, query, k))
        return profile.records[:k]

    def _prompt(self, task: str, prompt: str, records: Sequence[Record]) -> tuple[list[int], list[float]]:
        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        weights = [OTHER_WEIGHT if self.random.random() < OTHER_SHARE[task] else 0.0 for _ in encoded["input_ids"]]
        weights[0] = weights[-1] = 0.0  # <bos> and <answer> are given, never predicted
        place = 0
        spans = []
        for record in records:
            assert record.target is not None
            if task == "LaMP_2":
                place = prompt.index(record.text, place) + len(record.text)
            start = prompt.index(record.target, place)
            spans.append((start, start + len(record.target)))
            place = max(start + len(record.target), place)
            if task != "LaMP_2":
                place = prompt.index(record.text, place) + len(record.text)
        for position, (start, end) in enumerate(encoded["offset_mapping"]):
            if end > start and any(start < last and end > first for first, last in spans):
                weights[position] = TARGET_WEIGHT[task]
        return list(encoded["input_ids"]), weights

    def _answered(self, task: str, ids: list[int], weights: list[float], answer: str) -> tuple[list[int], list[float]]:
        answer_ids = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.eos]
        return ids + answer_ids, weights + [ANSWER_WEIGHT[task]] * len(answer_ids)


def micro_batches(
    sequences: Iterable[TrainingSequence], batch: int, max_tokens: int, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`batch` sequences, sorted by length and padded in groups of at most `max_tokens` tokens: ids and weights."""
    ordered = sorted((next(iter(sequences)) for _ in range(batch)), key=lambda sequence: len(sequence.ids))
    groups: list[list[TrainingSequence]] = [[]]
    for sequence in ordered:
        if groups[-1] and (len(groups[-1]) + 1) * len(sequence.ids) > max_tokens:
            groups.append([])
        groups[-1].append(sequence)
    packed = []
    for group in groups:
        ids = np.zeros((len(group), len(group[-1].ids)), dtype=np.int64)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for row, sequence in enumerate(group):
            ids[row, : len(sequence.ids)] = sequence.ids
            weights[row, : len(sequence.ids)] = sequence.weights
        packed.append((torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)))
    return packed


# ---------------------------------------------------------------------------------------------------------- training


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
    """The nearest semi-orthogonal matrix, roughly: all singular values become about 1."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    found: torch.Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return found


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings and heads of 32.

    Embeddings start large, and the values of every attention layer start as the identity, so that attention copies
    what it looks at from the first step on and only has to learn where to look: with the usual noise of 0.02 that
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


def learning_rate(step: int, short_steps: int, steps: int) -> float:
    """Share of the full rate: 50 steps of warm-up, full while sequences are short, then half a cosine down to 2 %."""
    progress = max(0.0, (step - short_steps) / steps)
    return min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * progress))


def train(
    model: LlamaForCausalLM,
    sequences: Sequences,
    *,
    short_steps: int,
    steps: int,
    batch: int,
    muon_rate: float,
    adam_rate: float,
    log: Path | None = None,
) -> tuple[float, int]:
    """Train in place, with a progress bar; seconds and tokens it took.

    Raises:
        FloatingPointError: if the loss is no number.
    """
    model.train()
    device = model.device
    embeddings = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings]
    others = [p for p in model.parameters() if p.ndim != 2 or p is embeddings]
    optimizers = (
        (Muon(matrices, muon_rate), muon_rate),
        (torch.optim.AdamW(others, adam_rate, betas=(0.9, 0.98), weight_decay=0.0), adam_rate),
    )
    stream = iter(sequences)
    recent = torch.zeros(len(WORLD_TASKS), 2)
    began, tokens = time.perf_counter(), 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        shown = bar.add_task("", total=short_steps + steps)
        for step in range(short_steps + steps):
            groups = micro_batches(stream, batch, MICRO_TOKENS, device)
            total_weight = sum(weights.sum() for _, weights in groups)
            loss = 0.0
            answers = torch.zeros(len(WORLD_TASKS), 2)
            for ids, weights in groups:
                hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
                chosen = weights[:, 1:] > 0
                share = weights[:, 1:][chosen]
                each = F.cross_entropy(F.linear(hidden[chosen], embeddings), ids[:, 1:][chosen], reduction="none")
                part = (each * share).sum() / total_weight
                part.backward()  # type: ignore[no-untyped-call]
                loss += part.item()
                for row, task in enumerate(WORLD_TASKS):
                    asked = share == ANSWER_WEIGHT[task]
                    answers[row] += torch.stack((each.detach()[asked].sum(), asked.sum())).cpu()
                tokens += ids.numel()
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss must be a number, was: {loss} in step {step}")
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * learning_rate(step, short_steps, steps)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            recent = recent * 0.95 + answers * 0.05
            seconds = time.perf_counter() - began
            by_task = " ".join(f"{nats:.3f}" for nats in (recent[:, 0] / recent[:, 1]).tolist())
            line = f"answers {by_task}, loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s"
            bar.update(shown, advance=1, description=line)
            if log is not None and step % 25 == 0:
                with log.open("a") as lines:
                    lines.write(f"{step} {seconds:.0f}s {line}\n")
    return time.perf_counter() - began, tokens


# -------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one task: its score, and the share of the gap between the bounds that it closes."""

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
    """Ask the frozen model about test users of several worlds, with their own history and with another user's.

    The recipe was chosen on `dev` users, so those would flatter it.
    """
    model.eval()  # type: ignore[no-untyped-call]
    rows = []
    for task in WORLD_TASKS:
        asked = [one for seed in seeds for one in World(seed).questions(task, "test", users, HISTORY)]
        others = [*asked[1:], asked[0]]
        found: dict[str, list[tuple[Record, ...]]] = {
            "none": [() for _ in asked],
            "bm25-lamp, k=4": [_found(LampBM25Retriever(), task, one, one.question.profile, 4) for one in asked],
            "bm25, k=1": [_found(BM25Retriever(), task, one, one.question.profile, 1) for one in asked],
            "bm25, k=4": [_found(BM25Retriever(), task, one, one.question.profile, 4) for one in asked],
            "recency, k=4": [_found(RecencyRetriever(), task, one, one.question.profile, 4) for one in asked],
            "bm25, k=4, another user's": [
                _found(BM25Retriever(), task, one, other.question.profile, 4)
                for one, other in zip(asked, others, strict=True)
            ],
        }
        ids = [f"{place}" for place in range(len(asked))]
        golds = dict(zip(ids, [one.gold for one in asked], strict=True))
        no_user = fmean(no_user_score(one.content) for one in asked)
        oracle = fmean(oracle_score(one.content, one.user.traits) for one in asked)
        metric = METRICS[lamp_task(task).metrics[0]]
        for method, records in found.items():
            prompts = [
                lamp_prompt(lamp_task(task), one.question.input, theirs, WhitespaceTokenizer(), max_length=UNCUT).text
                for one, theirs in zip(asked, records, strict=True)
            ]
            answers = _generate(model, tokenizer, prompts)
            scores = evaluate(task, golds, dict(zip(ids, answers, strict=True)))
            share = gap_share(metric, scores.samples, ids, floor=no_user, ceiling=oracle)
            rows.append(Row(task, metric.name, no_user, oracle, method, scores.values[metric.name], share))
    return rows


def _found(retriever: Retriever, task: str, one: WorldQuestion, profile: Profile, k: int) -> tuple[Record, ...]:
    found = retriever.retrieve(profile, lamp_task(task).query(one.question.input), k)
    return tuple(scored.record for scored in found)


@torch.no_grad()
def _generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], batch: int = 64
) -> list[str]:
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        encoded = tokenizer([prompts[place] for place in places], return_tensors="pt", padding=True).to(model.device)
        generated = model.generate(  # type: ignore[misc]
            **encoded, max_new_tokens=40, do_sample=False
        )
        texts = tokenizer.batch_decode(generated[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
    return answers


# -------------------------------------------------------------------------------------------------------- model card


def card(model: LlamaForCausalLM, measured: Sequence[Row], *, run: dict[str, object], users: str) -> str:
    """The model card in Markdown: what the model is, how it was made, and what it scores."""
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
        "English of `persona.eval.world.world`, and it can use the records of a user's history that stand in front of a question.",
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
        "user, oracle the best with all their traits known, both computed exactly (`persona.eval.world.bounds`).",
        "",
        "| task | metric | no user | oracle | method | score | share of the gap (95 % interval over users) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        share = f"{row.share.value:.1%} ({row.share.low:.1%} to {row.share.high:.1%})"
        bounds = f"{row.no_user:.3f} | {row.oracle:.3f}"
        lines.append(f"| {row.task} | {row.metric} | {bounds} | {row.method} | {row.score:.3f} | {share} |")
    return "\n".join([*lines, ""])


def hardware(device: torch.device) -> str:
    """The machine in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU thread(s), {platform.processor() or platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, made if it is not there")
    parser.add_argument("--steps", type=int, default=2_600)
    parser.add_argument("--short-steps", type=int, default=1_200, help="steps on short sequences, before the others")
    parser.add_argument("--batch", type=int, default=16, help="sequences per step")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon", type=float, default=0.01, help="learning rate of matrices")
    parser.add_argument("--adam", type=float, default=2e-3, help="learning rate of embeddings and norms")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all cores")
    parser.add_argument("--users", type=int, default=100, help="test users per world and task to score")
    parser.add_argument("--log", type=Path, help="file for a line on every 25th step")
    parser.add_argument("--card-only", action="store_true", help="score the model in --out and write its card anew")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    device = torch.device(chosen)
    options.out.mkdir(parents=True, exist_ok=True)
    notes = options.out / "training.json"
    if not options.card_only:
        torch.manual_seed(options.seed)
        world = World(options.seed)
        tokenizer = make_tokenizer(world_texts(world))
        model = make_model(tokenizer, options.hidden, options.layers)
        model.to(device)  # type: ignore[arg-type]
        whole_from = options.short_steps * options.batch
        last_from = whole_from + round((1 - LAST_SHARE) * options.steps) * options.batch
        sequences = Sequences(world, tokenizer, options.seed, whole_from, last_from)
        seconds, tokens = train(
            model,
            sequences,
            short_steps=options.short_steps,
            steps=options.steps,
            batch=options.batch,
            muon_rate=options.muon,
            adam_rate=options.adam,
            log=options.log,
        )
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
        n_sequences = (options.short_steps + options.steps) * options.batch
        run = {
            "data": f"`persona.eval.world.world`, seed {options.seed}, split `pretrain`, made on the fly: "
            f"{n_sequences:,} sequences, each of another user",
            "tokens": f"{tokens:,} with padding",
            "steps": f"{options.short_steps:,} short and {options.steps:,} whole, {options.batch} sequences each",
            "optimizers": f"Muon {options.muon}, AdamW {options.adam}, cosine",
            "seed": options.seed,
            "hardware": hardware(device),
            "time": f"{seconds / 60:.0f} minutes",
            "software": f"torch {torch.__version__}, transformers {transformers_version}",
        }
        notes.write_text(json.dumps(run, indent=1) + "\n")
    run = json.loads(notes.read_text())
    stored = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32)
    stored_tokenizer = PreTrainedTokenizerFast.from_pretrained(options.out)
    seeds = (0, 1, 2)
    measured = measure(stored, stored_tokenizer, users=options.users, seeds=seeds)
    held_out = f"{options.users} `test` users and {HISTORY} records each in each of the worlds {seeds}"
    text = card(stored, measured, run=run, users=held_out)
    (options.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

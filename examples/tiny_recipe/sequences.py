"""The training sequences of `tiny`: official LaMP prompts of the generated world, with their answers.

A sequence holds 0 to 8 records, a question, the answer, and further questions of the same user, so that one history
teaches several answers::

    <bos> 4 is the score for "..." , and 5 is ... . What is the score ... review: ... <answer> 4 <eos>
    <bos> What is the score ... review: ... <answer> 5 <eos> ...
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from examples.tiny_recipe.tokenizer import CONTEXT, EOS, NO_LIMIT
from examples.world.bounds import no_user_answer
from examples.world.traits import TagContent
from examples.world.words import FAMILIES
from examples.world.world import World, WorldQuestion
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import MOVIE_TAGS, lamp_task
from persona.llm.tokenizers import WhitespaceTokenizer
from persona.records import Record
from persona.retrievers import LampBM25Retriever

HISTORY = 20


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One training sequence: token ids, and for each the weight of predicting it."""

    ids: list[int]
    weights: list[float]


ANSWER_WEIGHT = {"LaMP_2": 2.0, "LaMP_3": 4.0, "LaMP_4": 1.0}
"""A score is one token and a headline a dozen; the weights balance the tasks."""
TARGET_WEIGHT = {"LaMP_2": 2.0, "LaMP_3": 0.5, "LaMP_4": 0.5}
OTHER_SHARE = {"LaMP_2": 0.2, "LaMP_3": 0.5, "LaMP_4": 0.6}
OTHER_WEIGHT = 0.4
"""Share and weight of other tokens: an article repeats the words of the headline before it, which trains copying."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the sequences of one task are made in one part of the training.

    Attributes:
        k_odds: number of records -> its relative frequency.
        turns: questions in one sequence.
        same_family: share of the sequences whose records are of the question's own family of tags.
        default: whether a question without records stands alone and is answered with the best answer without a user. A
            user's own answer would teach the most probable style or score, which is not the one with the best expected
            ROUGE or error.
    """

    k_odds: Mapping[int, int]
    turns: int
    same_family: float = 0.0
    default: bool = False


SHORT_TASKS = ("LaMP_4", "LaMP_2", "LaMP_4", "LaMP_3")
SHORT_PLANS = {
    "LaMP_2": Plan({2: 1, 3: 1, 4: 1}, turns=1, same_family=1.0),
    "LaMP_3": Plan({0: 1, 1: 1}, turns=2),
    "LaMP_4": Plan({0: 1, 1: 1}, turns=2),
}
"""Short sequences come first and show each habit almost alone: copying words out of an article, and a tag from a film
of the same family, is learnt there in a tenth of the time."""

WHOLE_TASKS = ("LaMP_2", "LaMP_3", "LaMP_2", "LaMP_4", "LaMP_2", "LaMP_3", "LaMP_2", "LaMP_4")
WHOLE_PLANS = {
    "LaMP_2": Plan({0: 2, 1: 2, 2: 2, 4: 6, 8: 8}, turns=1, same_family=0.5),
    "LaMP_3": Plan({0: 2, 1: 3, 2: 3, 3: 2, 4: 10}, turns=4),
    "LaMP_4": Plan({0: 2, 1: 4, 2: 3, 3: 2, 4: 9}, turns=4),
}
"""Official prompts. A film description needs one question only, because its records are questions already."""

LAST_SHARE = 0.4
LAST_PLANS = {
    "LaMP_2": Plan({0: 5, 1: 2, 2: 2, 4: 8, 8: 4}, turns=1, same_family=0.3, default=True),
    "LaMP_3": Plan({0: 5, 1: 3, 2: 3, 3: 2, 4: 10}, turns=4, default=True),
    "LaMP_4": Plan({0: 5, 1: 4, 2: 3, 3: 2, 4: 9}, turns=4, default=True),
}
"""The last part of the whole prompts adds default answers."""

_FAMILY = {MOVIE_TAGS[tag]: number for number, tags in enumerate(FAMILIES) for tag in tags}


class Sequences:
    """Endless training sequences of `pretrain` users, a new user in each.

    Args:
        world: whose users.
        tokenizer: of the model.
        seed: of all choices.
        whole_from: number of the first sequence that is a whole prompt; those before are short.
        last_from: number of the first sequence with default answers.
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
        records = self._records(task, first, k, plan.same_family)
        alone = plan.default and not records
        prompt = lamp_prompt(lamp_task(task), first.question.input, records, self.whitespace, max_length=NO_LIMIT).text
        ids, weights = self._prompt(task, prompt, records)
        gold = no_user_answer(first.content) if alone else first.gold
        ids, weights = self._answered(task, ids, weights, gold)
        for number in range(1, 1 if alone else plan.turns):
            asked = self.world.question(task, user, 0, number, plan.turns)
            turn_ids, turn_weights = self._prompt(task, asked.question.input, ())
            turn_ids, turn_weights = self._answered(task, turn_ids, turn_weights, asked.gold)
            ids, weights = ids + turn_ids, weights + turn_weights
        return TrainingSequence(ids[:CONTEXT], weights[:CONTEXT])

    def _records(self, task: str, asked: WorldQuestion, k: int, same_family: float) -> tuple[Record, ...]:
        """`k` records: of the same family as the question, or retrieved by BM25, or any."""
        profile = asked.question.profile
        draw = self.random.random()
        if k == 0:
            return ()
        if draw < same_family:
            assert isinstance(asked.content, TagContent)
            family = asked.content.family
            return tuple(record for record in profile if _FAMILY[record.target or ""] == family)[:k]
        if draw < same_family + (1 - same_family) / 2:
            query = lamp_task(task).query(asked.question.input)
            return tuple(scored.record for scored in self.bm25.retrieve(profile, query, k))
        return profile.records[:k]

    def _prompt(self, task: str, prompt: str, records: Sequence[Record]) -> tuple[list[int], list[float]]:
        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        weights = [OTHER_WEIGHT if self.random.random() < OTHER_SHARE[task] else 0.0 for _ in encoded["input_ids"]]
        weights[0] = weights[-1] = 0.0  # <bos> and <answer> are given, never predicted
        offset = 0
        spans = []
        for record in records:
            assert record.target is not None
            if task == "LaMP_2":
                offset = prompt.index(record.text, offset) + len(record.text)
            start = prompt.index(record.target, offset)
            spans.append((start, start + len(record.target)))
            offset = max(start + len(record.target), offset)
            if task != "LaMP_2":
                offset = prompt.index(record.text, offset) + len(record.text)
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

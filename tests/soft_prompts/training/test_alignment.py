"""The objective `alignment`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.objectives.alignment import aligned, sentences
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.summaries.statistics import profile_stats
from tests.soft_prompts.splits import fresh, world_split


class Sum(nn.Module):
    """A match network that adds up."""

    def forward(self, products: torch.Tensor) -> torch.Tensor:
        return products.sum(1, keepdim=True)


def test_contrast_and_match_by_hand() -> None:
    """Row 21: two users at right angles; the third says what the first does, and is not set against it."""
    said = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    # Contrast: the right score is 1, the only other one 0; for the second user there are two others.
    contrast = (2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3
    match = math.log(1 + math.exp(-2)) + math.log(2)  # products times the dimension, 2: of the right one 2, else 0
    torch.testing.assert_close(aligned(said, said, Sum(), 1.0), torch.tensor(contrast + match))
    torch.testing.assert_close(aligned(said[:1], said[:1], Sum(), 1.0), torch.tensor(math.log(1 + math.exp(-2))))


def test_what_is_said_of_a_user_are_the_statistics_of_the_whole_history(tiny: Any, encoder: Any) -> None:
    """Row 21: of each training user, of one length, around their mean; two users who differ are told apart."""
    split = world_split("LaMP_3", 6)
    options = replace(UserEmbedderTraining(), leave_one_out=2)
    examples = Examples(split, HistoryReader(fresh(tiny, encoder).config, encoder), options)
    said = sentences(examples)
    assert set(said) == {example.user_id for example in examples.train}
    own = {q.user_id: profile_stats(q.profile, "LaMP_3").text for q in split.questions if q.user_id in said}
    vectors = torch.from_numpy(encoder.encode([own[user] for user in said]))
    expected = nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    torch.testing.assert_close(torch.stack(list(said.values())), expected)

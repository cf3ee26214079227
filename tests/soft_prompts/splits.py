"""Small splits of the generated world, and user embedders that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.world.world import World
from persona.lamp.tasks import LampSplit, lamp_task
from persona.retrievers import LampBM25Retriever
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import UserEmbedderReport, train_user_embedder


def world_split(task: str, users: int, split: str = "train", world: int = 0) -> LampSplit:
    """Questions of some users with six records each."""
    asked = list(World(world).questions(task, split, users, 6))
    golds = {each.question.id: each.gold for each in asked}
    return LampSplit(lamp_task(task), tuple(each.question for each in asked), golds, None)


def fresh(llm: Any, encoder: Any, **options: Any) -> UserEmbedder:
    """A small untrained user embedder."""
    return UserEmbedder.for_llm(llm, encoder, **{"n_tokens": 2, "heads": 2, "width": 16, **options})


def train(
    embedder: UserEmbedder,
    split: LampSplit,
    llm: Any,
    encoder: Any,
    options: UserEmbedderTraining,
    out: Path,
    **others: Any,
) -> UserEmbedderReport:
    """Train it, with records of LaMP's BM25 in the prompts."""
    reader = HistoryReader(embedder.config, encoder)
    others.setdefault("retriever", LampBM25Retriever())
    return train_user_embedder(embedder, split, llm, reader, options, out=out, **others)

"""`persona eval bench`: ideas from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples.world.world import World
from persona.cli.config import configured
from persona.encoders.load import load_encoder
from persona.eval.bench.ideas import IdeaOptions
from persona.lamp.tasks import LampSplit
from persona.llm.load import load_llm
from persona.soft_prompts.parts.registry import made
from persona.soft_prompts.training.options import UserEmbedderShape, UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import new_user_embedder
from tests.cli.conftest import Run
from tests.soft_prompts.splits import world_split

IDEAS = Path(__file__).resolve().parents[2] / "examples" / "bench"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("hashing")


@pytest.fixture(scope="module")
def tags() -> LampSplit:
    return world_split("LaMP_2", 4)


def test_the_command_reads_ideas_from_files(run: Run, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path / "tags", "LaMP_2", {"train": 4, "dev": 4}, 3)
    (tmp_path / "bm25.toml").write_text('[idea]\nmethod = "bm25"\nk = 1\n')
    given = ("--llm", "tiny", "--encoder", "hashing", "--out", "o")
    assert [each["name"] for each in run("eval", "bench", "tags", "bm25.toml", *given, "--json").json["ideas"]] == [
        "bm25"
    ]
    assert "there is none at no.toml" in run("eval", "bench", "tags", "no.toml").error
    (tmp_path / "odd.toml").write_text("[idea]\nmethods = 'bm25'\n")
    assert "did you mean" in run("eval", "bench", "tags", "odd.toml").error


@pytest.mark.parametrize("file", sorted(IDEAS.rglob("*.toml")), ids=lambda file: file.stem)
def test_the_ideas_of_the_examples_can_be_made(file: Path, tiny: Any, encoder: Any, tags: LampSplit) -> None:
    defaults = {"idea": IdeaOptions(), "embedder": UserEmbedderShape(), "training": UserEmbedderTraining()}
    given = configured(defaults, file=file)
    assert given["idea"].source
    embedder = new_user_embedder(tiny, tags, encoder, given["embedder"])
    made("objective", given["training"].objectives, embedder.config, sum(embedder.pooling.sizes))

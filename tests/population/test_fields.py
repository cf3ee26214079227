"""Fields in one shared table (row 26)."""

from __future__ import annotations

from pathlib import Path

import torch

from persona.encoders.user_vectors import UserVectorFile
from persona.population.fields import multiplexed, row_of
from persona.records import Profile
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.histories import HistoryBatch, UserVectorReader
from persona.soft_prompts.network import VectorMap


def test_a_soft_prompt_is_the_sum_of_the_fields_rows(tmp_path: Path) -> None:
    features = {"nina": {"country:CH": 1, "age:30": 2}, "omar": {"country:EG": 1}, "nobody": {}}
    assert multiplexed(features, 32).write(tmp_path / "users.parquet") == 2
    config = UserEmbedderConfig(32, 8, mode="vectors", n_tokens=2)
    table = torch.nn.init.normal_((network := VectorMap(config)).map.weight).T  # (rows, n_tokens * llm_hidden)
    histories = UserVectorReader(config, UserVectorFile(tmp_path / "users.parquet")).read([Profile("nina")])
    found = HistoryBatch.of(histories, config).soft_prompts(network)
    expected = (table[row_of("country:CH", 32)] + 2 * table[row_of("age:30", 32)]) / 5**0.5
    torch.testing.assert_close(found.flatten(), expected, atol=3e-3, rtol=0)  # vectors are float16


def test_kinds_hash_apart_and_the_table_stays_as_it_is() -> None:
    rows = [row_of(f"{kind}:{n}", 512) for kind in ("country", "label") for n in range(200)]
    assert sum(a == b for a, b in zip(rows[:200], rows[200:], strict=True)) < 5
    assert 180 < len(set(rows)) < 400
    assert {multiplexed({"u": {f"word:{n}": 1 for n in range(many)}}, 64).matrix.shape for many in (1, 999)} == {
        (1, 64)
    }

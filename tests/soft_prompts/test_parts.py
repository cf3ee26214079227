"""The contract of the parts of a user embedder, and their formulas by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from persona.errors import InvalidOptionError
from persona.records import Profile, Record
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import HistoryBatch, HistoryReader
from persona.soft_prompts.parts.registry import HEADS, PARTS, made, parsed
from persona.soft_prompts.parts.views.time import TimeView

DIM, HIDDEN, WIDTH = 12, 8, 16
CONFIG = UserEmbedderConfig(DIM, HIDDEN, n_tokens=5, width=WIDTH, answer_start=2, answer_end=4, llm_blocks=3)
OPTIONS: dict[str, str] = {
    "pruned": "pruned(keep=5)",
    "pieces": "pieces(levels=2, codes=8, dim=6, rows=64)",
    "residual_codes": "residual_codes(dim=6)",
    "scalar_codes": "scalar_codes(levels=(64, 63), groups=4)",
}
"""Parts whose defaults are too large for these tests."""
BESIDE: dict[str, dict[str, str]] = {"concepts": {"views": "concepts(names=['jazz', 'opera', 'noir', 'war'])"}}
"""Parts that do not stand alone."""
ROOT = Path(__file__).resolve().parents[2]


def shapes() -> list[Any]:
    """A config with each part alone, and two with several."""
    fields = {"view": "views", "pooling": "pooling", "state": "state", "tokens": "tokens"}
    single = [
        pytest.param({field: OPTIONS.get(name, name)} | BESIDE.get(name, {}), id=f"{kind}-{name}")
        for kind, field in fields.items()
        for name in PARTS[kind]
    ]
    several = {"views": "time", "pooling": "heads + difference", "state": "pruned(keep=5)"}
    return [*single, pytest.param(several, id="several")]


def make(**parts: Any) -> UserEmbedder:
    torch.manual_seed(0)
    embedder = UserEmbedder(replace(CONFIG, **parts))
    for parameter in embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return embedder.eval()


def batch_of(embedder: UserEmbedder, users: int = 3, longest: int = 6, seed: int = 1) -> dict[str, Tensor]:
    """Users with `longest` records and fewer."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(users, longest, embedder.config.value_dim, generator=draw)
    mask = torch.arange(longest)[None] < torch.tensor([[longest - user] for user in range(users)])
    days = 30.0 * torch.arange(longest).flip(0).expand(users, -1) * mask
    query = torch.randn(users, DIM, generator=draw)
    return {"keys": values[..., :DIM], "values": values, "mask": mask, "query": query, "days": days}


def test_a_text_names_parts_and_their_options() -> None:
    assert parsed("") == []
    assert parsed("a + b(size=2, name='x') + c") == [("a", {}), ("b", {"size": 2, "name": "x"}), ("c", {})]
    for wrong in ("a +", "a b", "a(2)", "a(size=b)", "a-b", "a(size=__import__('os'))"):
        with pytest.raises(InvalidOptionError, match="parts are given as"):
            parsed(wrong)
    with pytest.raises(InvalidOptionError, match=r"a user embedder's state must be one of .*pruned.*, was: 'prune'"):
        made("state", "prune", CONFIG, 4)
    with pytest.raises(InvalidOptionError, match=r"'pruned' has the options keep, rare, often, was given: 'size'"):
        made("state", "pruned(size=3)", CONFIG, 4)


@pytest.mark.parametrize(
    "wrong", [{"pooling": ""}, {"state": "pruned + pruned"}, {"mode": "persona-plug", "n_tokens": 2, "views": "time"}]
)
def test_shapes_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=r"must be a pooling|made of parts|answer must"):
        replace(CONFIG, **wrong)


def test_the_default_is_one_setting_with_the_weights_that_it_always_had() -> None:
    names = set(UserEmbedder(CONFIG).state_dict())
    assert CONFIG.pooling == HEADS
    assert {name.removeprefix("pooling.").split(".")[0] for name in names} == {
        *("instruction", "value", "key", "query", "any_query", "log_temperature", "decay", "null_score", "null_value"),
        *("log_null_records", "mix", "last", "new_user", "echo", "null_target", "echo_gates"),
    }


@pytest.mark.parametrize("parts", shapes())
def test_padding_and_other_users_change_nothing(parts: dict[str, str]) -> None:
    embedder = make(**parts)
    given = batch_of(embedder)
    together = embedder(**given)
    for user, length in enumerate((6, 5, 4)):
        alone = {name: each[user : user + 1] for name, each in given.items()}
        alone |= {name: alone[name][:, :length] for name in ("keys", "values", "mask", "days")}
        torch.testing.assert_close(embedder(**alone)[0], together[user], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", shapes())
def test_without_dates_the_order_of_records_changes_nothing(parts: dict[str, str]) -> None:
    embedder = make(**parts)
    if any(getattr(part, "ordered", False) for part in embedder.modules()):
        pytest.skip("this part reads the order")
    given: dict[str, Any] = batch_of(embedder, users=1) | {"days": None}
    order = torch.tensor([3, 1, 4, 0, 2, 5])
    shuffled = given | {name: given[name][:, order] for name in ("keys", "values", "mask")}
    torch.testing.assert_close(embedder(**shuffled), embedder(**given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", shapes())
def test_users_differ_and_users_without_records_are_alike(parts: dict[str, str]) -> None:
    embedder = make(**parts)
    given = batch_of(embedder)
    soft_prompts = embedder(**given)
    assert soft_prompts.shape == (3, 5, HIDDEN)
    assert (soft_prompts[0] - soft_prompts[1]).abs().max() > 1e-3
    empty = given | {"mask": torch.zeros_like(given["mask"]), "query": None}
    first, second, _ = embedder(**empty)
    torch.testing.assert_close(first, second)
    assert bool(first.isfinite().all())


@pytest.mark.parametrize("parts", shapes())
def test_gradients_reach_every_weight_of_a_part(parts: dict[str, str]) -> None:
    embedder = make(**parts).train()
    given = batch_of(embedder)
    loss = embedder(**given).square().sum()
    for vectors in embedder.steering(*(given[name] for name in ("keys", "values", "mask", "days"))).values():
        loss = loss + vectors.square().sum()
    if (of_parts := embedder.part_loss()) is not None:
        loss = loss + of_parts
    loss.backward()
    silent = {"pooling.new_user"}
    if HEADS not in embedder.config.pooling:
        silent |= {f"pooling.{name}" for name in ("null_score", "null_value", "value.weight", "value.bias", "gates")}
    for name, parameter in embedder.named_parameters():
        assert name in silent or parameter.grad is not None, name


@pytest.mark.parametrize("parts", shapes())
def test_files(parts: dict[str, str], tmp_path: Path) -> None:
    embedder = make(**parts)
    embedder.save_pretrained(tmp_path)
    loaded = load_user_embedder(tmp_path)
    given = batch_of(embedder)
    assert loaded.config == embedder.config
    assert torch.equal(loaded(**given), embedder(**given))


def test_a_part_is_small() -> None:
    rooms = [*(ROOT / "persona/soft_prompts/parts").rglob("*.py")]
    rooms += [*(ROOT / "persona/soft_prompts/training/objectives").glob("*.py")]
    for path in rooms:
        if path.name in ("base.py", "registry.py"):
            continue
        assert len(path.read_text("utf-8").splitlines()) <= 120, path


def test_views_become_blocks_of_a_value(encoder: Any) -> None:
    config = UserEmbedderConfig(encoder.dim, HIDDEN, width=WIDTH, views="time")
    profile = Profile("ana", (Record("Slow.", target="2", time="2020-01-06"), Record("Fast.", target="4")))
    (history,) = HistoryReader(config, encoder).read([profile])
    assert history.values.shape == (2, config.value_dim)
    np.testing.assert_allclose(history.values[:, -5:], TimeView().read(profile), atol=1e-3)
    batch = HistoryBatch.of([history], config)
    assert batch.soft_prompts(UserEmbedder(config), asked=False).shape == (1, 8, HIDDEN)


def test_the_time_of_a_record_by_hand() -> None:
    """Row 8: dates as fields. 2020-01-06 was a Monday; March is a quarter of the year in."""
    times = ("2020-01-06", "2020-03", "2020", None)
    profile = Profile("ana", tuple(Record(f"Text {n}.", time=time) for n, time in enumerate(times)))
    read = TimeView().read(profile)
    january = 2 * math.pi / 12
    np.testing.assert_allclose(read[0], [math.log1p(5 / 30), math.sin(january), math.cos(january), 0, 1], atol=1e-6)
    np.testing.assert_allclose(read[1], [math.log1p(60 / 30), 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(read[2:], 0)

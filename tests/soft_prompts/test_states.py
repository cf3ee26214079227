"""What is kept of a user: codes and pruned numbers, by hand and by their exact properties."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from persona.channels import Ask
from persona.encoders.embedding import embed_users
from persona.errors import InvalidOptionError
from persona.records import Record
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompt_kind, store_soft_prompts
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.parts.base import State
from persona.soft_prompts.parts.registry import made
from persona.soft_prompts.parts.states.packing import bits_of, packed, unpacked
from persona.soft_prompts.parts.states.projection import SLOW
from persona.soft_prompts.parts.states.pruned import PrunedState
from persona.soft_prompts.parts.states.repair import repaired
from persona.soft_prompts.parts.states.residual import ResidualCodes
from persona.soft_prompts.parts.states.scalar import ScalarCodes
from persona.store.profile_store import ProfileStore
from tests.soft_prompts.splits import fresh

CONFIG = UserEmbedderConfig(4, 8, n_tokens=2, width=6, answer_start=1, answer_end=2)
SIZE = 10
MANY = torch.full((32,), 20)


def states(rows: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.1, SIZE)


def begun(state: Any, given: Tensor, calls: int = 1) -> Any:
    """After some calls in training."""
    state.train()
    for _ in range(calls):
        state(given, torch.full((len(given),), 20))
    return state.eval()


STATES = [
    "pruned(keep=5)",
    "pruned(keep=5, rare=2)",
    "scalar_codes(levels=(8, 8, 8, 6, 5))",
    "scalar_codes(levels=(4, 3), groups=3)",
    "residual_codes(levels=3, codes=16, dim=4)",
    "residual_codes(levels=3, codes=16, dim=4, fuse=4)",
]


@pytest.mark.parametrize("text", STATES)
def test_what_is_written_is_what_forward_gives(text: str) -> None:
    torch.manual_seed(0)
    (state,) = made("state", text, CONFIG, SIZE)
    assert isinstance(state, State)
    given, counts = states(), torch.arange(32)
    begun(state, given, 3)
    written = state.written(given, counts)
    assert max(map(len, written)) == -(-state.bits // 8)
    torch.testing.assert_close(state.read(written), state(given, counts), rtol=0, atol=1e-6)
    assert state.loss is None
    # Gradients pass, to the state and in training to all that the part learns.
    state.train()
    given.requires_grad_()
    out = state(given, counts).sum() + (0 if state.loss is None else state.loss)
    out.backward()
    assert given.grad is not None
    assert all(parameter.grad is not None for parameter in state.parameters())


def test_codes_fill_their_bytes() -> None:
    """Row 11: 15360 codes are 14 bits, and 4 of 256 values 4 bytes."""
    assert bits_of([8, 8, 8, 6, 5]) == 14
    assert bits_of([256] * 4) == 32
    assert packed([1, 2, 3, 4], [256] * 4) == bytes([4, 3, 2, 1])
    for sizes in ([8, 6, 5], [3] * 100):
        codes = [(7 * n) % size for n, size in enumerate(sizes)]
        assert unpacked(packed(codes, sizes), sizes) == codes


def test_scalar_codes_by_hand() -> None:
    """Row 11: of three values -1, 0 and 1, of four -1, -1/3, 1/3 and 1."""
    state = ScalarCodes(CONFIG, SIZE, levels=(3, 4)).eval()
    for layer in (state.projection.down, state.projection.up):
        torch.nn.init.zeros_(layer.weight)
    state.projection.down.weight.data[:, :2] = state.projection.up.weight.data[:2, :] = torch.eye(2) / SLOW
    given = torch.zeros(4, SIZE)
    # tanh of these is 0.4, -0.6, 0.9 and -0.9 in both numbers.
    given[:, :2] = torch.tensor([0.4, -0.6, 0.9, -0.9]).atanh()[:, None]
    assert state.codes(given).tolist() == [[1, 2], [0, 1], [2, 3], [0, 0]]
    expected = torch.tensor([[0.0, 1 / 3], [-1.0, -1 / 3], [1.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(state(given, MANY[:4])[:, :2], expected)


@pytest.mark.parametrize("levels", [(8, 8, 8, 6, 5), (2, 3), (16, 16)])
def test_every_scalar_code_is_there_and_is_read_back(levels: tuple[int, ...]) -> None:
    """Row 11: as many codes as the product of the levels, and each state lies in the middle of its code."""
    state = ScalarCodes(CONFIG, SIZE, levels=levels).eval()
    numbers = torch.arange(math.prod(levels))
    codes = torch.stack(torch.unravel_index(numbers, levels), dim=1)
    bounded = codes - state.reach
    assert torch.equal(state._rounded(bounded * 0.999), bounded)
    written = [packed(row, levels) for row in codes[:: max(1, len(codes) // 500)].tolist()]
    assert [unpacked(each, levels) for each in written] == codes[:: max(1, len(codes) // 500)].tolist()
    assert len({packed(row, levels) for row in codes.tolist()}) == math.prod(levels)


def test_residual_codes_by_hand() -> None:
    """Rows 9, 15, 20: the second level codes what the first leaves."""
    state = ResidualCodes(CONFIG, SIZE, levels=2, codes=2, dim=1, beta=0.25)
    for layer in (state.projection.down, state.projection.up):
        torch.nn.init.zeros_(layer.weight)
    state.projection.down.weight.data[0, 0] = state.projection.up.weight.data[0, 0] = 1 / SLOW
    state.codebooks = torch.tensor([[[0.0], [4.0]], [[-1.0], [1.0]]])
    given = torch.zeros(1, SIZE)
    given[0, 0] = 4.6
    assert state.eval().codes(given).tolist() == [[1, 1]]
    torch.testing.assert_close(state(given, MANY[:1])[0, 0], torch.tensor(5.0))
    torch.testing.assert_close(state.read_codes(torch.tensor([[0, 0]]))[0, 0], torch.tensor(-1.0))
    _, terms = state._coded(torch.tensor([[4.6]]))
    torch.testing.assert_close(terms, torch.tensor(0.25 * (0.6**2 + 0.4**2)))
    torch.testing.assert_close(state.last_distances(given), torch.tensor([[1.6, 0.4]]))
    # Of two rows with the second code, which had two before: N = 0.95 * 2 + 0.05 * 2, E += 0.05 * (9 - 2 * 4) / N.
    state.used[:] = 2.0
    state._learn(torch.tensor([[4.5], [4.5]]), 0)
    torch.testing.assert_close(state.codebooks[0], torch.tensor([[0.0], [4.0 + 0.05 / 2]]))
    torch.testing.assert_close(state.used[0], torch.tensor([1.9, 2.0]))


def test_codebooks_begin_with_the_first_batches_and_dead_codes_come_back() -> None:
    torch.manual_seed(0)
    state = ResidualCodes(CONFIG, SIZE, levels=2, codes=64, dim=4)
    first, second = states(32, 1), states(32, 2)
    before = (state.eval()(first, MANY) - first).square().mean()
    begun(state, first)
    # 32 rows have a code of their own each: nothing is left but what 4 numbers of 10 cannot hold.
    coded = state.projection(first)
    torch.testing.assert_close(state._vectors(state.codes(first)), coded, atol=1e-4, rtol=1e-4)
    assert (state(first, MANY) - first).square().mean() < before
    begun(state, second, 2)
    torch.testing.assert_close(state._vectors(state.codes(second)), state.projection(second), atol=0.2, rtol=0)
    # Of validation users and of others' training nothing comes in.
    state.train()
    kept = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    with torch.no_grad():
        state(states(32, 3), MANY)
    state.requires_grad_(False)(states(32, 3), MANY)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.state_dict().items())


def test_the_projection_begins_with_principal_components() -> None:
    given = states(200) @ torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(5)))[0]
    state = begun(ScalarCodes(replace(CONFIG, width=SIZE), SIZE, levels=(64,) * 6), given)
    projection = state.projection
    left = (projection.back(projection(given)) - given).square().sum()
    values = torch.linalg.svdvals(given - given.mean(0))
    torch.testing.assert_close(left, values[6:].square().sum(), rtol=1e-3, atol=1e-3)


def test_repaired_codes_are_unique_and_others_stay() -> None:
    """Row 20: only users who collide get another last code."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (60, 3), generator=draw)
    codes[:, -1] = torch.randint(0, 16, (60,), generator=draw)
    distances = torch.rand(60, 16, generator=draw)
    codes[:5] = torch.tensor([2, 2, 7])
    fixed = repaired(codes, distances)
    assert len(torch.unique(fixed, dim=0)) == 60
    assert torch.equal(fixed[:, :-1], codes[:, :-1])
    _, which, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    alone = counts[which] == 1
    assert 0 < int(alone.sum()) < 60
    assert torch.equal(fixed[alone], codes[alone])
    with pytest.raises(InvalidOptionError, match="17 users share all codes but the last, of which 16 are left"):
        repaired(torch.zeros(17, 2, dtype=torch.long), torch.rand(17, 16))


def test_repair_takes_the_nearest_code_that_is_left() -> None:
    codes = torch.tensor([[0, 0], [0, 0], [0, 1]])
    distances = torch.tensor([[0.0, 9.0, 1.0, 2.0], [0.0, 9.0, 5.0, 6.0], [9.0, 0.0, 9.0, 9.0]])
    assert repaired(codes, distances).tolist() == [[0, 2], [0, 0], [0, 1]]


def test_a_pruned_state_keeps_the_widest_gates() -> None:
    """Row 32: a user with many records keeps two numbers of three, one with few one, and all get a gradient."""
    state = PrunedState(CONFIG, 3, keep=2, rare=1, often=5)
    state.gates.data = torch.tensor([0.0, math.log(3), -1.0])
    given = torch.tensor([[2.0, 4.0, 8.0]] * 2, requires_grad=True)
    kept = state(given, torch.tensor([5, 4]))
    torch.testing.assert_close(kept, torch.tensor([[1.0, 3.0, 0.0], [0.0, 3.0, 0.0]]))
    assert state.bits == 32
    assert list(map(len, state.written(given, torch.tensor([5, 4])))) == [4, 2]
    kept.sum().backward()
    assert given.grad is not None
    assert bool((given.grad > 0).all())
    with pytest.raises(InvalidOptionError, match="`keep` must be from 1 to 3 and `rare` no more, were: 4 and 4"):
        PrunedState(CONFIG, 3, keep=4)


def test_two_sources_are_fused_step_by_step() -> None:
    """Row 31: at first the heads are coded alone, and the answer never outweighs them."""
    torch.manual_seed(0)
    state = ResidualCodes(CONFIG, SIZE, levels=2, codes=8, dim=4, fuse=4)
    given = states()
    other = torch.cat((given[:, :6], 100 * states(32, 7)[:, 6:]), dim=1)
    projection = state.projection
    projection.begun.fill_(True)
    apart = [(projection(given) - projection(other)).norm() for _ in range(4)]
    first = SLOW * projection.down(torch.cat((given[:, :6], torch.zeros(32, 4)), dim=1) * projection.scale)
    assert apart[0] < apart[1] < apart[3]
    assert bool(((projection(other) - first).norm(dim=1) <= first.norm(dim=1) + 1e-5).all())


@pytest.mark.parametrize("state", ["pruned(keep=12)", "residual_codes(levels=4, codes=16, dim=8)"])
def test_a_store_keeps_the_state_and_gives_the_same_prompt(tiny: Any, encoder: Any, tmp_path: Path, state: str) -> None:
    """Rows 9, 15: bytes of codes instead of soft prompts."""
    embedder = fresh(tiny, encoder, state=state)
    for parameter in embedder.pooling.last.parameters():
        torch.nn.init.normal_(parameter)
    embedder.eval()
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert((user, Record(f"{user} saw film {n}.", target=str(n))) for user in ("ana", "bo") for n in range(3))
        embed_users(store, encoder)
        assert store_soft_prompts(store, embedder, encoder) == 2
        stored = store.index("ana", soft_prompt_kind(embedder))
        assert stored is not None
        assert len(stored.data) == -(-embedder.pooling.state.bits // 8)
        asks = [Ask(store.profile(user), "Film?", "Film?") for user in ("ana", "bo")]
        told = SoftPromptChannel(embedder, tiny, encoder, store, query_free=True).contribute(asks)
        made = SoftPromptChannel(embedder, tiny, encoder, query_free=True).contribute(asks)
    for one, other in zip(told, made, strict=True):
        assert one.soft_prompt is not None
        assert other.soft_prompt is not None
        np.testing.assert_allclose(one.soft_prompt, other.soft_prompt, atol=1e-5)


def test_a_user_embedder_gives_its_states_dense_or_kept(encoder: Any, tiny: Any) -> None:
    embedder = fresh(tiny, encoder, state="scalar_codes").eval()
    values = torch.randn(1, 3, embedder.config.value_dim)
    given: dict[str, Any] = {
        "keys": values[..., : encoder.dim],
        "values": values,
        "mask": torch.ones(1, 3, dtype=torch.bool),
    }
    dense, kept = embedder.state(**given, dense=True), embedder.state(**given)
    torch.testing.assert_close(embedder.pooling.state(dense, torch.tensor([3])), kept)

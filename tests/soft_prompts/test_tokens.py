"""Kinds of soft tokens: their order, bands of blocks, records and pieces of codes, by their exact properties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from persona.channels import Ask
from persona.errors import InvalidOptionError
from persona.llm.inputs import TokenSet
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.protocols import Choices, GenerationOptions, Request
from persona.records import Profile, Record
from persona.soft_prompts.channel import SoftPromptChannel, store_soft_prompts
from persona.soft_prompts.config import UserEmbedderConfig
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.parts.base import Records
from persona.soft_prompts.parts.tokens.bands import CONTENT, STYLE, BandTokens
from persona.soft_prompts.parts.tokens.interests import InterestTokens
from persona.soft_prompts.parts.tokens.nested import NestedTokens
from persona.soft_prompts.parts.tokens.pieces import HashedTable, PieceTokens
from persona.soft_prompts.parts.tokens.records import RecordTokens
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.store.profile_store import ProfileStore
from tests.soft_prompts.splits import fresh, train, world_split
from tests.soft_prompts.test_parts import CONFIG, batch_of, make

ANA = Profile("ana", tuple(Record(f"Film {n}!", target="Superb.") for n in range(3)))


def records_of(hidden: Tensor, mask: Tensor, weights: Tensor) -> Records:
    nothing = torch.zeros(len(hidden), hidden.shape[1], 1)
    null = torch.zeros(hidden.shape[2])
    return Records(hidden, nothing, nothing, mask, None, None, weights, null, torch.tensor(1.0))


@pytest.mark.parametrize("tokens", ["nested", "", "pieces(levels=2, codes=8, dim=6, rows=64)"])
def test_a_cut_embedder_gives_the_first_tokens(tokens: str, tmp_path: Path) -> None:
    """Row 14: fewer tokens, the very same ones."""
    embedder = make(tokens=tokens)
    given = batch_of(embedder)
    whole, cut = embedder(**given), embedder.cut(3)
    assert torch.equal(cut(**given), whole[:, :3])
    assert cut.fingerprint != embedder.fingerprint
    cut.save_pretrained(tmp_path)
    assert torch.equal(load_user_embedder(tmp_path)(**given), whole[:, :3])
    with pytest.raises(InvalidOptionError, match="5 soft tokens are cut to 1 to so many, was: 6"):
        embedder.cut(6)


def test_nested_tokens_show_the_first_ones_half_of_the_time() -> None:
    """Row 14: k equally often each."""
    tokens = NestedTokens(CONFIG, rate=0.5)
    shown = [tokens.shown(np.random.default_rng(n)) for n in range(2000)]
    few = [k for k in shown if k is not None]
    assert abs(len(few) - 1000) < 100
    assert set(np.bincount(few, minlength=6)[1:] // 60) <= {2, 3, 4}


def test_bands_reach_their_own_blocks_alone() -> None:
    """Row 47: content in low and middle blocks, style in high ones; one is edited, the other stays to the bit."""
    embedder = make(tokens="bands")
    given = batch_of(embedder)
    part: BandTokens = embedder.pooling.tokens
    records = embedder.pooling.records(**given)
    attributes = part.attributes(embedder.pooling.state_of(records)[:, :16], records)
    before = part.vectors(attributes)
    assert sorted(before) == [0, 1, 2]
    after = part.vectors(attributes | {STYLE: attributes[STYLE] + 1})
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert not torch.isclose(after[2], before[2]).any()
    after = part.vectors(attributes | {CONTENT: attributes[CONTENT] + 1})
    assert torch.equal(after[2], before[2])
    assert not torch.isclose(after[0], before[0]).any()
    with pytest.raises(InvalidOptionError, match="of 1, the share"):
        BandTokens(replace(CONFIG, llm_blocks=1))


def test_bands_reach_the_llm_in_training_and_in_requests(tiny: Any, encoder: Any) -> None:
    """Row 47: the loss has gradients to each band, and a request carries the vectors."""
    embedder = fresh(tiny, encoder, tokens="bands")
    torch.nn.init.normal_(embedder.pooling.tokens.write[STYLE].weight)
    embedder.eval()
    channel = SoftPromptChannel(embedder, tiny, encoder)
    (contribution,) = channel.contribute([Ask(ANA, "Film?", "Film?")])
    assert contribution.steering is not None
    assert len(contribution.steering) == embedder.config.llm_blocks == len(tiny.frozen.blocks)
    prompts, targets = tiny.prompt_ids(["Film?"]), tiny.target_ids(["4"])
    assert contribution.soft_prompt is not None
    soft = contribution.soft_prompt[None]
    vectors = {block: vector[None].requires_grad_() for block, vector in contribution.steering.items()}
    loss = TargetLoss(tiny)
    steered = loss(prompts, targets, soft, vectors)
    assert not torch.equal(steered, loss(prompts, targets, soft))
    steered.sum().backward()  # type: ignore[no-untyped-call]
    assert all(vector.grad is not None and bool(vector.grad.any()) for vector in vectors.values())


def test_tokens_of_records_by_hand() -> None:
    """Rows 33, 39: what scores highest is the first token; one that is none is nowhere."""
    part = RecordTokens(UserEmbedderConfig(12, 2, n_tokens=3, width=2), k=2, dim=2, weight=1.0)
    for layer in (part.encode, part.ask, part.token):
        layer.weight.data = torch.eye(2)
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [9.0, 0.0]]])
    mask = torch.tensor([[True, True, True, False]])
    weights = torch.tensor([[[0.5, 0.0, 0.25, 0.0]]])
    records, mixed = records_of(hidden, mask, weights), torch.tensor([[2**0.5, 0.0]])
    torch.testing.assert_close(part.scores(mixed, records), torch.tensor([[1.0, 3.0, 2.0, -torch.inf]]))
    three, two = (torch.tensor(number).sigmoid() * number for number in (3.0, 2.0))
    torch.testing.assert_close(part(mixed, records)[0, :, 0], torch.stack((three, two, torch.tensor(0.0))))
    logs = torch.tensor([1.0, 3.0, 2.0, 0.0]).log_softmax(0)
    assert part.loss is not None
    torch.testing.assert_close(part.loss, -(0.5 * logs[0] + 0.25 * logs[2] + 0.25 * logs[3]))
    alone = records_of(hidden[:, :1], mask[:, :1], weights[..., :1])
    assert part(mixed, alone)[0, :, 0].tolist() == [pytest.approx(torch.tensor(1.0).sigmoid().item()), 0, 0]


def test_tokens_of_interests_by_hand() -> None:
    """Rows 45 and 52: two records at one interest, one at another; each has a token, the wider one the first."""
    part = InterestTokens(UserEmbedderConfig(12, 2, n_tokens=3, width=2), interests=2, steps=1).eval()
    part.seeds.data = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    part.token.weight.data = torch.eye(2)
    hidden = torch.tensor([[[0.0, 3.0], [6.0, 0.0], [0.0, 6.0]]])
    records = records_of(hidden, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 1, 3))
    # (3 + 6 + 9) / 3 with 2 / 3 of it, (6 + 9) / 2 with 1 / 2 of it; the third token is that of the state, here 0.
    expected = torch.tensor([[[0.0, 4.0], [3.75, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(part(torch.zeros(1, 2), records), expected, atol=1e-2, rtol=0)
    nobody = records_of(0 * hidden, torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 1, 3))
    assert not part(torch.zeros(1, 2), nobody).any()
    torch.manual_seed(0)
    left = [int(part.train()(torch.zeros(1, 2), records).any(2).sum()) for _ in range(64)]
    assert set(left) == {1, 2}  # union sampling: any subset, and never none
    with pytest.raises(InvalidOptionError, match="there are 3 soft tokens: `interests` must be from 1 to that, was: 4"):
        InterestTokens(UserEmbedderConfig(12, 2, n_tokens=3, width=2), interests=4)


def test_pieces_are_runs_of_codes() -> None:
    """Row 9: users who share codes share rows, and unseen pieces change nothing."""
    part = PieceTokens(replace(CONFIG, width=6), levels=3, codes=8, dim=4, grams=2, rows=512)
    codes = torch.tensor([[1, 2, 3], [1, 2, 5], [4, 2, 3]])
    pieces = torch.stack(list(part.pieces(codes)), dim=1)  # three codes, then (1, 2) and (2, 3)
    assert (pieces[0] == pieces[1]).tolist() == [True, True, False, True, False]
    assert (pieces[0] == pieces[2]).tolist() == [False, True, True, False, True]
    assert len(set(pieces[0].tolist())) == 5
    assert not part.table(dict(enumerate(pieces.T))).any()


def test_one_table_serves_all_fields() -> None:
    """Row 26: the same value in two fields has different rows; the sum is that of the rows."""
    table = HashedTable(1024, 3)
    torch.nn.init.normal_(table.rows)
    values = torch.arange(100)
    rows = [table.hashed(field, values) for field in range(3)]
    assert all((rows[0] == other).float().mean() < 0.05 for other in rows[1:])
    assert len(set(rows[0].tolist())) > 90
    assert torch.equal(table.hashed(1, values), rows[1])
    found = table({0: values, 2: values})
    torch.testing.assert_close(found, table.rows[rows[0]] + table.rows[rows[2]])


@pytest.fixture(scope="module")
def exact() -> Any:
    return load_llm("tiny", dtype="float64")


def drawn(llm: Any, users: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(users, 5, llm.hidden_size, generator=draw, dtype=torch.float64)


def test_the_order_of_a_set_changes_nothing(exact: Any) -> None:
    """Row 13: exactly, and that of other soft prompts does."""
    loss, soft = TargetLoss(exact), drawn(exact)
    asked = exact.prompt_ids(["A film?", "A book that is longer?"]), exact.target_ids(["yes, so", "no"])
    order = torch.tensor([3, 0, 4, 1, 2])
    found = loss(*asked, TokenSet.of(soft))
    torch.testing.assert_close(loss(*asked, TokenSet.of(soft[:, order])), found, rtol=0, atol=1e-12)
    assert (loss(*asked, soft[:, order]) - loss(*asked, soft)).abs().min() > 1e-6
    assert (loss(*asked, soft) - found).abs().min() > 1e-6
    # One that stands alone is no set of others: the two ways are the same.
    one = soft[:, :1]
    torch.testing.assert_close(loss(*asked, TokenSet.of(one)), loss(*asked, one), rtol=0, atol=1e-12)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_set_is_read_alike_in_loss_scores_and_answers(exact: Any, beams: int) -> None:
    """Row 13: choices and written answers have the numbers of the loss, beside requests that are none."""
    soft, order = drawn(exact), torch.tensor([3, 0, 4, 1, 2])
    asked = ["A film?", "A book that is longer?"]
    sets = [Request(text, TokenSet.of(each)) for text, each in zip(asked, soft, strict=True)]
    others = [Request(text, TokenSet.of(each[order])) for text, each in zip(asked, soft, strict=True)]
    options = GenerationOptions(max_new_tokens=4, num_beams=beams)
    plain = [Request("A film?", soft[0]), Request("A film?")]
    answers = exact.generate([*sets, *plain], options)
    assert answers[:2] == exact.generate(others, options)
    assert answers[2:] == exact.generate(plain, options)
    loss, tokens = TargetLoss(exact), list[int]()
    prompt = exact.prompt_ids(asked[:1])
    for _ in range(4):
        (scores,) = loss.log_probabilities(prompt, [[*tokens, 0]], TokenSet.of(soft[:1]))
        tokens.append(int(scores[-1].argmax()))
    assert beams > 1 or answers[0] == exact.read.answer(tokens, options).text
    choices = Choices(("yes, so", "no"))
    ((first, second),) = exact.choice_scores([replace(sets[0], choices=choices)])
    targets = exact.target_ids(choices.texts)
    nats = loss(prompt * 2, targets, TokenSet.of(soft[[0, 0]]))
    for score, target, each in zip((first, second), targets, nats, strict=True):
        assert score == pytest.approx(-len(target) * float(each), abs=1e-9)


def test_an_embedder_of_a_set(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    """Row 13: its soft prompts are sets in training, in requests and from a store."""
    embedder = fresh(tiny, encoder, tokens="set").eval()
    contribution = SoftPromptChannel(embedder, tiny, encoder).contribute([Ask(ANA, "Film?", "Film?")])[0]
    assert isinstance(contribution.soft_prompt, TokenSet)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert(("ana", record) for record in ANA)
        store_soft_prompts(store, embedder, encoder)
        ask = Ask(store.profile("ana"), "Film?", "Film?")
        stored = SoftPromptChannel(embedder, tiny, encoder, store, query_free=True).contribute([ask])[0]
    assert isinstance(stored.soft_prompt, TokenSet)


@pytest.mark.parametrize(
    "parts",
    [
        {"tokens": "nested", "state": "residual_codes(codes=16, dim=8)"},
        {"tokens": "bands", "state": "scalar_codes"},
        {"tokens": "records(k=2)"},
        {"tokens": "set"},
        {"tokens": "pieces(codes=16, dim=8, rows=64)"},
    ],
)
def test_it_trains(tiny: Any, encoder: Any, tmp_path: Path, parts: dict[str, str]) -> None:
    embedder: UserEmbedder = fresh(tiny, encoder, **parts)
    options = UserEmbedderTraining(warm_up=2, steps=3, batch=4, evaluate_every=1, new_user_steps=1, leave_one_out=1)
    report = train(embedder, world_split("LaMP_3", 6), tiny, encoder, options, tmp_path)
    assert report.steps == 3
    assert report.validation_loss <= report.validation_loss_before

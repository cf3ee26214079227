"""Soft prompts in front of prompts: batches by hand, gradients, and what a server gets."""

from __future__ import annotations

import base64
import io

import pytest
import torch

from persona.llm.inputs import PaddedBatch, embedded_prompt, message_parts, wire_format

PAD, STAND_IN = 9, 8


@pytest.fixture
def embed() -> torch.nn.Embedding:
    """The embedding of token t is (t, t)."""
    layer = torch.nn.Embedding(10, 2, _weight=torch.arange(10.0)[:, None].repeat(1, 2))
    return layer.requires_grad_(False)


def padded(soft_prompts: list[torch.Tensor | None] | None, *, pad_left: bool) -> PaddedBatch:
    given = soft_prompts or [None] * 3
    before = [[STAND_IN] * (0 if each is None else len(each)) for each in given]
    rows = [[*places, *text] for places, text in zip(before, [[1, 2], [3], [4, 5, 6]], strict=True)]
    return PaddedBatch.of(rows, given, PAD, pad_left, torch.device("cpu"))


def embedded(batch: PaddedBatch, embed: torch.nn.Embedding) -> torch.Tensor:
    with batch.embedded_by(embed, once=False):
        embeddings: torch.Tensor = embed(batch.ids)
    return embeddings


def test_prompts_without_soft_prompts_are_padded() -> None:
    left, right = padded(None, pad_left=True), padded(None, pad_left=False)
    assert left.ids.tolist() == [[9, 1, 2], [9, 9, 3], [4, 5, 6]]
    assert left.mask.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
    assert left.positions.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 2]]
    assert right.ids.tolist() == [[1, 2, 9], [3, 9, 9], [4, 5, 6]]
    assert right.mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("pad_left", "expected", "mask"),
    [
        (True, [[9, -1, 1, 2], [-2, -3, -4, 3], [9, 4, 5, 6]], [[0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]),
        (False, [[-1, 1, 2, 9], [-2, -3, -4, 3], [4, 5, 6, 9]], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]),
    ],
)
def test_each_soft_prompt_stands_before_its_prompt(
    embed: torch.nn.Embedding, pad_left: bool, expected: list[list[float]], mask: list[list[int]]
) -> None:
    soft_prompts = [torch.full((1, 2), -1.0), torch.tensor([[-2.0] * 2, [-3.0] * 2, [-4.0] * 2]), None]
    batch = padded(soft_prompts, pad_left=pad_left)
    embeddings = embedded(batch, embed)
    assert embeddings[..., 0].tolist() == embeddings[..., 1].tolist() == expected
    assert batch.mask.tolist() == mask


def test_the_soft_prompt_gets_the_gradient(embed: torch.nn.Embedding) -> None:
    vectors = torch.zeros(3, 2, 2, requires_grad=True)
    embeddings = embedded(padded(list(vectors), pad_left=True), embed)
    (embeddings * torch.arange(5.0)[:, None]).sum().backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    assert vectors.grad[..., 0].tolist() == [[1, 2], [2, 3], [0, 1]]  # the places where they stand


def test_a_soft_prompt_takes_the_type_of_the_embeddings(embed: torch.nn.Embedding) -> None:
    embeddings = embedded(padded([torch.ones(1, 2), None, None], pad_left=True), embed.double())
    assert embeddings.dtype == torch.float64


def test_only_what_is_read_as_the_prompt_gets_the_soft_prompt(embed: torch.nn.Embedding) -> None:
    batch = padded([torch.full((1, 2), -1.0), None, None], pad_left=True)
    beams = batch.ids.repeat_interleave(2, 0)
    for once, again in ((False, -1), (True, STAND_IN)):
        with batch.embedded_by(embed, once=once):
            assert embed(batch.ids[:, :1])[0, 0].tolist() == [STAND_IN] * 2, "too short to be the prompt"
            assert embed(beams)[:2, 0, 0].tolist() == [-1, -1]
            assert embed(batch.ids)[0, 0, 0] == STAND_IN, "as long, but later: part of an answer"
            longer = torch.cat((batch.ids, batch.ids[:, :1]), dim=1)
            assert embed(longer)[0, 0, 0] == again, "longer: read again by a model without a cache"
    assert embed(batch.ids)[0, 0, 0] == STAND_IN, "the hook is gone"


def received(data: str) -> torch.Tensor:
    """A tensor as a vLLM server reads it."""
    vectors: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(data)), weights_only=True)
    return vectors


def test_what_a_server_gets() -> None:
    rows = torch.arange(8, dtype=torch.float16).view(4, 2)
    soft_prompt, text = rows[:1].clone().requires_grad_(), rows[1:]
    assert torch.equal(received(wire_format(rows[1:3])), rows[1:3].float())
    assert torch.equal(embedded_prompt(soft_prompt, text), rows.float())
    assert embedded_prompt(soft_prompt, text, at=2)[:, 0].tolist() == [2, 4, 0, 6]
    first, second = message_parts(soft_prompt, "Hi")
    assert second == {"type": "text", "text": "Hi"}
    assert first["type"] == "prompt_embeds"
    assert torch.equal(received(first["data"]), rows[:1].float())
    assert message_parts(soft_prompt, "Hi", first=False) == [second, first]

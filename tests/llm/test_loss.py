"""The loss of a frozen LLM on its answers, against that of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_loss_is_that_of_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    seq2seq = kind == "seq2seq"
    llm: Any = load_llm(request.getfixturevalue("shared") / "models" / "frozen_llm" if seq2seq else "tiny")
    prompts, targets = llm.prompt_ids(["review: The battery is superb.", "review: Bad."]), llm.target_ids(["5", "a 1"])
    soft = torch.randn(2, 3, llm.hidden_size, generator=torch.Generator().manual_seed(0), requires_grad=True)

    found = TargetLoss(llm)(prompts, targets, soft)

    for row in range(2):
        embed = llm.model.get_input_embeddings()
        if kind == "causal":
            ids = torch.tensor([prompts[row] + targets[row]])
            inputs = torch.cat((soft[row : row + 1], embed(ids)), dim=1)
            labels = torch.tensor([[-100] * (3 + len(prompts[row])) + targets[row]])
        else:
            inputs = torch.cat((soft[row : row + 1], embed(torch.tensor([prompts[row]]))), dim=1)
            labels = torch.tensor([targets[row]])
        expected = llm.model(inputs_embeds=inputs, labels=labels).loss
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert soft.grad is not None
    assert soft.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in llm.model.parameters())

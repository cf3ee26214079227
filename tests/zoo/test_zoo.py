"""Every class of transformers that can be built tiny: batches, soft prompts, the loss."""

from __future__ import annotations

import os

import pytest

from persona.channels import check_way
from persona.errors import UnsupportedChannelError
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, Choices, Request
from tests.zoo import checks, table
from tests.zoo.families import REPRESENTATIVE, all_classes
from tests.zoo.tiny_models import tiny_llm

pytestmark = [
    pytest.mark.slow,
    # PEFT reads an attribute that transformers has given another name, and says what it does to some configs.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*did not match any targeted module:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*no parameter was matched:RuntimeWarning"),
]


# `make zoo` takes every class that can be built tiny.
CLASSES = (
    [name for name in all_classes() if name in table.written()] if os.environ.get("PERSONA_ZOO") else REPRESENTATIVE
)


@pytest.fixture(scope="module", params=CLASSES)
def llm(request: pytest.FixtureRequest) -> TransformersLM:
    return tiny_llm(request.param)


def test_a_batch_gives_what_each_request_gets_alone(llm: TransformersLM) -> None:
    before = checks.fingerprint(llm)
    checks.check_batches(llm)
    assert checks.fingerprint(llm) == before


def test_embeddings_of_a_text_are_the_text(llm: TransformersLM) -> None:
    if llm.refusal(SOFT_PROMPT) is None:
        checks.check_soft_prompts(llm)
        return
    assert SOFT_PROMPT not in llm.channels
    with pytest.raises(UnsupportedChannelError, match="not for it: "):
        check_way(llm, SOFT_PROMPT, "a test")


def test_the_loss_of_embeddings_is_that_of_the_text(llm: TransformersLM) -> None:
    if llm.probe.loss_refusal is None and llm.refusal(SOFT_PROMPT) is None:
        checks.check_loss(llm)
    elif llm.probe.loss_refusal is not None:
        with pytest.raises(UnsupportedChannelError, match="cannot be trained with"):
            TargetLoss(llm)


def test_scores_of_choices_are_losses(llm: TransformersLM) -> None:
    if llm.probe.loss_refusal is None:
        checks.check_choices(llm)
        return
    with pytest.raises(UnsupportedChannelError, match="cannot score choices"):
        llm.choice_scores([Request("a", choices=Choices(("b", "c")))])


def test_the_docs_say_what_the_model_does(llm: TransformersLM) -> None:
    assert table.row(llm) == table.written()[llm.name], "run make zoo"


def test_adapters_answer_as_in_peft(llm: TransformersLM) -> None:
    checks.check_adapters(llm)

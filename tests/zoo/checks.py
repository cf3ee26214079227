"""What a model of the zoo must do, whatever its class: the same checks for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from persona.adapters.family import LoraSpec
from persona.adapters.stacked import StackedLoRA
from persona.errors import GenerationError
from persona.llm.checkpoint import hash_parameters
from persona.llm.frozen import beginnings
from persona.llm.load import load_llm
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, Choices, GenerationOptions, Request
from tests.zoo.tiny_models import tiny_model

GREEDY = GenerationOptions(max_new_tokens=6)
BEAMS = GenerationOptions(max_new_tokens=4, num_beams=2)
TEXTS = ("hello", "a longer text than others", "of middle", "z", "world")
_SOFT = 7


def check_batches(llm: TransformersLM) -> None:
    """An answer is the one that its request gets alone, and the one of transformers."""
    requests = [Request(text) for text in TEXTS]
    for options in decodings(llm):
        alone = [llm.generate([request], options)[0] for request in requests]
        assert llm.generate(requests, options) == alone
    assert llm.generate(requests[:2], GREEDY) == [plainly_generated(llm, text) for text in TEXTS[:2]]
    with patch.object(beginnings, "LEAST", 2):
        begun = [Request(f"many {text}") for text in TEXTS[:3]]
        assert llm.generate(begun, GREEDY) == [llm.generate([request], GREEDY)[0] for request in begun]


def decodings(llm: TransformersLM) -> list[GenerationOptions]:
    """Greedy, and beams if the model has them."""
    try:
        llm.generate([Request("a")], BEAMS)
    except GenerationError:
        return [GREEDY]
    return [GREEDY, BEAMS]


def plainly_generated(llm: TransformersLM, text: str) -> str:
    """The answer of the model's own ``generate``."""
    tokenizer: Any = llm._tokenizer
    encoded = tokenizer(text, return_tensors="pt")
    output = llm.model.generate(
        input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], max_new_tokens=6, do_sample=False
    )
    start = 1 if llm.encoder_decoder else encoded["input_ids"].shape[1]
    return str(tokenizer.decode(output[0, start:], skip_special_tokens=True)).strip()


def own_embeddings(llm: TransformersLM, text: str) -> Tensor:
    """The embeddings of a text's first letters.  # (n, hidden)"""
    ids = llm._tokenizer(text[:_SOFT], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        embedded: Tensor = llm.model.get_input_embeddings()(torch.tensor(ids))
    return embedded


def check_soft_prompts(llm: TransformersLM) -> None:
    """Embeddings of a text's own letters, alone and between other requests, are that text; so is its loss."""
    text = TEXTS[1]
    soft = own_embeddings(llm, text)
    request = Request(text[_SOFT:], soft_prompt=soft)
    others = [Request(other) for other in TEXTS]
    mixed = [others[0], request, *others[2:], Request(text)]
    for options in decodings(llm):
        (expected,) = llm.generate([Request(text)], options)
        assert llm.generate([request], options) == [expected]
        alone = [llm.generate([other], options)[0] for other in mixed]
        answers = llm.generate(mixed, options)
        assert answers == alone
        assert answers[1] == answers[-1] == expected


def check_loss(llm: TransformersLM) -> None:
    """The loss of a text's own embeddings is that of the text, alone and between others; its gradient is theirs."""
    loss, (whole, rest, *others) = TargetLoss(llm), llm.prompt_ids([TEXTS[1], TEXTS[1][_SOFT:], *TEXTS[2:]])
    targets = llm.target_ids(["an answer", "no", "yes yes", "x"])
    soft = own_embeddings(llm, TEXTS[1]).requires_grad_()
    expected = loss([whole], targets[:1])
    filled = torch.stack([soft, *[torch.ones_like(soft)] * len(others)])
    found = loss([rest, *others], targets[: 1 + len(others)], filled)
    torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-4)
    texts = loss([whole, *others], targets[: 1 + len(others)])
    torch.testing.assert_close(texts[:1], expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), soft)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def check_choices(llm: TransformersLM) -> None:
    """Scores of choices are their losses, of text and of its embeddings, alone and between others."""
    choices = Choices(("yes", "no way", "b"))
    texts = [Request(text, choices=choices) for text in TEXTS]
    requests = texts
    if llm.refusal(SOFT_PROMPT) is None:
        soft = Request(TEXTS[1][_SOFT:], soft_prompt=own_embeddings(llm, TEXTS[1]), choices=choices)
        requests = [*texts[:1], soft, *texts[2:]]
    targets = llm.target_ids(choices.texts)
    loss = TargetLoss(llm)
    expected = [
        [-float(loss([prompt], [target])) * len(target) for target in targets] for prompt in llm.prompt_ids(list(TEXTS))
    ]
    together = torch.tensor(llm.choice_scores(requests))
    torch.testing.assert_close(together, torch.tensor(expected), rtol=1e-4, atol=1e-3)
    alone = torch.tensor([llm.choice_scores([request])[0] for request in requests[:2]])
    torch.testing.assert_close(alone, together[:2], rtol=1e-4, atol=1e-3)


class Adapters:
    """Two random adapters on all layers that can be adapted, as an `AdapterSource`."""

    slots = 2

    def __init__(self, llm: TransformersLM) -> None:
        self.stack = StackedLoRA(llm.model, LoraSpec(r=2, alpha=4), slots=2)
        generator = torch.Generator().manual_seed(5)
        self.rows = torch.randn(2, self.stack.family.size, generator=generator) * 0.5
        for slot, row in enumerate(self.rows, 1):
            self.stack.write(slot, row)

    def named(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """Slot 1 is called one, slot 2 two."""
        return self.stack.rows([None if name is None else ("one", "two").index(name) + 1 for name in names])

    def in_peft(self, model: Any) -> PeftModel:
        """`model` with the same adapters in PEFT."""
        modules = self.stack.family.modules
        config = LoraConfig(r=2, lora_alpha=4, target_modules=[module.name for module in modules])
        wrapped = get_peft_model(model, config, adapter_name="one")
        wrapped.add_adapter("two", config)
        layers = dict(wrapped.named_modules())
        for module, (a, b) in zip(modules, self.stack.family.pairs(self.rows), strict=True):
            layer: Any = layers[f"base_model.model.{module.name}"]
            for index, name in enumerate(("one", "two")):
                layer.lora_A[name].weight.data = a[index].clone()
                layer.lora_B[name].weight.data = b[index].clone()
        return wrapped.eval()


def check_adapters(llm: TransformersLM) -> None:
    """Adapters answer as in PEFT, alone and in a batch that mixes them; without one the model answers as before."""
    model = tiny_model(llm.name)
    plain = llm.generate([Request(text) for text in TEXTS], GREEDY)
    adapters = Adapters(llm)
    requests = [
        Request(text, adapter=name) for text, name in zip(TEXTS, ("one", "two", None, "two", "one"), strict=True)
    ]
    peft = adapters.in_peft(model)
    there = load_llm((peft, llm._tokenizer))
    expected = []
    for request, without in zip(requests, plain, strict=True):
        peft.set_adapter(request.adapter or "one")
        expected += there.generate([Request(request.prompt)], GREEDY) if request.adapter else [without]
    with adapters.stack:
        llm.attach_adapters(adapters)
        try:
            assert [llm.generate([request], GREEDY)[0] for request in requests] == expected
            assert llm.generate(requests, GREEDY) == expected
        finally:
            llm.attach_adapters(None)
    assert expected != plain, "the adapters have no effect"
    assert llm.generate([Request(text) for text in TEXTS], GREEDY) == plain


def fingerprint(llm: TransformersLM) -> str:
    """Of weights and flags."""
    training = {each.training for each in llm.model.modules()}
    learning = {name for name, each in llm.model.named_parameters() if each.requires_grad}
    return f"{hash_parameters(llm.model)} {training} {sorted(learning)}"

"""The table of model families and channels in the docs, written by what the models of the zoo were found to do.

``python -m tests.zoo.table`` (`make zoo`) writes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from persona.adapters.layers import NOT_COMPUTED, sights
from persona.llm.inputs import Batching
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, GenerationOptions, Request
from tests.zoo.families import all_classes
from tests.zoo.tiny_models import tiny_llm

PAGE = Path(__file__).parents[2] / "docs" / "model-families.md"
_BATCHES = {Batching.PADDED: "any", Batching.EQUAL: "equally long", Batching.ALONE: "one at a time"}
_HEAD = """# Model families

Which channels the classes of transformers {version} have, as `make zoo` found it: each class is built tiny, with random
weights, and asked. Text, summaries and lifts are for all of them. A class that is not in the table is asked in the same
way when it is loaded.

- **Requests in a batch**: of any lengths, equally long ones only, or one at a time, so that an answer is the one that
  the request gets alone. persona sees to it; it is a matter of speed.
- **Soft prompt**: embeddings of a text's own tokens, alone and in a batch with others, are that text, for answers and
  for the loss. Where they are not, a user embedder is refused before it is trained.
- **Adapters** of `all-linear` equal PEFT's, alone and in a batch that mixes them. Layers that are not named see one row
  for each request; experts that are one tensor are no linear layers.

| class | requests in a batch | soft prompt | adapters |
|---|---|---|---|
"""
_TAIL = """
Not in the table, as they need more than text, or are not computed when they are as tiny as the zoo makes them:
{left_out}.
"""


def row(llm: TransformersLM) -> str:
    """The line of a model in the table."""
    refusal = llm.refusal(SOFT_PROMPT)
    out = {name for name, sight in sights(llm.model).items() if sight.axis is None and sight.why != NOT_COMPUTED}
    kinds = sorted({_kind(name) for name in out})
    adapters = "yes" + (f", without {', '.join(f'`{kind}`' for kind in kinds)}" if kinds else "")
    soft_prompt = "yes" if refusal is None else f"no: {refusal}"
    return f"| {llm.name} | {_BATCHES[llm.probe.batching]} | {soft_prompt} | {adapters} |"


def _kind(layer: str) -> str:
    """What a layer is called, without its place: ``experts.wi``, ``mlp.up_proj``."""
    parts = [part for part in layer.split(".") if not re.search(r"\d", part)]
    return ".".join(parts[-2:])


def written() -> dict[str, str]:
    """The lines of the table in the docs, by class."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split("|")[1].strip(): line for line in lines if re.match(r"\| [A-Z]\w+", line)}


def page(names: Iterable[str]) -> str:
    """The page about classes."""
    found, left_out = [], []
    for name in sorted(names):
        try:
            llm = tiny_llm(name)
            llm.generate([Request("hello")], GenerationOptions(max_new_tokens=3))
        except Exception:  # transformers' configs and classes raise whatever they like
            left_out.append(name)
        else:
            found.append(row(llm))
    head = _HEAD.format(version=transformers.__version__)
    return head + "\n".join(found) + "\n" + _TAIL.format(left_out=", ".join(left_out))


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(all_classes()), encoding="utf-8")

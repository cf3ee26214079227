"""Quantised layers, by bitsandbytes: four or eight bits a number instead of thirty-two.

    load_llm("Qwen/Qwen2.5-7B-Instruct", quantize="4bit")

Linear layers are quantised as they are loaded (NF4, or LLM.int8); embeddings, norms and the head stay in the model's
dtype, and soft prompts and adapters come in on top as for any other model. Two habits of bitsandbytes would go against
what persona promises:

- On CPUs with AVX512-BF16 a 4-bit layer rewrites its weights at its first answer into a form that rounds, and from
  then on passes no gradient: a soft prompt would be trained by what goes around the layers. `settle` turns that off.
- An 8-bit layer looks for outlying columns in the whole batch, so that an answer depends on the requests beside
  it (by whole units of a score). Such models answer one request at a time (`mixes_rows`).
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from persona.errors import InvalidOptionError, MissingDependencyError, ModelLoadError, check_one_of

if TYPE_CHECKING:
    import torch

KINDS = ("4bit", "8bit")
"""What `quantize` may be."""

_COMPUTED_IN = ("float32", "float16", "bfloat16")


def check_quantize(kind: str | None, dtype: str) -> None:
    """Refuse a kind that there is not, and a dtype that quantised layers do not compute in.

    Raises:
        InvalidOptionError: if it is one.
        MissingDependencyError: if `bitsandbytes` is not installed.
    """
    if kind is None:
        return
    check_one_of(KINDS, quantize=kind)
    if dtype not in ("auto", *_COMPUTED_IN):
        raise InvalidOptionError(f"with `quantize`, `dtype` must be auto, {', '.join(_COMPUTED_IN)}, was: {dtype!r}")
    if find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            f"`quantize={kind!r}` needs the package bitsandbytes, which is not installed: "
            "pip install 'persona-llm[quantized]'"
        )


def loading(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for quantised layers that compute in `dtype`."""
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if kind == "8bit":
        return {"quantization_config": make(load_in_8bit=True)}
    return {"quantization_config": make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)}


def settle(model: Any) -> None:
    """Keep 4-bit layers on a CPU as they are, see the module; 8-bit ones no longer warn at each of their steps.

    Raises:
        ModelLoadError: if 4-bit layers were rewritten already.
    """
    if mixes_rows(model):
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise ModelLoadError(
                    "this 4-bit model was used before it was passed, and bitsandbytes has rewritten its weights into "
                    "a form that passes no gradients: load it again and pass it at once"
                )


def precision(model: Any) -> str:
    """What the model computes in, as a fingerprint has it: ``"float32"``, ``"nf4-float32"``, ``"int8-bfloat16"``."""
    dtype = str(model.dtype).removeprefix("torch.")
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return dtype
    if getattr(config, "load_in_8bit", False):
        return f"int8-{dtype}"
    kind = getattr(config, "bnb_4bit_quant_type", None) if getattr(config, "load_in_4bit", False) else None
    method = getattr(config, "quant_method", "quantized")
    return f"{kind or getattr(method, 'value', method)}-{dtype}"


def mixes_rows(model: Any) -> bool:
    """Whether a row of a batch is computed from the other rows, too."""
    return bool(getattr(model, "is_loaded_in_8bit", False))

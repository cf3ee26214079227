"""Rotary positions as a GGUF file means them, where transformers' reader leaves them out.

Two ways of stretching positions stand in a file and not in what the reader makes of it: a tensor
``rope_freqs.weight`` by which each frequency is divided (Llama 3.1 and later), and entries ``rope.scaling.*``. Without
them the model computes, and answers worse with every token of a prompt.
"""

from __future__ import annotations

from typing import Any

from persona.errors import ModelLoadError
from persona.llm.weights.gguf_header import GgufHeader

FREQUENCIES = "rope_freqs.weight"
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def set_positions(config: Any, header: GgufHeader) -> None:
    """Give the configuration of a model the positions that its file means.

    Raises:
        ModelLoadError: if they are of a kind that cannot be carried over.
    """
    kind, factor = header.own("rope.scaling.type"), header.own("rope.scaling.factor")
    if FREQUENCIES in header.tensors:
        _divide(config, header)
    elif kind == "linear" and isinstance(factor, float):
        config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": factor}
    elif isinstance(factor, float) and factor != 1.0 and config.rope_parameters.get("rope_type") == "default":
        raise ModelLoadError(
            f"{header.file} stretches positions by {kind!r}, which transformers leaves out when it reads a GGUF file: "
            "take the model's own folder of safetensors"
        )


def _divide(config: Any, header: GgufHeader) -> None:
    """Divide the frequencies, if it is by Llama 3's rule."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    divisors = torch.from_numpy(header.tensors[FREQUENCIES].data.copy())
    if divisors.dtype != torch.float32:
        raise ModelLoadError(f"{header.file}: the tensor {FREQUENCIES} must be stored in float32")
    if bool((divisors == 1).all()):
        return
    before = config.rope_parameters
    plain = before["rope_theta"] ** (-torch.arange(0, 2 * len(divisors), 2).float() / (2 * len(divisors)))
    config.rope_parameters = {**before, "rope_type": "llama3", "factor": float(divisors.max()), **_LLAMA_3}
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    if stretched.shape != plain.shape or not torch.allclose(stretched, plain / divisors, rtol=1e-3):
        raise ModelLoadError(
            f"{header.file} divides the frequencies of its positions by a rule that is not Llama 3's, which "
            "transformers leaves out when it reads a GGUF file: take the model's own folder of safetensors"
        )

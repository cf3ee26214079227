"""How much memory the weights of a model will take, known before they are read, and how much there is.

>>> weights_bytes([folder / "model.safetensors"], dtype="bfloat16")     # SmolLM2-135M  # doctest: +SKIP
269030016
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from persona.errors import ModelLoadError

if TYPE_CHECKING:
    import torch

_BYTES = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Types of floats in safetensors files, and the bytes of one. Other types are kept as they are."""

_QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
"""Bytes of a number in a quantised layer; blocks of 64 share a scale in 4 bits."""

_WHOLE = ("embed", "lm_head", "wte", "wpe", "shared")
"""Parts of the names of matrices that are never quantised."""

_ANNOUNCED = 10**9
"""Bytes from which on loading takes so long that somebody wonders."""

_LOG = logging.getLogger(__name__)
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def weights_bytes(files: Iterable[Path], *, dtype: str = "auto", quantize: str | None = None) -> int:
    """Bytes of the weights in safetensors files once they are loaded; only the files' headers are read.

    Args:
        files: the weights.
        dtype: what floats become; ``"auto"`` is as stored.
        quantize: ``"4bit"`` or ``"8bit"`` for matrices of linear layers; None for none.
    """
    from safetensors import safe_open

    total = 0.0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                view = tensors.get_slice(name)
                total += prod(view.get_shape()) * _size(name, view.get_dtype(), len(view.get_shape()), dtype, quantize)
    return round(total)


def _size(name: str, stored: str, dimensions: int, dtype: str, quantize: str | None) -> float:
    if stored not in _STORED:
        return 8.0 if stored.endswith("64") else 4.0 if stored.endswith("32") else 2.0 if stored.endswith("16") else 1.0
    if quantize is not None and dimensions == 2 and not any(part in name for part in _WHOLE):
        return _QUANTISED[quantize]
    return _BYTES.get(dtype, float(_STORED[stored]))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where it cannot be found out."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    import psutil

    return min([int(psutil.virtual_memory().available), *_control_group_bytes()])


def _control_group_bytes() -> list[int]:
    """What a container's limit leaves, its cached files not counted; empty without a limit."""
    try:
        most = (_CONTROL_GROUP / "memory.max").read_text().strip()
        used = int((_CONTROL_GROUP / "memory.current").read_text())
        lines = (_CONTROL_GROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return []
    cached = sum(int(line.split()[1]) for line in lines if line.split()[0] == "inactive_file")
    return [max(0, int(most) - used + cached)] if most.isdigit() else []


def check_memory(
    files: Iterable[Path], device: torch.device, *, dtype: str = "auto", quantize: str | None = None, source: object
) -> None:
    """Refuse weights that have no room on a device; large ones are announced in the log.

    Args:
        files: the weights, in safetensors.
        device: where they would go.
        dtype, quantize: as in `weights_bytes`.
        source: where they come from, for the message.

    Raises:
        ModelLoadError: with both numbers and what would fit.
    """
    files, free = tuple(files), free_bytes(device)
    needed = weights_bytes(files, dtype=dtype, quantize=quantize)
    kind = quantize or ("the types they are stored in" if dtype == "auto" else dtype)
    if needed >= _ANNOUNCED:
        _LOG.info("loading %s of weights in %s onto %s", readable(needed), kind, device)
    if free is None or needed <= free:
        return
    ways = {
        "dtype='bfloat16'": weights_bytes(files, dtype="bfloat16"),
        "quantize='8bit'": weights_bytes(files, dtype="bfloat16", quantize="8bit"),
        "quantize='4bit'": weights_bytes(files, dtype="bfloat16", quantize="4bit"),
    }
    fitting = [f"{way} ({readable(size)})" for way, size in ways.items() if size <= min(free, needed - 1)]
    raise ModelLoadError(
        f"the weights of {source} take {readable(needed)} in {kind}, and {device} has {readable(free)} free: "
        f"take {', '.join([*fitting, 'another `device`'])}, or a smaller model"
    )


def readable(size: float) -> str:
    """A number of bytes as people say it.

    >>> readable(14_500_000_000), readable(269_030_016)
    ('14.5 GB', '269.0 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

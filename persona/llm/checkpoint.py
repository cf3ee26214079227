"""Loads a transformers model and its tokenizer from a folder or the Hugging Face hub, running none of their code.

A folder holds ``config.json``, weights as ``model.safetensors`` (or shards with ``model.safetensors.index.json``) and a
tokenizer. Weights as pickle are refused, and so are models that bring their own Python; a model whose weights leave
a layer out is refused as well, because transformers would fill that layer with random numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from persona.errors import InvalidOptionError, ModelLoadError, reason

_WEIGHTS = "model*.safetensors"
_HUB_FILES = [_WEIGHTS, "model.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """What was in a folder.

    Attributes:
        model: a transformers model that generates, in evaluation mode on its device.
        tokenizer: its tokenizer.
        weights: the files that the weights came from.
    """

    model: Any
    tokenizer: Any
    weights: tuple[Path, ...]


def load_folder(folder: Path, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load the model in `folder`.

    Args:
        folder: see the module.
        device: ``"auto"`` is the GPU (CUDA) where there is one, else the CPU; or a name as torch knows it.
        dtype: ``"auto"`` is float32 on a CPU, whatever is stored, and what is stored on any other device; or one of
            float32, float16, bfloat16, float64.

    Raises:
        ModelLoadError: if there is no such folder, or no model that can be loaded from it.
        InvalidOptionError: if there is no such device or dtype.
    """
    place = _device(device)
    kind: Any = _dtype(dtype, place)
    config = _checked_config(folder)
    weights = _checked_weights(folder)
    try:
        with _no_progress_bar():
            loaded = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if not loaded.is_encoder_decoder and getattr(loaded, "is_decoder", True) is False:
                raise ModelLoadError(f"the model in {folder} ({loaded.model_type}) is an encoder and writes no text")
            auto: Any = AutoModelForSeq2SeqLM if loaded.is_encoder_decoder else AutoModelForCausalLM
            model, info = auto.from_pretrained(
                folder,
                dtype=kind,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ModelLoadError:
        raise
    except Exception as error:  # on files that they cannot use transformers and its parts raise whatever they like
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {reason(error)}") from error
    missing = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if missing:
        raise ModelLoadError(
            f"the weights in {folder} do not fill the model ({config['model_type']}): {len(missing)} tensors such as "
            f"{missing[0]} are missing or of another shape; it is perhaps no language model, or saved in part"
        )
    return LoadedModel(model.to(place).eval(), tokenizer, weights)


def hub_folder(name: str, *, revision: str | None = None) -> Path:
    """The local copy of the hub's model `name`, downloaded if it is not there yet (never its pickles or Python).

    Raises:
        ModelLoadError: if `name` can be no hub id, or the hub has no such model or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(f"there is no folder {name}, and it can be no hub id (`owner/name`) either")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    # The hub's errors, its refusals and being offline without a copy are all OSErrors.
    except (OSError, HFValidationError) as error:
        raise ModelLoadError(
            f"there is no folder {name}, and the hub model of that name cannot be had: {reason(error)}"
        ) from error


def hash_weights(weights: tuple[Path, ...]) -> str:
    """SHA-256 over the bytes of the weights files, in order, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as stream:
            while chunk := stream.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def hash_parameters(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.cpu().numpy()))
    return digest.hexdigest()[:12]


def _checked_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelLoadError(f"there is no folder {folder}: give the folder of a model, or a hub id")
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelLoadError(f"{folder} holds an adapter, not a model: load the model that it was trained for")
        raise ModelLoadError(f"{folder} holds no model: config.json is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{path} names no `model_type`: it is not the config of a transformers model")
    if config["model_type"] not in CONFIG_MAPPING:
        own = " and brings its own code, which is never run" if "auto_map" in config else ""
        raise ModelLoadError(
            f"the model in {folder} is of the type {config['model_type']!r}, which transformers does not know{own}; "
            "take a model of a type that transformers knows, or load it yourself and pass (model, tokenizer)"
        )
    return config


def _checked_weights(folder: Path) -> tuple[Path, ...]:
    weights = tuple(sorted(folder.glob(_WEIGHTS)))
    if weights:
        return weights
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelLoadError(
            f"{folder} holds its weights as a pickle only ({pickles[0]}), and loading a pickle can run code: if you "
            "trust it, convert it once with transformers' from_pretrained(..., use_safetensors=False) and "
            "save_pretrained(...), which writes model.safetensors"
        )
    raise ModelLoadError(f"{folder} holds no weights: model.safetensors is missing")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # A device that torch was built for may still be absent.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidOptionError(f"`device` {name!r} cannot be used here: {reason(error)}") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    if name == "auto":
        # CPUs compute float32 fastest or nearly so, and only float32 answers are independent of the batch.
        return torch.float32 if device.type == "cpu" else "auto"
    if name not in _DTYPES:
        raise InvalidOptionError(f"`dtype` must be auto, {', '.join(_DTYPES)}, was: {name!r}")
    return _DTYPES[name]


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()

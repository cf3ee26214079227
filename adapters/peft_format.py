"""Adapters in PEFT's own layout, for PEFT, vLLM and SGLang; and back into the bank.

::

    export_adapter(bank, bank.current("ana", family), Path("adapters"), base_name="Qwen/Qwen2.5-0.5B")

    ana@3/adapter_config.json         peft.LoraConfig: r, lora_alpha, target_modules, base_model_name_or_path, ...
    ana@3/adapter_model.safetensors   base_model.model.<layer>.lora_A.weight (r, in), ... .lora_B.weight (out, r)

The folder's name holds the version, so a server that keeps what it computed with an adapter by its name never takes it
for another version's. Within vLLM's rules: type LORA, no bias, no other saved modules, and `base_model_name_or_path` is
the name that the model is served by.

An adapter over a shared prior is written as one adapter of twice the rank, ``[A0; A]`` and ``[B0, B]``: what the stack
computes, for a server that knows of no prior. The alpha grows so that the scale stays. When it comes back, its first
half must be the prior.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from persona.adapters.bank import AdapterBank
from persona.adapters.family import DTYPES, Family, LoraSpec
from persona.adapters.layers import NOT_COMPUTED, sights
from persona.adapters.versions import AdapterDraft, StoredAdapter, safe_name
from persona.errors import (
    DataFormatError,
    FingerprintMismatchError,
    InvalidOptionError,
    UnknownAdapterError,
    UnknownUserError,
    reason,
)
from persona.files import naming
from persona.protocols import PRIOR_ADAPTER
from persona.records import check_user_id

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NARROWING = ("exclude_modules", "layers_to_transform", "layers_pattern")
_READ = frozenset(
    {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
    | {"init_lora_weights", "target_modules", *_NARROWING}
)
_NO_MATTER = frozenset(
    {"auto_mapping", "peft_version", "revision", "task_type", "inference_mode", "runtime_config"}
    | {"lora_dropout", "fan_in_fan_out", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"}
)
"""Entries of a config that change nothing of what an adapter computes; the configs of initialisations are among them,
`init_lora_weights` says which one there was."""
_FROM_THE_BASE_ALONE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base model's weights as they are; PEFT takes the others off when it loads them."""


def export_adapter(
    bank: AdapterBank, adapter: StoredAdapter, folder: Path, *, base_name: str, digest: str | None = None
) -> Path:
    """Write an adapter as a PEFT folder ``<user>@<version>`` in `folder`, and return its path.

    It appears whole or not at all; one that is there by that name is replaced.

    Args:
        bank: where the adapter is.
        adapter: which one.
        folder: where its folder is to lie; made if it is missing.
        base_name: what the base model is called where the adapter will be loaded.
        digest: of family and numbers (`persona.adapters.serving.vllm`): the folder is ``<user>@<version>-<digest>``
            and means these numbers for ever. One that is there stays as it is, since a server may be reading it.

    Raises:
        UnknownAdapterError: if it has no numbers, or was erased.
    """
    place = folder / f"{safe_name(adapter.user_id)}@{adapter.version}{'' if digest is None else f'-{digest}'}"
    if digest is None or not place.is_dir():
        prior, row = bank.prior(adapter.family), bank.row(adapter)
        rows = [row] if prior is None else [prior.to(row.dtype), row]
        notes = {"persona_user_id": adapter.user_id}
        _write(adapter.family, rows, place, base_name, notes, keep=digest is not None)
    return place


def export_prior(bank: AdapterBank, family: Family, folder: Path, *, base_name: str) -> Path:
    """Write the shared prior alone as a PEFT folder ``@prior-<family>``; otherwise as `export_adapter` with a digest.

    Raises:
        UnknownAdapterError: if the family has none.
    """
    prior = bank.prior(family)
    if prior is None:
        raise UnknownAdapterError(f"the family {family.key} has no prior to export")
    place = folder / f"{PRIOR_ADAPTER}-{family.key}"
    if not place.is_dir():
        _write(family, [prior], place, base_name, {}, keep=True)
    return place


def _write(
    family: Family, rows: list[Tensor], place: Path, base_name: str, notes: Mapping[str, str], *, keep: bool
) -> None:
    """Write `rows` side by side as one adapter. With `keep` a folder that another process has just written stays."""
    family.check_linear("PEFT")
    from peft import LoraConfig  # here, as it takes seconds

    dtype = torch.float32 if family.spec.dtype == "int8" else DTYPES[family.spec.dtype]
    tensors: dict[str, Tensor] = {}
    for module, *parts in zip(family.modules, *(family.pairs(row[None]) for row in rows), strict=True):
        name_a, name_b = _weight_names(module.name)
        tensors[name_a] = torch.cat([a[0] for a, _ in parts]).to(dtype).contiguous()
        tensors[name_b] = torch.cat([b[0] for _, b in parts], 1).to(dtype).contiguous()
    r = family.spec.r * len(rows)
    alpha = family.spec.scale * (math.sqrt(r) if family.spec.rslora else r)
    make: Any = LoraConfig  # its `lora_alpha` may be a fraction, and its annotations say otherwise
    config = make(
        base_model_name_or_path=base_name,
        r=r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,
        use_rslora=family.spec.rslora,
        inference_mode=True,
    ).to_dict()
    # As a list: the order of PEFT's set changes from process to process.
    config["target_modules"] = [module.name for module in family.modules]
    shared = {"format": "pt", "persona_base": family.base, "persona_family": family.key}
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".writing-") as temporary:
        written = Path(temporary) / place.name
        written.mkdir()
        (written / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        weights = save(tensors, metadata={**shared, "persona_prior": family.prior or "", **notes})
        with naming(place):
            (written / WEIGHTS).write_bytes(weights)
        if place.exists() and not keep:
            shutil.rmtree(place)
        try:
            os.replace(written, place)
        except OSError:
            # Another process has just written the same one.
            if not (keep and place.is_dir()):
                raise


def read_spec(folder: Path, *, dtype: str = "float32") -> LoraSpec:
    """The shape of the adapter in a PEFT folder, with the dtype that its numbers are to have at rest.

    Where the config does not say by names alone which layers are adapted (an expression, layers by number), the spec
    has the names of those that have weights. Where ranks differ from layer to layer, it has the highest.

    Raises:
        DataFormatError: if there is no adapter, or one of a kind that a stack cannot compute.
    """
    config = _config(folder)
    targets = config["target_modules"]
    r, rslora = config["r"], bool(config.get("use_rslora"))
    narrowed = isinstance(targets, str) or any(config.get(name) is not None for name in _NARROWING)
    if narrowed or config.get("rank_pattern"):
        ranks = _ranks(folder, config)
        targets, highest = sorted(ranks) if narrowed else targets, max(ranks.values())
    else:
        highest = r
    # The scale stays that of the config's own rank.
    grown = math.sqrt(highest / r) if rslora else highest / r
    return LoraSpec(highest, float(config["lora_alpha"]) * grown, tuple(targets), rslora, dtype)


def _config(folder: Path) -> dict[str, Any]:
    """The config in a PEFT folder, if it is that of an adapter that a stack can compute."""
    from peft import LoraConfig

    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{folder} holds no PEFT adapter: {reason(error)}", source=path) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise DataFormatError("an adapter must be of the type LORA", source=path)
    for name in ("r", "lora_alpha", "target_modules"):
        if not config.get(name):
            raise DataFormatError(f"an adapter's config must have `{name}`", source=path)
    make: Any = LoraConfig
    plain = make().to_dict()
    for name, value in config.items():
        if name not in _READ | _NO_MATTER and value and value != plain.get(name):
            raise DataFormatError(f"a plain LoRA adapter is needed, this one has `{name}`: {value!r:.80}", source=path)
    initialisation = config.get("init_lora_weights", True)
    if not any(initialisation is each or initialisation == each for each in _FROM_THE_BASE_ALONE):
        raise DataFormatError(
            f"an adapter must lie over the base model as it is, this one has `init_lora_weights`: {initialisation!r}, "
            "which changes the base model: save it with PEFT's `path_initial_model_for_weight_conversion`",
            source=path,
        )
    return config


def _ranks(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """The layers in a folder that the config means, and their ranks.

    Raises:
        DataFormatError: if there are weights of another layer, which PEFT would not load.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    make: Any = LoraConfig
    begin, end = (part for part in _weight_names("\n")[0].split("\n"))
    ranks = {
        name.removeprefix(begin).removesuffix(end): len(tensor)
        for name, tensor in _weights(folder)[1].items()
        if name.startswith(begin) and name.endswith(end)
    }
    meant = {name: config[name] for name in ("target_modules", *_NARROWING) if config.get(name) is not None}
    try:
        peft = make(**meant)
    except (ValueError, TypeError) as error:
        raise DataFormatError(f"PEFT does not take this config: {reason(error)}", source=folder / CONFIG) from error
    for layer in ranks:
        if not check_target_module_exists(peft, layer):
            fields = ", ".join(f"`{name}`: {value!r:.80}" for name, value in list(meant.items())[::-1])
            raise DataFormatError(
                f"an adapter must have weights for its own layers, this one has {fields} and weights for {layer}",
                source=folder / CONFIG,
            )
    if not ranks:
        raise DataFormatError("the adapter has no weights of a linear layer", source=folder / WEIGHTS)
    return ranks


def import_adapters(
    bank: AdapterBank,
    folders: Sequence[Path],
    family: Family,
    *,
    user_id: str | None = None,
    base_name: str | None = None,
    model: nn.Module | None = None,
) -> tuple[StoredAdapter, ...]:
    """Publish the adapters in PEFT folders as their users' new versions: all of them or, if one is refused, none.

    Args:
        bank: where they go.
        folders: each with the two files; a user may come once.
        family: what they are to stand beside; one that the bank does not know yet is made known.
        user_id: whose they are; None takes what `export_adapter` has noted.
        base_name: what their configs may call the base model; None for the family's own name for it.
        model: the base model; given one, weights of layers that it does not compute for a text are left out.

    Raises:
        DataFormatError: if there is no adapter, one of a kind that a stack cannot compute or of another shape than the
            family's, it names another base model, or it does not say whose it is.
        FingerprintMismatchError: if it was made for another base model or over another prior.
        UnknownUserError: if the store does not know the user.
        InvalidOptionError: if a user comes twice.
    """
    prior = bank.prior(family) if family in bank.families() else None
    idle = {name for name, sight in (sights(model) if model else {}).items() if sight.why == NOT_COMPUTED}
    rows: dict[str, Tensor] = {}
    for folder in folders:
        owner, row = _read(folder, family, prior, user_id, base_name=base_name, idle=idle)
        if check_user_id(owner) in rows:
            raise InvalidOptionError(f"a user can have one new adapter at a time, {owner!r} came twice")
        if owner not in bank.store:
            raise UnknownUserError(f"the store holds nothing on {owner!r}: ingest the user's records first")
        rows[owner] = row
    bank.add_family(family, prior)
    return bank.publish(
        family, [AdapterDraft(owner, row, bank.store.profile(owner).revision) for owner, row in rows.items()]
    )


def noted_family(folder: Path) -> str:
    """The key of the family that `export_adapter` has noted, ``""`` elsewhere; errors as in `read_spec`."""
    read_spec(folder)
    return _weights(folder)[0].get("persona_family", "")


def _weights(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataFormatError(f"the weights cannot be read: {reason(error)}", source=path) from error


def _read(
    folder: Path, family: Family, prior: Tensor | None, user_id: str | None, *, base_name: str | None, idle: set[str]
) -> tuple[str, Tensor]:
    """Whose adapter is in a folder, and its row in `family`; layers in `idle` do not matter."""
    spec, path = read_spec(folder), folder / WEIGHTS
    notes, tensors = _weights(folder)
    config = _config(folder)
    if "persona_base" not in notes:
        _check_base(config.get("base_model_name_or_path"), base_name or family.base.split("@")[0], folder)
    elif notes["persona_base"] != family.base:
        raise FingerprintMismatchError(
            f"{folder} was made for {notes['persona_base']}, the family {family.key} is of {family.base}"
        )
    user_id = user_id or notes.get("persona_user_id")
    if user_id is None:
        raise DataFormatError("the adapter does not say whose it is: give a user id", source=path)
    parts, r = (1 if prior is None else 2), family.spec.r
    if spec.r != parts * r or not math.isclose(spec.scale, family.spec.scale):
        raise DataFormatError(
            f"adapters of the family {family.key} have r={parts * r} and scale {family.spec.scale:g}, "
            f"was: r={spec.r} and scale {spec.scale:g}",
            source=folder / CONFIG,
        )
    rows = torch.zeros(parts, family.size)
    for module, (a, b) in zip(family.modules, family.pairs(rows), strict=True):
        name_a, name_b = _weight_names(module.name)
        rank, times = _own_rank(config, module.name, spec)
        read_a = _filled(_taken(tensors, name_a, (rank, module.n_in), path), (parts * r, module.n_in))
        read_b = _filled(_taken(tensors, name_b, (module.n_out, rank), path) * times, (module.n_out, parts * r))
        a.copy_(read_a.view(parts, r, module.n_in))
        b.copy_(read_b.view(module.n_out, parts, r).transpose(0, 1))
    left = sorted(tensors.keys() - {name for layer in idle for name in _weight_names(layer)})
    if left:
        raise DataFormatError(f"the family {family.key} has no layer for {left[0]}", source=path)
    if prior is not None and not torch.allclose(rows[0], prior, rtol=1e-2, atol=1e-4):
        raise FingerprintMismatchError(f"{folder} lies over another prior than the family {family.key}")
    return user_id, rows[-1]


def _own_rank(config: Mapping[str, Any], layer: str, spec: LoraSpec) -> tuple[int, float]:
    """The rank of one layer, and its scale as a multiple of the adapter's."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not ranks and not alphas:
        return spec.r, 1.0
    rank = int(ranks.get(get_pattern_key(list(ranks), layer), config["r"]))
    alpha = float(alphas.get(get_pattern_key(list(alphas), layer), config["lora_alpha"]))
    return rank, alpha / (math.sqrt(rank) if spec.rslora else rank) / spec.scale


def _filled(tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix with zeros to the right and below."""
    filled = torch.zeros(shape)
    filled[: tensor.shape[0], : tensor.shape[1]] = tensor
    return filled


def _check_base(named: object, expected: str, folder: Path) -> None:
    """Refuse an adapter whose config names another base model; of a path or hub id the last part counts."""

    def last(name: str) -> str:
        name = re.sub(r"/snapshots/[0-9a-f]+/?$", "", name).rstrip("/")
        return re.split(r"[/\\]|--", name)[-1].casefold()

    if isinstance(named, str) and named and last(named) != last(expected):
        raise DataFormatError(
            f"an adapter must be made for {expected}, this one has `base_model_name_or_path`: {named!r}; if that is "
            "the same model by another name, say so with `base_name`",
            source=folder / CONFIG,
        )


def _weight_names(module: str) -> tuple[str, str]:
    """What PEFT calls a layer's A and B."""
    return f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight"


def _taken(tensors: dict[str, Tensor], name: str, shape: tuple[int, int], path: Path) -> Tensor:
    """Take a tensor out of `tensors`."""
    tensor = tensors.pop(name, None)
    if tensor is None or tuple(tensor.shape) != shape:
        was = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        raise DataFormatError(f"{name} must have the shape {shape}, was: {was}", source=path)
    return tensor

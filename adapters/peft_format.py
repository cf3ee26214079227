"""Adapters in PEFT's own layout, for PEFT, vLLM and SGLang; and back into the bank.

>>> export_adapter(bank, bank.current("ana", family), Path("adapters"), base_name="Qwen/Qwen2.5-0.5B")
PosixPath('adapters/ana@3')

::

    ana@3/adapter_config.json         r, lora_alpha, target_modules, base_model_name_or_path, ...
    ana@3/adapter_model.safetensors   base_model.model.<module>.lora_A.weight (r, in), ... .lora_B.weight (out, r)

The folder's name holds the version, so a server that keeps what it computed with an adapter by its name never takes it
for another version's. Within vLLM's rules: type LORA, no bias, no other saved modules, and `base_model_name_or_path` is
the name that the model is served by.

An adapter over a shared prior is written as one adapter of twice the rank, ``[A0; A]`` and ``[B0, B]``: what the stack
computes, for a server that knows of no prior. The alpha grows so that the scale stays. Where prior and adapter have a
half of the rank each (`TrainingOptions.half`), their sum is written, and the rank stays too. When it comes back, its
first half must be the prior.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from persona.adapters.bank import AdapterBank, AdapterDraft, StoredAdapter, safe_name
from persona.adapters.family import DTYPES, Family, LoraSpec
from persona.errors import (
    DataFormatError,
    FingerprintMismatchError,
    InvalidOptionError,
    UnknownAdapterError,
    UnknownUserError,
    reason,
)
from persona.files import make_ordinary
from persona.protocols import PRIOR_ADAPTER
from persona.records import check_user_id

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def export_adapter(
    bank: AdapterBank, adapter: StoredAdapter, folder: Path, *, base_name: str, digest: str | None = None
) -> Path:
    """Write an adapter as a PEFT folder ``<user>@<version>`` in `folder`.

    It appears whole or not at all; one that is there by that name is replaced. With `digest` the folder is
    ``<user>@<version>-<digest>`` and means these numbers for ever: one that is there stays as it is, since a server may
    be reading it.

    Args:
        bank: where the adapter is.
        adapter: which one.
        folder: where its folder is to lie; made if it is missing.
        base_name: what the base model is called where the adapter will be loaded.
        digest: of family and numbers (`persona.adapters.served`); None for a folder without.

    Returns:
        The adapter's folder.

    Raises:
        UnknownAdapterError: if it has no numbers, or was erased.
    """
    name = f"{safe_name(adapter.user_id)}@{adapter.version}{'' if digest is None else f'-{digest}'}"
    if digest is not None and (folder / name).is_dir():
        return folder / name
    prior, row = bank.prior(adapter.family), bank.row(adapter)
    halves = [row] if prior is None else [prior.to(row.dtype), row]
    if prior is not None and _halved(adapter.family, prior, row):
        halves = [halves[0] + row]
    return _written(adapter.family, halves, folder, name, base_name, adapter.user_id, keep=digest is not None)


def export_prior(bank: AdapterBank, family: Family, folder: Path, *, base_name: str) -> Path:
    """Write the shared prior alone as a PEFT folder ``@prior-<family>``; otherwise as `export_adapter` with a digest.

    Raises:
        UnknownAdapterError: if the family has none.
    """
    prior = bank.prior(family)
    if prior is None:
        raise UnknownAdapterError(f"the family {family.key} has no prior to export")
    name = f"{PRIOR_ADAPTER}-{family.key}"
    if (folder / name).is_dir():
        return folder / name
    return _written(family, [prior], folder, name, base_name, None, keep=True)


def _written(
    family: Family,
    halves: list[Tensor],
    folder: Path,
    name: str,
    base_name: str,
    user_id: str | None,
    *,
    keep: bool,
) -> Path:
    """An adapter as a PEFT folder `name`: that of `halves` side by side. With `keep` one that is there stays."""
    dtype = torch.float32 if family.spec.dtype == "int8" else DTYPES[family.spec.dtype]
    tensors: dict[str, Tensor] = {}
    pairs = zip(family.modules, *(family.pairs(half[None]) for half in halves), strict=True)
    for module, *parts in pairs:
        tensors[f"{_PREFIX}{module.name}.lora_A.weight"] = torch.cat([a[0] for a, _ in parts]).to(dtype).contiguous()
        tensors[f"{_PREFIX}{module.name}.lora_B.weight"] = torch.cat([b[0] for _, b in parts], 1).to(dtype).contiguous()
    r = family.spec.r * len(halves)
    alpha = family.spec.scale * (math.sqrt(r) if family.spec.rslora else r)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "r": r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "use_rslora": family.spec.rslora,
        "target_modules": [module.name for module in family.modules],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "task_type": None,
        "inference_mode": True,
    }
    notes = {
        "format": "pt",
        **({} if user_id is None else {"persona_user_id": user_id}),
        "persona_base": family.base,
        "persona_family": family.key,
        "persona_prior": family.prior or "",
    }
    place = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as fresh:
        made = Path(fresh) / place.name
        made.mkdir()
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, made / WEIGHTS, metadata=notes)
        make_ordinary(made / WEIGHTS)
        if place.exists() and not keep:
            shutil.rmtree(place)
        try:
            os.replace(made, place)
        except OSError:
            # Another process has just written the same one.
            if not (keep and place.is_dir()):
                raise
    return place


def _halved(family: Family, prior: Tensor, row: Tensor | None = None) -> bool:
    """Whether the prior has the task's half of the rank alone, and `row` the user's."""
    if family.spec.r < 2 or not torch.equal(family.half(prior, "task"), prior):
        return False
    return row is None or torch.equal(family.half(row, "user"), row)


def read_spec(folder: Path, *, dtype: str = "float32") -> LoraSpec:
    """The shape of the adapter in a PEFT folder.

    Args:
        folder: with the two files.
        dtype: what its numbers are to be at rest.

    Raises:
        DataFormatError: if there is no adapter, or one of a kind that a stack cannot compute.
    """
    config = _config(folder)
    targets = config["target_modules"]
    return LoraSpec(
        config["r"],
        float(config["lora_alpha"]),
        (targets,) if isinstance(targets, str) else tuple(targets),
        bool(config.get("use_rslora")),
        dtype,
    )


def import_adapters(
    bank: AdapterBank,
    folders: Sequence[Path],
    family: Family,
    *,
    prior: Tensor | None = None,
    user_id: str | None = None,
) -> tuple[StoredAdapter, ...]:
    """Publish the adapters in PEFT folders as their users' new versions: all of them or, if one is refused, none.

    Args:
        bank: where they go.
        folders: each with the two files; a user may come once.
        family: what they are to stand beside; one that the bank does not know yet is made known.
        prior: the one that the family lies over (`AdapterBank.prior`).  # (size,)
        user_id: whose they are; None takes what `export_adapter` has noted.

    Raises:
        DataFormatError: if there is no adapter, one of a kind that a stack cannot compute or of another shape than the
            family's, or it does not say whose it is.
        FingerprintMismatchError: if it was made for another base model or over another prior.
        UnknownUserError: if the store does not know the user.
        InvalidOptionError: if a user comes twice.
    """
    rows: dict[str, Tensor] = {}
    for folder in folders:
        owner, row = _read(folder, family, prior, user_id)
        if check_user_id(owner) in rows:
            raise InvalidOptionError(f"a user can have one new adapter at a time, {owner!r} came twice")
        if owner not in bank.store:
            raise UnknownUserError(f"the store holds nothing on {owner!r}: ingest the user's records first")
        rows[owner] = row
    bank.add_family(family, prior)
    return bank.publish(
        family, [AdapterDraft(owner, row, bank.store.profile(owner).revision) for owner, row in rows.items()]
    )


def import_adapter(bank: AdapterBank, folder: Path, family: Family, *, user_id: str | None = None) -> StoredAdapter:
    """`import_adapters` of one folder; a family that the bank knows brings its prior along."""
    prior = bank.prior(family) if family in bank.families() else None
    return import_adapters(bank, [folder], family, prior=prior, user_id=user_id)[0]


def noted_family(folder: Path) -> str:
    """The key of the family that `export_adapter` has noted; ``""`` in a folder from elsewhere.

    Raises:
        DataFormatError: if there is no adapter.
    """
    _config(folder)
    return _weights(folder)[0].get("persona_family", "")


def _weights(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataFormatError(f"the weights cannot be read: {reason(error)}", source=path) from error


def _read(folder: Path, family: Family, prior: Tensor | None, user_id: str | None) -> tuple[str, Tensor]:
    """Whose adapter is in a folder, and its row in `family`."""
    spec, path = read_spec(folder), folder / WEIGHTS
    notes, tensors = _weights(folder)
    base = notes.get("persona_base", family.base)
    if base != family.base:
        raise FingerprintMismatchError(f"{folder} was made for {base}, the family {family.key} is of {family.base}")
    user_id = user_id or notes.get("persona_user_id")
    if user_id is None:
        raise DataFormatError("the adapter does not say whose it is: give a user id", source=path)
    halves = 1 if prior is None else 2
    summed = prior is not None and spec.r == family.spec.r and _halved(family, prior)
    if summed:
        halves = 1
    if spec.r != halves * family.spec.r or not math.isclose(spec.scale, family.spec.scale):
        raise DataFormatError(
            f"adapters of the family {family.key} have r={halves * family.spec.r} and scale {family.spec.scale:g}, "
            f"was: r={spec.r} and scale {spec.scale:g}",
            source=folder / CONFIG,
        )
    rows = torch.zeros(halves, family.size)
    r = family.spec.r
    for half, pairs in enumerate(family.pairs(rows[half : half + 1]) for half in range(halves)):
        part = slice(half * r, (half + 1) * r)
        for module, (a, b) in zip(family.modules, pairs, strict=True):
            stored_a = _taken(tensors, module.name, "A", (halves * r, module.n_in), path)
            stored_b = _taken(tensors, module.name, "B", (module.n_out, halves * r), path)
            a[0].copy_(stored_a[part])
            b[0].copy_(stored_b[:, part])
    used = {f"{_PREFIX}{module.name}.lora_{part}.weight" for module in family.modules for part in "AB"}
    if set(tensors) - used:
        surplus = sorted(set(tensors) - used)[0]
        raise DataFormatError(f"the family {family.key} has no layer for {surplus}", source=path)
    shared = family.half(rows[0], "task") if summed else rows[0]
    if prior is not None and not torch.allclose(shared, prior, rtol=1e-2, atol=1e-4):
        raise FingerprintMismatchError(f"{folder} lies over another prior than the family {family.key}")
    return user_id, family.half(rows[0], "user") if summed else rows[-1]


def _taken(tensors: dict[str, Tensor], module: str, part: str, shape: tuple[int, int], path: Path) -> Tensor:
    name = f"{_PREFIX}{module}.lora_{part}.weight"
    found = tensors.get(name)
    if found is None or tuple(found.shape) != shape:
        was = "missing" if found is None else f"of shape {tuple(found.shape)}"
        raise DataFormatError(f"{name} must have the shape {shape}, was: {was}", source=path)
    return found


def _config(folder: Path) -> dict[str, Any]:
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
    for name in ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform"):
        if config.get(name):
            raise DataFormatError(f"a plain LoRA adapter is needed, this one has `{name}`", source=path)
    if config.get("bias", "none") != "none":
        raise DataFormatError(f"a plain LoRA adapter has no bias, was: {config['bias']}", source=path)
    return config

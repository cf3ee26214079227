"""Steering vectors as control vectors of llama.cpp: one GGUF file per user, for ``--control-vector``.

llama.cpp adds ``direction.N`` to what its layer `N` gives, at every position; its layers are the blocks here, and it
has none for block 0. The file holds float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from persona.adapters.bank import AdapterBank
from persona.adapters.versions import StoredAdapter, safe_name
from persona.errors import InvalidOptionError, needed
from persona.files import replacing
from persona.steering.options import as_steering

_ARCHITECTURE = "controlvector"


def export_steering(bank: AdapterBank, adapter: StoredAdapter, folder: Path, *, base_name: str) -> Path:
    """Write a user's version as ``user@version.gguf``; returns its path.

    Raises:
        UnknownAdapterError: if the bank has no numbers of it.
        InvalidOptionError, MissingDependencyError: as `write_control_vector`.
    """
    place = folder / f"{safe_name(adapter.user_id)}@{adapter.version}.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    write_control_vector(as_steering(adapter.family, bank.row(adapter)), place, model=base_name)
    return place


def write_control_vector(vectors: Mapping[int, Tensor], path: Path, *, model: str) -> None:
    """Write vectors by block as a control vector.

    Args:
        vectors: (hidden,) each.
        path: of the file; one that is there is replaced.
        model: what it is for, as a hint to people.

    Raises:
        InvalidOptionError: if there is none, or one behind block 0.
        MissingDependencyError: if `gguf` is not installed.
    """
    if not vectors or min(vectors) < 1:
        raise InvalidOptionError(
            f"a control vector has vectors behind blocks from 1, llama.cpp adds none behind block 0: {sorted(vectors)}"
        )
    with needed("gguf"):
        from gguf import GGUFWriter
    with replacing(path) as temporary:
        writer: Any = GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", model)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        for block, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{block}", vector.detach().float().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

"""Control vectors of llama.cpp: what is read back is what was written, in the form that llama.cpp reads."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from persona.adapters.bank import AdapterBank
from persona.adapters.versions import AdapterDraft, erase_exports
from persona.errors import InvalidOptionError
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.steering.control_vector import export_steering, write_control_vector
from persona.steering.options import as_row, steering_family


def read_control_vector(path: Path) -> dict[int, torch.Tensor]:
    tensors = {each.name.partition(".")[2]: each.data for each in gguf.GGUFReader(path).tensors}
    return {int(block): torch.from_numpy(data.copy()) for block, data in tensors.items()}


def test_a_file_read_back_equals_and_has_the_fields_of_llama_cpp(tmp_path: Path) -> None:
    vectors = {3: torch.randn(32), 1: torch.randn(32)}
    write_control_vector(vectors, tmp_path / "v.gguf", model="llama")
    found = read_control_vector(tmp_path / "v.gguf")
    assert sorted(found) == [1, 3]
    assert all(torch.equal(found[block], vectors[block]) for block in found)
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    fields = {name: reader.get_field(name) for name in ("general.architecture", "controlvector.model_hint")}
    assert {name: field.contents() for name, field in fields.items() if field} == dict(
        zip(fields, ("controlvector", "llama"), strict=True)
    )
    assert {(each.name, each.tensor_type.name, tuple(each.shape)) for each in reader.tensors} == {
        ("direction.1", "F32", (32,)),
        ("direction.3", "F32", (32,)),
    }


def test_what_llama_cpp_cannot_add_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    with pytest.raises(InvalidOptionError, match="block 0"):
        write_control_vector({0: torch.ones(4)}, path, model="llama")
    assert list(tmp_path.iterdir()) == []


def test_a_users_export_goes_with_the_user(llm: TransformersLM, bank: AdapterBank, tmp_path: Path) -> None:
    bank.store.upsert([("ana/1", Record("Film", target="x")), ("bo", Record("Film", target="y"))])
    family = steering_family(llm, (0, 1))
    bank.add_family(family)
    row = as_row(family, {1: torch.arange(32.0)})
    drafts = [AdapterDraft(user, row, bank.store.profile(user).revision) for user in ("ana/1", "bo")]
    paths = [export_steering(bank, each, tmp_path / "out", base_name="llama") for each in bank.publish(family, drafts)]
    assert [path.name for path in paths] == ["ana%2F1@1.gguf", "bo@1.gguf"]
    assert torch.equal(read_control_vector(paths[0])[1], torch.arange(32.0))
    assert erase_exports("ana/1", tmp_path / "out") == 1
    assert list((tmp_path / "out").iterdir()) == [paths[1]]

"""Adapters go to PEFT and come back; there they answer as here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from persona.adapters.bank import AdapterBank
from persona.adapters.family import Family, LoraSpec
from persona.adapters.peft_format import CONFIG, WEIGHTS, export_adapter, import_adapters, noted_family, read_spec
from persona.adapters.stacked import StackedLoRA
from persona.adapters.versions import AdapterDraft
from persona.errors import DataFormatError, FingerprintMismatchError, InvalidOptionError, UnknownUserError
from persona.llm.transformers import TransformersLM
from persona.records import Record
from persona.store.profile_store import ProfileStore

# PEFT reads an attribute that transformers has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

USER = "../ana b@1"
IDS = torch.tensor([[0, 5, 6, 7, 8]])


def row(family: Family, seed: int) -> Tensor:
    return torch.randn(family.size, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[AdapterBank]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([(USER, Record("a record"))])
        yield AdapterBank(store)


@pytest.mark.parametrize("with_prior", [False, True], ids=["alone", "over-a-prior"])
@pytest.mark.parametrize(
    "spec",
    [
        LoraSpec(r=2, alpha=4),
        LoraSpec(r=3, alpha=5, targets=("q_proj", "down_proj"), rslora=True),
        LoraSpec(r=2, alpha=4, dtype="int8"),
        LoraSpec(r=2, alpha=4, dtype="float16"),
    ],
    ids=["plain", "rslora", "int8", "float16"],
)
def test_peft_answers_as_the_stack_does(
    bank: AdapterBank, llm: TransformersLM, llama_folder: Path, tmp_path: Path, spec: LoraSpec, with_prior: bool
) -> None:
    bare = StackedLoRA(llm.model, spec, 1, base=llm.fingerprint)
    bare.remove()
    # A prior as it is after a trip through the dtype at rest, so that export loses nothing.
    prior = bare.family.decode(bare.family.encode(row(bare.family, 9))) if with_prior else None
    family = bare.family.over(prior)
    bank.add_family(family, prior)
    (adapter,) = bank.publish(family, [AdapterDraft(USER, row(family, 1), 1)])
    place = export_adapter(bank, adapter, tmp_path / "out", base_name=str(llama_folder))
    assert place.parent == tmp_path / "out"
    assert place.name == "%2E.%2Fana%20b%401@1"
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]
    with StackedLoRA(llm.model, spec, 1, prior=prior, base=llm.fingerprint) as stack, torch.inference_mode():
        stack.write(1, bank.row(adapter))
        with stack.rows([1]):
            expected = llm.model(input_ids=IDS).logits
        plain = llm.model(input_ids=IDS).logits
    loaded: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), place)
    with torch.inference_mode():
        found = loaded(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=0.05)
    (again,) = import_adapters(bank, [place], family)
    assert (again.user_id, again.version) == (USER, 2)
    tolerance = 1e-2 if spec.dtype == "int8" else 0
    torch.testing.assert_close(bank.row(again), bank.row(adapter), rtol=0, atol=tolerance)


@pytest.fixture
def exported(bank: AdapterBank, llm: TransformersLM, tmp_path: Path) -> tuple[Path, Family]:
    stack = StackedLoRA(llm.model, LoraSpec(r=2, alpha=4, targets=("q_proj",)), 1, base=llm.fingerprint)
    stack.remove()
    bank.add_family(stack.family)
    (adapter,) = bank.publish(stack.family, [AdapterDraft(USER, row(stack.family, 1), 1)])
    return export_adapter(bank, adapter, tmp_path / "out", base_name="base"), stack.family


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "type LORA"),
        ({"r": 4}, "have r=2 and scale 2, was: r=4 and scale 1"),
        ({"use_dora": True}, "this one has `use_dora`"),
        ({"of_a_later_peft": 1}, "this one has `of_a_later_peft`"),
        ({"bias": "all"}, "this one has `bias`: 'all'"),
        ({"target_modules": None}, "must have `target_modules`"),
    ],
)
def test_what_a_stack_cannot_compute_is_refused(
    bank: AdapterBank, exported: tuple[Path, Family], change: dict[str, Any], message: str
) -> None:
    folder, family = exported
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(DataFormatError, match=message):
        import_adapters(bank, [folder], family)


def test_a_wrong_place_is_an_error(bank: AdapterBank, exported: tuple[Path, Family], tmp_path: Path) -> None:
    folder, family = exported
    assert read_spec(folder).r == 2
    with pytest.raises(DataFormatError, match="holds no PEFT adapter"):
        read_spec(tmp_path)
    with pytest.raises(UnknownUserError, match="nothing on 'bo'"):
        import_adapters(bank, [folder], family, user_id="bo")
    other = Family("another@0:float32", family.spec, family.modules)
    with pytest.raises(FingerprintMismatchError, match="another@0:float32"):
        import_adapters(bank, [folder], other)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(DataFormatError, match="cannot be read"):
        import_adapters(bank, [folder], family)


def test_all_folders_are_imported_or_none(bank: AdapterBank, exported: tuple[Path, Family], tmp_path: Path) -> None:
    folder, family = exported
    assert noted_family(folder) == family.key
    assert (folder / WEIGHTS).stat().st_mode == (folder / CONFIG).stat().st_mode  # who may read one reads the other
    before, known = bank.counts(family), bank.families()
    with pytest.raises(DataFormatError, match="holds no PEFT adapter"):
        import_adapters(bank, [folder, tmp_path], family)
    with pytest.raises(InvalidOptionError, match=r"one new adapter at a time, .* came twice"):
        import_adapters(bank, [folder, folder], family)
    with pytest.raises(FingerprintMismatchError):
        import_adapters(bank, [folder], Family("another@0:float32", family.spec, family.modules))
    assert bank.families() == known
    assert bank.counts(family) == before
    version = bank.current(USER, family)
    assert version is not None
    (imported,) = import_adapters(bank, [folder], family)
    assert imported.version == version.version + 1


def test_forget_takes_the_exports_along(bank: AdapterBank, exported: tuple[Path, Family]) -> None:
    folder, _ = exported
    bank.forget("somebody else", exports=folder.parent)
    assert folder.exists()
    bank.forget(USER, exports=folder.parent)
    assert not folder.exists()

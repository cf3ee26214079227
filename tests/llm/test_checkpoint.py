"""What is loaded from a folder, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from persona.errors import InvalidOptionError, MissingDependencyError, ModelLoadError
from persona.llm.checkpoint import files_sha256, load_folder
from persona.llm.weights import memory


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_are_float32_on_a_cpu_by_default(folder: Path) -> None:
    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: tensor.half() for name, tensor in weights.items()})

    edit_weights(folder, halve)
    edit_config(folder, dtype="float16")
    assert load_folder(folder, device="cpu").model.dtype == torch.float32
    assert load_folder(folder, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_it_comes_ready_to_answer(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load_folder(folder)
    assert not loaded.model.training
    assert loaded.weights == (folder / "model.safetensors",)
    assert capfd.readouterr() == ("", "")


def test_the_hash_is_that_of_the_bytes(folder: Path) -> None:
    weights = load_folder(folder).weights
    before = files_sha256(*weights)
    edit_weights(folder, lambda weights: weights["lm_head.weight"][0].add_(1))
    assert files_sha256(*weights) != before


def own_code(folder: Path) -> None:
    edit_config(folder, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text("raise SystemExit('this code was run')")


def short_head(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"][:9].clone()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (shutil.rmtree, "there is no folder"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model: config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "names no `model_type`"),
        (lambda folder: edit_config(folder, model_type="bert", is_decoder=False), "is an encoder and writes no text"),
        (lambda folder: edit_config(folder, model_type="vit"), "cannot be loaded: ValueError: Unrecognized"),
        (lambda folder: edit_config(folder, model_type="nobody"), "of the type 'nobody', which transformers does not"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights: model.safetensors is missing"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"pickle only \(pytorch_model.bin\), and loading a pickle can run code: .*save_pretrained",
        ),
        (
            lambda folder: edit_weights(folder, lambda weights: weights.pop("lm_head.weight")),
            "1 tensors such as lm_head.weight are missing",
        ),
        (lambda folder: edit_weights(folder, short_head), r"such as lm_head.weight \(\[9, 32\], not \[258, 32\]\) are"),
        (lambda folder: os.truncate(folder / "model.safetensors", 2000), "cannot be loaded: SafetensorError"),
        (lambda folder: edit_config(folder, attention_dropout="some"), "cannot be loaded: StrictDataclass"),
        (lambda folder: edit_config(folder, dtype="float17"), "cannot be loaded: AttributeError"),
        (
            lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
            "holds an adapter, not a model",
        ),
        (own_code, "brings its own code, which is never run"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "cannot be loaded: "),
    ],
)
def test_broken_folders_are_refused_in_one_line(folder: Path, break_it: Callable[[Path], object], said: str) -> None:
    break_it(folder)
    with pytest.raises(ModelLoadError, match=said) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text("raise SystemExit('this code was run')")
    assert type(load_folder(folder).model).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "toaster"}, "`device` 'toaster' cannot be used here"),
        ({"device": "cuda:99"}, "`device` 'cuda:99' cannot be used here"),
        ({"dtype": "int4"}, "`dtype` must be auto, float32, float16, bfloat16, float64, was: 'int4'"),
        ({"quantize": "3bit"}, "`quantize` must be one of 4bit, 8bit, was: '3bit'"),
        ({"quantize": "4bit", "dtype": "float64"}, "with `quantize`, `dtype` must be auto, float32, float16, bfloat16"),
    ],
)
def test_options_out_of_range(folder: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        load_folder(folder, **options)


def test_quantised_weights_whose_package_is_missing(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "aqlm"})
    with pytest.raises(MissingDependencyError, match="needs a package: ImportError: Using `aqlm`"):
        load_folder(folder)


def test_other_files_of_the_same_weights_are_not_counted(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")
    assert load_folder(folder).weights == (folder / "model.safetensors",)


def test_weights_that_have_no_room_are_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    # Were they read, this would be refused for another reason.
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ModelLoadError, match=r"take 0\.1 MB in float32, and cpu has 0\.1 MB free: take dtype="):
        load_folder(folder, device="cpu")

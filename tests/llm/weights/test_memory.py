"""Memory: the estimate is what loading takes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persona.errors import ModelLoadError
from persona.llm.checkpoint import load_folder
from persona.llm.weights import memory
from persona.llm.weights.memory import check_memory, free_bytes, weights_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_estimate_is_what_the_parameters_take(llama_folder: Path, dtype: str) -> None:
    loaded = load_folder(llama_folder, device="cpu", dtype=dtype)
    taken = sum(each.numel() * each.element_size() for each in loaded.model.parameters())
    assert weights_bytes(loaded.weights, dtype=dtype) == taken


def test_as_stored_is_what_the_file_holds(llama_folder: Path) -> None:
    files = [llama_folder / "model.safetensors"]
    assert weights_bytes(files) == weights_bytes(files, dtype="float32")
    assert weights_bytes(files, quantize="4bit") < weights_bytes(files, quantize="8bit") < weights_bytes(files)


def test_what_is_free_here() -> None:
    free = free_bytes(CPU)
    assert free is not None
    assert 0 < free < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    unlimited = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4500\n")
    (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 300\n")
    assert free_bytes(CPU) == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert unlimited is not None
    assert free_bytes(CPU) == pytest.approx(unlimited, rel=0.2)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (
            0.6,
            r"free: take dtype='bfloat16' \(\d\.\d MB\), quantize='8bit' .*, quantize='4bit' .*, another `device`, or",
        ),
        (0.4, r"free: take quantize='8bit' .*, quantize='4bit' .*, another `device`, or a smaller model"),
        (0.0, r"and cpu has 0\.0 MB free: take another `device`, or a smaller model"),
    ],
)
def test_too_little_memory_is_said_with_what_would_fit(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, share: float, said: str
) -> None:
    files = [llama_folder / "model.safetensors"]
    monkeypatch.setattr(memory, "free_bytes", lambda device: weights_bytes(files) * share)
    with pytest.raises(ModelLoadError, match=said) as caught:
        check_memory(files, CPU, dtype="float32", source=llama_folder)
    assert "\n" not in str(caught.value)


def test_large_weights_are_announced(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "_ANNOUNCED", 1)
    with caplog.at_level("INFO", logger="persona"):
        check_memory([llama_folder / "model.safetensors"], CPU, dtype="bfloat16", source=llama_folder)
    assert caplog.messages == ["loading 0.1 MB of weights in bfloat16 onto cpu"]

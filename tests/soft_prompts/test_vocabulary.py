"""Personal vocabulary: the paper's term, and each user of a batch with their own words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from persona.channels import Ask
from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.llm.load import load_llm
from persona.llm.transformers import TransformersLM
from persona.personalizer import Personalizer
from persona.protocols import GenerationOptions, Request
from persona.records import Profile, Record
from persona.soft_prompts.copying import TokenBackground
from persona.soft_prompts.vocabulary import VocabularyChannel
from persona.store.profile_store import ProfileStore

OPTIONS = GenerationOptions(max_new_tokens=6)


def test_the_lift_is_the_papers_term(llama: TransformersLM) -> None:
    """Row 57 of docs/papers.md, the personal vocabulary: beta log(1 + tf idf) on the logits of the user's tokens."""
    background = TokenBackground.from_texts(llama, ["ab", "ac", "a", "a"])
    a, b, c = (llama.target_ids([letter])[0][0] for letter in "abc")
    assert background.idf[a] == 0
    assert background.idf[b] == pytest.approx(math.log(5 / 2))
    channel = VocabularyChannel(llama, background, beta=0.5)
    lifts = channel.lifts(Profile("ana", (Record("x", target="ab"), Record("abb"), Record("y", target="ca"))))
    assert lifts == {
        b: pytest.approx(0.5 * math.log1p(2 / 3 * math.log(5 / 2))),
        c: pytest.approx(0.5 * math.log1p(1 / 3 * math.log(5 / 2))),
    }
    assert list(lifts) == [b, c]
    assert not set(llama.special_tokens) & set(lifts)


def test_a_text_of_several_users_is_counted_once(llama: TransformersLM) -> None:
    profiles = [Profile("ana", (Record("x", "zz"),)), Profile("bo", (Record("y", "zz"), Record("q")))]
    background = TokenBackground.from_profiles(llama, profiles)
    z, q = (llama.target_ids([letter])[0][0] for letter in "zq")
    assert (background.texts, background.counts[z], background.counts[q]) == (2, 1, 1)


def test_weight_zero_is_the_plain_llm(llama: TransformersLM) -> None:
    background = TokenBackground.from_texts(llama, ["some words"])
    asks = [Ask(Profile("ana", (Record("x", target="zebra"),)), "Q", "Q"), Ask(Profile("nobody"), "Q", "Q")]
    assert [each.lifts for each in VocabularyChannel(llama, background).contribute(asks)] == [None, None]
    ana, nobody = VocabularyChannel(llama, background, 1.0).contribute(asks)
    assert ana.lifts
    assert nobody.lifts is None


def test_each_user_of_a_batch_has_their_own_words(llama: TransformersLM, tmp_path: Path) -> None:
    background = TokenBackground.from_texts(llama, ["abcdefghij"] * 20)
    channel = VocabularyChannel(llama, background, beta=100.0)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("x", target="z")), ("bo", Record("x", target="q"))])
        answers = Personalizer(llama, store, (channel,), options=OPTIONS).batch(
            [("ana", "Q"), ("bo", "Q"), ("nobody", "Q")]
        )
    assert [answer.text for answer in answers[:2]] == ["z" * 6, "q" * 6]
    assert answers[2].text == llama.generate([Request("Q")], OPTIONS)[0]
    assert [answer.channels for answer in answers] == [("vocabulary",), ("vocabulary",), ()]
    assert all(answer.tokens_added == 0 for answer in answers)
    # One batch may hold a user as of two days: an earlier question does not know the words of a later one.
    days = [Profile("ana", tuple(Record(f"x {word}", target=word) for word in words)) for words in ("z", "zq")]
    for contribution, words in zip(channel.contribute([Ask(day, "Q", "Q") for day in days]), ("z", "zq"), strict=True):
        assert isinstance(contribution.lifts, dict)
        assert set(contribution.lifts) == {llama.target_ids([word])[0][0] for word in words}


def test_options_are_checked(llama: TransformersLM) -> None:
    background = TokenBackground.from_texts(llama, [])
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidOptionError, match="`beta` must be"):
            VocabularyChannel(llama, background, beta)
    with pytest.raises(UnsupportedChannelError, match="needs: lifts"):
        VocabularyChannel(load_llm(lambda prompt: ""), background)

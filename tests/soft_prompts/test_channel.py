"""The channel of soft prompts: batches of users, the question and the wording of the training, stored soft prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.world.world import World
from persona.assembly import personalize
from persona.channels import Ask
from persona.errors import InvalidOptionError, UnsupportedChannelError
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import lamp_task
from persona.llm.load import load_llm
from persona.personalizer import Personalizer
from persona.protocols import SOFT_PROMPT, TEXT, GenerationOptions
from persona.records import Profile, Record
from persona.retrievers import LampBM25Retriever
from persona.retrievers.channel import RecordsChannel
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompt_kind, soft_prompts, store_soft_prompts
from persona.soft_prompts.copying import FEATURES, CopyLifts, TokenBackground
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.vocabulary import VocabularyChannel
from persona.store.profile_store import ProfileStore
from tests.soft_prompts.splits import fresh

OPTIONS = GenerationOptions(max_new_tokens=6)
TASK = lamp_task("LaMP_3")
SUPERB = "The screen is superb."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        for user in range(3):
            records = World(1).records(World(1).user("dev", user), "LaMP_3", 5)
            opened.upsert((f"user-{user}", record) for record in records)
        yield opened


def awake(embedder: UserEmbedder) -> UserEmbedder:
    """With weights that make users differ."""
    with torch.no_grad():
        embedder.pooling.last.weight.normal_(std=0.5)
    return embedder.eval()


@pytest.fixture
def embedder(tiny: Any, encoder: Any) -> UserEmbedder:
    return awake(fresh(tiny, encoder))


@pytest.fixture
def copier(tiny: Any, encoder: Any) -> UserEmbedder:
    embedder = awake(fresh(tiny, encoder, copies=True))
    assert embedder.copying is not None
    embedder.copying.weights[FEATURES.index("user")] = 2.0
    return embedder


def ask(profile: Profile, prompt: str = "Q") -> Ask:
    return Ask(profile, prompt, prompt)


def test_a_batch_mixes_users_and_gives_each_their_own_answer(
    tiny: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    channel = SoftPromptChannel(embedder, tiny, encoder, store)
    personalizer = Personalizer(tiny, store, (RecordsChannel(LampBM25Retriever(), 1), channel), options=OPTIONS)
    questions = [(f"user-{user}", "review: The screen is superb and the battery is awful.") for user in (0, 1, 2, 0)]
    questions.append(("nobody", "review: Fine."))
    together = personalizer.batch(questions)
    assert [each.text for each in together] == [personalizer.generate(*question).text for question in questions]
    assert together[0].channels == ("records", "soft_prompt")
    assert together[0].tokens_added >= 2
    assert together[-1].abstained  # the neutral prompt holds nothing personal
    first, second = channel.contribute([ask(store.profile(user)) for user in ("user-0", "user-1")])
    assert first.soft_prompt is not None
    assert second.soft_prompt is not None
    assert not torch.equal(first.soft_prompt, second.soft_prompt)


def test_a_question_is_asked_as_it_was_in_training(
    tiny: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder, tmp_path: Path
) -> None:
    profile = store.profile("user-0")
    asks = [ask(profile, prompt) for prompt in (TASK.make_input(SUPERB), "Something that is no prompt of the task")]
    embedder.note_task("LaMP_3")
    embedder.save_pretrained(tmp_path / "embedder")
    histories = HistoryReader(embedder.config, encoder, store).read([profile] * 2)
    expected = soft_prompts(embedder, histories, encoder.encode([SUPERB, asks[1].prompt]))
    for loaded in (embedder, load_user_embedder(tmp_path / "embedder")):
        contributions = SoftPromptChannel(loaded, tiny, encoder, store).contribute(asks)
        for contribution, prompt in zip(contributions, expected, strict=True):
            assert contribution.soft_prompt is not None
            assert torch.equal(contribution.soft_prompt, prompt)
    embedder.note_task("")  # the whole prompt is the question
    (whole, _) = SoftPromptChannel(embedder, tiny, encoder, store).contribute(asks)
    assert whole.soft_prompt is not None
    assert not torch.equal(whole.soft_prompt, expected[0])


def test_records_are_sought_and_worded_as_in_training(
    tiny: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    queries: list[str] = []

    class Noting(LampBM25Retriever):
        def retrieve_batch(self, profiles: Any, given: Any, k: int) -> Any:
            queries.extend(given)
            return super().retrieve_batch(profiles, given, k)

    profile, prompt = store.profile("user-0"), TASK.make_input(SUPERB)
    records = [scored.record for scored in LampBM25Retriever().retrieve(profile, SUPERB, 2)]
    prompts = {}
    for task in ("LaMP_3", ""):
        embedder.note_task(task)
        channels = (RecordsChannel(Noting(), 2), SoftPromptChannel(embedder, tiny, encoder, store))
        prompts[task] = Personalizer(tiny, store, channels, options=OPTIONS).generate("user-0", prompt).prompt
    assert queries == [SUPERB, prompt]
    assert prompts["LaMP_3"] == lamp_prompt(TASK, prompt, records, tiny.tokenizer, max_length=1024).text
    assert prompts[""].startswith("Earlier records of this user")


def test_stored_soft_prompts_are_read_renewed_and_forgotten(
    tiny: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    assert store_soft_prompts(store, embedder, encoder) == 3
    assert store_soft_prompts(store, embedder, encoder) == 0
    kind, profile = soft_prompt_kind(embedder), store.profile("user-1")

    class Silent:
        dim, fingerprint = encoder.dim, encoder.fingerprint

        def encode(self, texts: Any) -> Any:
            raise AssertionError("nothing is to be encoded on the path of a request")

    stored = SoftPromptChannel(embedder, tiny, Silent(), store, query_free=True)
    made = SoftPromptChannel(embedder, tiny, encoder, query_free=True)
    first, second = (channel.contribute([ask(profile)])[0].soft_prompt for channel in (stored, made))
    torch.testing.assert_close(first, second, rtol=2e-3, atol=2e-3)  # float16 at rest

    store.upsert([("user-1", Record("A new review.", "3"))])
    with pytest.raises(AssertionError, match="encoded"):
        stored.contribute([ask(store.profile("user-1"))])  # the stored one is stale
    assert store_soft_prompts(store, embedder, encoder) == 1
    store.delete_records("user-2", [store.profile("user-2")[0].id])
    assert store.index("user-2", kind) is None
    store.forget("user-0")
    assert store.index("user-0", kind) is None


def test_each_user_of_a_batch_copies_their_own_answers(
    tiny: Any, encoder: Any, copier: UserEmbedder, store: ProfileStore
) -> None:
    channel = SoftPromptChannel(copier, tiny, encoder, store)
    personalizer = Personalizer(tiny, store, (channel,), options=OPTIONS)
    prompt = "review: Hm."
    questions = [(user, prompt) for user in ("user-0", "user-1", "nobody")]
    mixed = personalizer.batch(questions)
    assert [each.text for each in mixed] == [personalizer.generate(*question).text for question in questions]
    contributions = channel.contribute([ask(store.profile(user), prompt) for user, _ in questions])
    asked = {*tiny.target_ids([prompt])[0], tiny.target_ids([""])[0][-1]}
    for (user, _), contribution in zip(questions, contributions, strict=True):
        assert isinstance(contribution.lifts, CopyLifts)
        own = {token for record in store.profile(user) for token in tiny.target_ids([record.target])[0]}
        assert own <= set(contribution.lifts.tokens.tolist()) <= own | asked


def test_only_one_channel_may_lift_tokens(
    tiny: Any, encoder: Any, copier: UserEmbedder, embedder: UserEmbedder, store: ProfileStore
) -> None:
    words = VocabularyChannel(tiny, TokenBackground.from_texts(tiny, ["a b"]), 1.0)
    copying = SoftPromptChannel(copier, tiny, encoder, store)
    for channels in ((copying, words), (words, copying)):
        with pytest.raises(InvalidOptionError, match="one channel may bring"):
            Personalizer(tiny, store, channels).generate("user-0", "Q")
    plain = SoftPromptChannel(embedder, tiny, encoder, store)  # one that copies nothing
    assert Personalizer(tiny, store, (words, plain), options=OPTIONS).generate("user-0", "Q").channels == (
        "vocabulary",
        "soft_prompt",
    )


def test_an_endpoint_gets_the_soft_prompt_alone(tiny: Any, encoder: Any, copier: UserEmbedder) -> None:
    class Endpoint:
        channels = frozenset({TEXT, SOFT_PROMPT})
        fingerprint = tiny.fingerprint

    asks = [ask(Profile("ana", (Record("x", target="superb"),)))]
    (alone,) = SoftPromptChannel(copier, Endpoint(), encoder).contribute(asks)
    (whole,) = SoftPromptChannel(copier, tiny, encoder).contribute(asks)
    assert alone.lifts is None
    assert whole.lifts is not None
    np.testing.assert_array_equal(alone.soft_prompt, whole.soft_prompt)


def test_an_llm_that_reads_text_only_is_refused(encoder: Any, store: ProfileStore, embedder: UserEmbedder) -> None:
    with pytest.raises(UnsupportedChannelError, match="a user embedder needs: soft_prompt"):
        SoftPromptChannel(embedder, load_llm(str.upper), encoder, store)


def test_personalize_takes_a_folder(
    store: ProfileStore, embedder: UserEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    embedder.save_pretrained(tmp_path / "embedder")
    folder = str(tmp_path / "embedder")
    assert isinstance(personalize("tiny", "user-0", "review: Hm.", store=store, user_embedder=folder, k=0), str)

"""What a user embedder makes of vectors that somebody already has of the users."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.world.world import World
from persona.encoders.user_vectors import UserVectorFile
from persona.errors import FingerprintMismatchError, InvalidOptionError
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.personalizer import Personalizer
from persona.readers import read_split
from persona.records import Profile, Record
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompts, store_soft_prompts
from persona.soft_prompts.embedder import UserEmbedder
from persona.soft_prompts.histories import HistoryBatch, UserVectorReader
from persona.soft_prompts.training.examples import Examples
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import UserEmbedderReport, train_user_embedder
from persona.store.profile_store import ProfileStore

Vectors = Callable[[dict[str, NDArray[Any]]], UserVectorFile]


@pytest.fixture
def written(tmp_path: Path) -> Vectors:
    """Writes vectors, and reads them."""

    def write(vectors: dict[str, NDArray[Any]]) -> UserVectorFile:
        np.save(tmp_path / "u.npy", np.stack(list(vectors.values())))
        (tmp_path / "u.ids.jsonl").write_text("".join(json.dumps(name) + "\n" for name in vectors))
        return UserVectorFile(tmp_path / "u.npy")

    return write


def score_shares(split: LampSplit) -> dict[str, NDArray[np.float32]]:
    """What a recommender may know of each user: the shares of the scores in the history."""
    vectors = {}
    for question in split.questions:
        counts = np.bincount([int(record.target or 0) for record in question.profile], minlength=6)[1:]
        vectors[question.user_id] = (counts / counts.sum()).astype(np.float32)
    return vectors


def train(
    llm: Any, file: UserVectorFile, split: LampSplit, options: UserEmbedderTraining, out: Path, progress: Any = None
) -> tuple[UserEmbedder, UserEmbedderReport]:
    embedder = UserEmbedder.for_llm(llm, file)
    reader = UserVectorReader(embedder.config, file)
    return embedder, train_user_embedder(embedder, split, llm, reader, options, out=out, progress=progress)


def test_one_linear_map_by_hand(tiny: Any, written: Vectors) -> None:
    """Row 19: one linear map of vectors of users is all that is learned."""
    vectors = {"ana": np.arange(5, dtype=np.float32), "ben": np.ones(5, dtype=np.float32)}
    file = written(vectors)
    embedder = UserEmbedder.for_llm(tiny, file, n_tokens=3)
    pooling: Any = embedder.pooling
    torch.nn.init.normal_(pooling.map.weight)
    profiles = [Profile("ana", (Record("a"), Record("b"))), Profile("ben"), Profile("nobody", (Record("c"),))]
    histories = UserVectorReader(embedder.config, file).read(profiles)
    assert [len(each) for each in histories] == [2, 1, 0]  # without records a vector still is one
    prompts = HistoryBatch.of(histories, embedder.config).soft_prompts(embedder)
    mapped = pooling.map.weight @ torch.tensor(vectors["ana"])
    expected = embedder.config.embedding_scale * (embedder.instruction + mapped.view(3, -1))
    torch.testing.assert_close(prompts[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prompts[2], embedder.config.embedding_scale * embedder.instruction)


def test_records_and_vectors_are_not_mixed_up(tiny: Any, encoder: Any, written: Vectors, tmp_path: Path) -> None:
    file = written({"ana": np.ones(5, np.float32)})
    of_vectors, of_records = UserEmbedder.for_llm(tiny, file), UserEmbedder.for_llm(tiny, encoder)
    with pytest.raises(InvalidOptionError, match="mode 'vectors' reads a file of user vectors"):
        SoftPromptChannel(of_vectors, tiny, encoder)
    with pytest.raises(InvalidOptionError, match="mode 'attention' reads records"):
        SoftPromptChannel(of_records, tiny, file)
    with (
        ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store,
        pytest.raises(InvalidOptionError, match="reads a file of user vectors"),
    ):
        store_soft_prompts(store, of_vectors, encoder)
    with pytest.raises(FingerprintMismatchError, match="user vectors it was trained with, 'user-vectors:5'"):
        SoftPromptChannel(of_vectors, tiny, written({"ana": np.ones(6, np.float32)}))


def test_every_user_is_seen_in_training_as_when_served(tiny: Any, written: Vectors, tmp_path: Path) -> None:
    records = {
        "ana": (Record("One.", "1"), Record("Two.", "2")),
        "no records": (),
        "no vector": (Record("Three.", "3"),),
        "ben": (Record("Four.", "4"),),
    }
    questions = tuple(Question(name, name, "review: Fine.", Profile(name, own)) for name, own in records.items())
    split = LampSplit(lamp_task("LaMP_3"), questions, dict.fromkeys(records, "3"), None)
    file = written(dict.fromkeys(("ana", "no records", "ben"), np.ones(5)))
    options = UserEmbedderTraining(steps=2, ks=(0,), leave_one_out=2, validation_users=0.25)
    shown: dict[str, set[bool]] = {}
    for seed in (0, 1):  # with another validation user
        options = replace(options, seed=seed)
        embedder, _ = train(tiny, file, split, options, tmp_path / f"out {seed}")
        examples = Examples(split, UserVectorReader(embedder.config, file), options)
        for example in (*examples.train, *examples.validation):
            shown.setdefault(example.user_id, set()).add(len(examples.shown(example, options)) > 0)
    assert shown == {"ana": {True}, "no records": {True}, "no vector": {False}, "ben": {True}}


@pytest.mark.parametrize("stored", [False, True])
def test_the_prompt_of_a_user_without_vector_is_not_personal(
    stored: bool, tiny: Any, written: Vectors, tmp_path: Path
) -> None:
    file = written({"ana": np.ones(5, np.float32), "no records": np.ones(5, np.float32)})
    embedder = UserEmbedder.for_llm(tiny, file)
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        store.upsert([("ana", Record("One.", "3")), ("ben", Record("Two.", "3"))])
        if stored:
            assert store_soft_prompts(store, embedder, file) == 1
        channel = SoftPromptChannel(embedder, tiny, file, store, query_free=stored)
        personalizer = Personalizer(tiny, store, (channel,))
        users = ("ana", "no records", "ben", "nobody")
        channels = {user: personalizer.generate(user, "review: Fine.").channels for user in users}
    assert channels == {"ana": ("soft_prompt",), "no records": ("soft_prompt",), "ben": (), "nobody": ()}


def test_a_run_over_other_vectors_is_another_run(tiny: Any, written: Vectors, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path, "LaMP_3", {"train": 6}, 4)
    split = read_split(tmp_path, "train")
    shares = score_shares(split)
    options = UserEmbedderTraining(steps=4, ks=(0,), evaluate_every=2)

    def stop(progress: Any) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, written(shares), split, options, tmp_path / "out", stop)
    with pytest.raises(InvalidOptionError, match="the checkpoint of a run with other options, data or models"):
        train(tiny, written({name: vector[::-1] for name, vector in shares.items()}), split, options, tmp_path / "out")
    train(tiny, written(shares), split, options, tmp_path / "out")


@pytest.mark.slow
def test_training_learns_what_the_vectors_say(tiny: Any, written: Vectors, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path, "LaMP_3", {"train": 60}, 12)
    split = read_split(tmp_path, "train")
    file = written(score_shares(split))
    options = UserEmbedderTraining(steps=120, ks=(0,), learning_rate=1e-2, evaluate_every=30, leave_one_out=4)
    embedder, report = train(tiny, file, split, options, tmp_path / "out")
    assert report.validation_loss < 0.85 * report.validation_loss_before
    users = [Profile(question.user_id) for question in split.questions[:2]]
    first, second = soft_prompts(embedder, UserVectorReader(embedder.config, file).read(users))
    assert (first - second).abs().max() > 1e-2

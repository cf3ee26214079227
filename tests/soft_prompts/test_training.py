"""Training a user embedder: the loss against transformers' own, resume to the same weights, a frozen LLM."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from persona import Personalizer, ProfileStore, Record, UserEmbedder, load_llm, personalize
from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.errors import EvaluationError, InvalidOptionError, PersonaError, UnsupportedChannelError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import EMPTY_HISTORY, OTHER_USER, WITHOUT_USER, LampConfig
from persona.eval.soft_prompts import UserEmbedders
from persona.eval.world.world import World
from persona.lamp.prompts import lamp_prompt
from persona.lamp.tasks import LampSplit, Question, lamp_task
from persona.llm.checkpoint import hash_parameters
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import GenerationOptions, PersonalContext, Request
from persona.records import Profile
from persona.retrievers import LampBM25Retriever, RecencyRetriever
from persona.soft_prompts.channel import SoftPromptChannel, soft_prompt_kind, soft_prompts, store_soft_prompts
from persona.soft_prompts.embedder import load_user_embedder
from persona.soft_prompts.examples import Examples, UserEmbedderTraining
from persona.soft_prompts.histories import History, HistoryReader, history_views
from persona.soft_prompts.instruction import InstructionWords, answer_ids
from persona.soft_prompts.training import CHECKPOINT, train_user_embedder
from persona.soft_prompts.warm_up import _parts

SMALL = UserEmbedderTraining(
    warm_up=4, steps=6, batch=4, ks=(0, 1), leave_one_out=2, evaluate_every=2, dev_users=0.25, new_user_steps=4
)


@pytest.fixture(scope="module")
def llm() -> Any:
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("hashing")


def ratings(users: int, split: str = "train", world: int = 0) -> LampSplit:
    asked = list(World(world).questions("LaMP_3", split, users, 6))
    golds = {one.question.id: one.gold for one in asked}
    return LampSplit(lamp_task("LaMP_3"), tuple(one.question for one in asked), golds, None)


def fresh(llm: Any, encoder: Any, **options: Any) -> UserEmbedder:
    return UserEmbedder.for_llm(
        llm, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2, heads=2, width=16, **options
    )


def train(llm: Any, encoder: Any, out: Path, options: UserEmbedderTraining = SMALL, **others: Any) -> UserEmbedder:
    embedder = fresh(llm, encoder)
    train_user_embedder(
        embedder,
        others.pop("split", None) or ratings(8),
        llm,
        HistoryReader(embedder.config, encoder),
        options,
        out=out,
        retriever=others.pop("retriever", None) or LampBM25Retriever(),
        **others,
    )
    return embedder


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_loss_is_that_of_transformers(kind: str, llm: Any, request: pytest.FixtureRequest) -> None:
    if kind == "seq2seq":
        llm = load_llm(request.getfixturevalue("shared") / "models" / "frozen_llm")
    prompts, targets = llm.prompt_ids(["review: The battery is superb.", "review: Bad."]), llm.target_ids(["5", "a 1"])
    soft = torch.randn(2, 3, llm.hidden_size, generator=torch.Generator().manual_seed(0), requires_grad=True)

    found = TargetLoss(llm)(prompts, targets, soft)

    for row in range(2):
        embed = llm.model.get_input_embeddings()
        if kind == "causal":
            ids = torch.tensor([prompts[row] + targets[row]])
            inputs = torch.cat((soft[row : row + 1], embed(ids)), dim=1)
            labels = torch.tensor([[-100] * (3 + len(prompts[row])) + targets[row]])
        else:
            inputs = torch.cat((soft[row : row + 1], embed(torch.tensor([prompts[row]]))), dim=1)
            labels = torch.tensor([targets[row]])
        expected = llm.model(inputs_embeds=inputs, labels=labels).loss
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert soft.grad is not None
    assert soft.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in llm.model.parameters())


def test_training_leaves_the_llm_bit_equal(llm: Any, encoder: Any, tmp_path: Path) -> None:
    request, options = [Request("review: The battery is superb.")], GenerationOptions(max_new_tokens=4)
    before, answer = hash_parameters(llm.model), llm.generate(request, options)
    flags = [(parameter.requires_grad, parameter.grad) for parameter in llm.model.parameters()]
    train(llm, encoder, tmp_path)
    assert hash_parameters(llm.model) == before
    assert llm.generate(request, options) == answer
    assert [(parameter.requires_grad, parameter.grad) for parameter in llm.model.parameters()] == flags


def test_a_stopped_run_goes_on_to_the_same_weights(llm: Any, encoder: Any, tmp_path: Path) -> None:
    whole = train(llm, encoder, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, loss: float, best: float) -> None:
        if done == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(llm, encoder, tmp_path / "stopped", progress=stop)
    assert (tmp_path / "stopped" / CHECKPOINT).is_file()
    resumed_at: list[int] = []

    def stop_in_the_end(done: int, total: int, loss: float, best: float) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(
            llm,
            encoder,
            tmp_path / "stopped",
            progress=lambda done, *_: resumed_at.append(done),
            new_user_progress=stop_in_the_end,
        )
    assert resumed_at == [5, 6]  # the checkpoint was written after step 4
    tuned_at: list[int] = []
    resumed = train(
        llm,
        encoder,
        tmp_path / "stopped",
        progress=lambda done, *_: resumed_at.append(done),
        new_user_progress=lambda done, *_: tuned_at.append(done),
    )
    assert resumed_at == [5, 6]
    assert tuned_at == [3, 4]
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, resumed.state_dict()[name]), name
    assert not list((tmp_path / "stopped").glob("*checkpoint*"))
    notes = json.loads((tmp_path / "stopped" / "training.json").read_text(encoding="utf-8"))
    assert notes["report"]["made"] == 12
    assert load_user_embedder(tmp_path / "stopped").fingerprint == resumed.fingerprint


@pytest.mark.parametrize(
    ("stage", "stop", "options"),
    [
        # A look taken before the stop does not count twice: here the second one in a row without a better one ends it.
        (
            "progress",
            2,
            replace(
                SMALL, warm_up=5, steps=14, leave_one_out=8, evaluate_every=1, patience=2, new_user_steps=0, seed=2
            ),
        ),
        # Stopped before the tuning's first look: gradients of the last step before it are gone, and may not count.
        (
            "new_user_progress",
            3,
            replace(SMALL, warm_up=30, steps=20, evaluate_every=20, new_user_steps=20, learning_rate=3e-3, seed=1),
        ),
    ],
)
def test_a_run_stopped_at_a_bad_moment_goes_on_to_the_same_weights(
    llm: Any, encoder: Any, tmp_path: Path, stage: str, stop: int, options: UserEmbedderTraining
) -> None:
    def stopping(done: int, *_: object) -> None:
        if done == stop:
            raise KeyboardInterrupt

    whole = train(llm, encoder, tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        train(llm, encoder, tmp_path / "cut", options, **{stage: stopping})
    resumed = train(llm, encoder, tmp_path / "cut", options)
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, resumed.state_dict()[name]), name


def test_a_tuning_that_another_training_left_is_not_gone_on_with(llm: Any, encoder: Any, tmp_path: Path) -> None:
    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llm, encoder, tmp_path / "out", replace(SMALL, learning_rate=1e-4), new_user_progress=stop)
    (tmp_path / "out" / CHECKPOINT).unlink()
    trained = train(llm, encoder, tmp_path / "out")
    alone = train(llm, encoder, tmp_path / "alone")
    for name, parameter in alone.state_dict().items():
        assert torch.equal(parameter, trained.state_dict()[name]), name


def test_what_is_tuned_for_new_users_changes_nobody_elses_prompt(llm: Any, encoder: Any, tmp_path: Path) -> None:
    losses: list[tuple[int, int]] = []
    trained = {}
    for steps in (0, 40):
        embedder = fresh(llm, encoder)
        options = replace(SMALL, batch=8, new_user_steps=steps, evaluate_every=5, ks=(0,), patience=9)
        reader = HistoryReader(embedder.config, encoder)
        report = train_user_embedder(
            embedder,
            ratings(40),
            llm,
            reader,
            options,
            out=tmp_path / f"{steps}",
            new_user_progress=lambda done, total, *_: losses.append((done, total)),
        )
        trained[steps] = embedder, report
        assert all(parameter.requires_grad for parameter in embedder.parameters())
    (without, plain), (tuned, report) = trained[0], trained[40]
    assert losses[-1] == (40, 40)
    assert plain.new_user_loss is None
    assert report.new_user_loss is not None
    assert report.new_user_loss < (report.new_user_loss_before or 0)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, without.state_dict()[name])}
    assert changed == {"pooling.new_user"}
    known = reader.read([question.profile for question in ratings(2, "dev").questions])
    for one, other in zip(soft_prompts(without, known), soft_prompts(tuned, known), strict=True):
        assert torch.equal(one, other)
    nobody = [History(np.zeros((0, tuned.config.value_dim), np.float16))]
    assert not torch.equal(soft_prompts(without, nobody)[0], soft_prompts(tuned, nobody)[0])


def test_a_checkpoint_of_another_run_is_refused(llm: Any, encoder: Any, tmp_path: Path) -> None:
    def stop(done: int, *_: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(llm, encoder, tmp_path, progress=stop)
    with pytest.raises(InvalidOptionError, match="is the checkpoint of a run with other options"):
        train(llm, encoder, tmp_path, replace(SMALL, seed=1))
    with pytest.raises(InvalidOptionError, match="is the checkpoint of a run with other options"):
        train(llm, encoder, tmp_path, retriever=RecencyRetriever())
    with pytest.raises(InvalidOptionError, match="is the checkpoint of a run with other options"):
        train(llm, encoder, tmp_path, retriever=LampBM25Retriever(view="target"))
    with pytest.raises(InvalidOptionError, match="is the checkpoint of a run with other options, data or models"):
        train(llm, encoder, tmp_path, split=ratings(8, world=1))
    (tmp_path / CHECKPOINT).write_bytes(b"broken")
    with pytest.raises(PersonaError, match=r"the checkpoint cannot be read, delete it to begin anew$"):
        train(llm, encoder, tmp_path)


def test_training_learns_something_about_the_user(llm: Any, encoder: Any, tmp_path: Path) -> None:
    losses: list[float] = []
    embedder = fresh(llm, encoder)
    options = UserEmbedderTraining(warm_up=20, steps=30, batch=8, ks=(0,), leave_one_out=4, evaluate_every=10)
    report = train_user_embedder(
        embedder,
        ratings(30),
        llm,
        HistoryReader(embedder.config, encoder),
        options,
        out=tmp_path,
        progress=lambda done, total, loss, best: losses.append(loss),
    )
    assert report.dev_loss < report.dev_loss_before
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_echo_is_set_to_what_the_training_users_answers_follow(llm: Any, encoder: Any, tmp_path: Path) -> None:
    """Users who always give one score: the mean of their targets says it, and few records outweigh the null record."""
    asked = list(World(0).questions("LaMP_3", "train", 24, 6))
    questions, golds = [], {}
    for place, each in enumerate(asked):
        score, question = "1" if place % 2 else "5", each.question
        profile = Profile(question.user_id, tuple(replace(record, target=score) for record in question.profile))
        questions.append(replace(question, profile=profile))
        golds[question.id] = score
    split = LampSplit(lamp_task("LaMP_3"), tuple(questions), golds, None)
    words = InstructionWords.of(split, llm, encoder)
    embedder = UserEmbedder.for_llm(llm, encoder_dim=encoder.dim, encoder=encoder.fingerprint, words=words)
    reader = HistoryReader(embedder.config, encoder)
    options = UserEmbedderTraining(warm_up=1, steps=1, batch=4, ks=(0,), leave_one_out=2)
    train_user_embedder(embedder, split, llm, reader, options, out=tmp_path)

    ones, fives = soft_prompts(embedder, reader.read([questions[1].profile, questions[0].profile]))
    (one,), (five,) = answer_ids(llm, ["1", "5"])
    embed = llm.model.get_input_embeddings().weight.detach()
    between = embed[five] - embed[one]
    for said, share in ((ones, 0.0), (fives, 1.0)):
        found = (said[embedder.config.slot[0]] - embed[one]) @ between / between.square().sum()
        assert float(found) == pytest.approx(share, abs=0.35)


def test_long_histories_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persona.soft_prompts.warm_up._PADDED_RECORDS", 20)
    lengths = [0, 3, 50, 7, 1, 4, 4, 9, 2, 5]
    histories = [History(np.zeros((n, 2), np.float16)) for n in lengths]
    parts = list(_parts(histories, np.random.default_rng(0)))
    assert sorted(place for part in parts for place in part) == list(range(10))
    assert all(len(part) * max(1, *(lengths[place] for place in part)) <= 20 for part in parts if len(part) > 1)
    assert 2 < len(parts) < 10


def test_without_user_no_history_is_ever_seen(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedder, start = fresh(llm, encoder), fresh(llm, encoder)
    states: list[dict[str, torch.Tensor]] = []
    train_user_embedder(
        embedder,
        ratings(8),
        llm,
        HistoryReader(embedder.config, encoder),
        replace(SMALL, ks=(0,), without_user=True),
        out=tmp_path,
        progress=lambda *_: states.append({name: one.clone() for name, one in embedder.state_dict().items()}),
    )
    before, after = start.state_dict(), states[-1]
    assert not torch.equal(before["instruction"], after["instruction"])
    for name in ("pooling.value.weight", "pooling.value.bias", "pooling.key.weight", "pooling.query.weight"):
        decayed = before[name] * (after[name].sum() / before[name].sum())  # weight decay alone
        torch.testing.assert_close(after[name], decayed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("view", ["text", "target+text"])
def test_the_query_of_a_question_made_from_a_record_is_that_question(view: str, llm: Any, encoder: Any) -> None:
    """Never the record's key, where that shows the answer."""
    asked = list(World(0).questions("LaMP_4", "train", 6, 6))
    golds = {one.question.id: one.gold for one in asked}
    split = LampSplit(lamp_task("LaMP_4"), tuple(one.question for one in asked), golds, None)
    reader = HistoryReader(fresh(llm, encoder, mode="persona-plug", view=view).config, encoder)
    examples = Examples(split, reader, SMALL)
    made = [one for one in examples.train if one.made]
    assert len(made) == 8
    for one in (*made, *(examples.warm_up(place) for place in range(examples.n_warm_up))):
        np.testing.assert_allclose(one.query, encoder.encode([split.task.query(one.input)])[0], atol=1e-3)


def test_a_record_of_the_same_text_is_no_history_of_its_own_question(llm: Any, encoder: Any) -> None:
    twice = "The kettle leaks and hums at night."
    records = (Record(twice, "2", "2011"), Record("Fine.", "5", "2012"), Record(twice, "1", "2013"))
    questions = tuple(
        Question(f"{user}", f"u{user}", lamp_task("LaMP_3").make_input("Hm."), Profile(f"u{user}", records))
        for user in range(4)
    )
    split = LampSplit(lamp_task("LaMP_3"), questions, {f"{user}": "3" for user in range(4)}, None)
    reader = HistoryReader(fresh(llm, encoder).config, encoder)
    examples = Examples(split, reader, replace(SMALL, leave_one_out=3))
    made = [one for one in examples.train if one.made]
    assert len(made) == 9
    for one in made:
        assert all(record.text not in one.input for record in one.profile)
        assert len(one.profile) == len(one.rows) == (1 if twice in one.input else 2)
        assert [records[row] for row in one.rows] == list(one.profile)


def test_bad_input_is_refused(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedder = fresh(llm, encoder)
    reader = HistoryReader(embedder.config, encoder)
    with pytest.raises(EvaluationError, match="this split has none"):
        train_user_embedder(
            embedder, replace(ratings(4), golds=None), llm, reader, SMALL, out=tmp_path, retriever=LampBM25Retriever()
        )
    with pytest.raises(EvaluationError, match="at least 2 users, was: 1"):
        train_user_embedder(embedder, ratings(1), llm, reader, SMALL, out=tmp_path, retriever=LampBM25Retriever())
    wide = UserEmbedder.for_llm(llm, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=600)
    with pytest.raises(InvalidOptionError, match="reads at most 511 tokens, 600 soft ones leave none"):
        train_user_embedder(wide, ratings(4), llm, reader, SMALL, out=tmp_path, retriever=LampBM25Retriever())
    with pytest.raises(InvalidOptionError, match="need a retriever"):
        train_user_embedder(embedder, ratings(4), llm, reader, SMALL, out=tmp_path)
    for rate in (0.0, float("nan"), float("inf")):
        with pytest.raises(InvalidOptionError, match="`learning_rate` must be a number above 0, was: "):
            UserEmbedderTraining(learning_rate=rate)
    for seed in (-1, 2**70):
        with pytest.raises(InvalidOptionError, match="`seed` must be from 0 to "):
            UserEmbedderTraining(seed=seed)
    with pytest.raises(InvalidOptionError, match="`history_dropout` must be from 0 to 1, was: 2"):
        UserEmbedderTraining(history_dropout=2)


def test_a_prompt_that_the_llm_cannot_read_is_refused_or_cut(llm: Any, encoder: Any, tmp_path: Path) -> None:
    split = ratings(4)
    long = tuple(
        replace(question, input=question.input + " the battery is superb" * 300) for question in split.questions
    )
    options = replace(SMALL, ks=(0,), leave_one_out=0, steps=1)
    plain: Any = load_llm("tiny")
    for loaded in (llm, plain):
        embedder = fresh(loaded, encoder)
        reader = HistoryReader(embedder.config, encoder)
        if loaded is llm:  # loaded with overlong="truncate"
            assert (
                train_user_embedder(
                    embedder, replace(split, questions=long), loaded, reader, options, out=tmp_path
                ).steps
                == 1
            )
            continue
        with pytest.raises(InvalidOptionError, match=r"a prompt may have \d+ tokens here"):
            train_user_embedder(embedder, replace(split, questions=long), loaded, reader, options, out=tmp_path)


def test_training_reads_what_generating_reads_behind_a_chat_template(encoder: Any, tmp_path: Path) -> None:
    plain: Any = load_llm("tiny")
    plain._tokenizer.chat_template = "user : {{ messages[0]['content'] }} assistant : "
    chat = TransformersLM(plain.model, plain._tokenizer, max_prompt_tokens=40)
    embedder, split = fresh(chat, encoder), ratings(8)
    limit = chat.prompt_limit(GenerationOptions(max_new_tokens=2))
    assert limit is not None
    assert 20 < limit < 40  # the template takes the rest
    full = next(text for n in range(limit) if chat.tokenizer.count(text := "a " * n) == limit - 2)  # two soft tokens
    asked = replace(split, questions=tuple(replace(question, input=full) for question in split.questions))
    options = replace(SMALL, ks=(0,), leave_one_out=0, steps=1, new_user_steps=0)
    assert (
        train_user_embedder(embedder, asked, chat, HistoryReader(embedder.config, encoder), options, out=tmp_path).steps
        == 1
    )
    soft = torch.zeros(2, chat.hidden_size)
    assert chat.generate([Request(full, soft)], GenerationOptions(max_new_tokens=2))
    with pytest.raises(InvalidOptionError):
        chat.generate([Request(full + "a a a", soft)], GenerationOptions(max_new_tokens=2))


# ------------------------------------------------------------------------------------------------------- histories


def test_a_value_shows_what_the_user_did(llm: Any, encoder: Any) -> None:
    config = fresh(llm, encoder).config
    records = (Record("A film.", target="5", time="2011"), Record("A film.", target="1", time="2012-03"), Record("Hm."))
    histories = HistoryReader(config, encoder).read(
        [Profile("ana", records), Profile("ben", records[:2]), Profile("c")]
    )
    first, second, third = histories[0].values
    assert np.array_equal(first[: encoder.dim], second[: encoder.dim])  # the key is the input side alone
    assert not np.array_equal(first, second)
    assert not third[encoder.dim : 2 * encoder.dim].any()  # no target, no vector of it
    assert histories[0].days is None  # one record has no date
    assert histories[1].days is not None
    assert histories[1].days[1] - histories[1].days[0] == 365 + 31 + 29
    assert len(histories[2]) == 0


def test_stored_vectors_are_used_and_stale_ones_are_not(llm: Any, tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.inner = load_encoder("hashing")
            self.texts: list[str] = []
            self.dim, self.fingerprint = self.inner.dim, self.inner.fingerprint

        def encode(self, texts: Any) -> Any:
            self.texts += texts
            return self.inner.encode(texts)

    encoder = Counting()
    config = fresh(llm, encoder).config
    with ProfileStore(f"sqlite:///{tmp_path / 'p.db'}") as store:
        store.upsert([("ana", Record("Old.", "5", id="1")), ("ana", Record("Older.", "4", id="2"))])
        for view in history_views(config):
            embed_users(store, encoder, view=view)
        encoder.texts.clear()
        reader = HistoryReader(config, encoder, store)
        stored = reader.read([store.profile("ana")])[0]
        assert encoder.texts == []
        store.upsert([("ana", Record("New.", "5", id="1"))])
        changed = reader.read([store.profile("ana")])[0]
        assert encoder.texts == ["New.", "5"]
    fresh_ones = HistoryReader(config, encoder).read([Profile("ana", (Record("Old.", "5"), Record("Older.", "4")))])[0]
    assert np.array_equal(stored.values, fresh_ones.values)
    assert len(changed) != len(stored) or not np.array_equal(changed.values, stored.values)


# ------------------------------------------------------------------------------------------------------ the channel


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as opened:
        for user in range(3):
            opened.upsert(
                (f"user-{user}", record) for record in World(1).records(World(1).user("dev", user), "LaMP_3", 5)
            )
        yield opened


@pytest.fixture
def embedder(llm: Any, encoder: Any) -> UserEmbedder:
    embedder = fresh(llm, encoder).eval()
    with torch.no_grad():
        embedder.pooling.last.weight.normal_(std=0.5)  # type: ignore[union-attr, operator]
    return embedder


def test_a_batch_mixes_users_and_gives_each_their_own_answer(
    llm: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    channel = SoftPromptChannel(embedder, llm, encoder, store)
    personalizer = Personalizer(llm, store, LampBM25Retriever(), k=1, channels=(channel,))
    questions = [(f"user-{user}", "review: The screen is superb and the battery is awful.") for user in (0, 1, 2, 0)]
    questions.append(("nobody", "review: Fine."))
    together = personalizer.batch(questions)
    alone = [personalizer.generate(*question) for question in questions]
    assert [one.text for one in together] == [one.text for one in alone]
    assert together[0].channels == ("text", "soft_prompt")
    assert together[0].tokens_added >= 2
    assert together[-1].abstained  # the neutral prompt holds nothing personal
    prompts = [personalizer.context(user, "review: Fine.").soft_prompt for user in ("user-0", "user-1")]
    assert not torch.equal(prompts[0], prompts[1])  # type: ignore[arg-type]


def test_a_question_is_asked_as_it_was_in_training(
    llm: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder, tmp_path: Path
) -> None:
    task, profile = lamp_task("LaMP_3"), store.profile("user-0")
    prompts = [task.make_input("The screen is superb."), "Something that is no prompt of the task"]
    nothing = [PersonalContext()] * 2
    embedder.note_task("LaMP_3")
    embedder.save_pretrained(tmp_path / "embedder")
    histories = HistoryReader(embedder.config, encoder, store).read([profile] * 2)
    for asked in (embedder, load_user_embedder(tmp_path / "embedder")):
        made = SoftPromptChannel(asked, llm, encoder, store)([profile] * 2, prompts, nothing)
        expected = soft_prompts(embedder, histories, encoder.encode(["The screen is superb.", prompts[1]]))
        for one, other in zip(made, expected, strict=True):
            assert one.soft_prompt is not None
            assert torch.equal(one.soft_prompt, other)
    embedder.note_task("")  # of before tasks were noted: the whole prompt
    (whole, _) = SoftPromptChannel(embedder, llm, encoder, store)([profile] * 2, prompts, nothing)
    assert not torch.equal(whole.soft_prompt, expected[0])  # type: ignore[arg-type]


def test_records_are_sought_and_worded_as_in_training(
    llm: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    asked: list[str] = []

    class Asked(LampBM25Retriever):
        def retrieve_batch(self, profiles: Any, queries: Any, k: int) -> Any:
            asked.extend(queries)
            return super().retrieve_batch(profiles, queries, k)

    task, profile = lamp_task("LaMP_3"), store.profile("user-0")
    prompt = task.make_input("The screen is superb.")
    embedder.note_task("LaMP_3")
    channel = SoftPromptChannel(embedder, llm, encoder, store)
    answer = Personalizer(llm, store, Asked(), k=2, channels=(channel,)).generate("user-0", prompt)
    found = [one.record for one in LampBM25Retriever().retrieve(profile, "The screen is superb.", 2)]
    assert asked == ["The screen is superb."]
    assert answer.prompt == lamp_prompt(task, prompt, found, llm.tokenizer, max_length=1024).text
    assert [one.record for one in answer.records] == found
    embedder.note_task("")
    channel = SoftPromptChannel(embedder, llm, encoder, store)
    answer = Personalizer(llm, store, Asked(), k=2, channels=(channel,)).generate("user-0", prompt)
    assert asked[1:] == [prompt]
    assert answer.prompt.startswith("Earlier records of this user")


def test_the_task_of_a_training_is_noted(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedder = train(llm, encoder, tmp_path, replace(SMALL, steps=1, new_user_steps=0, ks=(0,)))
    assert embedder.config.task == load_user_embedder(tmp_path).config.task == "LaMP_3"
    # Safetensors would make the weights their owner's alone.
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_stored_soft_prompts_are_read_renewed_and_forgotten(
    llm: Any, encoder: Any, store: ProfileStore, embedder: UserEmbedder
) -> None:
    assert store_soft_prompts(store, embedder, encoder) == 3
    assert store_soft_prompts(store, embedder, encoder) == 0
    channel = SoftPromptChannel(embedder, llm, encoder, store, query_free=True)
    profile = store.profile("user-1")
    stored = channel._stored(profile)
    assert stored is not None
    made = SoftPromptChannel(embedder, llm, encoder, query_free=True)
    (fresh_one,) = made([profile], ["anything"], [PersonalContext()])
    torch.testing.assert_close(stored, fresh_one.soft_prompt, rtol=2e-3, atol=2e-3)  # float16 at rest

    store.upsert([("user-1", Record("A new review.", "3"))])
    assert channel._stored(store.profile("user-1")) is None
    assert store_soft_prompts(store, embedder, encoder) == 1
    store.delete_records("user-2", [store.profile("user-2")[0].id])
    assert store.index("user-2", soft_prompt_kind(embedder)) is None
    store.forget("user-0")
    assert store.index("user-0", soft_prompt_kind(embedder)) is None


def test_an_llm_that_reads_text_only_is_refused(encoder: Any, store: ProfileStore, embedder: UserEmbedder) -> None:
    with pytest.raises(UnsupportedChannelError, match="soft prompts need a transformers model"):
        SoftPromptChannel(embedder, load_llm(str.upper), encoder, store)


def test_personalize_takes_a_folder(
    encoder: Any, store: ProfileStore, embedder: UserEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_ENCODER", "hashing")
    embedder.save_pretrained(tmp_path / "embedder")
    answer = personalize("tiny", "user-0", "review: Fine.", store=store, user_embedder=str(tmp_path / "embedder"), k=0)
    assert isinstance(answer, str)


# ------------------------------------------------------------------------------------------------------- evaluation


def test_rows_with_soft_prompts_stand_beside_their_controls(llm: Any, encoder: Any, tmp_path: Path) -> None:
    embedders = UserEmbedders(
        tuple(train(llm, encoder, tmp_path / f"{seed}", replace(SMALL, seed=seed)) for seed in (0, 1)),
        tuple(
            train(llm, encoder, tmp_path / f"w{seed}", replace(SMALL, seed=seed, without_user=True)) for seed in (0, 1)
        ),
    )
    config = LampConfig(methods=("none", "user-embedder"), ks=(1,), encoder="hashing", resamples=50)
    split = ratings(5, "dev")
    report = run_lamp(split, llm, config, user_embedders=embedders, out=tmp_path / "out")
    rows = {row.name: row for row in report.rows}
    assert [name for name in rows if name.startswith("user-embedder")] == [
        "user-embedder",
        "user-embedder + bm25-lamp k=1",
        f"user-embedder, {OTHER_USER}",
        f"user-embedder + bm25-lamp k=1, {OTHER_USER}",
        f"user-embedder, {EMPTY_HISTORY}",
        f"user-embedder + bm25-lamp k=1, {EMPTY_HISTORY}",
        f"user-embedder, {WITHOUT_USER}",
        f"user-embedder + bm25-lamp k=1, {WITHOUT_USER}",
    ]
    assert len(rows["user-embedder"].runs) == 2
    assert len(rows["none"].runs) == 1
    assert rows["user-embedder"].gain is not None
    assert rows["user-embedder"].difference is not None
    assert rows[f"user-embedder, {WITHOUT_USER}"].gain is None
    assert rows["user-embedder"].tokens_added == 2
    assert 1 <= rows["user-embedder"].attention_perplexity <= 6
    values = [rows["user-embedder"].scores["MAE"].value, rows[f"user-embedder, {WITHOUT_USER}"].scores["MAE"].value]
    assert rows["user-embedder"].gain.difference == pytest.approx(values[0] - values[1])
    nobody = rows[f"user-embedder, {EMPTY_HISTORY}"]
    assert nobody.gain is not None
    assert nobody.attention_perplexity == 0
    other = rows[f"user-embedder, {OTHER_USER}"]
    assert other.to_other_user is None
    assert rows["user-embedder"].to_other_user is not None
    assert rows["user-embedder"].to_other_user.difference == pytest.approx(values[0] - other.scores["MAE"].value)
    assert sorted(file.name for file in (tmp_path / "out" / "predictions").glob("user-embedder_run*")) == [
        "user-embedder_run1.json",
        "user-embedder_run2.json",
    ]
    again = run_lamp(split, llm, config, user_embedders=embedders, out=tmp_path / "out")
    assert again.as_dict()["rows"] == report.as_dict()["rows"]


def test_a_soft_prompt_and_lifted_words_in_one_row(llama_folder: Path, encoder: Any) -> None:
    llm: Any = load_llm(llama_folder)
    embedders = UserEmbedders((fresh(llm, encoder),), (fresh(llm, encoder, seed=1),))
    task, letters = lamp_task("LaMP_5"), "zqxj"
    questions = tuple(
        Question(letter, letter, task.make_input("x"), Profile(letter, (Record("x", target=letter),)))
        for letter in letters
    )
    split = LampSplit(task, questions, {letter: letter * 4 for letter in letters}, None)
    config = LampConfig(
        methods=("user-embedder+vocabulary",),
        ks=(1,),
        vocabulary=500.0,
        encoder="hashing",
        max_new_tokens=4,
        resamples=50,
    )
    rows = {row.name: row for row in run_lamp(split, llm, config, user_embedders=embedders).rows}
    assert [name for name in rows if name.startswith("user-embedder")] == [
        "user-embedder+vocabulary",
        "user-embedder+vocabulary + bm25-lamp k=1",
        f"user-embedder+vocabulary, {OTHER_USER}",
        f"user-embedder+vocabulary + bm25-lamp k=1, {OTHER_USER}",
        f"user-embedder, {EMPTY_HISTORY}",
        f"user-embedder + bm25-lamp k=1, {EMPTY_HISTORY}",
        f"user-embedder, {WITHOUT_USER}",
        f"user-embedder + bm25-lamp k=1, {WITHOUT_USER}",
    ]
    row, other = rows["user-embedder+vocabulary"], rows[f"user-embedder+vocabulary, {OTHER_USER}"]
    assert dict(row.predictions) == {letter: letter * 4 for letter in letters}
    assert all(
        other.predictions[letter] != letter * 4 and other.predictions[letter][0] in letters for letter in letters
    )
    assert row.tokens_added == 2
    # Nobody's words are nobody's: what the pair wins over the training without user is all that the user adds.
    without = rows[f"user-embedder, {WITHOUT_USER}"].scores["rouge-1"].value
    assert row.gain is not None
    assert row.gain.difference == pytest.approx(1 - without)
    with pytest.raises(InvalidOptionError, match=r"method 'user-embedder\+vocabulary' needs a finite weight above 0"):
        LampConfig(methods=("user-embedder+vocabulary",))
    with pytest.raises(InvalidOptionError, match="needs a user embedder: name its folder"):
        run_lamp(split, llm, config)


def test_the_method_needs_an_embedder_and_a_model_that_takes_soft_prompts(llm: Any, encoder: Any) -> None:
    config = LampConfig(methods=("user-embedder",), encoder="hashing")
    with pytest.raises(InvalidOptionError, match="needs a user embedder: name its folder"):
        run_lamp(ratings(3, "dev"), llm, config)
    with pytest.raises(InvalidOptionError, match="needs an LLM that takes soft prompts"):
        run_lamp(ratings(3, "dev"), load_llm(str.upper), config, user_embedders=UserEmbedders((fresh(llm, encoder),)))
    with pytest.raises(
        InvalidOptionError, match="as many user embedders trained without the user as with it, 1, were: 2"
    ):
        UserEmbedders((fresh(llm, encoder),), (fresh(llm, encoder), fresh(llm, encoder)))
    asking = fresh(llm, encoder, with_question=True)
    with pytest.raises(InvalidOptionError, match="and their controls, must differ in their seed only"):
        UserEmbedders((asking,), (fresh(llm, encoder),))


# ----------------------------------------------------------------------------------------------- types and processes


def test_the_llm_may_be_in_bfloat16(encoder: Any, tmp_path: Path) -> None:
    narrow = load_llm("tiny", dtype="bfloat16", overlong="truncate")
    before = hash_parameters(narrow.model)  # type: ignore[attr-defined]
    embedder = train(narrow, encoder, tmp_path)
    assert hash_parameters(narrow.model) == before  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in embedder.parameters()} == {torch.float32}
    notes = json.loads((tmp_path / "training.json").read_text())["report"]
    assert notes["steps"] == SMALL.steps
    assert 0 < notes["dev_loss"] <= notes["dev_loss_before"]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_what_one_trains(accumulate: int, llm: Any, encoder: Any, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path / "data", "LaMP_3", {"train": 12}, 6)
    # So many steps that one process surely shows some prompts without the question where the other does not.
    # In two parts of a batch one process has two and one examples, the other two and none.
    steps = "steps=8 batch=5 evaluate_every=4 warm_up=0 n_tokens=2 leave_one_out=2 ks=0 seed=2 with_question=true"
    settings = [word for text in (*steps.split(), f"accumulate={accumulate}") for word in ("--set", text)]
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    for out, launcher in (("one", ()), ("two", torchrun)):
        start = [sys.executable, *launcher, "-m", "persona", "train", "user-embedder", "data", "--llm", "tiny"]
        command = [*start, "--encoder", "hashing", "--out", out, *settings]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1  # one of them speaks
        assert not list((tmp_path / out).glob("*.db*"))
    begun = UserEmbedder.for_llm(
        llm, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2, with_question=True, copies=True, seed=2
    ).state_dict()
    one, two = (load_user_embedder(tmp_path / out).state_dict() for out in ("one", "two"))
    assert torch.equal(one["copying.counts"], two["copying.counts"])
    # What is copied is fitted to what the rest became, and may be nothing at all for one of them.
    names = [name for name in begun if not name.startswith("copying.")]
    first, second = (torch.cat([(state[name] - begun[name]).flatten() for name in names]) for state in (one, two))
    assert first.abs().max() > 1e-4
    # Not to the bit: AdamW divides by the gradient's size, and where that is next to nothing rounding decides.
    assert torch.cosine_similarity(first, second, dim=0) > 0.98


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port

"""What a user embedder copies: features by hand and by brute force, its training, and all ways in."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from persona import Personalizer, ProfileStore, Record, UserEmbedder, load_llm
from persona.cli.app import app
from persona.encoders.load import load_encoder
from persona.errors import InvalidOptionError
from persona.eval.lamp import run_lamp
from persona.eval.lamp_config import EMPTY_HISTORY, OTHER_USER, WITHOUT_USER, LampConfig
from persona.eval.soft_prompts import UserEmbedders
from persona.eval.world.world import World
from persona.lamp.tasks import LampSplit, lamp_task
from persona.llm.checkpoint import hash_parameters
from persona.llm.logits import TokenLifts, vocabulary_size
from persona.llm.loss import TargetLoss
from persona.llm.transformers import TransformersLM
from persona.protocols import SOFT_PROMPT, TEXT, GenerationOptions, PersonalContext, Request
from persona.records import Profile
from persona.retrievers import LampBM25Retriever
from persona.soft_prompts.channel import SoftPromptChannel
from persona.soft_prompts.copy_training import _answered, _Copiers
from persona.soft_prompts.copying import FEATURES, Copying, CopyLifts, CopySource, _Texts
from persona.soft_prompts.embedder import load_user_embedder
from persona.soft_prompts.examples import Example, UserEmbedderTraining
from persona.soft_prompts.histories import HistoryReader
from persona.soft_prompts.training import UserEmbedderReport, train_user_embedder
from persona.soft_prompts.vocabulary import TokenBackground, VocabularyChannel

OPTIONS = GenerationOptions(max_new_tokens=6)
SMALL = UserEmbedderTraining(warm_up=0, steps=2, batch=8, ks=(0, 1), leave_one_out=2, dev_users=0.25, new_user_steps=0)


@pytest.fixture(scope="module")
def llm(llama_folder: Path) -> TransformersLM:
    loaded = load_llm(llama_folder)
    assert isinstance(loaded, TransformersLM)
    return loaded


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_llm("tiny", overlong="truncate")


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("hashing")


def headlines(users: int, split: str = "train") -> LampSplit:
    asked = list(World(0).questions("LaMP_4", split, users, 6))
    golds = {one.question.id: one.gold for one in asked}
    return LampSplit(lamp_task("LaMP_4"), tuple(one.question for one in asked), golds, None)


def trained(tiny: Any, encoder: Any, out: Path, **options: Any) -> tuple[UserEmbedder, UserEmbedderReport]:
    embedder = UserEmbedder.for_llm(
        tiny, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2, heads=2, width=16, copies=True
    )
    reader = HistoryReader(embedder.config, encoder)
    report = train_user_embedder(
        embedder, headlines(30), tiny, reader, replace(SMALL, **options), out=out, retriever=LampBM25Retriever()
    )
    return embedder, report


@pytest.fixture(scope="module")
def copier(tiny: Any, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained user embedder that copies."""
    out = tmp_path_factory.mktemp("copier")
    trained(tiny, encoder, out)
    return out


# -------------------------------------------------------------------------------------------------------- features


def copying(llm: TransformersLM, **weights: float) -> Copying:
    """Letters have an idf of 1 (a byte tokenizer: a token is a letter)."""
    idf = np.ones(llm.model.config.vocab_size, np.float32)
    return Copying(llm, idf, np.array([weights.get(name, 0.0) for name in FEATURES], np.float32))


def test_features_by_hand(llm: TransformersLM) -> None:
    ana = Profile("ana", (Record("x", target="abc"), Record("abd"), Record("y", target="ca")))
    (source,) = copying(llm).sources([ana], ["bdb"])
    letters = {letter: llm.target_ids([letter])[0][0] for letter in "abcd"}
    places = {letter: source.tokens.tolist().index(token) for letter, token in letters.items()}
    end = llm.target_ids([""])[0][-1]
    assert sorted(source.tokens.tolist()) == sorted([*letters.values(), end])

    def told(written: str, letter: str) -> dict[str, float]:
        row = source.features([letters[one] for one in written])[places[letter]]
        return {name: float(value) for name, value in zip(FEATURES, row, strict=True) if value}

    close = pytest.approx
    # Three answers: a in all of them and twice at the beginning, b in two, c in two, d in one.
    assert told("", "a") == {"user": close(math.log(2)), "user_pair": close(math.log1p(2 / 4))}
    assert told("", "b") == {
        "user": close(math.log1p(2 / 3)),
        "question": close(math.log(2)),
        "both": close(math.log1p(2 / 3)),
    }
    # Behind a stands b twice, both times at the beginning; "ca" ends with a, which has nothing behind it.
    assert told("a", "b") == {
        **told("", "b"),
        "user_pair": close(math.log1p(2 / 3)),
        "user_triple": close(math.log1p(2 / 3)),
    }
    assert told("ab", "c") == {
        "user": close(math.log1p(2 / 3)),
        "user_pair": close(math.log1p(1 / 3)),
        "user_triple": close(math.log1p(1 / 3)),
    }
    # Written already, and last; the question has b behind d.
    assert told("bd", "b") == {
        "written": 1,
        "question_pair": close(math.log1p(1 / 2)),
        "question_triple": close(math.log1p(1 / 2)),
    }
    assert told("bd", "d") == {"written": 1, "again": 1}
    last = source.features([letters["a"]])[source.tokens.tolist().index(end)]
    assert dict(zip(FEATURES, last.tolist(), strict=True)) == {name: float(name == "end") for name in FEATURES}


def brute_force(
    answers: list[list[int]], question: list[int], idf: Any, written: list[int], token: int
) -> dict[str, float]:
    """The table of `persona.soft_prompts.copying`, word for word."""

    def share(texts: list[list[int]], last: Sequence[int]) -> float:
        behind = [
            text[place + len(last)]
            for text in texts
            for place in range(len(text) - len(last))
            if text[place : place + len(last)] == list(last)
        ]
        return behind.count(token) / (len(behind) + 1)

    before = [-1, *written]
    users = [[-1, *answer] for answer in answers]
    found = dict.fromkeys(FEATURES, 0.0)
    if token not in written:
        found["user"] = math.log1p(sum(token in answer for answer in answers) / max(1, len(answers)) * idf[token])
        found["question"] = math.log1p(idf[token]) if token in question else 0.0
        found["both"] = found["user"] if token in question else 0.0
    else:
        found["written"] = 1.0
        found["again"] = float(written[-1] == token)
    for name, texts in (("user", users), ("question", [question])):
        found[f"{name}_pair"] = math.log1p(share(texts, before[-1:]) * idf[token])
        if len(before) > 1:
            found[f"{name}_triple"] = math.log1p(share(texts, before[-2:]) * idf[token])
    return found


texts = st.lists(st.integers(1, 5), max_size=6)


@given(st.lists(texts, max_size=4), texts, texts)
def test_features_are_those_of_the_table(answers: list[list[int]], question: list[int], written: list[int]) -> None:
    idf = np.linspace(0.5, 3, 8, dtype=np.float32)
    source = CopySource(_Texts.of(answers, (-1,)), _Texts.of([question]), idf, 7)
    tokens = sorted({token for text in (*answers, question) for token in text})
    assert source.tokens.tolist() == [*tokens, 7]
    found = source.features(written)
    for place, token in enumerate(tokens):
        expected = brute_force(answers, question, idf, written, token)
        assert found[place].tolist() == pytest.approx([expected[name] for name in FEATURES], abs=1e-6), token


def test_what_is_copied_is_named(llm: TransformersLM) -> None:
    """The cache of an evaluation keeps answers under it: what differs must have another name."""
    ana, bo = (Profile(name, (Record("x", target=word),)) for name, word in (("ana", "ab"), ("bo", "ba")))
    made = copying(llm, user=1.0)
    first, same, other, asked = made.lifts([ana, ana, bo, ana], ["q", "q", "q", "r"])
    heavier = copying(llm, user=2.0).lifts([ana], ["q"])[0]
    assert first and same and other and asked and heavier  # noqa: PT018
    assert first.fingerprint == same.fingerprint
    # "ab" and "ba" have the same letters, and differ in what stands behind what.
    assert len({each.fingerprint for each in (first, other, asked, heavier)}) == 4
    assert copying(llm).lifts([ana], ["q"]) == [None]


def test_long_histories_and_questions_are_cut(llm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old, older = (
        Record("x", target=target, time=time) for target, time in (("bb", "2003"), ("a", "2002"), ("z", "2001"))
    )
    ana = Profile("ana", (new, older, old))  # in no order

    def copied() -> set[int]:
        (source,) = copying(llm).sources([ana], ["cde"])
        return set(source.tokens.tolist()) - {llm.target_ids([""])[0][-1]}

    monkeypatch.setattr("persona.soft_prompts.copying.MOST_RECORDS", 2)
    assert copied() == {llm.target_ids([letter])[0][0] for letter in "abcde"}
    monkeypatch.setattr("persona.soft_prompts.copying.MOST_TOKENS", 2)
    assert copied() == {llm.target_ids([letter])[0][0] for letter in "bcd"}
    # A text that is longer than all that is read is cut, and not left out.
    ana = Profile("ana", (Record("xyz", time="2001"),))
    assert copied() == {llm.target_ids([letter])[0][0] for letter in "xycd"}


def test_special_tokens_are_no_part_of_a_text(llm: TransformersLM) -> None:
    end = llm.target_ids([""])[0][-1]
    name = llm._tokenizer.convert_ids_to_tokens(end)
    (source,) = copying(llm).sources([Profile("ana", (Record("x", target=f"a{name}b"),))], ["q"])
    a, b = (llm.target_ids([letter])[0][0] for letter in "ab")
    found = source.features([a])
    assert found[source.tokens.tolist().index(end)].tolist() == [float(name == "end") for name in FEATURES]
    assert found[source.tokens.tolist().index(b), FEATURES.index("user_pair")] > 0


# -------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_lifts_follow_what_was_written_and_neighbours_do_not_notice(
    llm: TransformersLM, num_beams: int, soft: bool
) -> None:
    options = GenerationOptions(max_new_tokens=6, num_beams=num_beams)
    prompt = torch.randn(2, llm.hidden_size, generator=torch.Generator().manual_seed(0)) if soft else None
    ana = Profile("ana", (Record("x", target="zebra"),))
    (strong,) = copying(llm, user_pair=1000.0, end=-1000.0).lifts([ana], ["one"])
    (gentle,) = copying(llm, user=3.0, user_pair=5.0, question=1.0).lifts([ana], ["two"])
    plain = llm.generate([Request(text, prompt) for text in ("one", "two")], options)
    asked = [
        Request("one", prompt),
        Request("one", prompt, lifts=strong),
        Request("two", prompt),
        Request("two", prompt),
    ]
    asked[3] = replace(asked[3], lifts=gentle)
    mixed = llm.generate(asked, options)
    assert mixed[1].startswith("zebra")  # a pair leads from letter to letter
    assert [mixed[0], mixed[2]] == plain
    assert mixed == [llm.generate([each], options)[0] for each in asked]


def test_lifts_are_added_to_the_scores_of_their_row(llm: TransformersLM) -> None:
    ana = Profile("ana", (Record("x", target="ab"),))
    (lifts,) = copying(llm, user=1.0, user_pair=2.0, written=-3.0).lifts([ana], ["q"])
    assert lifts is not None
    scores = torch.zeros(2, llm.model.config.vocab_size)
    processor = TokenLifts([None, lifts], num_beams=1)
    prompt = torch.full((2, 3), 9)
    a, b = (llm.target_ids([letter])[0][0] for letter in "ab")
    for written in ([], [a], [a, b]):
        found = processor(torch.cat((prompt, torch.tensor([written] * 2, dtype=torch.long).view(2, -1)), dim=1), scores)
        assert not found[0].any()
        expected = torch.zeros(scores.shape[1])
        expected[torch.from_numpy(lifts.tokens)] = torch.from_numpy(lifts.after(written))
        assert torch.equal(found[1], expected)
    assert not scores.any()


def test_beams_are_compared_by_what_the_numbers_were_trained_for(llm: TransformersLM) -> None:
    """Log-probabilities with lifts are log-probabilities again; rows without lifts are left as they are, to the bit."""
    ana = Profile("ana", (Record("x", target="ab"),))
    (lifts,) = copying(llm, user=2.0, user_pair=3.0).lifts([ana], ["q"])
    scores = torch.randn(4, llm.model.config.vocab_size, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found = TokenLifts([None, lifts], num_beams=2)(torch.zeros(4, 3, dtype=torch.long), scores)
    assert torch.equal(found[:2], scores[:2])
    torch.testing.assert_close(found.logsumexp(-1), torch.zeros(4), rtol=0, atol=1e-5)
    assert not torch.equal(found[2:], scores[2:])


def test_a_token_that_is_forced_is_no_part_of_the_answer(llm: TransformersLM) -> None:
    ana = Profile("ana", (Record("x", target="ab"),))
    (lifts,) = copying(llm, user_pair=2.0).lifts([ana], ["q"])
    assert lifts is not None
    processor = TokenLifts([lifts], num_beams=1, forced=1)
    scores = torch.zeros(1, llm.model.config.vocab_size)
    assert not processor(torch.tensor([[2]]), scores).any()
    first = processor(torch.tensor([[2, 77]]), scores)[0, torch.from_numpy(lifts.tokens)]
    assert torch.equal(first, torch.from_numpy(lifts.after([])))


def test_copied_tokens_are_checked(llm: TransformersLM) -> None:
    ana = Profile("ana", (Record("x", target="ab"),))
    (broken,) = copying(llm, user=math.nan).lifts([ana], ["q"])
    with pytest.raises(InvalidOptionError, match="must be finite"):
        llm.generate([Request("q", lifts=broken)], OPTIONS)
    far = CopySource(_Texts.of([[10**6]]), _Texts.of([[1]]), np.ones(10**6 + 1, np.float32), 1)
    with pytest.raises(InvalidOptionError, match="token ids from 0 to"):
        llm.generate([Request("q", lifts=CopyLifts(far, np.ones(len(FEATURES), np.float32)))], OPTIONS)


# -------------------------------------------------------------------------------------------------------- training


@given(texts, texts.filter(bool), st.integers(0, 2**31))
def test_the_loss_is_that_of_the_lifted_scores(question: list[int], target: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    log_p = torch.randn(len(target), 8, generator=draw).log_softmax(-1)
    weights = torch.randn(len(FEATURES), generator=draw)
    source = CopySource(_Texts.of([[1, 2, 3], [2, 4]], (-1,)), _Texts.of([question]), np.ones(8, np.float32), 7)
    lifted = log_p.clone()
    for place in range(len(target)):
        lifted[place, torch.from_numpy(source.tokens)] += torch.from_numpy(source.features(target[:place])) @ weights
    expected = torch.nn.functional.cross_entropy(lifted, torch.tensor(target))
    torch.testing.assert_close(_answered(source, target, log_p).loss(weights), expected, rtol=1e-4, atol=1e-4)


def test_training_learns_what_to_copy_and_leaves_the_rest(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    before = hash_parameters(tiny.model)
    embedder, report = trained(tiny, encoder, tmp_path)
    assert hash_parameters(tiny.model) == before
    assert report.copy_loss is not None
    assert report.copy_loss_before is not None
    assert report.copy_loss < 0.95 * report.copy_loss_before
    assert embedder.copying is not None
    assert int(embedder.copying.texts) > 0
    bare = UserEmbedder.for_llm(
        tiny, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2, heads=2, width=16
    )
    train_user_embedder(
        bare,
        headlines(30),
        tiny,
        HistoryReader(bare.config, encoder),
        SMALL,
        out=tmp_path / "bare",
        retriever=LampBM25Retriever(),
    )
    for name, tensor in bare.state_dict().items():  # what else is trained does not notice
        assert torch.equal(tensor, embedder.state_dict()[name]), name
    loaded = load_user_embedder(tmp_path)
    assert loaded.fingerprint == embedder.fingerprint
    assert json.loads((tmp_path / "training.json").read_text())["report"]["copy_loss"] == report.copy_loss


def test_the_control_copies_nothing_of_a_user(llama_folder: Path, encoder: Any, tmp_path: Path) -> None:
    # An LLM that does not know the task: the words of the question help it.
    embedder, _ = trained(load_llm(llama_folder, overlong="truncate"), encoder, tmp_path, without_user=True)
    assert embedder.copying is not None
    weights = dict(zip(FEATURES, embedder.copying.weights.tolist(), strict=True))
    assert all(abs(weights[name]) < 1e-6 for name in ("user", "user_pair", "user_triple", "both"))
    assert weights["question"] != 0


def test_what_helps_too_little_is_not_copied(
    tiny: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persona.soft_prompts.copy_training._WORTH", 0.99)  # it helps, but not by so much
    embedder, report = trained(tiny, encoder, tmp_path)
    assert report.copy_loss == report.copy_loss_before
    assert not embedder.copies
    # What copies nothing is in nobody's way.
    context = PersonalContext(lifts={5: 1.0})
    (found,) = SoftPromptChannel(embedder, tiny, encoder)([Profile("ana", (Record("x"),))], ["Q"], [context])
    assert found.lifts == {5: 1.0}


def test_what_does_not_help_users_kept_aside_is_not_copied(
    tiny: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.optim.LBFGS, "step", lambda self, closure: self.param_groups[0]["params"][0].data.fill_(9)
    )
    embedder, report = trained(tiny, encoder, tmp_path)
    assert report.copy_loss == report.copy_loss_before
    assert embedder.copying is not None
    assert not embedder.copying.weights.any()


def test_an_embedder_that_copies_can_be_trained_again(copier: Path, tiny: Any, encoder: Any, tmp_path: Path) -> None:
    embedder = load_user_embedder(copier)
    asked = list(World(0).questions("LaMP_3", "train", 8, 6))
    golds = {one.question.id: one.gold for one in asked}
    ratings = LampSplit(lamp_task("LaMP_3"), tuple(one.question for one in asked), golds, None)
    reader = HistoryReader(embedder.config, encoder)
    report = train_user_embedder(embedder, ratings, tiny, reader, SMALL, out=tmp_path, retriever=LampBM25Retriever())
    assert report.copy_loss is not None
    assert embedder.copying is not None
    assert int(embedder.copying.counts.max()) <= int(embedder.copying.texts) <= 5  # the scores


def test_nobodys_own_answers_are_common_to_everybody(tiny: Any, copier: Path) -> None:
    """A user who is served later is not among those whose answers were counted."""
    embedder = load_user_embedder(copier)
    assert embedder.copying is not None
    word, other = tiny.target_ids(["zebra"])[0][:-1], tiny.target_ids(["apple"])[0][:-1]
    embedder.copying.texts.fill_(3)
    embedder.copying.counts.zero_()
    embedder.copying.counts[tiny.target_ids([""])[0][-1]] = 3
    for token in word:
        embedder.copying.counts[token] = 2
    for token in other:
        embedder.copying.counts[token] = 1
    ana = Example(
        "ana",
        "q",
        "g",
        Profile("ana", (Record("x", target="zebra"),)),
        np.zeros(1, np.intp),
        np.zeros(1, np.float32),
        False,
    )
    copiers = _Copiers(embedder, tiny, [ana])
    assert copiers.of("ana")._idf[word[0]] == pytest.approx(math.log(3 / 2))
    assert copiers.of("bo")._idf[word[0]] == pytest.approx(math.log(4 / 3))
    assert copiers.of("ana")._idf[other[0]] == pytest.approx(math.log(3 / 2))
    # What another user has written as well, a score or a tag, is common all the same.
    shared = _Copiers(embedder, tiny, [ana, replace(ana, user_id="bo")])
    assert shared.of("ana")._idf[word[0]] == pytest.approx(math.log(4 / 3))


def test_an_llm_that_does_not_say_its_vocabulary_is_told_so(llm: TransformersLM) -> None:
    class Silent:
        fingerprint, hidden_size = "silent", 8

        class model:  # noqa: N801
            config = SimpleNamespace()

            @staticmethod
            def get_input_embeddings() -> torch.nn.Embedding:
                return torch.nn.Embedding(4, 8)

    silent: Any = Silent()
    with pytest.raises(InvalidOptionError, match="does not say how many tokens"):
        UserEmbedder.for_llm(silent, encoder_dim=3, copies=True)
    assert vocabulary_size(SimpleNamespace(text_config=SimpleNamespace(vocab_size=7))) == 7


def test_a_run_stopped_while_it_learns_to_copy_ends_the_same(
    tiny: Any, encoder: Any, tmp_path: Path, copier: Path
) -> None:
    embedder = UserEmbedder.for_llm(
        tiny, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2, heads=2, width=16, copies=True
    )
    reader = HistoryReader(embedder.config, encoder)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_user_embedder(
            embedder,
            headlines(30),
            tiny,
            reader,
            SMALL,
            out=tmp_path,
            retriever=LampBM25Retriever(),
            copy_progress=stop,
        )
    again, _ = trained(tiny, encoder, tmp_path)
    assert again.fingerprint == load_user_embedder(copier).fingerprint


# ---------------------------------------------------------------------------------------------- serving, evaluation


def test_an_encoder_decoder_copies_as_it_was_taught(shared: Path) -> None:
    """Greedy decoding goes the way of the highest lifted score, as the training's loss sees it."""
    loaded = load_llm(shared / "models" / "frozen_llm", overlong="truncate")
    assert isinstance(loaded, TransformersLM)
    weights = {"user": 2.0, "user_pair": 3.0, "user_triple": 2.0, "question": 1.0, "again": -3.0, "written": -1.0}
    idf = np.full(vocabulary_size(loaded.model.config) or 0, 3.0, np.float32)
    made = Copying(loaded, idf, np.array([weights.get(name, 0.0) for name in FEATURES], np.float32))
    ana = Profile("ana", (Record("x", target="Parsing the Zulu of the mountains"),))
    prompt = "Generate a title for the following abstract of a paper: We parse sentences with a small grammar."
    (lifts,) = made.lifts([ana], [prompt])
    assert lifts is not None
    (answer,) = loaded.generate([Request(prompt, lifts=lifts)], GenerationOptions(max_new_tokens=8))
    (target,) = loaded.target_ids([answer])
    (log_p,) = TargetLoss(loaded).log_probabilities(loaded.prompt_ids([prompt]), [target])
    for place, token in enumerate(target[:-1]):
        scores = log_p[place].clone()
        scores[torch.from_numpy(lifts.tokens)] += torch.from_numpy(lifts.after(target[:place]))
        assert int(scores.argmax()) == token, place
    assert answer != loaded.generate([Request(prompt)], GenerationOptions(max_new_tokens=8))[0]


def test_the_median_of_ratings_is_that_of_the_lifted_scores(tiny: Any) -> None:
    scores = ("1", "2", "3", "4", "5")
    options = GenerationOptions(max_new_tokens=4, median_of=scores)
    idf = np.full(tiny.model.config.vocab_size, 3.0, np.float32)
    made = Copying(tiny, idf, np.array([50.0 * (name == "user") for name in FEATURES], np.float32))
    profiles = [Profile("ana", (Record("x", target=score),)) for score in scores]
    prompts = ["What is the score of the following review? review: The battery is superb."] * 5
    requests = [
        Request(prompt, lifts=each) for prompt, each in zip(prompts, made.lifts(profiles, prompts), strict=True)
    ]
    assert tiny.generate(requests, options) == list(scores)


def test_halves_of_an_embedder_copy(copier: Path, tiny: Any) -> None:
    ana = Profile("ana", (Record("x", target="superb"),))
    whole, half = load_user_embedder(copier), load_user_embedder(copier).bfloat16()
    assert whole.copying is not None
    assert half.copying is not None
    exact, rounded = (one.of(tiny).lifts([ana], ["Q"])[0] for one in (whole.copying, half.copying))
    assert exact is not None
    assert rounded is not None
    assert np.allclose(exact.after([]), rounded.after([]), atol=0.1)


def test_the_command_line_copies_unless_told_not_to(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.stdout

    def settings(*texts: str) -> list[str]:
        return [word for text in texts for word in ("--set", text)]

    World(0).write_lamp(tmp_path / "data", "LaMP_4", {"train": 12}, 6)
    start = [
        *("train", "user-embedder", str(tmp_path / "data"), "--llm", "tiny", "--encoder", "hashing"),
        *settings("steps=1", "ks=0", "leave_one_out=2"),
    ]
    quick = settings("warm_up=0", "n_tokens=2", "new_user_steps=0")
    assert "; copying 0." in run(*start, *quick, "--out", str(tmp_path / "copies"))
    told = json.loads(run("show", "--trained", str(tmp_path / "copies"), "--json"))["copies"]
    assert set(told) == set(FEATURES)
    assert any(told.values())
    for name, options in (("not", [*quick, "--set", "copies=false"]), ("paper", ["--set", "mode=persona-plug"])):
        run(*start, *options, "--out", str(tmp_path / name))
        assert json.loads(run("show", "--trained", str(tmp_path / name), "--json"))["copies"] is None
    run(*start, *settings("mode=persona-plug", "copies=true"), "--out", str(tmp_path / "both"))
    assert json.loads(run("show", "--trained", str(tmp_path / "both"), "--json"))["copies"] is not None


def test_a_batch_mixes_users_and_copies_from_each_their_own(
    tiny: Any, encoder: Any, copier: Path, tmp_path: Path
) -> None:
    with ProfileStore(f"sqlite:///{tmp_path / 'persona.db'}") as store:
        for user in range(3):
            store.upsert(
                (f"user-{user}", record) for record in World(1).records(World(1).user("dev", user), "LaMP_4", 5)
            )
        channel = SoftPromptChannel(copier, tiny, encoder, store)
        personalizer = Personalizer(tiny, store, None, k=0, options=OPTIONS, channels=(channel,))
        questions = [
            (user, "Generate a headline for: The screen is superb.") for user in ("user-0", "user-1", "nobody")
        ]
        mixed = personalizer.batch(questions)
        assert [one.text for one in mixed] == [personalizer.batch([each])[0].text for each in questions]
        assert [one.channels for one in mixed] == [("soft_prompt", "vocabulary"), ("soft_prompt", "vocabulary"), ()]
        lifts = [personalizer.context(*each).lifts for each in questions]
        tokens = []
        for each in lifts:
            assert isinstance(each, CopyLifts)
            tokens.append(set(each.tokens.tolist()))
        own = [
            {token for record in store.profile(f"user-{user}") for token in tiny.target_ids([record.target])[0]}
            for user in (0, 1)
        ]
        asked = set(tiny.target_ids([questions[0][1]])[0])
        assert tokens[2] <= asked | {tiny.target_ids([""])[0][-1]}
        for user in (0, 1):
            assert own[user] <= tokens[user] <= own[user] | asked


def test_one_channel_may_lift_tokens(tiny: Any, encoder: Any, copier: Path) -> None:
    embedder = SoftPromptChannel(copier, tiny, encoder)
    words = VocabularyChannel(tiny, TokenBackground.from_texts(tiny, ["a b"]), 1.0)
    ana = Profile("ana", (Record("x", target="superb"),))
    for first, second in ((embedder, words), (words, embedder)):
        contexts = first([ana], ["Q"], [PersonalContext()])
        with pytest.raises(InvalidOptionError, match="one channel may lift tokens"):
            second([ana], ["Q"], contexts)


def test_an_endpoint_gets_the_soft_prompt_alone(tiny: Any, encoder: Any, copier: Path) -> None:
    class Endpoint:
        channels = frozenset({TEXT, SOFT_PROMPT})
        fingerprint, hidden_size, model = tiny.fingerprint, tiny.hidden_size, tiny.model

    ana = Profile("ana", (Record("x", target="superb"),))
    (context,) = SoftPromptChannel(copier, Endpoint(), encoder)([ana], ["Q"], [PersonalContext()])
    (whole,) = SoftPromptChannel(copier, tiny, encoder)([ana], ["Q"], [PersonalContext()])
    assert context.lifts is None
    assert whole.lifts is not None
    assert context.soft_prompt is not None
    assert whole.soft_prompt is not None
    assert torch.equal(context.soft_prompt, whole.soft_prompt)


def test_rows_of_an_embedder_that_copies_and_their_controls(
    tiny: Any, encoder: Any, copier: Path, tmp_path: Path
) -> None:
    control, _ = trained(tiny, encoder, tmp_path / "without", without_user=True)
    embedder = load_user_embedder(copier)
    config = LampConfig(methods=("user-embedder",), ks=(1,), beside="bm25-lamp", encoder="hashing")
    report = run_lamp(
        headlines(5, "dev"), tiny, config, user_embedders=UserEmbedders((embedder,), (control,)), out=tmp_path / "run"
    )
    rows = {(row.method, row.control) for row in report.rows}
    assert {
        ("user-embedder", None),
        ("user-embedder", OTHER_USER),
        ("user-embedder", EMPTY_HISTORY),
        ("user-embedder", WITHOUT_USER),
    } <= rows
    again = run_lamp(
        headlines(5, "dev"), tiny, config, user_embedders=UserEmbedders((embedder,), (control,)), out=tmp_path / "run"
    )
    assert [row.scores for row in again.rows] == [row.scores for row in report.rows]
    plain = UserEmbedder.for_llm(tiny, encoder_dim=encoder.dim, encoder=encoder.fingerprint, n_tokens=2)
    with pytest.raises(InvalidOptionError, match="whether they copy"):
        UserEmbedders((embedder,), (plain,))
    both = replace(config, methods=("user-embedder+vocabulary",), vocabulary=1.0)
    with pytest.raises(InvalidOptionError, match="leave that method out"):
        run_lamp(headlines(5, "dev"), tiny, both, user_embedders=UserEmbedders((embedder,)))

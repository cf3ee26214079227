"""Learning what to copy: the loss, what else must not change, and what is common to all users."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.llm.checkpoint import hash_parameters
from persona.llm.load import load_llm
from persona.records import Profile, Record
from persona.soft_prompts.copying import FEATURES, CopySource, TokenBackground, TokenizedTexts
from persona.soft_prompts.embedder import UserEmbedder, load_user_embedder
from persona.soft_prompts.training.copying import AnsweredExamples, CopySources
from persona.soft_prompts.training.examples import Example
from persona.soft_prompts.training.options import UserEmbedderTraining
from persona.soft_prompts.training.user_embedder import UserEmbedderReport
from tests.soft_prompts.splits import fresh, train, world_split

SMALL = UserEmbedderTraining(
    warm_up=0, steps=2, batch=8, ks=(0, 1), leave_one_out=2, validation_users=0.25, new_user_steps=0
)
TEXTS = st.lists(st.integers(1, 5), max_size=6)


def trained(llm: Any, encoder: Any, out: Path, **options: Any) -> tuple[UserEmbedder, UserEmbedderReport]:
    embedder = fresh(llm, encoder, copies=True)
    progress = options.pop("progress", None)
    options = {"options": replace(SMALL, **options), "progress": progress}
    return embedder, train(embedder, world_split("LaMP_4", 30), llm, encoder, out=out, **options)


@pytest.fixture(scope="module")
def copier(tiny: Any, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained user embedder that copies."""
    out = tmp_path_factory.mktemp("copier")
    trained(tiny, encoder, out)
    return out


@settings(deadline=None)
@given(TEXTS, TEXTS.filter(bool), st.integers(0, 2**31))
def test_the_loss_is_that_of_the_lifted_scores(question: list[int], target: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    log_p = torch.randn(len(target), 8, generator=draw).log_softmax(-1)
    weights = torch.randn(len(FEATURES), generator=draw)
    user = TokenizedTexts.of([[1, 2, 3], [2, 4]], (-1,))
    source = CopySource(user, TokenizedTexts.of([question]), np.ones(8, np.float32), 7)
    lifted = log_p.clone()
    for position in range(len(target)):
        lifts = torch.from_numpy(source.features(target[:position])) @ weights
        lifted[position, torch.from_numpy(source.tokens)] += lifts
    expected = torch.nn.functional.cross_entropy(lifted, torch.tensor(target))
    answered = AnsweredExamples()
    answered.add(source, target, log_p)
    torch.testing.assert_close(answered.loss(weights), expected, rtol=1e-4, atol=1e-4)
    # A second example has the same weight, however short.
    alone = AnsweredExamples()
    for examples in (answered, alone):
        examples.add(source, target[:1], log_p[:1])
    both = (expected + alone.loss(weights)) / 2
    torch.testing.assert_close(answered.loss(weights), both, rtol=1e-4, atol=1e-4)


def test_training_learns_what_to_copy_and_leaves_the_rest(tiny: Any, encoder: Any, tmp_path: Path) -> None:
    before = hash_parameters(tiny.model)
    embedder, report = trained(tiny, encoder, tmp_path)
    assert hash_parameters(tiny.model) == before
    assert report.copy_loss is not None
    assert report.copy_loss_before is not None
    assert report.copy_loss < 0.95 * report.copy_loss_before
    assert embedder.copying is not None
    assert int(embedder.copying.texts) > 0
    bare = fresh(tiny, encoder)
    train(bare, world_split("LaMP_4", 30), tiny, encoder, SMALL, tmp_path / "bare")
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, embedder.state_dict()[name]), name
    assert load_user_embedder(tmp_path).fingerprint == embedder.fingerprint
    assert json.loads((tmp_path / "training.json").read_text())["report"]["copy_loss"] == report.copy_loss


def test_the_control_copies_nothing_of_a_user(llama_folder: Path, encoder: Any, tmp_path: Path) -> None:
    # An LLM that does not know the task: the words of the question help it.
    embedder, _ = trained(load_llm(llama_folder, overlong="truncate"), encoder, tmp_path, without_user=True)
    assert embedder.copying is not None
    weights = dict(zip(FEATURES, embedder.copying.weights.tolist(), strict=True))
    assert all(abs(weights[name]) < 1e-6 for name in ("user", "user_pair", "user_triple", "both"))
    assert weights["question"] != 0


@pytest.mark.parametrize("fault", ["helps too little", "does not help validation users"])
def test_what_does_not_help_is_not_copied(
    fault: str, tiny: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "helps too little":
        monkeypatch.setattr("persona.soft_prompts.training.copying._WORTH", 0.99)
    else:
        monkeypatch.setattr(
            torch.optim.LBFGS, "step", lambda self, closure: self.param_groups[0]["params"][0].data.fill_(9)
        )
    embedder, report = trained(tiny, encoder, tmp_path)
    assert report.copy_loss == report.copy_loss_before
    assert embedder.copying is not None
    assert not embedder.copies


def test_an_embedder_that_copies_can_be_trained_again(copier: Path, tiny: Any, encoder: Any, tmp_path: Path) -> None:
    embedder = load_user_embedder(copier)
    report = train(embedder, world_split("LaMP_3", 8), tiny, encoder, SMALL, tmp_path)
    assert report.copy_loss is not None
    assert embedder.copying is not None
    assert int(embedder.copying.counts.max()) <= int(embedder.copying.texts) <= 5  # the scores


def test_a_run_stopped_while_it_learns_to_copy_ends_the_same(
    tiny: Any, encoder: Any, tmp_path: Path, copier: Path
) -> None:
    def stop(progress: Any) -> None:
        if progress.stage == "copying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny, encoder, tmp_path, progress=stop)
    again, _ = trained(tiny, encoder, tmp_path)
    assert again.fingerprint == load_user_embedder(copier).fingerprint


def test_a_users_own_answers_are_not_common_to_all(tiny: Any) -> None:
    """A user who is served later is not among those whose answers were counted."""
    word, other = tiny.target_ids(["zebra"])[0][:-1], tiny.target_ids(["apple"])[0][:-1]
    counts = np.zeros(tiny.model.config.vocab_size, np.int32)
    counts[tiny.target_ids([""])[0][-1]], counts[word], counts[other] = 3, 2, 1
    profile = Profile("ana", (Record("x", target="zebra"),))
    ana = Example("ana", "q", "g", profile, np.zeros(1, np.intp), np.zeros(1, np.float32))
    sources = CopySources(tiny, TokenBackground(3, counts), [ana])
    idf = {user: sources.background_for(user).idf for user in ("ana", "bo")}
    assert idf["ana"][word[0]] == pytest.approx(math.log(3 / 2))
    assert idf["bo"][word[0]] == pytest.approx(math.log(4 / 3))
    assert idf["ana"][other[0]] == pytest.approx(math.log(3 / 2))
    # What another user has written as well, a score or a tag, is common to all nevertheless.
    shared = CopySources(tiny, TokenBackground(3, counts), [ana, replace(ana, user_id="bo")])
    assert shared.background_for("ana").idf[word[0]] == pytest.approx(math.log(4 / 3))

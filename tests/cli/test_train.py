"""`persona train user-embedder` and `persona train filter`, and `persona show --trained`."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.world.world import World
from tests.cli.conftest import SMALL_FILTER, Run, settings


def test_a_user_embedder_from_a_file_of_settings(run: Run, tmp_path: Path) -> None:
    World(0).write_lamp(tmp_path / "data", "LaMP_4", {"train": 12}, 6)
    (tmp_path / "train.toml").write_text(
        "[embedder]\nn_tokens = 2\ncopies = false\n[training]\nsteps = 9\nwarm_up = 0\nks = [0]\nleave_one_out = 2\n"
    )
    train = ("train", "user-embedder", "data", "--llm", "tiny", "--out", "out", "--config", "train.toml")
    shown = run(*train, *settings("steps=1", "new_user_steps=0"))
    assert shown.code == 0, shown.err
    assert [line.split()[0] for line in shown.out.splitlines()][:3] == ["out", "steps", "best_step"]
    assert "validation_loss" in shown.out
    found = run("show", "--trained", "out", "--json").json
    assert (found["n_tokens"], found["copies"], found["llm"][:5]) == (2, None, "tiny@")
    assert (found["training"]["options"]["steps"], found["training"]["options"]["ks"]) == (1, [0])
    assert "validation_loss" in run("show", "--trained", "out").out
    assert not list((tmp_path / "out").glob("*.db*"))  # the training users' vectors are no part of it
    control = run(*train, *settings("without_user=true", "new_user_steps=2"))
    assert "nothing reads `new_user_steps`: leave it out" in control.error


def test_a_filter_is_trained_shown_and_used(stocked: Run, films: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Where is Perth?\n\nWho was Euclid?\n")
    train = ("train", "filter", films, "--out", "kept", "--general", "more.txt", *SMALL_FILTER)
    shown = stocked(*train, *settings("recall=0.9"))
    assert shown.code == 0, shown.err
    found = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    # Two general questions are too few to be a kind of their own.
    assert (found["questions"], found["records"], found["general"]) == ("30", "240", "166")
    found = stocked("show", "--trained", "kept", "--json").json
    assert found["encoder"].startswith("hashing")
    assert found["training"]["options"]["recall"] == 0.9
    assert stocked("show", "--trained", "kept").out.count("threshold") == 1
    asked = stocked("retrieve", "mara", "What is the boiling point of water?", "--filter", "kept")
    assert "nothing found: none of the" in asked.out
    other = stocked("retrieve", "mara", "a film", "--filter", "kept", "--encoder", "hashing:64")
    assert "the relevance filter was made for" in other.error


def test_usefulness_is_learned_shown_and_used(stocked: Run, films: Path) -> None:
    """Row 3 of docs/papers.md: the same command, told whose answers are to become likelier."""
    train = ("train", "filter", films, "--out", "spaces", *settings("usefulness.llm=tiny", "candidates=2"))
    shown = stocked(*train, *settings("usefulness.questions=12", "usefulness.epochs=2"))
    assert shown.code == 0, shown.err
    found = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert found["questions"] == "12"
    assert float(found["chosen"]) <= float(found["best"])
    found = stocked("show", "--trained", "spaces", "--json").json
    assert (found["view"], found["training"]["options"]["candidates"]) == ("text", 2)
    ask = ("retrieve", "mara", "a quiet film", "--retriever", "useful", "--k", "3", *settings("model=spaces"))
    assert len(stocked(*ask, "--json").json) == 3
    assert "what `useful` learned was made for" in stocked(*ask, "--encoder", "hashing:64").error
    assert "nothing reads --general" in stocked(*train, "--general", "more.txt").error
    assert "by the settings `usefulness.NAME`" in stocked(*train, *settings("epochs=2")).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (settings("restraint=1.5"), "`restraint` must be above 0 and below 1"),
        (settings("recall=0"), "`recall` must be above 0 and below 1"),
        (settings("view=body"), "`view` must be one of"),
        (("--general", "empty.txt"), "empty.txt: the file is empty"),
        (("--general", "missing.txt"), "missing.txt: the file cannot be read: No such file"),
        (("--general", "latin.txt"), "latin.txt: the file must be UTF-8 text"),
    ],
)
def test_train_filter_with_bad_input(
    run: Run, films: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("Où est la gare ?".encode("latin-1"))
    assert message in run("train", "filter", films, "--out", "kept", *options).error

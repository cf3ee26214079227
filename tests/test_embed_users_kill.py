"""`persona embed-users` killed with SIGKILL at twenty random moments, on the real sentence encoder."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from persona.embedding import embed_users
from persona.encoders import load_encoder
from persona.records import Record
from persona.store import ProfileStore
from persona.vectors import vector_fingerprint

KILLS = 20
USERS = 40
CHUNK = 8


def _embed_in_child(path: str, pipe: Connection) -> None:
    """What is killed: a whole process that loads the real sentence encoder and embeds."""
    encoder = load_encoder("minilm", workers=1)
    encoder.encode(["warm"])
    pipe.send("ready")
    with ProfileStore(f"sqlite:///{path}") as opened:
        embed_users(opened, encoder, chunk_records=CHUNK)
    pipe.send("done")


def _stocked(path: Path) -> Path:
    draw = random.Random(0)
    words = ["tea", "milk", "rain", "paper", "harbour", "engine", "quiet", "slow", "green", "late"]
    with ProfileStore(f"sqlite:///{path}") as opened:
        opened.upsert(
            (f"u{number % USERS}", Record(" ".join(draw.choices(words, k=draw.randint(1, 60))), id=str(number)))
            for number in range(6 * USERS)
        )
    return path


def _vectors(path: Path) -> dict[str, tuple[tuple[str, ...], bytes]]:
    fingerprint = vector_fingerprint(load_encoder("minilm"), "text")
    with ProfileStore(f"sqlite:///{path}") as opened:
        found = {user_id: opened.vectors(user_id, fingerprint) for user_id in opened.user_ids()}
    return {user: (one.record_ids, one.matrix.tobytes()) for user, one in found.items() if one is not None}


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_store_of_an_undisturbed_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sentence_transformers", "persona.embedding", "persona.store"])

    def live(path: Path, seconds: float | None) -> float:
        """One life of the child: killed after `seconds` of embedding, or left to end. How long it embedded."""
        ours, theirs = context.Pipe()
        child = context.Process(target=_embed_in_child, args=(str(path), theirs))
        child.start()
        assert ours.recv() == "ready"
        begun = time.perf_counter()
        if seconds is None:
            assert ours.recv() == "done"
        else:
            ours.poll(seconds)
            child.kill()
        lasted = time.perf_counter() - begun
        child.join()
        return lasted

    whole = _stocked(tmp_path / "whole.db")
    lasted = live(whole, None)
    killed = _stocked(tmp_path / "killed.db")
    draw = random.Random(1)
    done = []
    for _ in range(KILLS):
        live(killed, draw.uniform(0, lasted / KILLS))
        done.append(len(_vectors(killed)))
    assert sum(before < USERS for before in done) >= KILLS // 2, "the kills came too late to disturb anything"
    live(killed, None)
    assert _vectors(killed) == _vectors(whole)
    assert len(_vectors(whole)) == USERS

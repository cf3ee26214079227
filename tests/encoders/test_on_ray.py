"""A population embedded on a Ray cluster is the one of a single process, whatever dies meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from persona.encoders.embedding import embed_users
from persona.encoders.load import load_encoder
from persona.encoders.on_ray import embed_users_on_ray
from persona.errors import InvalidOptionError, StoreError
from persona.records import Record
from persona.store.profile_store import ProfileStore
from persona.store.vectors import vector_fingerprint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

ENCODER = "hashing:64"
WORDS = [
    "snow",
    "harbour",
    "lantern",
    "violin",
    "winter",
    "bridge",
    "paper",
    "garden",
    "engine",
    "river",
    "salt",
    "copper",
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of three nodes on this machine."""
    ray: Any = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def filled(path: Path, users: int = 120) -> ProfileStore:
    draw = random.Random(0)
    store = ProfileStore(f"sqlite:///{path}")
    store.upsert(
        (f"user {user}/{'é' * (user % 3)}", Record(" ".join(draw.choices(WORDS, k=8)), id=str(number)))
        for user in range(users)
        for number in range(draw.randint(1, 6))
    )
    return store


def vectors(store: ProfileStore) -> dict[str, tuple[tuple[str, ...], bytes]]:
    fingerprint, found = vector_fingerprint(load_encoder(ENCODER), "text"), {}
    for user_id in store.user_ids():
        if (of_user := store.vectors(user_id, fingerprint)) is not None:
            found[user_id] = of_user.record_ids, of_user.matrix.tobytes()
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[tuple[str, ...], bytes]]:
    with filled(tmp_path_factory.mktemp("single") / "store.db") as store:
        embed_users(store, load_encoder(ENCODER), chunk_records=10)
        return vectors(store)


def test_three_nodes_make_the_store_of_one_process(
    address: str, expected: dict[str, tuple[tuple[str, ...], bytes]], tmp_path: Path
) -> None:
    seen: list[tuple[int, int, int]] = []
    with filled(tmp_path / "store.db") as store:
        done = embed_users_on_ray(
            store,
            load_encoder(ENCODER),
            ENCODER,
            address=address,
            chunk_records=10,
            progress=lambda *counts: seen.append(counts),
        )
        assert vectors(store) == expected
        again = embed_users_on_ray(store, load_encoder(ENCODER), ENCODER, address=address)
    assert (done.users, done.passed_over) == (120, 0)
    assert done.records == done.embedded + done.duplicates == seen[-1][2]
    assert len(seen) >= 32
    assert seen[-1][:2] == (120, 120)
    assert again.users == 0


def test_what_dies_is_done_again(
    address: str, expected: dict[str, tuple[tuple[str, ...], bytes]], tmp_path: Path
) -> None:
    """First the driver is killed in the middle, then workers under the next driver."""
    run = [sys.executable, "-m", "persona", "--store", f"sqlite:///{tmp_path / 'store.db'}", "embed-users"]
    command = [*run, "--encoder", ENCODER, "--ray", address]
    with filled(tmp_path / "store.db") as store:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not vectors(store) and driver.poll() is None:
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        next_driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        killed = 0
        while killed < 2 and next_driver.poll() is None:
            for worker in psutil.process_iter(["cmdline"]):
                if "ray::MapWorker" in " ".join(worker.info["cmdline"] or ()) and killed < 2:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
        out, err = next_driver.communicate(timeout=120)
        assert next_driver.returncode == 0, err
        assert "users embedded" in out
        assert vectors(store) == expected


def test_what_goes_wrong_is_one_line(address: str, tmp_path: Path) -> None:
    with filled(tmp_path / "store.db", users=2) as store:
        encoder = load_encoder(ENCODER)
        with pytest.raises(InvalidOptionError, match="`view` must be one of"):
            embed_users_on_ray(store, encoder, ENCODER, address=address, view="dream")
        with pytest.raises(StoreError, match="could not be embedded on the cluster: a node has hashing"):
            embed_users_on_ray(store, encoder, "hashing:32", address=address)
        assert vectors(store) == {}

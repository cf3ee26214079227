"""A population embedded on a Ray cluster is the one of a single process, whatever dies meanwhile."""

from __future__ import annotations

import json
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
        embed_users(store, load_encoder(ENCODER))
        return vectors(store)


RUN = """
import json, sys
from dataclasses import asdict
from persona.encoders.load import load_encoder
from persona.encoders.on_ray import embed_users_on_ray
from persona.errors import PersonaError
from persona.store.profile_store import ProfileStore
url, encoder, name, address = sys.argv[1:]
with ProfileStore(url) as store:
    try:
        done = embed_users_on_ray(store, load_encoder(encoder), name, address=address, chunk_records=40)
        print(json.dumps(asdict(done)))
    except PersonaError as error:
        print(f"{type(error).__name__}: {error}")
"""


def driver(store: Path, address: str, name: str = ENCODER) -> subprocess.Popen[str]:
    """A run in a process of its own: Ray ends the process of a driver that loses its cluster."""
    command = [sys.executable, "-c", RUN, f"sqlite:///{store}", ENCODER, name, address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_three_nodes_make_the_store_of_one_process_whatever_dies(
    address: str, expected: dict[str, tuple[tuple[str, ...], bytes]], tmp_path: Path
) -> None:
    """First the driver is killed in the middle, then two workers under the next driver."""
    with filled(tmp_path / "store.db") as store:
        first = driver(tmp_path / "store.db", address)
        while not vectors(store) and first.poll() is None:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        second = driver(tmp_path / "store.db", address)
        killed = 0
        while killed < 2 and second.poll() is None:
            for worker in psutil.process_iter(["cmdline"]):
                if "ray::MapWorker" in " ".join(worker.info["cmdline"] or ()) and killed < 2:
                    os.kill(worker.pid, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
        out, err = second.communicate(timeout=300)
        assert second.returncode == 0, err
        assert out.startswith("{"), out
        done = json.loads(out)
        assert done["records"] == done["embedded"] + done["duplicates"]
        assert (done["reused"], done["passed_over"]) == (0, 0)
        assert vectors(store) == expected


def test_another_model_by_the_same_name_is_refused(address: str, tmp_path: Path) -> None:
    with filled(tmp_path / "store.db", users=2) as store:
        out = ""
        for _ in range(2):  # on a busy machine Ray may end a driver before it has begun
            if not out:
                out, err = driver(tmp_path / "store.db", address, "hashing:32").communicate(timeout=300)
        begins = "StoreError: a chunk of users could not be embedded on the cluster: a node has hashing"
        assert out.startswith(begins), err
        assert len(out.splitlines()) == 1
        assert vectors(store) == {}

"""Memories of many users with one interface: persona's, a vector store of langchain-core, and mem0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from benchmarks.memories.service import Service
from persona import Memory
from persona.protocols import RecordEncoder, Retriever
from persona.records import Profile, ScoredRecord
from persona.retrievers import ProfileRetriever
from persona.retrievers.base import Ranking
from persona.store.profile_store import ProfileStore
from persona.version import __version__

MEM0 = "mem0ai==2.2.1"
EXTRAS = ("fastembed", "spacy")


class NotRunError(Exception):
    """Why a row cannot be run."""


class Rival(ProfileRetriever, ABC):
    """A memory of many users; as a retriever it finds records of a profile whose turns it was given.

    Attributes:
        version: what it is.
        missing: what of it could not be run.
        foreign: how many turns of other users it has found so far.
    """

    version = f"persona {__version__}"
    missing: Sequence[str] = ()
    foreign = 0

    @abstractmethod
    def add(self, profile: Profile) -> None:
        """Remember all turns of a user."""

    @abstractmethod
    def find(self, user_id: str, query: str, k: int) -> list[tuple[str, str]]:
        """User and id of the turns found, best first."""

    @abstractmethod
    def forget(self, user_id: str) -> None:
        """Erase a user, as the memory's own interface does it."""

    def close(self) -> None:
        """Let go of files and processes."""

    def seconds(self) -> float:
        """CPU time so far, of all processes that work for it."""
        return time.process_time()

    def rank(self, profile: Profile, query: str, k: int) -> Ranking:
        found = self.find(profile.user_id, query, k)
        self.foreign += sum(user != profile.user_id for user, _ in found)
        records = {record.id: record for record in profile}
        return tuple(ScoredRecord(records[name], 0.0) for user, name in found if user == profile.user_id)


class PersonaMemory(Rival):
    """`persona.Memory` on SQLite."""

    def __init__(
        self, folder: Path, retriever: Callable[[ProfileStore], Retriever], encoder: RecordEncoder | None = None
    ) -> None:
        self._store = ProfileStore(f"sqlite:///{folder / 'memory.db'}")
        self._memory = Memory(self._store, retriever=retriever(self._store))
        self._encoder = encoder

    def add(self, profile: Profile) -> None:
        self._store.upsert((profile.user_id, record) for record in profile)
        if self._encoder is not None:
            from persona.encoders.embedding import embed_users

            embed_users(self._store, self._encoder, view="turn", user_ids=[profile.user_id])

    def find(self, user_id: str, query: str, k: int) -> list[tuple[str, str]]:
        return [(each["user_id"], each["id"]) for each in self._memory.search(query, user_id=user_id, k=k)["results"]]

    def forget(self, user_id: str) -> None:
        self._memory.delete_all(user_id=user_id)

    def close(self) -> None:
        self._store.close()


class LangChainStore(Rival):
    """langchain-core's vector store in memory, with the user in a filter; a file is written after every change."""

    version = f"langchain-core {version('langchain-core')}, InMemoryVectorStore"

    def __init__(self, folder: Path, encoder: RecordEncoder) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_core.vectorstores import InMemoryVectorStore

        class Encoder(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return cast(list[list[float]], encoder.encode(texts).tolist())

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        self._file, self._documents = folder / "store.json", InMemoryVectorStore(Encoder())
        self._ids: dict[str, list[str]] = {}

    def add(self, profile: Profile) -> None:
        user = profile.user_id
        metadata = [{"user": user, "turn": record.id} for record in profile]
        self._ids[user] = self._documents.add_texts([record.view("turn") for record in profile], metadata)
        self._documents.dump(str(self._file))

    def find(self, user_id: str, query: str, k: int) -> list[tuple[str, str]]:
        chosen = {"k": k, "filter": lambda document: document.metadata["user"] == user_id}
        found = self._documents.as_retriever(search_kwargs=chosen).invoke(query)
        return [(each.metadata["user"], each.metadata["turn"]) for each in found]

    def forget(self, user_id: str) -> None:
        self._documents.delete(self._ids.pop(user_id))
        self._documents.dump(str(self._file))


class Mem0(Rival):
    """mem0 in a process of its own (`mem0_worker.py`)."""

    def __init__(
        self, folder: Path, env: Path, service: Service, *, keywords: bool = False, infer: bool = False
    ) -> None:
        self._infer, self._elsewhere, self._texts = infer, 0.0, dict[str, str]()
        worker = Path(__file__).parent / "mem0_worker.py"
        kept = {name: value for name, value in os.environ.items() if "KEY" not in name and "OPENAI" not in name}
        self._process = subprocess.Popen(
            [python_of(env), "-I", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "MEM0_TELEMETRY": "False", "NO_PROXY": "127.0.0.1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"},
        )
        given = {"folder": str(folder), "url": service.url, "dim": service.encoder.dim, "keywords": keywords}
        opened = self._ask("open", **given)
        self.version, self.missing = f"mem0ai {opened['version']}, Qdrant in a folder", opened["missing"]

    def _ask(self, do: str, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline() or '{"error": "its process ended", "seconds": 0}')
        self._elsewhere += reply["seconds"]
        if "error" in reply:
            raise NotRunError(f"mem0, {do}: {reply['error']}")
        return cast(dict[str, Any], reply)

    def seconds(self) -> float:
        return time.process_time() + self._elsewhere

    def add(self, profile: Profile) -> None:
        self.remember(profile)

    def remember(self, profile: Profile, most: int | None = None) -> list[str]:
        """Add the first turns; the texts that it kept."""
        turns = [[f"{profile.user_id}\n{record.id}", record.view("turn")] for record in profile.records[:most]]
        return cast(list[str], self._ask("add", user=profile.user_id, turns=turns, infer=self._infer)["kept"])

    def find(self, user_id: str, query: str, k: int) -> list[tuple[str, str]]:
        keys = (key.split("\n") for key in self._ask("find", user=user_id, query=query, k=k)["keys"])
        return [(user, turn) for user, turn in keys]

    def forget(self, user_id: str) -> None:
        self._ask("forget", user=user_id)

    def close(self) -> None:
        self._process.communicate()


def python_of(env: Path) -> str:
    """The interpreter of an environment with mem0, which is made where it is not there."""
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (env / "made").exists():
        print(f"making an environment for {MEM0} in {env}", file=sys.stderr)
        venv.create(env, with_pip=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", MEM0, *EXTRAS], check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise NotRunError(f"{MEM0} could not be installed: {error}") from None
        subprocess.run([python, "-m", "spacy", "download", "en_core_web_sm"], capture_output=True)  # the worker looks
        (env / "made").touch()
    return str(python)

"""The comparison with other memories, without them: rows that need no package, the worker by its protocol."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.memories.service import scripted, serving
from benchmarks.memories.stores import LangChainStore, Mem0, NotRunError
from benchmarks.rivals import main, unusual, words_in
from persona.encoders.hashing import HashingEncoder
from persona.records import Profile, Record
from tests.eval.benchmarks.conversations.dialogues import LOCOMO

ANA = Profile("ana", (Record("Quinces ripen in Ljubljana.", id="D1:1"), Record("My ladder broke.", id="D1:2")))
BEN = Profile("ben", (Record("Quinces? I prefer medlars from Trieste.", id="D1:1"),))
FAKE = """
import json, urllib.request

class _Client:
    def __init__(self, config):
        self.embedder, self.llm = config["embedder"]["config"], config["llm"]["config"]

    def post(self, path, body):
        url, data = self.embedder["openai_base_url"] + path, json.dumps({"model": "m", **body}).encode()
        return json.load(urllib.request.urlopen(url, data))

class Memory:
    class vector_store: _bm25_encoder = None

    @classmethod
    def from_config(cls, config):
        memory = cls()
        memory.client, memory.file, memory.kept = _Client(config), config["history_db_path"], []
        return memory

    def add(self, messages, user_id, metadata, infer):
        texts = [messages[0]["content"]]
        if infer:
            asked = [{"role": "user", "content": f"## New Messages\\nuser: {texts[0]}\\n\\n## Today"}]
            reply = self.client.post("/chat/completions", {"messages": asked})["choices"][0]["message"]["content"]
            texts = [each["text"] for each in json.loads(reply)["memory"]]
        for text in texts:
            vector = self.client.post("/embeddings", {"input": [text]})["data"][0]["embedding"]
            self.kept.append((user_id, text, metadata, vector))
            open(self.file, "a").write(text)
        return {"results": [{"memory": text} for text in texts]}

    def search(self, query, filters, top_k):
        if not query: raise ValueError("an empty query")
        vector = self.client.post("/embeddings", {"input": [query]})["data"][0]["embedding"]
        own = [each for each in self.kept if each[0] == filters["user_id"]]
        own.sort(key=lambda each: -sum(a * b for a, b in zip(each[3], vector)))
        return {"results": [{"metadata": each[2]} for each in own[:top_k]]}

    def delete_all(self, user_id):
        self.kept = [each for each in self.kept if each[0] != user_id]
"""


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment whose mem0 is a few lines that keep what they were told in a file, as an audit trail does."""
    package = tmp_path / "packages/mem0"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "utils/__init__.py").touch()
    (package / "utils/spacy_models.py").touch()
    (tmp_path / "packages/mem0ai-9.dist-info").mkdir()
    (tmp_path / "packages/mem0ai-9.dist-info/METADATA").write_text("Name: mem0ai\nVersion: 9\n")
    start = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[3], run_name='__main__')"
    (tmp_path / "env/bin").mkdir(parents=True)
    python = tmp_path / "env/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" {tmp_path / "packages"} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "env/made").touch()
    return tmp_path / "env"


@pytest.mark.skipif(os.name == "nt", reason="the environment's interpreter is a shell script")
def test_a_worker_keeps_users_apart_and_its_traces_are_found(env: Path, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    with serving(HashingEncoder(32)) as service:
        memory = Mem0(folder, env, service)
        try:
            assert memory.version == "mem0ai 9, Qdrant in a folder"
            for profile in (ANA, BEN):
                memory.add(profile)
            (best, other) = memory.retrieve(ANA, "a ladder that broke", 5)
            assert (best.record.id, other.record.id, memory.foreign) == ("D1:2", "D1:1", 0)
            assert memory.find("stranger", "Quinces", 5) == []
            with pytest.raises(NotRunError, match="mem0, find: ValueError: an empty query"):
                memory.find("ana", "", 5)
            memory.forget("ana")
            assert memory.find("ana", "Quinces", 5) == []
            assert words_in(folder, unusual(ANA, [BEN])) == {"history.db": {"Ljubljana", "ladder"}}
        finally:
            memory.close()
        inferring = Mem0(folder, env, service, infer=True)
        try:
            assert inferring.remember(ANA, 1) == ["Quinces ripen in Ljubljana."]
            assert (len(service.asked), inferring.seconds() > 0) == (1, True)
        finally:
            inferring.close()


def test_a_vector_store_forgets_in_its_file(tmp_path: Path) -> None:
    store = LangChainStore(tmp_path, HashingEncoder(32))
    store.add(ANA)
    store.add(BEN)
    assert [each.record.id for each in store.retrieve(ANA, "my ladder", 1)] == ["D1:2"]
    assert set(words_in(tmp_path, ["Ljubljana", "Trieste"])["store.json"]) == {"Ljubljana", "Trieste"}
    store.forget("ana")
    assert words_in(tmp_path, ["Ljubljana", "Trieste"]) == {"store.json": {"Trieste"}}


def test_the_service_answers_as_openai_does() -> None:
    with serving(HashingEncoder(8)) as service:
        sent = httpx.post(f"{service.url}/embeddings", json={"model": "m", "input": ["one", "two"]}).json()
    assert [(each["index"], len(each["embedding"])) for each in sent["data"]] == [(0, 8), (1, 8)]
    assert json.loads(scripted([{"role": "user", "content": "## New Messages\nuser: a\n\n## Now"}])) == {
        "memory": [{"id": "0", "text": "a"}]
    }


def test_the_table_and_what_could_not_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    (tmp_path / "env").mkdir()
    (tmp_path / "env/made").touch()  # an environment without an interpreter
    rows = ["--rows", "bm25,dense,langchain,mem0", "--k", "2", "--answers", "2", "--env", str(tmp_path / "env")]
    main([str(tmp_path / "locomo.json"), *rows, "--encoder", "hashing:64", "--llm", "tiny"])
    shown = capsys.readouterr().out
    assert "4 questions, 5 turns of 2 conversations" in shown
    assert "| bm25 | " in shown
    assert "| langchain | " in shown
    assert "bm25: persona" in shown
    assert "files with words left: none" in shown
    assert "full context | 1.000" in shown
    assert "| full context |" in shown
    assert "- mem0: [Errno 2]" in shown
    assert "need a key or a service" in shown

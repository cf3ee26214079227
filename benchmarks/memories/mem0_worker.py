"""mem0 in an interpreter of its own: a JSON command a line on standard input, a JSON reply a line on standard output.

    {"do": "open", "folder": "...", "url": "http://127.0.0.1:1/v1", "dim": 384, "keywords": true}
    {"do": "add", "user": "ana", "turns": [["ana/D1:1", "Ana: Hello."]], "infer": false}
    {"do": "find", "user": "ana", "query": "...", "k": 10}
    {"do": "forget", "user": "ana"}

Every reply has `seconds`, the CPU time of this process; an error is a reply with `error`. Nothing of persona is
imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

_STOP_WORDS = "its stop words are spaCy's, Qdrant/bm25 of the Hugging Face hub could not be had"
_LEMMAS = "no lemmas and no entities: spaCy's model en_core_web_sm could not be had"


class Worker:
    """One memory of mem0, with Qdrant in a folder, and embeddings and LLM behind a local service."""

    def open(self, folder: str, url: str, dim: int, keywords: bool) -> dict[str, Any]:
        os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=folder, FASTEMBED_CACHE_PATH=os.path.join(folder, "cache"))
        from mem0 import Memory

        service = {"openai_base_url": url, "api_key": "none"}
        self._memory: Any = Memory.from_config(
            {
                "vector_store": {
                    "provider": "qdrant",
                    "config": {"path": os.path.join(folder, "qdrant"), "embedding_model_dims": dim, "on_disk": True},
                },
                "embedder": {"provider": "openai", "config": {"model": "encoder", "embedding_dims": dim, **service}},
                "llm": {"provider": "openai", "config": {"model": "llm", "temperature": 0.0, **service}},
                "history_db_path": os.path.join(folder, "history.db"),
            }
        )
        return {"version": version("mem0ai"), "missing": self._keywords() if keywords else self._no_keywords()}

    def _no_keywords(self) -> list[str]:
        """As without its extras: mem0 itself sets these marks where they are not installed."""
        from mem0.utils import spacy_models

        self._memory.vector_store._bm25_encoder = False
        spacy_models._load_failed_full = spacy_models._load_failed_lemma = True
        return []

    def _keywords(self) -> list[str]:
        """BM25 and lemmas as far as they can be had; what could not."""
        import spacy
        from mem0.utils import spacy_models

        missing = []
        if self._memory.vector_store._get_bm25_encoder() is None:
            from fastembed import SparseTextEmbedding

            # BM25 has no weights. What the hub has of it are lists of stop words.
            words: dict[str, Any] = {
                "specific_model_path": os.getcwd(),
                "stopwords": spacy.blank("en").Defaults.stop_words,
            }
            self._memory.vector_store._bm25_encoder = SparseTextEmbedding("Qdrant/bm25", **words)
            missing.append(_STOP_WORDS)
        if not spacy.util.is_package("en_core_web_sm"):  # mem0 would try to fetch it, and spaCy ends the process
            spacy_models._load_failed_full = spacy_models._load_failed_lemma = True
            missing.append(_LEMMAS)
        return missing

    def add(self, user: str, turns: list[list[str]], infer: bool) -> dict[str, Any]:
        kept = []
        for key, text in turns:
            message = [{"role": "user", "content": text}]
            done = self._memory.add(message, user_id=user, metadata={"turn": key}, infer=infer)
            kept += [each["memory"] for each in done["results"]]
        return {"kept": kept}

    def find(self, user: str, query: str, k: int) -> dict[str, Any]:
        found = self._memory.search(query, filters={"user_id": user}, top_k=k)["results"]
        return {"keys": [each["metadata"]["turn"] for each in found]}

    def forget(self, user: str) -> dict[str, Any]:
        self._memory.delete_all(user_id=user)
        return {}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        begun = time.process_time()
        try:
            reply = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # mem0 and what it stands on raise whatever they like; the other side says it
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps({**reply, "seconds": time.process_time() - begun}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()

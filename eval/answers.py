"""The LLM's answers in an evaluation, kept as they come, so that a run which was stopped goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from persona.eval.adapters import AdapterRequest
from persona.eval.lamp_config import Progress
from persona.lamp.tasks import Question
from persona.protocols import GenerationOptions, LanguageModel, Request, answer_settings

CHUNK = 64
"""Answers that are asked for, saved and reported together."""


class Answers:
    """The LLM's answers by prompt, kept in a file as they come.

    A line of the file: ``{"key": "9f...", "text": "comedy", "seconds": 0.021}``.
    """

    def __init__(self, path: Path | None, llm: LanguageModel, options: GenerationOptions) -> None:
        self._path = path
        self._llm = llm
        self._options = options
        self._settings = answer_settings(llm)
        self._known: dict[str, tuple[str, float]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    one = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a run that was killed while it wrote
                self._known[one["key"]] = (one["text"], one["seconds"])

    def ask(self, requests: Iterable[Request], report: Progress) -> None:
        """Have an answer to every request; those of like length go together."""
        missing = {key: request for request in requests if (key := self._key(request)) not in self._known}
        pending = sorted(missing.items(), key=lambda one: len(one[1].prompt))
        for start in range(0, len(pending), CHUNK):
            chunk = pending[start : start + CHUNK]
            begun = time.perf_counter()
            texts = self._llm.generate([request for _, request in chunk], self._options)
            share = (time.perf_counter() - begun) / len(chunk)
            new = {key: (text, share) for (key, _), text in zip(chunk, texts, strict=True)}
            self._known.update(new)
            if self._path is not None:
                # A leading newline ends what a killed run may have left half-written.
                lines = [json.dumps({"key": key, "text": text, "seconds": share}) for key, (text, share) in new.items()]
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("\n" + "\n".join(lines) + "\n")
            report("answers", start + len(chunk), len(pending))

    def text(self, request: Request) -> str:
        return self._known[self._key(request)][0]

    def seconds(self, requests: Iterable[Request]) -> float:
        return sum(self._known[self._key(request)][1] for request in requests)

    def _key(self, request: Request) -> str:
        parts: list[Any] = [self._llm.fingerprint, self._settings, asdict(self._options), request.prompt]
        if request.soft_prompt is not None:
            parts.append(hashlib.blake2b(request.soft_prompt.float().numpy().tobytes()).hexdigest())
        if request.lifts:
            lifts = request.lifts
            parts.append(sorted(lifts.items()) if isinstance(lifts, Mapping) else lifts.fingerprint)
        if isinstance(request, AdapterRequest):
            parts.append([request.adapter, request.identity])
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def data_hash(questions: Sequence[Question], golds: Mapping[str, str] | None) -> str:
    """BLAKE2b of all that the questions, their profiles and the golds say, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for one in questions:
        gold = None if golds is None else golds[one.id]
        said = [one.id, one.user_id, one.input, gold, [record.content_hash for record in one.profile]]
        digest.update(json.dumps(said).encode() + b"\n")
    return digest.hexdigest()

"""What the tests of other tools share: an LLM in a folder, with a chat template, and what persona itself answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import persona
from persona.eval import MethodOptions, Report, evaluate_benchmark, load_benchmark
from persona.llm.load import load_llm
from tests.eval.benchmarks.conversations.dialogues import LOCOMO, PREFEVAL
from tests.started import Starter

_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}<answer>"


def written(folder: Path) -> dict[str, Path]:
    """The data of two benchmarks, and the embedded LLM with a chat template, by name."""
    for name, content in {
        "locomo.json": LOCOMO,
        **{f"prefeval/{name}": each for name, each in PREFEVAL.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    source, llm = Path(persona.__file__).parent / "tiny", folder / "llm"
    llm.mkdir()
    for name in ("config.json", "model.safetensors"):
        (llm / name).write_bytes((source / name).read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(llm)
    return {"locomo": folder / "locomo.json", "prefeval": folder / "prefeval", "llm": llm}


def own_report(name: str, paths: Mapping[str, Path], **options: Any) -> Report:
    """What `persona eval` finds with ``bm25`` and two records."""
    chosen = MethodOptions(methods=("none", "bm25"), ks=(2,), resamples=10, **options)
    settings: dict[str, Any] = {"task": "classification", "filler": 0} if name == "prefeval" else {}
    return evaluate_benchmark(load_benchmark(name, paths[name], **settings), load_llm(paths["llm"]), chosen)


def run(starter: Starter, tool: str, *arguments: object, cwd: Path, path: Path | None = None) -> str:
    """What a tool of this environment prints, run with its own command and without the network."""
    places = [Path(persona.__file__).parents[1], *([path] if path else [])]
    own = {"PYTHONPATH": os.pathsep.join(map(str, places)), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}
    command = ["python", str(Path(sys.executable).parent / tool), *map(str, arguments)]
    done = starter.run(command, cwd, os.environ | own)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr

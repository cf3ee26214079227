"""`persona segments`."""

from __future__ import annotations

import json
from pathlib import Path

from persona.population.segments import Segments
from tests.cli.conftest import Run


def stock(run: Run, users: int) -> None:
    lines = [
        {"user_id": f"{topic} {n}", "text": f"About {topic}."} for topic in ("boats", "bread") for n in range(users)
    ]
    Path("people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("ingest", "people.jsonl").code == 0


def test_segments_are_shown_and_written_and_lookalikes_ranked(run: Run, tmp_path: Path) -> None:
    stock(run, 12)
    shown = run("segments", "--k", "2", "--out", "segments.safetensors").out
    assert "segment 0, 12 users: " in shown
    assert "boats" in shown
    assert "bread" in shown
    assert Segments.load(Path("segments.safetensors")).sizes == (12, 12)
    found = run("segments", "--k", "2", "--json").json
    assert (found["memberships"], [each["users"] for each in found["segments"]]) == (24, [12, 12])
    Path("seeds.txt").write_text("".join(f"boats {n}\n" for n in range(10)))
    likest = run("segments", "--lookalikes", "seeds.txt", "--k", "2", "--json").json
    assert {each["user_id"] for each in likest} == {"boats 10", "boats 11"}
    assert '{"segment": ' in run("show", "boats 1").out or "segment: " in run("show", "boats 1").out


def test_errors_are_one_line(run: Run) -> None:
    stock(run, 4)
    assert "a segment has at least 10 users, there are 8 with vectors" in run("segments").error
    assert "--out is a .safetensors file of segments, was: 'x.csv'" in run("segments", "--out", "x.csv").error
    Path("seeds.txt").write_text("boats 1\n")
    assert "lookalikes need 10 users or more" in run("segments", "--lookalikes", "seeds.txt").error

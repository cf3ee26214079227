"""Bytes of a user against score, as a picture: from the results of `persona eval bench` on states.

    python benchmarks/bytes_chart.py runs/bytes/results.json docs/results/bytes.svg --plain dense

Each state is a point with its interval, at the bytes that a store keeps of one user. The line is the score of the idea
whose state is not coded, the broken one that of the LLM without any history.
"""

from __future__ import annotations

import argparse
import json
import math
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 24, 56
STYLE = (
    "text{font:13px sans-serif;fill:#555}line,circle{stroke:#777}.grid{stroke:#ccc}.plain{stroke:#06c}"
    ".point{fill:#06c;stroke:#06c}.bar{stroke:#06c}.none{stroke-dasharray:5 4}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.grid{stroke:#444}.plain,.bar{stroke:#6af}"
    ".point{fill:#6af;stroke:#6af}}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of the bench")
    parser.add_argument("out", type=Path, help="the SVG file")
    parser.add_argument("--plain", default="dense", help="the idea whose state is not coded")
    given = parser.parse_args()
    given.out.write_text(chart(json.loads(given.results.read_text(encoding="utf-8")), given.plain), encoding="utf-8")


def chart(results: dict[str, Any], plain: str) -> str:
    """The picture as SVG."""
    rows = {row["name"]: row["scores"] for row in results["rows"]}
    metric = next(iter(rows["none"]))
    stored = {idea["name"]: idea["cost"]["stored"] for idea in results["ideas"] if idea["name"] != plain}
    points = [(size, rows[name][metric], name) for name, size in sorted(stored.items(), key=lambda each: each[1])]
    scores = [score for _, score, _ in points] + [rows[plain][metric], rows["none"][metric]]
    low, high = min(score["low"] for score in scores), max(score["high"] for score in scores)
    first, last = math.floor(math.log2(points[0][0])), math.ceil(math.log2(points[-1][0]))

    def x(size: float) -> float:
        return LEFT + (math.log2(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (score - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in range(first, last + 1):
        parts += [line(x(2**power), TOP, x(2**power), HEIGHT - BOTTOM, "grid")]
        parts += [text(x(2**power), HEIGHT - BOTTOM + 18, f"{2**power:,}", "middle")]
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if (high - low) / step <= 8)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        parts += [line(LEFT, y(number * step), WIDTH - RIGHT, y(number * step), "grid")]
        parts += [text(LEFT - 8, y(number * step) + 4, f"{number * step:.2f}", "end")]
    for name, label, kind in ((plain, "not coded", "plain"), ("none", "no history", "none")):
        at = y(rows[name][metric]["value"])
        parts += [line(LEFT, at, WIDTH - RIGHT, at, kind), text(WIDTH - RIGHT + 8, at + 4, label, "start")]
    for size, score, name in points:
        parts.append(line(x(size), y(score["low"]), x(size), y(score["high"]), "bar"))
        title = f"<title>{escape(name)}: {size:,} bytes, {metric} {score['value']:.3f}</title>"
        parts.append(f'<circle class="point" cx="{x(size):.1f}" cy="{y(score["value"]):.1f}" r="4">{title}</circle>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "bytes that a store keeps of a user", "middle"))
    parts.append(text(LEFT, TOP - 8, metric, "start"))
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"><style>{STYLE}</style>'
    return "\n".join((opened, *parts, "</svg>\n"))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a class of the style."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    main()

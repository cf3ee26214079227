"""Bytes of a user against score, as a picture: from the results of `persona eval bench` on states.

    persona eval bench DATA examples/bench/bytes/*.toml --set baseline=plain --out runs/bytes
    python benchmarks/bytes_chart.py runs/bytes/results.json docs/results/bytes.svg

Each state is a point with its interval, at the bytes that a store keeps of one user; its kind is its name before the
number. The line is the score of the idea ``plain``, whose state is not coded, the broken one that of the LLM without
any history.
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
PLAIN, NONE = "plain", "none"
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # of kinds of states; told apart by the colour-blind as well
STYLE = (
    "text{font:13px sans-serif;fill:#666}line{stroke:#777}.grid{stroke:#ddd}.none{stroke-dasharray:5 4}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}line{stroke:#aaa}.grid{stroke:#444}}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of the bench")
    parser.add_argument("out", type=Path, help="the SVG file")
    given = parser.parse_args()
    given.out.write_text(chart(json.loads(given.results.read_text(encoding="utf-8"))), encoding="utf-8")


def chart(results: dict[str, Any]) -> str:
    """The picture as SVG."""
    rows = {row["name"]: row["scores"] for row in results["rows"]}
    metric = next(iter(rows[NONE]))
    stored = {idea["name"]: idea["cost"]["stored"] for idea in results["ideas"] if idea["name"] != PLAIN}
    kinds = sorted({name.rpartition("_")[0] for name in stored})
    points = [(size, rows[name][metric], name) for name, size in sorted(stored.items(), key=lambda each: each[1])]
    scores = [score for _, score, _ in points] + [rows[PLAIN][metric], rows[NONE][metric]]
    low, high = min(score["low"] for score in scores), max(score["high"] for score in scores)
    first, last = math.floor(math.log2(points[0][0])) - 0.5, math.ceil(math.log2(points[-1][0])) + 0.5

    def x(size: float) -> float:
        return LEFT + (math.log2(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (score - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in range(math.ceil(first), math.floor(last) + 1):
        parts += [line(x(2**power), TOP, x(2**power), HEIGHT - BOTTOM, "grid")]
        parts += [text(x(2**power), HEIGHT - BOTTOM + 18, f"{2**power:,}", "middle")]
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if (high - low) / step <= 8)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        parts += [line(LEFT, y(number * step), WIDTH - RIGHT, y(number * step), "grid")]
        parts += [text(LEFT - 8, y(number * step) + 4, f"{number * step:.2f}", "end")]
    for name, label in ((PLAIN, "not coded"), (NONE, "no history")):
        at = y(rows[name][metric]["value"])
        parts += [line(LEFT, at, WIDTH - RIGHT, at, name), text(WIDTH - RIGHT + 8, at + 4, label, "start")]
    for size, score, name in points:
        number = kinds.index(name.rpartition("_")[0])
        at, colour = x(size) + 4 * (number - 1), COLOURS[number]  # kinds side by side
        top, middle, bottom = y(score["high"]), y(score["value"]), y(score["low"])
        title = f"<title>{escape(name)}: {size:,} bytes, {metric} {score['value']:.3f}</title>"
        parts += [
            f'<g style="fill:{colour}">{title}',
            f'<rect x="{at - 1:.1f}" y="{top:.1f}" width="2" height="{bottom - top:.1f}"/>',
            f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="4"/></g>',
        ]
    for number, kind in enumerate(kinds):
        at = LEFT + 130 + 140 * number
        parts.append(f'<circle cx="{at}" cy="{TOP - 12}" r="4" style="fill:{COLOURS[number]}"/>')
        parts.append(text(at + 10, TOP - 8, kind, "start"))
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

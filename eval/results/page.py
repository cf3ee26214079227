"""A report as one self-contained HTML page beside its ``results.json``: no script and no request, light and dark.

What benchmarks, models and records say is text there and nothing else, and the page's own policy
(``Content-Security-Policy``) lets a browser load nothing but its style sheet.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import resources
from math import isfinite
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from persona.eval.report import OFFICIAL, Report, Row

_MOST_FAILURES = 100
_JUDGES = ["judge", "wrong answers passed", "right answers failed"]


def filled(package: str, name: str, **given: Any) -> str:
    """A template of a package's folder; what is given stands there as text."""
    template = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(given)


def report_page(report: Report) -> str:
    """The whole page."""
    style = resources.files("persona.eval.results").joinpath("page.css").read_text("utf-8")
    content, metric = report.as_dict(), next(iter(report.rows[0].scores), None)
    config, kinds = dict(content["config"]), report.by_kind()
    judges = config.pop("judges", {})
    prompts = [["row", "hash of its requests"], *([row.name, row.prompts] for row in report.rows if row.prompts)]
    return filled(
        "persona.eval.results",
        "page.html",
        report=report,
        content=content,
        style=Markup(style),
        style_hash=f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}",
        chart=chart(report, metric) if metric else "",
        scores=html_table(report.cells(), report.rows),
        kinds=kinds and html_table([["method", *kinds[0][1:]], *kinds[1:]], report.rows),
        kind_metric=kinds and kinds[0][0],
        shown=set(report.cells()[0]),
        judges=judges and html_table([_JUDGES, *(_judge(name, rates) for name, rates in judges.items())]),
        failures=report.failures[:_MOST_FAILURES],
        prompts=html_table(prompts),
        config=json.dumps(config, indent=2, ensure_ascii=False),
        environment=json.dumps(content["environment"], indent=2, ensure_ascii=False),
    )


def _judge(name: str, rates: Mapping[str, int] | None) -> list[str]:
    if not rates:
        return [name, "not measured", "not measured"]
    return [name, f"{rates['passed']} of {rates['wrong']}", f"{rates['failed']} of {rates['golds']}"]


def chart(report: Report, metric: str) -> Markup:
    """A metric of each row as a bar with its interval."""
    scores = [(row, score) for row in report.rows if isfinite((score := row.scores[metric]).high - score.low)]
    low = min([0.0, *(score.low for _, score in scores)])
    high = max([0.0, *(score.high for _, score in scores)]) if scores else 1.0

    def at(value: float) -> float:
        return round(200 * (value - low) / ((high - low) or 1.0), 2)

    bars = [(row, aside(row), score, sorted((at(0.0), at(score.value)))) for row, score in scores]
    return Markup(filled("persona.eval.results", "chart.html", metric=metric, low=low, high=high, bars=bars, at=at))


def html_table(cells: Sequence[Sequence[str]], rows: Sequence[Row] = ()) -> Markup:
    """Header and rows; each row of `rows` says how the one of its place is shown."""
    marks = [*map(aside, rows), *[False] * len(cells)]
    body = [
        (first, [each.partition(" [") for each in rest], mark)
        for (first, *rest), mark in zip(cells[1:], marks, strict=False)
    ]
    return Markup(filled("persona.eval.results", "table.html", head=cells[0], body=body, official=OFFICIAL))


def aside(row: Row) -> bool:
    """Whether it is a control, or needs no LLM."""
    return bool(row.control or not row.prompts)

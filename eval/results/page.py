"""A report as one self-contained HTML page beside its ``results.json``: no script and no request, light and dark.

What benchmarks, models and records say is text there and nothing else, and the page's own policy
(``Content-Security-Policy``) lets a browser load nothing but its style sheet.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib import resources
from math import isfinite
from string import Template
from typing import Any

from persona.eval.bootstrap import Interval
from persona.eval.report import OFFICIAL, Report, Row

_MOST_FAILURES = 100


def report_page(report: Report) -> str:
    """The whole page."""
    template, style = (
        resources.files("persona.eval.results").joinpath(name).read_text("utf-8") for name in ("page.html", "page.css")
    )
    content, metric = report.as_dict(), next(iter(report.rows[0].scores), None)
    config = {key: value for key, value in content["config"].items() if key != "judges"}
    left_out = f"; {report.left_out} left out, which a row has no answer to" if report.left_out else ""
    return Template(template).substitute(
        style=style,
        style_hash=f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}",
        benchmark=escape(report.benchmark),
        questions=report.questions,
        users=report.users,
        llm=escape(report.llm),
        left_out=left_out,
        licence=_licence(report),
        chart=chart(report, metric) if metric else "",
        scores=html_table(report.cells(), report.rows),
        sections=_kinds(report) + _official(report) + _judges(report) + _failures(report),
        run=_run(content),
        prompts=html_table(
            [["row", "hash of its requests"], *([row.name, row.prompts] for row in report.rows if row.prompts)]
        ),
        config=_json(config),
        environment=_json(content["environment"]),
    )


def _licence(report: Report) -> str:
    if not report.licence:
        return ""
    bound = "" if report.commercial else " <b>No commercial use.</b>"
    return f'<p class="licence{"" if report.commercial else " bound"}">Data: {escape(report.licence)}.{bound}</p>'


def chart(report: Report, metric: str) -> str:
    """A metric of each row as a bar with its interval."""
    scores = [(row, score) for row in report.rows if isfinite((score := row.scores[metric]).high - score.low)]
    low = min((score.low for _, score in scores), default=0.0)
    high = max((score.high for _, score in scores), default=1.0)
    low, high = min(0.0, low), max(0.0, high)

    def at(value: float) -> float:
        return round(200 * (value - low) / ((high - low) or 1.0), 2)

    def bar(row: Row, score: Interval) -> str:
        begin, end = sorted((at(0.0), at(score.value)))
        return (
            f"<span{_aside(row)}>{escape(row.name)}</span>"
            '<svg viewBox="0 0 200 12" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="bar{_also(row)}" x="{begin}" y="2" width="{end - begin:.2f}" height="8"/>'
            f'<line class="whisker" x1="{at(score.low)}" x2="{at(score.high)}" y1="6" y2="6"/>'
            f"</svg><span>{score.value:.3f}</span>"
        )

    bars = "".join(bar(row, score) for row, score in scores)
    return f'<div class="chart"><p>{escape(metric)}, with its interval; from {low:.3g} to {high:.3g}</p>{bars}</div>'


def _kinds(report: Report) -> str:
    cells = report.by_kind()
    if not cells:
        return ""
    table = html_table([["method", *cells[0][1:]], *cells[1:]], report.rows)
    return (
        f'<h2 id="kinds">By kind of question: {escape(cells[0][0])}</h2>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="kinds">{table}</div>'
    )


def _official(report: Report) -> str:
    """Why published measures differ from the corrected ones."""
    if not report.defects:
        return ""
    shown = set(report.cells()[0])
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(why)}{'' if name in shown else ' (the same number here)'}</li>"
        for name, why in report.defects.items()
    )
    return (
        '<h2 id="official">Published measures and corrected ones</h2><p>A measure called <i>official</i> is the '
        f"published one, with its defects; the one of the plain name is corrected.</p><ul>{items}</ul>"
    )


def _judges(report: Report) -> str:
    judges: Mapping[str, Any] = report.config.get("judges", {})
    if not judges:
        return ""
    rows = [["judge", "wrong answers passed", "right answers failed"]]
    for name, rates in judges.items():
        counted = (
            [f"{rates[some]} of {rates[of]}" for some, of in (("passed", "wrong"), ("failed", "golds"))]
            if rates
            else []
        )
        rows.append([name, *(counted or ["not measured", "not measured"])])
    return (
        '<h2 id="judges">Judges</h2><p>Answers were graded. A measure called <i>corrected</i> allows for how often its '
        "judge is wrong, and its interval for how little is known of that; the others are as measured.</p>"
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="judges">{html_table(rows)}</div>'
    )


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    shown = report.failures[:_MOST_FAILURES]
    items = "".join(f"<li>{escape(f'{each.question} of {each.row}: {each.reason}')}</li>" for each in shown)
    more = len(report.failures) - len(shown)
    rest = f"<p>And {more} more, in <code>results.json</code>.</p>" if more else ""
    return f"<h2>Not answered</h2><ul>{items}</ul>{rest}"


def _run(content: Mapping[str, Any]) -> str:
    facts = {
        "persona": content["persona"],
        "hash of the data": content["data"],
        "seed": content["config"].get("seed", "-"),
        "LLM": content["llm"],
    }
    return "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(str(value))}</code></dd>" for name, value in facts.items()
    )


def html_table(cells: Sequence[Sequence[str]], rows: Sequence[Row] = ()) -> str:
    """Header and rows; each row of `rows` says how the one of its place is shown."""
    head = "".join(f'<th scope="col">{_heading(cell)}</th>' for cell in cells[0])
    marks = [*map(_aside, rows), *[""] * len(cells)]
    body = "".join(
        f'<tr{mark}><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>'
        for (first, *rest), mark in zip(cells[1:], marks, strict=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    """A number, and its interval below it."""
    value, bracket, rest = text.partition(" [")
    return f"<td>{escape(value)}{f' <small>[{escape(rest)}</small>' if bracket else ''}</td>"


def _heading(cell: str) -> str:
    return f'<a href="#official">{escape(cell)}</a>' if cell.startswith(OFFICIAL) else escape(cell)


def _aside(row: Row) -> str:
    return ' class="aside"' if _also(row) else ""


def _also(row: Row) -> str:
    """Of a control, and of what needs no LLM."""
    return " aside" if row.control or not row.prompts else ""


def _json(content: Any) -> str:
    return escape(json.dumps(content, indent=2, ensure_ascii=False))

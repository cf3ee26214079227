"""The demonstration's report as one self-contained HTML page: no script, no request, light and dark, wide and narrow.

The chart is made of boxes whose positions are percentages, so that its words keep their size on a phone.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template

from persona.eval.bootstrap import Interval
from persona.eval.demo.run import DemoExample, DemoReport, DemoRow, DemoTask

_LOWEST, _HIGHEST = -0.5, 1.0
"""The chart shows shares of the gap from -50 % to 100 %; a longer bar is cut at the edge, its number is not."""


def demo_page(report: DemoReport) -> str:
    """The whole page."""
    template = resources.files("persona.eval.demo").joinpath("template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        users=report.users,
        questions=report.questions,
        seed=report.seed,
        tasks="".join(map(_task, report.tasks)),
        examples="".join(map(_example, report.examples)),
        llm=escape(report.llm),
        encoder=escape(report.encoder),
        seconds=f"{report.seconds:.0f}",
    )


def _task(task: DemoTask) -> str:
    direction = "higher" if task.higher_is_better else "lower"
    return f"""<h2>{escape(task.title.capitalize())} <span class="soft">({escape(task.task)})</span></h2>
<p>{escape(task.metric)}, {direction} is better: {task.no_user:.3f} is the best that can be had without knowing the
user, {task.oracle:.3f} with.</p>
<div class="chart">{"".join(map(_bar, task.rows))}</div>
<div class="scroll"><table>
<thead><tr><th>method</th><th>{escape(task.metric)}</th><th>share of the gap</th><th>tokens added</th></tr></thead>
<tbody>{"".join(map(_row, task.rows))}</tbody>
</table></div>
"""


def _bar(row: DemoRow) -> str:
    zero, value, low, high = (_position(share) for share in (0, row.share.value, row.share.low, row.share.high))
    left, right = sorted((zero, value))
    return (
        f'<div class="name">{escape(row.name)}</div><div class="track {row.shown}">'
        f'<div class="bar" style="left:{left:.1f}%;width:{right - left:.1f}%"></div>'
        f'<div class="whisker" style="left:{low:.1f}%;width:{high - low:.1f}%"></div>'
        f'<div class="zero" style="left:{zero:.1f}%"></div></div>'
        f'<div class="number">{row.share.value:.0%}</div>'
    )


def _position(share: float) -> float:
    """Where on the track a share lies, in per cent."""
    inside = min(max(share, _LOWEST), _HIGHEST)
    return 100 * (inside - _LOWEST) / (_HIGHEST - _LOWEST)


def _row(row: DemoRow) -> str:
    score, share = _interval(row.score, ".3f"), _interval(row.share, ".0%")
    cells = (escape(row.name), score, share, f"{row.tokens_added:.0f}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _example(example: DemoExample) -> str:
    records = "".join(
        f"<li>{escape(scored.record.text)} <b>&rarr; {escape(scored.record.target or '')}</b></li>"
        for scored in example.records
    )
    answers = (
        ("nothing", "before, without history", example.before),
        ("own", "after, with these records", example.after),
        ("own", "or with a soft prompt of the whole history", example.soft_prompted),
        ("own", "what the user wrote", example.gold),
    )
    shown = "".join(
        f'<div class="{kind}"><span class="soft">{label}</span><br>{escape(text) or "&mdash;"}</div>'
        for kind, label, text in answers
        if text is not None
    )
    return f"""<div class="card">
<h3>{escape(example.task)}, user {escape(example.user_id)}</h3>
<p>{escape(example.question)}</p>
<p class="soft">Retrieved from the user's history:</p>
<ol>{records}</ol>
<div class="answers">{shown}</div>
</div>
"""

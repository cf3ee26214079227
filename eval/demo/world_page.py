"""The generated world as a part of the demonstration's page.

The chart is made of boxes whose positions are percentages, so that its words keep their size on a phone.
"""

from __future__ import annotations

from html import escape

from persona.eval.bootstrap import Interval
from persona.eval.demo.world import WorldExample, WorldReport, WorldRow, WorldTask

_LOWEST, _HIGHEST = -0.5, 1.0
"""The chart shows shares of the gap from -50 % to 100 %; a longer bar is cut at the edge, its number is not."""


def world_section(report: WorldReport) -> str:
    """Charts, tables and one user's answers."""
    return f"""<p>{report.users} users of each task whom the LLM has never seen, {report.questions} questions.
The users are inhabitants of a generated world, so the best possible scores are known exactly: with the user unknown and
with the user known. The bars show how much of the way between the two each method goes. Another user's history is the
control: what it wins is not personalization.</p>
<div class="legend"><span class="own">the user's own history</span><span class="other">another user's history</span>
<span class="plain">no history sent: the plain LLM, empty soft prompts, and baselines without an LLM</span></div>
{"".join(map(_task, report.tasks))}
<h3>One user, before and after</h3>
<p class="soft">The first user of the split, not a chosen one.</p>
{"".join(map(_example, report.examples))}
<p class="soft">LLM {escape(report.llm)}; encoder {escape(report.encoder)}; {report.seconds:.0f} s. Intervals: 95 %,
bootstrap over users.</p>
"""


def _task(task: WorldTask) -> str:
    direction = "higher" if task.higher_is_better else "lower"
    return f"""<h3>{escape(task.title.capitalize())} <span class="soft">({escape(task.task)})</span></h3>
<p>{escape(task.metric)}, {direction} is better: {task.no_user:.3f} is the best that can be had without knowing the
user, {task.oracle:.3f} with.</p>
<div class="chart">{"".join(map(_bar, task.rows))}</div>
<div class="scroll" tabindex="0" role="region" aria-label="{escape(task.title)}, all methods"><table>
<thead><tr><th>method</th><th>{escape(task.metric)}</th><th>share of the gap</th><th>tokens added</th></tr></thead>
<tbody>{"".join(map(_row, task.rows))}</tbody>
</table></div>
"""


def _bar(row: WorldRow) -> str:
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


def _row(row: WorldRow) -> str:
    score, share = _interval(row.score, ".3f"), _interval(row.share, ".0%")
    cells = (escape(row.name), score, share, f"{row.tokens_added:.0f}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _example(example: WorldExample) -> str:
    records = "".join(
        f"<li>{escape(scored.record.text)} <b>&rarr; {escape(scored.record.target or '')}</b></li>"
        for scored in example.records
    )
    answers = (
        ("plain", "before, without history", example.before),
        ("own", "after, with these records", example.after),
        ("own", "or with a soft prompt of the whole history", example.soft_prompted),
        ("gold", "what the user wrote", example.gold),
    )
    shown = "".join(
        f'<div class="{kind}"><span class="soft">{label}</span><br>{escape(text) or "&mdash;"}</div>'
        for kind, label, text in answers
        if text is not None
    )
    return f"""<div class="card">
<h4>{escape(example.task)}, user {escape(example.user_id)}</h4>
<p>{escape(example.question)}</p>
<p class="soft">Retrieved from the user's history:</p>
<ol>{records}</ol>
<div class="answers">{shown}</div>
</div>
"""

"""The demonstration's report as one self-contained HTML page: no script, no request, light and dark, wide and narrow.

The chart is made of boxes whose places are percentages, so that its words keep their size on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .bootstrap import Interval
from .demo import DemoExample, DemoReport, DemoRow, DemoTask

_STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --ink: #22262b; --soft: #6a7078; --line: #dcd9d0; --card: #ffffff;
  --own: #1f7a6d; --other: #b4593a; --nothing: #7b8290; --track: #efece4; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e6e4df; --soft: #9aa0a8; --line: #33373d;
  --card: #1e2125; --own: #4bb5a3; --other: #df8660; --nothing: #8f96a3; --track: #2a2d32; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft, th { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .9rem; margin: 1rem 0; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border-radius: 2px; background: var(--colour); }
.chart { display: grid; grid-template-columns: minmax(8.5rem, 15rem) 1fr 3.2rem; gap: .3rem .75rem; font-size: .875rem;
  align-items: center; }
@media (max-width: 36rem) { .chart { grid-template-columns: 1fr 3.2rem; gap: 0 .75rem; }
  .chart .name { grid-column: 1 / -1; margin-top: .45rem; } }
.track { position: relative; height: 1.1rem; background: var(--track); border-radius: 3px; }
.bar { position: absolute; top: .2rem; bottom: .2rem; border-radius: 2px; background: var(--colour); }
.whisker { position: absolute; top: calc(50% - 1px); height: 2px; background: var(--ink); opacity: .65; }
.zero { position: absolute; top: -.15rem; bottom: -.15rem; width: 1px; background: var(--ink); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.own { --colour: var(--own); } .other { --colour: var(--other); } .nothing { --colour: var(--nothing); }
.scroll { overflow-x: auto; margin-top: 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.card h3 { margin-top: 0; }
.card p, .card li { overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem;
  margin-top: .75rem; }
.answers div { border-left: 3px solid var(--colour); padding-left: .75rem; }
ol { padding-left: 1.25rem; margin: .25rem 0; }
footer { margin-top: 3rem; font-size: .875rem; }
"""

_SCALE_FROM, _SCALE_TO = -0.5, 1.0
"""The chart shows shares of the gap from -50 % to 100 %; a longer bar is cut at the edge, its number is not."""


def demo_page(report: DemoReport) -> str:
    """The whole page."""
    title = "What a frozen LLM gains from knowing its users"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>persona demo</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{report.users} users whom the LLM has never seen, {report.questions} questions, seed {report.seed}.
The users are inhabitants of a generated world, so the best possible scores are known exactly: with the user unknown and
with the user known. The bars show how much of the way between the two each method goes. Another user's history is the
control: what it wins is not personalization.</p>
<div class="legend"><span class="own">the user's own history</span><span class="other">another user's history</span>
<span class="nothing">no history sent: the plain LLM, empty soft prompts, and yardsticks without an LLM</span></div>
{"".join(map(_task, report.tasks))}
<h2>One user, before and after</h2>
<p class="soft">The first user of the split, not a chosen one.</p>
{"".join(map(_example, report.examples))}
<footer class="soft">LLM {escape(report.llm)}; encoder {escape(report.encoder)}; {report.seconds:.0f} s in all.
Intervals: 95 %, bootstrap over users.</footer>
</main>
</body>
</html>
"""


def _task(task: DemoTask) -> str:
    direction = "higher" if task.higher_is_better else "lower"
    return f"""<h2>{escape(task.title.capitalize())} <span class="soft">({escape(task.task)})</span></h2>
<p>{escape(task.metric)}, {direction} is better: {task.no_user:.3f} is the best that can be had without knowing the
user, {task.oracle:.3f} with.</p>
<div class="chart">{"".join(map(_bar, task.rows))}</div>
<div class="scroll"><table>
<thead><tr><th>method</th><th>{escape(task.metric)}</th><th>share of the gap</th><th>tokens added</th>
<th>ms a request</th></tr></thead>
<tbody>{"".join(map(_row, task.rows))}</tbody>
</table></div>
"""


def _bar(row: DemoRow) -> str:
    zero = _place(0)
    left, right = sorted((zero, _place(row.share.value)))
    low, high = _place(row.share.low), _place(row.share.high)
    return (
        f'<div class="name">{escape(row.name)}</div><div class="track {row.shown}">'
        f'<div class="bar" style="left:{left:.1f}%;width:{right - left:.1f}%"></div>'
        f'<div class="whisker" style="left:{low:.1f}%;width:{high - low:.1f}%"></div>'
        f'<div class="zero" style="left:{zero:.1f}%"></div></div>'
        f'<div class="number">{row.share.value:.0%}</div>'
    )


def _place(share: float) -> float:
    """Where on the track a share lies, in per cent."""
    inside = min(max(share, _SCALE_FROM), _SCALE_TO)
    return 100 * (inside - _SCALE_FROM) / (_SCALE_TO - _SCALE_FROM)


def _row(row: DemoRow) -> str:
    cells = (
        escape(row.name),
        _interval(row.score, ".3f"),
        _interval(row.share, ".0%"),
        f"{row.tokens_added:.0f}",
        f"{1000 * row.seconds:.1f}" if row.seconds else "-",
    )
    return f"<tr>{_cells(cells)}</tr>"


def _interval(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _cells(values: Iterable[str]) -> str:
    return "".join(f"<td>{value}</td>" for value in values)


def _example(example: DemoExample) -> str:
    records = "".join(
        f"<li>{escape(one.record.text)} <b>&rarr; {escape(one.record.target or '')}</b></li>" for one in example.records
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

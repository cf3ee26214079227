"""The generated world as a part of the demonstration's page."""

from __future__ import annotations

from html import escape

from persona.eval.demo.world import SHARE, WorldReport, WorldTask
from persona.eval.results.page import chart, html_table


def world_section(report: WorldReport) -> str:
    """Charts and tables."""
    return f"""<p>{report.users} users of each task whom the LLM has never seen, {report.questions} questions.
The users are inhabitants of a generated world, so the best possible scores are known exactly: with the user unknown and
with the user known. The bars show how much of the way between the two each method goes. Another user's history is the
control: what it wins is not personalization.</p>
<p class="soft">Rows in grey are controls and what needs no LLM.</p>
{"".join(map(_task, report.tasks))}
<p class="soft">LLM {escape(report.llm)}; encoder {escape(report.encoder)}; {report.seconds:.0f} s. Intervals: 95 %,
bootstrap over users.</p>
"""


def _task(task: WorldTask) -> str:
    report, title = task.report, escape(task.title)
    metric = escape(next(iter(report.rows[0].scores)))
    direction = "higher" if task.higher_is_better else "lower"
    return f"""<h3>{title.capitalize()} <span class="soft">({escape(report.benchmark)})</span></h3>
<p>{metric}, {direction} is better: {task.no_user:.3f} is the best that can be had without knowing the user,
{task.oracle:.3f} with.</p>
{chart(report, SHARE)}
<div class="scroll" tabindex="0" role="region" aria-label="{title}, all methods">
{html_table(report.cells(), report.rows)}</div>
"""

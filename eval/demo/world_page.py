"""The generated world as a part of the demonstration's page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from persona.eval.demo.world import SHARE, WorldExample, WorldReport, WorldTask
from persona.eval.results.page import chart, html_table


def world_section(report: WorldReport) -> str:
    """Charts, tables and one user's answers."""
    return f"""<p>{report.users} users of each task whom the LLM has never seen, {report.questions} questions.
The users are inhabitants of a generated world, so the best possible scores are known exactly: with the user unknown and
with the user known. The bars show how much of the way between the two each method goes. Another user's history is the
control: what it wins is not personalization.</p>
<p class="soft">Rows in grey are controls and what needs no LLM.</p>
{"".join(map(_task, report.tasks))}
<h3>One user, before and after</h3>
<p class="soft">The first user of the split, not a chosen one.</p>
{"".join(map(_example, report.examples))}
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
    return f"""<div class="card">
<h4>{escape(example.task)}, user {escape(example.user_id)}</h4>
<p>{escape(example.question)}</p>
<p class="soft">Retrieved from the user's history:</p>
<ol>{records}</ol>
{answer_grid(answers)}
</div>
"""


def answer_grid(answers: Iterable[tuple[str, str, str | None]]) -> str:
    """Answers side by side: of each the class of its box, its heading and its text, where there is one."""
    boxes = (
        f'<div class="{kind}"><span class="soft">{label}</span><br>{escape(text) or "&mdash;"}</div>'
        for kind, label, text in answers
        if text is not None
    )
    return f'<div class="answers">{"".join(boxes)}</div>'

"""The demonstration's report as one self-contained HTML page: no script, no request, light and dark, wide and narrow.

It opens with one person, then come the five, then the generated world, folded.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template

from persona.eval.demo.asked import Asked, K, PersonReport
from persona.eval.demo.people import LEAST_DIFFERENCE
from persona.eval.demo.run import DemoReport
from persona.eval.demo.world import SHARE, WorldReport, WorldTask
from persona.eval.results.page import chart, html_table

_CHANGES = {"better": "&#9650; better", "worse": "&#9660; worse", "same": "= neither"}
_MEASURES = {
    "accuracy": "right answers, of 1",
    "MAE": "mean error in marks, lower is better",
    "rouge-1": "ROUGE-1, of 1",
}


def demo_page(report: DemoReport) -> str:
    """The whole page."""
    template = resources.files("persona.eval.demo").joinpath("template.html").read_text(encoding="utf-8")
    people = report.people
    person, asked = people.opening
    return Template(template).substitute(
        llm=escape(people.llm),
        opening=_opening(person, asked),
        requests=people.requests,
        better=people.count("better"),
        worse=people.count("worse"),
        same=people.count("same"),
        others_better=sum(each.count("better") for each in people.others),
        others_worse=sum(each.count("worse") for each in people.others),
        least=LEAST_DIFFERENCE,
        k=K,
        rows="".join(map(_row, people.people)),
        details="".join(map(_details, people.people)),
        world=world_section(report.world),
        seconds=f"{report.seconds:.0f}",
    )


def _opening(person: PersonReport, asked: Asked) -> str:
    records = "".join(
        f"<li><time>{escape(scored.record.time or '')}</time> {escape(scored.record.text)} "
        f"<b>&rarr; {escape(scored.record.target or '')}</b></li>"
        for scored in asked.records
    )
    return f"""<p>{escape(person.person.who)}</p>
<blockquote><b>{escape(person.trade.asked)}</b> {escape(asked.question.text)}</blockquote>
{_answers(asked)}
<h3>The {len(asked.records)} records behind it</h3>
<p class="soft">Found among the {len(person.person.profile)} of the history, best first, and given to the LLM before the
request. That is all it knows of this person.</p>
<ol>{records}</ol>
<p><span class="soft">What a reader sees in them, and no record says:</span> {escape(person.person.habit)}</p>
"""


def _answers(asked: Asked) -> str:
    shown = (
        ("plain", "without a history", asked.plain.text),
        ("own", "with this person's", asked.own.text),
        ("other", "with somebody else's", asked.other.text),
        ("gold", "the person's answer", asked.gold),
    )
    boxes = (
        f'<div class="{kind}"><span class="soft">{label}</span><br>{escape(text) or "&mdash;"}</div>'
        for kind, label, text in shown
    )
    return f'<div class="answers">{"".join(boxes)}</div>'


def _row(person: PersonReport) -> str:
    plain, own, other, copied = (f"{score:.2f}" for score in person.scores.values())
    numbers = (plain, f"<b>{own}</b>", other, copied)
    cells = (*numbers, str(person.count("better")), str(person.count("worse")))
    measure = _MEASURES.get(person.metric, person.metric)
    return (
        f'<tr><th scope="row">{escape(person.trade.title)}<br><span class="soft">{escape(measure)}</span></th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def _details(person: PersonReport) -> str:
    requests = "".join(
        f'<div class="request"><p>{escape(asked.question.text)} <span class="mark {asked.change}">'
        f"{_CHANGES[asked.change]}</span></p>{_answers(asked)}</div>"
        for asked in person.asked
    )
    return f"""<details><summary>{escape(person.trade.title)}: all {len(person.asked)} requests</summary>
<p>{escape(person.person.who)} <span class="soft">What a reader sees in the history:</span>
{escape(person.person.habit)}</p>
<p class="soft">Somebody else: {escape(person.trade.other.who)} {escape(person.trade.other.habit)}</p>
<p><b>{escape(person.trade.asked)}</b></p>
{requests}</details>
"""


def world_section(report: WorldReport) -> str:
    """The generated world: a chart and a table of each task."""
    return f"""<p>{report.users} users of each task whom the LLM has never seen, {report.questions} questions.
The users are inhabitants of a generated world, so the best possible scores are known exactly: with the user unknown and
with the user known. The bars show how much of the way between the two each method goes. Another user's history is the
control: what it wins is not personalization.</p>
<p class="soft">Rows in grey are controls and what needs no LLM.</p>
{"".join(map(_world_task, report.tasks))}
<p class="soft">LLM {escape(report.llm)}; encoder {escape(report.encoder)}; {report.seconds:.0f} s. Intervals: 95 %,
bootstrap over users.</p>
"""


def _world_task(task: WorldTask) -> str:
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

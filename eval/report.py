"""Reports as tables for the terminal or for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .bootstrap import Interval, PairedDifference
from .demo import DemoReport
from .general_questions import GENERAL_QUESTIONS
from .lamp import LampReport
from .restraint import RestraintReport

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def lamp_table(report: LampReport, *, title: str) -> Table:
    """The report as a `rich` table; metrics with 95 % bootstrap intervals over users."""
    from rich.table import Table

    header, *rows = _cells(report)
    table = Table(
        title=f"{title}: {report.task}, {report.questions} questions of {report.users} users",
        caption="intervals: 95 %, bootstrap over users; difference: to `none`, paired",
        title_justify="left",
        caption_justify="left",
    )
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table


def lamp_markdown(report: LampReport) -> str:
    """The report as a Markdown table."""
    header, *rows = _cells(report)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows]) + "\n"


def _cells(report: LampReport) -> list[list[str]]:
    """Header and rows as strings."""
    metrics = list(report.rows[0].scores)
    gains = any(row.gain is not None for row in report.rows)
    header = ["method", *metrics]
    if metrics:
        header.append(f"difference in {metrics[0]}")
    if gains:
        header.append("to trained without user / task adapter")
    controlled = any(row.to_other_user is not None for row in report.rows)
    if controlled:
        header.append("to another user's")
    table = [[*header, "tokens added", "seconds"]]
    for row in report.rows:
        cells = [row.name, *[_interval(row.scores[metric]) for metric in metrics]]
        if metrics:
            cells.append(_difference(row.difference))
        if gains:
            cells.append(_difference(row.gain))
        if controlled:
            cells.append(_difference(row.to_other_user))
        table.append([*cells, f"{row.tokens_added:.0f}", f"{row.seconds:.1f}" if row.seconds else "-"])
    return table


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _difference(difference: PairedDifference | None) -> str:
    if difference is None:
        return "-"
    return f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def restraint_cells(report: RestraintReport) -> list[list[str]]:
    """Header and rows of a restraint report as strings; questions from elsewhere have a column of their own."""
    built_in = {one.domain for one in GENERAL_QUESTIONS}
    others = [domain for domain in report.rows[0].by_domain if domain not in built_in]
    table = [
        [
            "method",
            "nothing added",
            *(f"{domain}: nothing added" for domain in others),
            "answer unchanged",
            "token F1",
            "ROUGE-L",
            "over-personalized",
            "tokens",
            report.metric,
            "kept",
            "personal: nothing added",
            "over-personalized",
            "tokens",
        ]
    ]
    for row in report.rows:
        table.append(
            [
                row.method if row.method == "none" else f"{row.method} k={report.k}",
                _interval(row.restraint),
                *(f"{row.by_domain[domain]:.3f}" for domain in others),
                _interval(row.unchanged),
                *(f"{one.value:.3f}" for one in (row.token_f1, row.rouge_l, row.over_general)),
                f"{row.tokens_general:.0f}",
                _interval(row.score),
                "-" if row.kept is None else f"{row.kept:.1%}",
                f"{row.abstained.value:.3f}",
                f"{row.over_personal.value:.3f}",
                f"{row.tokens_personal:.0f}",
            ]
        )
    return table


def restraint_table(report: RestraintReport, *, title: str) -> Table:
    """The restraint report as a `rich` table."""
    from rich.table import Table

    header, *rows = restraint_cells(report)
    table = Table(
        title=f"{title}: {report.task}, {report.general} general questions beside {report.personal} personal ones",
        caption=f"the columns before {report.metric} are about the general questions, the others about the personal "
        "ones; intervals: 95 %, bootstrap over users",
        title_justify="left",
        caption_justify="left",
    )
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table


def demo_tables(report: DemoReport) -> Iterator[RenderableType]:
    """The demonstration for the terminal: a table a task, then one user's answers before and after."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    for task in report.tasks:
        table = Table(
            title=f"{task.title} ({task.task}): {task.metric}, best without the user {task.no_user:.3f}, "
            f"oracle {task.oracle:.3f}",
            title_justify="left",
        )
        for number, name in enumerate(("method", task.metric, "share of the gap", "tokens added", "ms a request")):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in task.rows:
            table.add_row(
                row.name,
                f"{row.score.value:.3f}",
                f"{row.share.value:.0%} [{row.share.low:.0%}, {row.share.high:.0%}]",
                f"{row.tokens_added:.0f}",
                f"{1000 * row.seconds:.1f}" if row.seconds else "-",
            )
        yield table
    for example in report.examples:
        text = Text(f"{example.question}\n\n")
        for scored in example.records:
            text.append(f"  {scored.record.text} -> {scored.record.target}\n", style="dim")
        text.append(f"\nbefore: {example.before}\nafter:  {example.after}\n")
        if example.soft_prompted is not None:
            text.append(f"soft prompt: {example.soft_prompted}\n")
        text.append(f"gold:   {example.gold}")
        yield Panel(text, title=f"{example.task}, user {example.user_id}", title_align="left")

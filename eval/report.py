"""A LaMP report as a table for the terminal or for Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona.eval.bootstrap import Interval, PairedDifference
from persona.eval.lamp import LampReport

if TYPE_CHECKING:
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
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
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
    table = [["method", *metrics, f"difference in {metrics[0]}" if metrics else "", "tokens added", "seconds"]]
    if not metrics:
        table[0].remove("")
    for row in report.rows:
        cells = [row.name, *[_interval(row.scores[metric]) for metric in metrics]]
        if metrics:
            cells.append(_difference(row.difference))
        table.append([*cells, f"{row.tokens_added:.0f}", f"{row.seconds:.1f}" if row.seconds else "-"])
    return table


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _difference(difference: PairedDifference | None) -> str:
    if difference is None:
        return "-"
    return f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"

"""The demonstration's report as one self-contained HTML page: no script, no request, light and dark, wide and narrow.

It opens with one person, then come the five, then the generated world, folded.
"""

from __future__ import annotations

from markupsafe import Markup

from persona.eval.demo.asked import Change, K
from persona.eval.demo.people import LEAST_DIFFERENCE
from persona.eval.demo.run import DemoReport
from persona.eval.demo.world import SHARE, WorldReport
from persona.eval.results.page import chart, filled, html_table

_CHANGES: tuple[Change, ...] = ("better", "worse")


def demo_page(report: DemoReport) -> str:
    """The whole page."""
    others = {change: sum(each.count(change) for each in report.people.others) for change in _CHANGES}
    world = Markup(world_section(report.world))
    given = {"report": report, "others": others, "world": world, "k": K, "least": LEAST_DIFFERENCE}
    return filled("persona.eval.demo", "template.html", **given)


def world_section(report: WorldReport) -> str:
    """The generated world: a chart and a table of each task."""
    shown = [
        (each, chart(each.report, SHARE), html_table(each.report.cells(), each.report.rows)) for each in report.tasks
    ]
    return filled("persona.eval.demo", "world.html", world=report, tasks=shown)

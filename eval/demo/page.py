"""The demonstration's report as one self-contained HTML page: no script, no request, light and dark, wide and narrow.

It opens with one person, then come the five, then the generated world, folded.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from persona.eval.demo.asked import Change, K
from persona.eval.demo.people import LEAST_DIFFERENCE
from persona.eval.demo.run import DemoReport
from persona.eval.demo.world import SHARE, WorldReport
from persona.eval.results.page import chart, html_table

_CHANGES: tuple[Change, ...] = ("better", "worse")


def demo_page(report: DemoReport) -> str:
    """The whole page."""
    others = {change: sum(each.count(change) for each in report.people.others) for change in _CHANGES}
    given = {"report": report, "people": report.people, "others": others, "k": K, "least": LEAST_DIFFERENCE}
    return _filled("template.html", world=Markup(world_section(report.world)), **given)


def world_section(report: WorldReport) -> str:
    """The generated world: a chart and a table of each task."""
    shown = [
        (task, Markup(chart(task.report, SHARE)), Markup(html_table(task.report.cells(), task.report.rows)))
        for task in report.tasks
    ]
    return _filled("world.html", world=report, tasks=shown)


def _filled(name: str, **given: Any) -> str:
    """A template of this folder; what is given stands there as text."""
    template = resources.files("persona.eval.demo").joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(given)

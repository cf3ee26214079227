"""The demonstration: five people ask a real LLM, then every method is tried in a world with a known ceiling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona.eval.demo.asked import PeopleReport, ask_people
from persona.eval.demo.people import write_people
from persona.eval.demo.world import WorldReport, available_encoder, run_world
from persona.eval.report import table
from persona.eval.run import Progress
from persona.llm.load import load_llm
from persona.protocols import LanguageModel
from persona.version import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

PEOPLE, WORLD = "people", "world"
"""Folders of the demonstration's own."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demonstration found."""

    people: PeopleReport
    world: WorldReport
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"persona": __version__, "people": self.people.as_dict(), "world": self.world.as_dict()}


def run_demo(llm: LanguageModel, *, users: int, out: Path, progress: Progress) -> DemoReport:
    """Ask the people, and run the methods in the world.

    Args:
        llm: the frozen LLM that the people ask; the world is answered by the one that knows its tasks, ``tiny``.
        users: users of each task of the world, 2 to 20.
        out: folder for files, answers and results; an interrupted run goes on from there.
        progress: called with a stage's name, what is done and what there is to do.
    """
    begun = time.perf_counter()
    write_people(out / PEOPLE)
    people = ask_people(llm, out=out / PEOPLE, progress=progress)
    world = run_world(load_llm("tiny"), users=users, out=out / WORLD, encoder=available_encoder(), progress=progress)
    return DemoReport(people, world, time.perf_counter() - begun)


def demo_tables(report: DemoReport) -> Iterator[RenderableType]:
    """The demonstration for the terminal: the five people, then the opening one; the world is for the page."""
    from rich.panel import Panel
    from rich.text import Text

    people = report.people
    cells = [["person", "metric", "plain", "own history", "somebody else's", "record copied", "better", "worse"]]
    for each in people.people:
        scores = (f"{value:.2f}" for value in each.scores.values())
        cells.append([each.trade.title, each.metric, *scores, str(each.count("better")), str(each.count("worse"))])
    counts = f"{people.count('better')} of {people.requests} better, {people.count('worse')} worse"
    yield table(cells, title=f"Five people, six requests each: {counts}", caption=people.llm)
    person, asked = people.opening
    text = Text(f"{person.trade.asked}\n{asked.question.text}\n\n")
    for scored in asked.records:
        text.append(f"  {scored.record.text} -> {scored.record.target}\n", style="dim")
    answers = (
        ("without a history", asked.plain.text),
        ("with this person's", asked.own.text),
        ("with somebody else's", asked.other.text),
        ("the person's answer", asked.gold),
    )
    text.append("".join(f"\n{label + ':':24}{answer}" for label, answer in answers))
    yield Panel(text, title=person.trade.title, title_align="left")

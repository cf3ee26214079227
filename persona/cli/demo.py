"""The first command to try: `persona demo`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import Llm, group, load_llm, progress_bars, report, say, show, stage_bars

app = group()


@dataclass(frozen=True)
class Demo:
    """Options of `persona demo`.

    Attributes:
        users: users of each task in the generated world.
        out: folder for the report and everything behind it.
        data: only write the people's files in LaMP's form into this folder, for persona eval lamp.
    """

    users: Annotated[int, typer.Option(min=2, max=20)] = 20
    out: Path = Path("runs/demo")
    llm: Llm = None
    data: Path | None = None


@command(app, "demo", Demo)
def demo(options: Demo) -> None:
    """Show in minutes what personalization wins.

    Five people with histories are asked with a real LLM: plain, with their own history, with somebody else's. Then
    every method is tried in a generated world whose best possible scores are known. Needs no GPU, and no network.
    """
    from persona.eval.demo.page import demo_page
    from persona.eval.demo.people import write_people
    from persona.eval.demo.run import demo_tables, run_demo
    from persona.files import write_atomically

    if options.data is not None:
        folders = write_people(options.data)
        report([str(folder) for folder in folders], *map(str, folders))
        return
    with progress_bars("answers") as progress:
        done = run_demo(load_llm(options.llm), users=options.users, out=options.out, progress=stage_bars(progress))
    page = options.out / "report.html"
    write_atomically(page, demo_page(done))
    write_atomically(options.out / "report.json", json.dumps(done.as_dict(), ensure_ascii=False, indent=2) + "\n")
    if not report(done.as_dict()):
        for part in demo_tables(done):
            show(part)
        say(f"report: {page}   {done.seconds:.0f} s")

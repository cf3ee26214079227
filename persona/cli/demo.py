"""The first command to try: `persona demo`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from persona.cli.options import command
from persona.cli.terminal import group, load_llm, progress_bars, report, say, show, stage_bars

app = group()


@dataclass(frozen=True)
class Demo:
    """Options of `persona demo`.

    Attributes:
        users: users of each task.
        out: folder for the report and everything behind it.
        llm: the frozen LLM; tiny knows the world's tasks.
    """

    users: Annotated[int, typer.Option(min=2)] = 20
    out: Path = Path("runs/demo")
    llm: str = "tiny"


@command(app, "demo", Demo)
def demo(options: Demo) -> None:
    """Show in a minute what personalization wins.

    A small world, every method, its controls, and a report. Needs no network and no GPU. The world's exact bounds make
    each score a share of what can be won.
    """
    from persona.eval.demo.page import demo_page
    from persona.eval.demo.run import available_encoder, demo_tables, run_demo, tiny_user_embedders
    from persona.files import write_atomically

    encoder, out = available_encoder(), options.out
    with progress_bars("steps") as progress:
        done = run_demo(
            load_llm(options.llm),
            users=options.users,
            seed=0,
            out=out,
            encoder=encoder,
            # They were trained for this LLM and this encoder, and for no others.
            user_embedders=tiny_user_embedders() if (options.llm, encoder) == ("tiny", "minilm") else None,
            progress=stage_bars(progress),
        )
    write_atomically(out / "report.html", demo_page(done))
    write_atomically(out / "report.json", json.dumps(done.as_dict(), ensure_ascii=False, indent=2) + "\n")
    if not report(done.as_dict()):
        for part in demo_tables(done):
            show(part)
        say(f"report: {out / 'report.html'}   {done.seconds:.0f} s")

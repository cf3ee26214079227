"""What all commands share: options, results on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from persona.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from persona.protocols import RecordEncoder
    from persona.store.profile_store import ProfileStore

_FILE_WIDTH = 140
"""Columns of a table that goes into a file or a pipe."""

Store = Annotated[
    str | None, typer.Option("--store", help="Database URL (default: PERSONA_STORE, or sqlite:///persona.db).")
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", help="minilm, hashing, a folder or a hub id (default: PERSONA_ENCODER, or minilm)."),
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RetrieverName = Annotated[
    str | None,
    typer.Option(
        "--retriever",
        help="bm25, bm25-lamp, dense, recency, random, hybrid, multi_interest, diverse, key_value, entities, "
        "late_interaction or rerank (default: PERSONA_RETRIEVER, or bm25).",
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        "--llm", help="tiny, a folder, a hub id, openai:MODEL or vllm:MODEL@URL (default: PERSONA_LLM, or tiny)."
    ),
]

UserEmbedderName = Annotated[
    str | None, typer.Option("--user-embedder", help="A user embedder, its folder or hub id: adds its soft prompt.")
]

FamilyKey = Annotated[
    str | None, typer.Option("--family", help="Which adapters, where there are several kinds (persona lora list).")
]

UserVectors = Annotated[
    Path | None,
    typer.Option(
        help="Vectors of users that you have (.parquet, or .npy with .ids.jsonl), for a user embedder that reads them."
    ),
]


_STEERING = {
    code: rf"\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\t\n"
}
"""Control characters, and those that turn the direction of writing."""


def print_json(value: object) -> None:
    """`value` on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))  # noqa: T201


def say(text: str) -> None:
    """A line on stdout; what would steer a terminal, which a user's text may hold, is shown as its code."""
    print(text.translate(_STEERING))  # noqa: T201


def show(part: RenderableType) -> None:
    """A table on stdout: as wide as the terminal, or as it needs where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(part)


@contextmanager
def progress_bars(unit: str, *, shown: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr with rate and time left, where stderr is a terminal; else nothing is printed.

    Args:
        unit: what is counted.
        shown: False prints nothing anywhere.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f} {unit}/s" if speed else f"- {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        yield progress


def stage_bars(progress: Progress) -> Callable[[str, int, int], None]:
    """A callback that gives each stage a bar of its own."""
    bars: dict[str, TaskID] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = progress.add_task(stage, total=total)
        progress.update(bars[stage], completed=done, total=total)

    return advance


def embed_views(store: ProfileStore, encoder: RecordEncoder, views: Iterable[str], progress: Progress) -> None:
    """Embed the records of all users in some views, with a bar each."""
    from persona.encoders.embedding import embed_users

    for view in views:
        bar = progress.add_task(f"embed users ({view})", total=None)

        def advance(done: int, total: int, records: int, bar: TaskID = bar) -> None:
            progress.update(bar, completed=done, total=total)

        embed_users(store, encoder, view=view, progress=advance)


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 record``, ``2 records``."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def check_folder(out: Path) -> None:
    """Refuse an `--out` that should be a folder and is a file.

    Raises:
        InvalidOptionError: if it is one.
    """
    if out.exists() and not out.is_dir():
        raise InvalidOptionError(f"--out must be a folder, was a file: {str(out)!r}")


def check_split(split: str, *splits: str) -> None:
    """Refuse a split that is none of `splits`.

    Raises:
        InvalidOptionError: if it is none.
    """
    if split not in splits:
        raise InvalidOptionError(f"--split must be one of {', '.join(splits)}, was: {split!r}")


def names(value: str, option: str) -> tuple[str, ...]:
    """The different words in a comma list."""
    found = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not found:
        raise InvalidOptionError(f"{option} must name at least one, was: {value!r}")
    return found


def numbers(value: str, option: str, *, least: int = 1) -> tuple[int, ...]:
    """The different whole numbers in a comma list, least first."""
    try:
        found = tuple(sorted({int(name) for name in value.split(",")}))
    except ValueError:
        raise InvalidOptionError(f"{option} must be whole numbers with commas between, was: {value!r}") from None
    if found[0] < least:
        raise InvalidOptionError(f"{option} must be at least {least}, was: {found[0]}")
    return found

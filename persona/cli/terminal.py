"""What all commands share: options, results on stdout, progress on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persona.errors import InvalidOptionError
from persona.files import naming
from persona.llm.endpoint.options import AskingOptions

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, Task, TaskID
    from rich.text import Text

    from persona.protocols import LanguageModel, RecordEncoder
    from persona.settings import Settings
    from persona.soft_prompts.training.loop import TrainingProgress
    from persona.store.profile_store import ProfileStore

STDOUT = "standard output"
"""What an error calls it."""

_FAILURES_SHOWN = 8

_FILE_WIDTH = 140
"""Columns of a table that goes into a file or a pipe."""

LINE_SECONDS = 30.0
"""Seconds between two lines of progress where there is no terminal."""

_STEERING = {
    code: rf"\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\t\n"
}
"""Control characters, and those that turn the direction of writing."""


Encoder = Annotated[
    str | None,
    typer.Option(help="Encoder: minilm, hashing, a folder or a hub id (default: PERSONA_ENCODER, or minilm)."),
]
Llm = Annotated[
    str | None,
    typer.Option(
        help="LLM: smollm2, tiny, a folder, a hub id, a GGUF file, openai:MODEL or vllm:MODEL@URL (default: "
        "PERSONA_LLM, or smollm2)."
    ),
]
RetrieverName = Annotated[
    str | None,
    typer.Option(
        help="Retriever: bm25, bm25-lamp, dense, recency, random, hybrid, diverse, joint, rounds, multi_interest, "
        "entities, useful, key_value, late_interaction, conversation or rerank (default: PERSONA_RETRIEVER, or bm25)."
    ),
]
FilterName = Annotated[
    str | None,
    typer.Option(
        "--filter", help="No records where nothing is relevant: untrained, or a folder of `persona train filter`."
    ),
]
UserEmbedderName = Annotated[str | None, typer.Option(help="A user embedder, its folder or hub id.")]
FamilyKey = Annotated[
    str | None, typer.Option(help="Which adapters, if there are several kinds (persona show --adapters).")
]
TaskName = Annotated[str | None, typer.Option(help="LaMP_1 ... LaMP_7 or LaMP_2N, where the files do not say it.")]
General = Annotated[
    list[Path],
    typer.Option(
        help="More questions that need nobody's records: a text file with one a line, or a folder like DATA of another "
        "domain. May be given several times."
    ),
]


@dataclass(frozen=True, slots=True)
class Everywhere:
    """The options that are understood anywhere on the line.

    Attributes:
        as_json: print the result as JSON.
        store: URL of the store; None takes the setting `PERSONA_STORE`.
        placement: device, dtype and quantisation of the LLM, where they were given.
    """

    as_json: bool = False
    store: str | None = None
    placement: Mapping[str, str] = field(default_factory=dict)


EVERYWHERE: ContextVar[Everywhere] = ContextVar("everywhere")
"""Those of the command that runs."""


def group(name: str | None = None, help: str | None = None) -> typer.Typer:
    """Commands that stand together; without a name they become part of what they are added to."""
    return typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None)


def settings() -> Settings:
    """What holds where a command is not told; read anew by each call."""
    from persona.settings import Settings

    return Settings()


def opened_store(*, create: bool = False) -> ProfileStore:
    """The store of ``--store`` or of the setting; `create` makes a file that is not there."""
    from persona.settings import open_store

    return open_store(EVERYWHERE.get().store, create=create)


def refuse_unread(command: str, *, store: bool, llm: bool) -> None:
    """Refuse the shared options that a command does not read.

    Args:
        command: its name.
        store: whether it opens the store.
        llm: whether it loads an LLM.

    Raises:
        InvalidOptionError: if one was given.
    """
    given = EVERYWHERE.get()
    if not store and given.store is not None:
        raise InvalidOptionError(f"`{command}` opens no store: leave --store out, was: {given.store!r}")
    if not llm and given.placement:
        names = ", ".join(f"--{name}" for name in given.placement)
        raise InvalidOptionError(f"`{command}` loads no LLM: leave {names} out")


LLM_SETTINGS = ", ".join(each.name for each in fields(AskingOptions))
"""Names of the settings."""


def load_llm(name: str | None, asking: AskingOptions | None = None, **options: Any) -> LanguageModel:
    """The LLM of ``--llm`` or of the setting, placed as ``--device``, ``--dtype`` and ``--quantize`` say."""
    from persona.llm.load import load_llm as load

    _say_what_takes_long()
    given = {} if asking is None else asking.given
    return load(name or settings().llm, **EVERYWHERE.get().placement, **given, **options)


def _say_what_takes_long() -> None:
    """From now on what persona logs as worth knowing is a line on stderr."""
    logger = logging.getLogger("persona")
    if not logger.handlers:
        logger.addHandler(_OnStderr())
        logger.setLevel(logging.INFO)
    # PEFT imports it where it is installed, and it then says which of its CPU kernels are missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)  # noqa: T201


def load_encoder(name: str | None, **options: Any) -> RecordEncoder:
    """The encoder of ``--encoder`` or of the setting."""
    from persona.encoders.load import load_encoder as load

    return load(name or settings().encoder, **options)


def load_read_encoder(name: str | None, read: bool, by: str) -> RecordEncoder | None:
    """The same, or None if `by`, the retriever or the methods, does not read it.

    Raises:
        InvalidOptionError: if one was named that is not read.
    """
    check_encoder_is_read(name, read, by)
    return load_encoder(name) if read else None


def check_encoder_is_read(name: str | None, read: bool, by: str) -> None:
    """Refuse an ``--encoder`` that nothing reads.

    Raises:
        InvalidOptionError: if it was given and is not read.
    """
    if name is not None and not read:
        raise InvalidOptionError(
            f"--encoder is for what compares vectors, and {by} does not: leave it out, or take a retriever that does "
            f"(e.g. dense); was: {name!r}"
        )


def check_folder(out: Path) -> None:
    """Refuse an `--out` that should be a folder and is a file.

    Raises:
        InvalidOptionError: if it is one.
    """
    if out.exists() and not out.is_dir():
        raise InvalidOptionError(f"--out must be a folder, was a file: {str(out)!r}")


def names(value: str, option: str) -> tuple[str, ...]:
    """The different words in a comma list.

    Raises:
        InvalidOptionError: if there is none.
    """
    found = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not found:
        raise InvalidOptionError(f"{option} must name at least one, was: {value!r}")
    return found


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 record``, ``2 records``."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def report(value: object, *lines: str) -> bool:
    """The result of a command on stdout: `value` with ``--json``, else `lines`; whether it was JSON."""
    if EVERYWHERE.get().as_json:
        _print(json.dumps(value, ensure_ascii=False, indent=2))
        return True
    for line in lines:
        say(line)
    return False


def report_facts(value: Mapping[str, Any], shown: Mapping[str, Any] | None = None) -> None:
    """The result of a command on stdout: `value` with ``--json``, else names and values of `shown`, or of itself."""
    facts = value if shown is None else shown
    report(value, *(f"{name:24} {_fact(each)}" for name, each in facts.items() if each is not None))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items())
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 9999 else f"{value:.0f}"


def report_failures(what: str, failures: Iterable[tuple[str, str]]) -> None:
    """Say on stderr what was not answered and why, and end with exit code 1; nothing if all was.

    Args:
        what: what the failures are of, e.g. ``"requests"``.
        failures: the name and the reason of each.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures:
        by_reason.setdefault(reason, []).append(name)
    if not by_reason:
        return
    lines = [
        f"persona: error: {sum(map(len, by_reason.values()))} {what} were not answered; what was is kept, and the same "
        "command asks for the rest alone:"
    ]
    for reason, names in by_reason.items():
        more = f" and {len(names) - _FAILURES_SHOWN} more" if len(names) > _FAILURES_SHOWN else ""
        lines.append(f"  {', '.join(names[:_FAILURES_SHOWN])}{more}: {reason}")
    print("\n".join(lines).translate(_STEERING), file=sys.stderr)  # noqa: T201
    raise typer.Exit(1)


def say(text: str, *, flush: bool = False) -> None:
    """A line on stdout, at once if `flush`; what would steer a terminal, as a user's text may, is shown as its code."""
    _print(text.translate(_STEERING), flush=flush)


def say_pieces(pieces: Iterable[str]) -> bool:
    """A text as it comes, and whether it was shown: only where stdout is a terminal and no JSON is wanted."""
    shows = sys.stdout.isatty() and not EVERYWHERE.get().as_json
    for piece in pieces:
        _print(piece.translate(_STEERING) if shows else "", end="")
    _print("", end="\n" if shows else "")
    return shows


def _print(text: str, end: str = "\n", *, flush: bool = False) -> None:
    with naming(STDOUT):
        print(text, end=end, flush=flush or not end)  # noqa: T201


def show(part: RenderableType) -> None:
    """A table on stdout: as wide as the terminal, or as it needs where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(part)


@contextmanager
def progress_bars(unit: str, *, shown: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr with rate and time left; where stderr is no terminal, a line every half minute.

    Args:
        unit: what is counted.
        shown: False prints nothing anywhere.
    """
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f} {unit}/s" if speed else f"- {unit}/s")

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with progress.Progress(
        *columns, console=console, disable=not (shown and console.is_terminal), speed_estimate_period=600
    ) as bars:
        if shown and not console.is_terminal:
            with _lines(bars, unit):
                yield bars
        else:
            yield bars


@contextmanager
def _lines(bars: Progress, unit: str) -> Iterator[None]:
    """Print what is going on as a line on stderr, again and again while this is open.

    A rate counts from a task's first line on: what stood there from an earlier run comes in one burst before.
    """
    stop = Event()
    begun: dict[int, tuple[float, float]] = {}

    def write() -> None:
        while not stop.wait(LINE_SECONDS):
            for task in bars.tasks:
                if not task.finished:
                    since, done = begun.setdefault(task.id, (monotonic(), task.completed))
                    rate = (task.completed - done) / max(monotonic() - since, 1e-9)
                    print(progress_line(task, unit, rate), file=sys.stderr, flush=True)  # noqa: T201

    writer = Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def progress_line(task: Task, unit: str, rate: float = 0.0) -> str:
    """A task of a progress bar in words: what is done, how fast, and how long it will go on.

    >>> from rich.progress import Progress, TaskID
    >>> bars = Progress(disable=True)
    >>> bars.update(bars.add_task("answers, loss 1.250", total=600), completed=150)
    >>> progress_line(bars.tasks[0], "steps", 1.5)
    'answers, loss 1.250: 150 of 600, 1.50 steps/s, about 0:05:00 left'
    """
    total = "" if task.total is None else f" of {task.total:,.0f}"
    speed = f", {rate:,.2f} {unit}/s" if rate else ""
    rest = 0 if task.total is None or not rate else round((task.total - task.completed) / rate)
    left = f", about {timedelta(seconds=rest)} left" if rest else ""
    return f"{task.description}: {task.completed:,.0f}{total}{speed}{left}"


def stage_bars(progress: Progress) -> Callable[..., None]:
    """A callback that gives each stage a bar of its own."""
    bars: dict[str, TaskID] = {}

    def advance(stage: str, done: int, total: int | None, shown: str = "") -> None:
        if stage not in bars:
            bars[stage] = progress.add_task(stage, total=total)
        progress.update(bars[stage], completed=done, total=total, description=shown or stage)

    return advance


def training_bars(progress: Progress) -> Callable[[TrainingProgress], None]:
    """A callback that gives each stage of a training a bar, with the loss and the best one of the validation users."""
    advance = stage_bars(progress)

    def trained(now: TrainingProgress) -> None:
        losses = "" if now.loss is None else f", loss {now.loss:.3f}, validation {now.best:.3f}"
        advance(now.stage, now.done, now.total, f"{now.stage}{losses}")

    return trained

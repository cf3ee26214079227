"""The command line: `persona demo`, `persona ask` and the others.

Parse, call, print; the words are those of the Python API. Results go to stdout (`--json` for machines), progress and
errors to stderr. A known error is one line and exit code 1, wrong usage is exit code 2; `--debug` gives the traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from persona.cli import adapters as adapters  # adds its command to `train`
from persona.cli import ask, benchmarks, demo, keys, mcp, serve, show, store, train
from persona.cli.held import folders, forget, records, segments, transfer
from persona.cli.terminal import EVERYWHERE, STDOUT, Everywhere, say
from persona.errors import PersonaError, PersonaWarning
from persona.files import naming
from persona.version import __version__

_MAY_HAVE_VALUE = {"--ray": "local"}
_FLAGS, _WITH_VALUE = ("--json", "--debug"), ("--store", "--device", "--dtype", "--quantize")


class _Root(TyperGroup):
    """Takes the options that all commands share anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        shared, others = split_shared(args)
        return super().parse_args(ctx, [*shared, *others])


def split_shared(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options that all commands share, and the other arguments; behind a ``--`` nothing is an option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    shared, others = [], []
    rest = iter(_with_values(arguments[:end]))
    for argument in rest:
        if argument in _FLAGS or argument.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            shared.append(argument)
        elif argument in _WITH_VALUE:
            value = next(rest, None)
            if value is None:
                return [argument], []  # without its value, which is the error to be reported
            shared += [argument, value]
        else:
            others.append(argument)
    return shared, [*others, *arguments[end:]]


def _with_values(arguments: list[str]) -> Iterator[str]:
    """The arguments, options that need no value with the one that is meant without."""
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        yield argument
        if argument in _MAY_HAVE_VALUE and following.startswith("-"):
            yield _MAY_HAVE_VALUE[argument]


app = typer.Typer(
    name="persona",
    help="A frozen LLM that answers as if it knew the user.",
    cls=_Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        say(f"persona {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", help="Database URL (default: PERSONA_STORE, or sqlite:///persona.db).")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where the LLM computes: cpu, cuda, cuda:1 ... (default: cuda where there is one)."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of the LLM's weights: float32 (default on a CPU), bfloat16, float16 or float64."),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Load the LLM's linear layers in 4bit or 8bit (bitsandbytes).")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    given = {"device": device, "dtype": dtype, "quantize": quantize}
    EVERYWHERE.set(Everywhere(as_json, store, {name: value for name, value in given.items() if value is not None}))


for part in (demo, store, segments, show, records, transfer, forget, ask, train, folders, benchmarks, serve, keys, mcp):
    app.add_typer(part.app)


def main() -> None:
    """Run the command line and turn a known error into one line and exit code 1."""
    debug = "--debug" in split_shared(sys.argv[1:])[0]
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default", PersonaWarning)
                warnings.showwarning = _show_warning
                app()
        finally:
            with naming(STDOUT):
                sys.stdout.flush()
    except PersonaError as error:
        if debug:
            raise
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads our output any more
        _drop_stdout()
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        if error.filename == STDOUT:
            _drop_stdout()
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _drop_stdout() -> None:
    """Let nothing more be written: at its end Python would try the rest once more, and end with exit code 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """A warning of persona as one line; others as Python shows them."""
    if issubclass(category, PersonaWarning):
        print(f"persona: warning: {' '.join(str(message).split())}", file=sys.stderr)  # noqa: T201
    else:
        print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr, end="")  # noqa: T201


def _fail(message: str) -> None:
    line = " ".join(message.split())
    print(f"persona: error: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(1)


if __name__ == "__main__":
    main()

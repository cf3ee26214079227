"""The command `persona`, and `python -m persona`: one that is interrupted ends in a line, while it is imported too."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

_INTERRUPTED = 130  # as shells call a process that Ctrl-C ended


def main() -> None:
    """Run the command line and end the process; a program that goes on afterwards calls `persona.cli.app.main`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the command began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    status: object = 1
    atexit.register(lambda: _leave(status))  # the first to be registered runs last
    try:
        from persona.cli.app import main as run

        run()
        status = 0
    except KeyboardInterrupt:
        status = _interrupted()
    except SystemExit as stop:
        # Typer ends a command that is interrupted like this, and says nothing.
        status = _interrupted() if stop.code == _INTERRUPTED else stop.code
    sys.exit(status)


def _interrupted() -> int:
    print("persona: interrupted", file=sys.stderr)  # noqa: T201
    return _INTERRUPTED


def _leave(status: object) -> None:
    """End the process when all else is done: taking torch's modules apart would take one or two seconds more."""
    if "torch" in sys.modules and isinstance(status, int):
        with suppress(OSError, ValueError):  # of a stream that is closed by now Python itself says what it does
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    main()

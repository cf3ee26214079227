"""The command `persona`, and `python -m persona`: one that is interrupted ends in a line, while it is imported too."""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # as shells call a process that Ctrl-C ended


def main() -> None:
    """Run the command line."""
    try:
        from persona.cli.app import main as run

        run()
    except KeyboardInterrupt:
        _say()
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:  # typer ends a command like this, and says nothing
            raise
        _say()


def _say() -> None:
    print("persona: interrupted", file=sys.stderr)  # noqa: T201
    sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()

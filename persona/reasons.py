"""What a foreign error says, in one line: the part of our own message that another library wrote."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The error's class and the first line of its message; where that says nothing, also what caused it.

    >>> reason(OSError("no such host\\nsome trace"))
    'OSError: no such host'
    """
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    # Clients report a refused connection as "Connection error." and keep the address in the cause.
    return f"{said} ({reason(error.__cause__)})" if error.__cause__ is not None and len(said) < 60 else said

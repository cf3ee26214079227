"""How long one waits for another process that holds a lock."""

from __future__ import annotations

from typing import Any

BUSY_SECONDS = 30
"""How long a statement waits for another process before it gives up."""


def set_lock_timeout(connection: Any, seconds: float) -> None:
    """Have statements on this PostgreSQL connection wait for locks this long, instead of for ever."""
    connection.execute(f"SET lock_timeout = {round(1000 * seconds)}")

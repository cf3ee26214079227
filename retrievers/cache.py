"""A cache that keeps what was used last and never more than so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteBoundedCache(Generic[Value]):
    """Least-recently-used cache, bounded by the bytes that its values are said to take. Safe to use from threads.

    Args:
        max_bytes: the bound. A value that is greater than it alone is not kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Value | None:
        """The value kept for `key`, or None."""
        with self._lock:
            kept = self._values.get(key)
            if kept is None:
                return None
            self._values.move_to_end(key)
            return kept[0]

    def put(self, key: str, value: Value, n_bytes: int) -> None:
        """Keep `value`, in place of an earlier one for `key`."""
        if n_bytes > self.max_bytes and key not in self._values:
            return
        with self._lock:
            earlier = self._values.pop(key, None)
            if earlier is not None:
                self.n_bytes -= earlier[1]
            if n_bytes > self.max_bytes:
                return
            self._values[key] = (value, n_bytes)
            self.n_bytes += n_bytes
            while self.n_bytes > self.max_bytes:
                _, (_, freed) = self._values.popitem(last=False)
                self.n_bytes -= freed

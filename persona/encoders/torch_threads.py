"""Several batches at a time, each computed by one thread.

torch gives one batch to all cores and makes them wait for one another after every operation. Where batches are many and
small it is faster to give each core a batch of its own: nothing waits, all of a batch's operations run on the core (not
only those that torch splits), and a core that other programs use holds up nobody. The numbers of a batch then depend
neither on the number of cores nor on that of workers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

_SETTING_UP = threading.Lock()


@contextmanager
def one_thread_workers(count: int) -> Iterator[Executor]:
    """Workers in whose calls torch uses one thread; what waits when an error or Ctrl-C leaves the block is cancelled.

    Args:
        count: how many, at least 1.
    """
    workers = ThreadPoolExecutor(count, thread_name_prefix="persona-encoder")
    try:
        with _SETTING_UP:
            own = torch.get_num_threads()
            ready = threading.Barrier(count)  # without it one worker could take two of the calls
            try:
                for setting in [workers.submit(_use_one_thread, ready) for _ in range(count)]:
                    setting.result()
            finally:
                # A worker's call also sets the number that threads start with which use torch for the first time later.
                torch.set_num_threads(own)
        yield workers
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _use_one_thread(ready: threading.Barrier) -> None:
    torch.get_num_threads()  # The first question sets a thread's number to the common one: it must not come later.
    torch.set_num_threads(1)
    ready.wait()

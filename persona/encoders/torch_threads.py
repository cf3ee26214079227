"""Several batches at the same time, each computed by one thread.

torch splits one batch over all cores, which wait for one another after every operation. With many small batches it is
faster to give each core its own batch: nothing waits, all operations of a batch run in parallel to other batches (not
only those that torch splits), and a core that other programs use delays only its own batch. The numbers of a batch then
depend neither on the number of cores nor on that of workers.
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
    """Workers in which torch uses one thread; pending calls are cancelled when an error or Ctrl-C leaves the block.

    Args:
        count: number of workers, at least 1.
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
                # A worker's call also changes the default of threads that use torch for the first time later.
                torch.set_num_threads(own)
        yield workers
    finally:
        workers.shutdown(wait=True, cancel_futures=True)


def _use_one_thread(ready: threading.Barrier) -> None:
    torch.get_num_threads()  # the first call resets a thread's number to the common one
    torch.set_num_threads(1)
    ready.wait()

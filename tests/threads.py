"""Watching threads that read ahead, with a patience instead of a time that a machine may not keep."""

import gc
import threading
import time


PATIENCE = 20  # seconds that a test waits for a thread before it fails


def prefetch_threads() -> int:
    """How many threads read ahead."""
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def no_threads() -> bool:
    """Whether they all end. An error keeps what it came through until the garbage collector finds it."""
    gc.collect()
    return wait_until(lambda: prefetch_threads() == 0)


def wait_until(condition) -> bool:
    """Whether it comes true."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


class Taken:
    """An iterator that remembers what was taken from it."""

    def __init__(self, items):
        self.items, self.taken, self.threads = iter(items), [], set()

    def __iter__(self):
        return self

    def __next__(self):
        self.taken.append(next(self.items))
        self.threads.add(threading.get_ident())
        return self.taken[-1]

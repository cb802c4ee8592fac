"""
Runs a function on the next items in threads, ahead of the caller. So the next videos are decoded while the model works.

This file imports no decoder and no model. Threads are enough, because decoders and torch release Python's global lock
while they work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..video.decoding_plan import count_cores


MOST_WORKERS = 8  # each worker keeps the frames of a video in memory, and every decoder starts threads of its own


def default_workers() -> int:
    """Return the number of threads: one for each core that this process may use, at most `MOST_WORKERS`."""
    return min(count_cores(), MOST_WORKERS)


def prefetch(function: Callable[[Any], Any], items: Iterable, workers: int, ahead: int) -> Iterator[Future]:
    """
    Apply `function` to every item in threads, ahead of the caller.

    Example with items="abcde" and ahead=3: when the caller asks for the first result, a, b and c are started; when it
    asks for the second, d is started.

    Items are taken one by one in the caller's thread. At most `ahead` of them are started and not yet handed out, so at
    most `ahead` results are in memory. To stop early, close the iterator or delete it. Items that are not started by
    then never are.

    Args:
        function: is called with one item.
        items: any iterable, also an endless one.
        workers: number of threads.
        ahead: number of items that are started ahead.

    Yields:
        a finished future for each item, in the order of the items. `result()` returns what the function returned, or
        raises what it raised. Where the iterable itself raises, the future of that item raises the error.

    Raises:
        ValueError: where `workers` or `ahead` is less than 1.
    """
    if min(workers, ahead) < 1:
        raise ValueError(f"workers={workers} and ahead={ahead} must be at least 1")
    return _prefetch(function, iter(items), workers, ahead)


def _prefetch(function: Callable, items: Iterator, workers: int, ahead: int) -> Iterator[Future]:
    pool, begun, more = ThreadPoolExecutor(workers, thread_name_prefix="prefetch"), deque(), True
    try:
        while begun or more:
            while more and len(begun) < ahead:
                try:
                    begun.append(pool.submit(function, next(items)))
                except StopIteration:
                    more = False
                except Exception as error:  # is raised when the caller reaches this item
                    begun.append(_failed_future(error))
            if begun:
                wait([begun[0]])
                yield begun.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _failed_future(error: Exception) -> Future:
    """Return a finished future that raises `error`."""
    future = Future()
    future.set_exception(error)
    return future


class PrefetchedSequence:
    """
    [`prefetch`] as a sequence with a length and an index, for example for torch's DataLoader.

    It is made for reading from the start to the end. Any other index works too, but restarts the prefetching there.
    """

    def __init__(self, function: Callable[[Any], Any], items: Sequence, workers: int, ahead: int):
        self.function, self.items, self.workers, self.ahead = function, items, workers, ahead
        self.futures, self.position = iter(()), None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Future:
        if index != self.position:
            rest = map(self.items.__getitem__, range(index, len(self.items)))
            self.futures = prefetch(self.function, rest, self.workers, self.ahead)
        self.position = index + 1
        return next(self.futures)

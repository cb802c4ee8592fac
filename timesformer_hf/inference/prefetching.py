"""
Work done ahead in threads: the next videos are decoded while the model is busy with this one. Knows no video and no
model. Threads are enough, since decoders and torch let go of Python's lock while they work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..video.decoding_plan import count_cores


MOST_WORKERS = 8  # each holds the frames of a video, and every decoder has threads of its own


def default_workers() -> int:
    """A thread for each core that this process may use, up to `MOST_WORKERS`."""
    return min(count_cores(), MOST_WORKERS)


def prefetch(function: Callable[[Any], Any], items: Iterable, workers: int, ahead: int) -> Iterator[Future]:
    """
    `function` of every item, computed in threads ahead of who asks for it.

    items="abcde", ahead=3: a, b and c are begun when the first is asked for, d when the second is

    The items are taken one by one in the caller's thread, `ahead` of them at most before the first has been handed
    out, so that as many results are held at most. Whoever stops early, closes the iterator or drops it; what hasn't
    begun by then never does.

    Args:
        workers: how many threads.

    Yields:
        a future that is done for each item, in the order of the items: `result()` returns what the function returned
        or raises what it raised. Where taking an item fails, its future raises that.

    Raises:
        ValueError: for less than one worker, or less than one item ahead.
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
                except Exception as error:  # not before its turn
                    begun.append(failed(error))
            if begun:
                wait([begun[0]])
                yield begun.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def failed(error: Exception) -> Future:
    future = Future()
    future.set_exception(error)
    return future


class PrefetchedSequence:
    """
    [`prefetch`] with a length and an index, for those who go through a sequence from its start, as torch's DataLoader
    does. An index out of turn is possible too: that begins anew.
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

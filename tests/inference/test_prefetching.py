"""Reading ahead in threads: the bare generator and the sequence."""

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import pytest
from threads import PATIENCE, Taken, no_threads

from timesformer_hf.inference.prefetching import MOST_WORKERS, PrefetchedSequence, default_workers, prefetch


def results(futures) -> list:
    return [future.result() for future in futures]


class TestPrefetch:
    @pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 5), (3, 1), (3, 4), (8, 50)])
    def test_results_come_in_order(self, workers, ahead):
        """The later ones are done first."""

        def function(number: int) -> int:
            time.sleep((19 - number) * 5e-4)
            return number * number

        assert results(prefetch(function, range(20), workers, ahead)) == [number * number for number in range(20)]

    def test_nothing_gives_nothing(self):
        assert list(prefetch(abs, [], 2, 2)) == []

    def test_futures_are_done(self):
        assert all(future.done() for future in prefetch(time.sleep, [0.01] * 5, 2, 3))

    def test_items_are_taken_late_and_by_the_caller(self):
        items = Taken(range(10))
        futures = prefetch(abs, items, 2, ahead=3)
        assert items.taken == []
        for position in range(10):
            assert next(futures).result() == position
            assert items.taken == list(range(min(position + 3, 10)))
        assert list(futures) == []
        assert items.threads == {threading.get_ident()}

    def test_endless_items_are_taken_as_far_as_it_goes(self):
        futures = prefetch(abs, itertools.count(), 2, 4)
        assert results(itertools.islice(futures, 5)) == [0, 1, 2, 3, 4]
        futures.close()

    def test_runs_ahead_of_its_user(self):
        begun = [threading.Event() for _ in range(6)]
        futures = prefetch(lambda number: begun[number].set(), range(6), workers=1, ahead=3)
        next(futures)
        assert all(event.wait(PATIENCE) for event in begun[1:3])
        assert not any(event.is_set() for event in begun[3:])
        futures.close()

    def test_works_in_parallel(self):
        """Each waits for the others: with fewer threads none would ever be done."""
        barrier = threading.Barrier(3)
        assert len(results(prefetch(lambda _: barrier.wait(PATIENCE), range(6), workers=3, ahead=3))) == 6

    def test_no_more_threads_than_workers(self):
        at_once, most, lock = 0, 0, threading.Lock()

        def function(_):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.002)
            with lock:
                at_once -= 1

        list(prefetch(function, range(30), workers=2, ahead=10))
        assert most == 2

    def test_results_are_not_held(self):
        """No more of them are alive than are ahead, and none that its user has let go."""

        class Result:
            pass

        alive = []

        def function(_):
            result = Result()
            alive.append(weakref.ref(result))
            return result

        for future in prefetch(function, range(8), workers=2, ahead=3):
            del future
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 3

    def test_an_error_is_that_of_its_item(self):
        futures = list(prefetch(lambda number: 6 // number, [3, 0, 2], 2, 3))
        assert [type(future.exception()) for future in futures] == [type(None), ZeroDivisionError, type(None)]
        assert [futures[0].result(), futures[2].result()] == [2, 3]

    def test_an_error_of_the_items_comes_in_its_turn(self):
        """The error comes in its turn, after the results of the items before it."""

        def items():
            yield 1
            yield 2
            raise OSError("the list ends here")

        first, second, third = prefetch(abs, items(), 2, 5)
        assert (first.result(), second.result()) == (1, 2)
        with pytest.raises(OSError, match="the list ends here"):
            third.result()

    def test_items_after_an_error_are_taken(self):
        rows = map([1, 2, 3].__getitem__, [0, 7, 2])
        assert [type(future.exception()) for future in prefetch(abs, rows, 1, 2)] == [
            type(None),
            IndexError,
            type(None),
        ]

    @pytest.mark.parametrize("stop", ["close", "drop"])
    def test_stopping_early_leaves_no_thread(self, stop):
        """What hasn't begun never does, and no thread stays."""
        assert no_threads()
        done, release = [], threading.Event()

        def function(number: int) -> None:
            if number:
                release.wait(PATIENCE)
            done.append(number)

        futures = prefetch(function, range(100), workers=1, ahead=10)
        next(futures)
        if stop == "close":
            futures.close()
        else:
            del futures
        release.set()
        assert no_threads()
        assert done in ([0], [0, 1])  # one may have been under way

    def test_stopping_does_not_wait(self):
        release = threading.Event()
        futures = prefetch(lambda number: number and release.wait(PATIENCE), range(3), 1, 3)
        next(futures)
        start = time.monotonic()
        futures.close()
        assert time.monotonic() - start < PATIENCE / 2
        release.set()

    def test_no_thread_stays_after_the_last(self):
        assert no_threads()
        futures = prefetch(abs, range(4), 4, 4)
        assert len(list(futures)) == 4
        assert no_threads()

    def test_interrupt_ends_the_program(self):
        """While it waits for something that takes long: at once, without what hasn't begun."""
        script = (
            "import signal, os, threading, time\n"
            "from timesformer_hf.inference.prefetching import prefetch\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background ignores it
            "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
            "for _ in prefetch(lambda _: time.sleep(1.5), range(1000), workers=2, ahead=500): pass\n"
        )
        start = time.monotonic()
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert "KeyboardInterrupt" in process.stderr
        assert process.returncode != 0
        assert time.monotonic() - start < 100  # all of it would take over six minutes

    @pytest.mark.parametrize(("workers", "ahead"), [(0, 2), (2, 0), (-1, 1)])
    def test_bad_settings_are_refused(self, workers, ahead):
        """Told by the call, not by the first item."""
        with pytest.raises(ValueError, match=f"workers={workers} and ahead={ahead} must be at least 1"):
            prefetch(abs, [1], workers, ahead)

    def test_default_workers_are_bounded(self):
        assert 1 <= default_workers() <= MOST_WORKERS


class TestPrefetchedSequence:
    def test_in_order_each_item_is_read_once(self):
        calls = []
        sequence = PrefetchedSequence(lambda item: calls.append(item) or item.upper(), "abcdef", workers=1, ahead=2)
        assert len(sequence) == 6
        assert [sequence[index].result() for index in range(6)] == list("ABCDEF")
        assert calls == list("abcdef")  # each once

    def test_a_second_reading_starts_anew(self):
        sequence = PrefetchedSequence(str.upper, "abc", workers=2, ahead=2)
        for _ in range(2):
            assert [sequence[index].result() for index in range(3)] == list("ABC")

    def test_any_order_is_allowed(self):
        sequence = PrefetchedSequence(str.upper, "abcdef", workers=2, ahead=3)
        assert [sequence[index].result() for index in (0, 1, 4, 5, 2, 2, 3)] == list("ABEFCCD")

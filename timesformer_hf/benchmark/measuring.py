"""
Measures several paths, which are ways to compute the same, side by side in one process. It imports no model.

The numbers are comparable for three reasons:

- Every path is first compared with a reference. A path that disagrees is not timed.
- After a warm-up the paths take turns, so that other work on the machine affects them all alike.
- Ratios are computed from neighbouring repetitions.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .results import CaseResult, PathResult, Role


# A repetition lasts at least this long, if need be by several calls. The clock's resolution is small against it.
_LEAST_SECONDS = 0.1
_MOST_CALLS = 1000


class UnavailableError(Exception):
    """Raised where something can't be measured on this machine. The message says why."""


@dataclass(frozen=True)
class Environment:
    """
    The settings that all cases share.

    Attributes:
        device: torch's name for it, for example `"cpu"` or `"cuda"`.
        threads: how many threads the computing libraries may use.
        seed: for random weights and clips.
        folder: the folder for weights and videos. Cases share what one of them has written there.
    """

    device: str
    threads: int
    seed: int
    folder: Path


@dataclass(frozen=True)
class Prepared:
    """
    A path that is ready to be timed.

    Attributes:
        run: does the work once.
        output: returns what is compared with the reference (default: what `run` returns).
    """

    run: Callable[[], object]
    output: Callable[[], object] | None = None


@dataclass(frozen=True)
class CodePath:
    """
    A row of a table of paths: one way to compute a case.

    Attributes:
        role: `"ours"`, `"peer"`, or `"limit"`. A limit isn't compared with the reference.
        about: a phrase that describes it.
        prepare: returns the path ready to be timed. Its argument depends on the kind of case. It raises an ImportError
            or [`UnavailableError`] where the path can't run here.
        on_request: whether the path is measured only where `--paths` names it, because it takes long to prepare.
    """

    role: Role
    about: str
    prepare: Callable[[Any], Prepared]
    on_request: bool = False


@dataclass(frozen=True)
class Workload:
    """
    A case in the form that [`measure`] takes: functions that prepare, compare and count.

    Attributes:
        prepare: name of a path -> a function that prepares it.
        reference: a function that computes the result to compare with.
        difference: a function of a result and the reference that returns their difference.
        tolerance: a function from the name of a path to the largest difference that counts as agreement.
        peak_bytes: a function from the name of a path to its peak memory; `None` where that is not measured.
        multiply_accumulates: those of the original model in one call.
    """

    prepare: Mapping[str, Callable[[], Prepared]]
    reference: Callable[[], object]
    difference: Callable[[Any, Any], float]
    tolerance: Callable[[str], float]
    peak_bytes: Callable[[str], int] | None = None
    multiply_accumulates: int | None = None


@dataclass(frozen=True)
class Stopwatch:
    """
    Measures the time of calls.

    Attributes:
        clock: returns the time in seconds.
        synchronize: waits until the device has finished all work.
    """

    clock: Callable[[], float] = time.perf_counter
    synchronize: Callable[[], None] = lambda: None

    def seconds(self, run: Callable[[], object], calls: int = 1) -> float:
        """Return the seconds of one call. `calls` calls are timed together."""
        self.synchronize()
        start = self.clock()
        for _ in range(calls):
            run()
        self.synchronize()
        return (self.clock() - start) / calls


def measure(
    result: CaseResult,
    workload: Workload,
    repetitions: int,
    stopwatch: Stopwatch | None = None,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """
    Measure the paths of a case and write the numbers to `result`.

    The order is: peak memory in separate processes, where a path that doesn't fit fails; agreement with the reference;
    times.

    Args:
        result: its paths name what is measured.
        workload: the case.
        repetitions: how often each path is timed.
        stopwatch: waits for the device (default: one for the CPU).
        progress: is called after each of the `2 + repetitions` parts of the work.
    """
    stopwatch = stopwatch or Stopwatch()
    if workload.peak_bytes is not None:
        for path in _in_running(result.paths):
            if path.role != "limit":
                path.peak_bytes = _attempt(path, workload.peak_bytes, path.name)
    progress()
    prepared = {path.name: _attempt(path, workload.prepare[path.name]) for path in _in_running(result.paths)}
    _check_agreement(_in_running(result.paths), prepared, workload)
    progress()
    runs = {path.name: prepared[path.name].run for path in _in_running(result.paths)}
    for path in _in_running(result.paths):
        seconds = _attempt(path, stopwatch.seconds, runs[path.name])
        path.calls = 1 if seconds is None else calls_for(seconds)
    _alternate(_in_running(result.paths), runs, repetitions, stopwatch, progress)


def _in_running(paths: Iterable[PathResult]) -> list[PathResult]:
    return [path for path in paths if path.status == "measured"]


def _attempt(path: PathResult, function: Callable, *arguments):
    """Return what `function` returns. If it fails, write the reason to `path` and return `None`."""
    try:
        return function(*arguments)
    except (ImportError, UnavailableError) as error:
        path.give_up("missing", one_line(error))
    except Exception as error:  # any error here is about this path, and the others are still measured
        path.give_up("failed", one_line(error))
    return None


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, with the error's type unless the message is clear without it."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, (ImportError, UnavailableError)) else f"{type(error).__name__}: {lines[0]}"


def _check_agreement(paths: Iterable[PathResult], prepared: Mapping[str, Prepared], workload: Workload) -> None:
    """Compare each path with the reference. A path that disagrees is not measured further."""
    paths = [path for path in paths if path.role != "limit"]
    expected = workload.reference() if paths else None
    for path in paths:
        ready = prepared[path.name]
        output = _attempt(path, ready.output or ready.run)
        if path.status != "measured":
            continue
        path.tolerance = workload.tolerance(path.name)
        path.difference = _attempt(path, workload.difference, output, expected)
        if path.difference is not None and not path.difference <= path.tolerance:  # this is also true for NaN
            at_most = f"at most {path.tolerance:.2g} is allowed"
            path.give_up("failed", f"disagrees with the reference by {path.difference:.2g}; {at_most}")


def calls_for(seconds: float) -> int:
    """Return how many calls make a repetition long enough for the clock, given the seconds of one call."""
    return max(1, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / max(seconds, 1e-9))))


def _alternate(
    paths: list[PathResult],
    runs: Mapping[str, Callable[[], object]],
    repetitions: int,
    stopwatch: Stopwatch,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Time the paths in turns, `repetitions` times each, for example ours, peer, limit, ours, peer, limit."""
    for _ in range(repetitions):
        for path in _in_running(paths):
            seconds = _attempt(path, stopwatch.seconds, runs[path.name], path.calls)
            if seconds is not None:
                path.seconds.append(seconds)
        progress()

"""
Measuring several ways to compute the same, side by side in one process. Knows no model and no video.

What makes the numbers comparable: every path is first checked against a reference, and one that disagrees is not
timed; then, after a warm-up, the paths take turns, so that whatever else the machine does meets them alike; and ratios
are of neighbouring repetitions.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .results import CaseResult, PathResult, Role


# A repetition shorter than this is several calls: a clock's steps and a wake-up are small against it.
_LEAST_SECONDS = 0.1
_MOST_CALLS = 1000


class UnavailableError(Exception):
    """Something that can't be measured on this machine; the message is the reason."""


@dataclass(frozen=True)
class Environment:
    """
    Where the cases run.

    Attributes:
        device: as torch names it, `"cpu"` or `"cuda"`.
        threads: how many the libraries that compute may use.
        seed: of weights and clips.
        folder: for what the cases write, weights and videos. They find there what another has written.
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
        output: returns what is compared with the reference, where that is something else than what `run` returns.
    """

    run: Callable[[], object]
    output: Callable[[], object] | None = None


@dataclass(frozen=True)
class CodePath:
    """
    A row of a table of paths: one way to compute a case.

    Attributes:
        role: `"ours"`, `"peer"`, or `"limit"`, which isn't compared with the reference.
        about: a phrase.
        prepare: from what the kind of case passes to something ready to be timed. It raises ImportError or
            [`UnavailableError`] where that can't be here.
        on_request: whether it is only measured where it is named, because it takes long to prepare.
    """

    role: Role
    about: str
    prepare: Callable[[Any], Prepared]
    on_request: bool = False


@dataclass(frozen=True)
class Workload:
    """
    What a case is, for the measuring.

    Attributes:
        prepare: name of a path -> prepares it.
        reference: computes the result that the paths are compared with.
        difference: (result, reference) -> how far apart they are.
        tolerance: name of a path -> the largest difference that counts as agreement.
        peak_bytes: name of a path -> its peak memory; `None` where the case doesn't measure it.
        multiply_accumulates: of one call of the original model.
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
    Attributes:
        clock: the time in seconds.
        synchronize: waits until the device has done what it was told.
    """

    clock: Callable[[], float] = time.perf_counter
    synchronize: Callable[[], None] = lambda: None

    def seconds(self, run: Callable[[], object], calls: int = 1) -> float:
        """Of one call, where `calls` of them are timed together."""
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
    Fill in the paths of `result`: memory first, in processes of its own, which tells what would not fit; then
    agreement; then times.

    Args:
        progress: called after each of `2 + repetitions` parts of the work.
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
    """What `function` returns; `None` where it fails, which `path` then says."""
    try:
        return function(*arguments)
    except (ImportError, UnavailableError) as error:
        path.give_up("missing", one_line(error))
    except Exception as error:  # whatever it is, it is about this path, and the others are measured all the same
        path.give_up("failed", one_line(error))
    return None


def one_line(error: Exception) -> str:
    """What an error says first; with its type, except where its message is meant to stand alone."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, (ImportError, UnavailableError)) else f"{type(error).__name__}: {lines[0]}"


def _check_agreement(paths: Iterable[PathResult], prepared: Mapping[str, Prepared], workload: Workload) -> None:
    """Compare each path with the reference; one that disagrees is given up before anything is timed."""
    paths = [path for path in paths if path.role != "limit"]
    expected = workload.reference() if paths else None
    for path in paths:
        ready = prepared[path.name]
        output = _attempt(path, ready.output or ready.run)
        if path.status != "measured":
            continue
        path.tolerance = workload.tolerance(path.name)
        path.difference = _attempt(path, workload.difference, output, expected)
        if path.difference is not None and not path.difference <= path.tolerance:  # nor where it isn't a number
            at_most = f"at most {path.tolerance:.2g} was expected"
            path.give_up("failed", f"disagrees with the reference by {path.difference:.2g}; {at_most}")


def calls_for(seconds: float) -> int:
    """How many calls make a repetition that is long enough for the clock."""
    return max(1, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / max(seconds, 1e-9))))


def _alternate(
    paths: list[PathResult],
    runs: Mapping[str, Callable[[], object]],
    repetitions: int,
    stopwatch: Stopwatch,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Time the paths in turns, `repetitions` of each: ours, peer, limit, ours, peer, limit."""
    for _ in range(repetitions):
        for path in _in_running(paths):
            seconds = _attempt(path, stopwatch.seconds, runs[path.name], path.calls)
            if seconds is not None:
                path.seconds.append(seconds)
        progress()

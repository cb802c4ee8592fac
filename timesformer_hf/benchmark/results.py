"""The results of measurements: all times, the numbers computed from them, and the JSON files that store them."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..output.atomic import output_file


FORMAT, _FORMAT_VERSION = "timesformer-hf bench", 1

Role = Literal["ours", "peer", "limit"]
_Status = Literal["measured", "missing", "failed"]


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of some values."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """
        Return the median and the quartiles of values.

        Raises:
            ValueError: where there are no values.
        """
        if not values:
            raise ValueError("There are no values to take the median of")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass
class PathResult:
    """
    The result for one path, which is one way to compute a case.

    Attributes:
        name: the name of the path, unique in its case.
        role: `"ours"`, `"peer"`, or `"limit"` for the machine's own limit for the same work.
        status: `"measured"`; `"missing"` where a package is not installed or the hardware can't do it; `"failed"` where
            the path raised an error or disagreed with the reference.
        reason: why it was not measured.
        difference: the difference of its result from the reference; `None` for a limit, whose result is not compared.
        tolerance: the largest difference that counts as agreement.
        calls: how many calls were timed together in a repetition.
        seconds: the time of one call, one value for each repetition.
        peak_bytes: the peak memory, without what was in use once the weights were loaded; `None` where not measured.
    """

    name: str
    role: Role
    status: _Status = "measured"
    reason: str | None = None
    difference: float | None = None
    tolerance: float | None = None
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median_seconds(self) -> float:
        """The median time of one call."""
        return statistics.median(self.seconds)

    def give_up(self, status: _Status, reason: str) -> None:
        """Stop measuring this path, and drop what was measured."""
        self.status, self.reason, self.seconds, self.peak_bytes = status, reason, [], None


@dataclass
class CaseResult:
    """
    The result for one case.

    Attributes:
        name: the name of the case.
        about: a phrase that describes it.
        kind: its kind.
        paths: the results of its paths, in the order in which they took turns.
        multiply_accumulates: those of the original model's matrix products in one call; `None` where there are none.
        skipped: why the whole case was not measured; `None` where it was.
        broken: whether the reason in `skipped` is an error, not something that this machine lacks.
    """

    name: str
    about: str
    kind: str
    paths: list[PathResult] = field(default_factory=list)
    multiply_accumulates: int | None = None
    skipped: str | None = None
    broken: bool = False

    def measured(self, role: Role) -> list[PathResult]:
        """Return the measured paths of a role."""
        return [path for path in self.paths if path.role == role and path.seconds]

    def fastest(self, role: Role) -> PathResult | None:
        """Return the path of that role with the least median time, or `None` where none was measured."""
        return min(self.measured(role), key=lambda path: path.median_seconds, default=None)

    @property
    def failed(self) -> bool:
        """
        Whether something is wrong: any path disagrees with the reference, or one of ours raises an error. An error of a
        peer, for example from too little memory, is a valid result.
        """
        wrong = [path for path in self.paths if path.status == "failed"]
        return self.broken or any(path.role == "ours" or path.difference is not None for path in wrong)


def times_faster(ours: PathResult, other: PathResult) -> Spread:
    """
    Return how many times as fast as `other` our path is. It is computed from the ratios of neighbouring repetitions,
    not from two medians.
    """
    pairs = zip(other.seconds, ours.seconds, strict=True)
    return Spread.of([theirs / own for theirs, own in pairs])


def share_of_limit(path: PathResult, limit: PathResult) -> Spread:
    """Return the speed of a path as a share of the machine's limit, where 1 is as fast as the limit."""
    return times_faster(path, limit)


def share_of_memory(ours: PathResult, peer: PathResult) -> float | None:
    """Return our peak memory divided by the peer's, or `None` where one of them is not measured or is zero."""
    return ours.peak_bytes / peer.peak_bytes if ours.peak_bytes is not None and peer.peak_bytes else None


def _case_json(case: CaseResult) -> dict:
    """
    Return a case for JSON: the measured values, and the numbers computed from them for readers without this package.
    """
    values = asdict(case)
    limit = case.fastest("limit")
    for path, entry in zip(case.paths, values["paths"], strict=True):
        if path.seconds:
            entry["median_seconds"] = path.median_seconds
            if limit is not None and path.role != "limit":
                entry["share_of_limit"] = asdict(share_of_limit(path, limit))
    values["comparisons"] = [
        {
            "ours": ours.name,
            "peer": peer.name,
            "times_faster": asdict(times_faster(ours, peer)),
            "share_of_memory": share_of_memory(ours, peer),
        }
        for ours in case.measured("ours")
        for peer in case.measured("peer")
    ]
    return values


def _case_from_json(values: dict) -> CaseResult:
    """Return the case that `_case_json` wrote. Numbers that are computed from the times are not read."""
    paths = [PathResult(**_fields_of(PathResult, path)) for path in values["paths"]]
    return CaseResult(**_fields_of(CaseResult, values) | {"paths": paths})


def _fields_of(kind: type, values: dict) -> dict:
    return {name: values[name] for name in kind.__dataclass_fields__}


@dataclass
class Results:
    """
    The results of one run of `timesformer-hf bench`.

    Attributes:
        machine: the return value of [`describe_machine`].
        versions: name of a package -> its version.
        date: the time of the start, UTC, as ISO 8601.
        command: the command line that measures the same.
        settings: device, threads, repetitions, seed and the precision of float32 matmuls.
        cases: the results of the cases, in the order in which they were measured.
    """

    machine: dict
    versions: dict
    date: str
    command: str
    settings: dict
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something is wrong in at least one case."""
        return any(case.failed for case in self.cases)


def write_results(path: str | os.PathLike, results: Results, overwrite: bool = False) -> None:
    """
    Write the results of a run to a JSON file.

    Raises:
        FileExistsError, NotADirectoryError: see [`output_file`].
    """
    values = {"format": FORMAT, "format_version": _FORMAT_VERSION, **asdict(results)}
    values["cases"] = [_case_json(case) for case in results.cases]
    with output_file(path, overwrite) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


def read_results(path: str | os.PathLike) -> Results:
    """
    Read the results of a run from a JSON file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file was not written by [`write_results`], or by another version of it.
    """
    try:
        values = json.loads(Path(path).read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is not JSON ({error}); give a file that timesformer-hf bench --out wrote") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f'{path} has no "format": "{FORMAT}"; give a file that timesformer-hf bench --out wrote')
    if values.get("format_version") != _FORMAT_VERSION:
        version = values.get("format_version")
        raise ValueError(
            f"{path} has format version {version}, but this program reads {_FORMAT_VERSION}; measure again"
        )
    try:
        cases = [_case_from_json(case) for case in values["cases"]]
        return Results(**_fields_of(Results, values) | {"cases": cases})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}; measure again") from error

"""What was measured: every single time, what follows from them, and the JSON files that hold it. Pure arithmetic."""

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
Status = Literal["measured", "missing", "failed"]


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of some values."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """
        Raises:
            ValueError: for no values.
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
    What came out for one way to compute a case.

    Attributes:
        name: of the path, unique in its case.
        role: `"ours"`, `"peer"`, or `"limit"`, the machine's own for the same work.
        status: `"measured"`; `"missing"` where something isn't installed or the hardware hasn't it; `"failed"` where it
            broke or gave another result than the reference.
        reason: why it wasn't measured.
        difference: of its result from the reference's; `None` for a limit, which computes nothing of use.
        tolerance: the largest difference that counts as agreement.
        calls: how many calls were timed together in a repetition.
        seconds: of one call, a value for each repetition.
        peak_bytes: the most memory that was in use, over that with the weights loaded; `None` where not measured.
    """

    name: str
    role: Role
    status: Status = "measured"
    reason: str | None = None
    difference: float | None = None
    tolerance: float | None = None
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    def give_up(self, status: Status, reason: str) -> None:
        """From here on it isn't measured; what was is dropped."""
        self.status, self.reason, self.seconds, self.peak_bytes = status, reason, [], None


@dataclass
class CaseResult:
    """
    Attributes:
        name, about, kind: of the case.
        paths: what came out for each of its paths, in the order in which they took turns.
        multiply_accumulates: of the original model's products of matrices in one call; `None` where there are none.
        skipped: why the case as a whole was not measured; `None` where it was.
        broken: whether `skipped` is an error rather than something that this machine lacks.
    """

    name: str
    about: str
    kind: str
    paths: list[PathResult] = field(default_factory=list)
    multiply_accumulates: int | None = None
    skipped: str | None = None
    broken: bool = False

    def measured(self, role: Role) -> list[PathResult]:
        return [path for path in self.paths if path.role == role and path.seconds]

    def fastest(self, role: Role) -> PathResult | None:
        """The one with the least median time; `None` where none was measured."""
        return min(self.measured(role), key=lambda path: path.median_seconds, default=None)

    @property
    def failed(self) -> bool:
        """
        Whether something is wrong: a path that disagrees with the reference, or one of ours that breaks. A peer that
        breaks, for want of memory say, is a result.
        """
        wrong = [path for path in self.paths if path.status == "failed"]
        return self.broken or any(path.role == "ours" or path.difference is not None for path in wrong)


def times_faster(ours: PathResult, other: PathResult) -> Spread:
    """How many times as fast as `other` ours is: of the ratios of neighbouring repetitions, not of two medians."""
    pairs = zip(other.seconds, ours.seconds, strict=True)
    return Spread.of([theirs / own for theirs, own in pairs])


def share_of_limit(path: PathResult, limit: PathResult) -> Spread:
    """Which share of the machine's speed at the same work a path reaches; 1 is all of it."""
    return times_faster(path, limit)


def share_of_memory(ours: PathResult, peer: PathResult) -> float | None:
    """Ours peak over the peer's; `None` where one of them wasn't measured or needed nothing."""
    return ours.peak_bytes / peer.peak_bytes if ours.peak_bytes is not None and peer.peak_bytes else None


def _case_json(case: CaseResult) -> dict:
    """The measured values, and for readers without this package what follows from them."""
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
    """The inverse of [`_case_json`]; what follows from the times is left to be computed again."""
    paths = [PathResult(**_fields_of(PathResult, path)) for path in values["paths"]]
    return CaseResult(**_fields_of(CaseResult, values) | {"paths": paths})


def _fields_of(kind: type, values: dict) -> dict:
    return {name: values[name] for name in kind.__dataclass_fields__}


@dataclass
class Results:
    """
    A run of the program.

    Attributes:
        machine: what [`describe_machine`] says.
        versions: package -> its version.
        date: UTC, ISO 8601.
        command: what was called.
        settings: device, threads, repetitions, seed.
        cases: in the order in which they were measured.
    """

    machine: dict
    versions: dict
    date: str
    command: str
    settings: dict
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(case.failed for case in self.cases)


def write_results(path: str | os.PathLike, results: Results, overwrite: bool = False) -> None:
    """
    Raises:
        FileExistsError, NotADirectoryError: as [`output_file`].
    """
    values = {"format": FORMAT, "format_version": _FORMAT_VERSION, **asdict(results)}
    values["cases"] = [_case_json(case) for case in results.cases]
    with output_file(path, overwrite) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


def read_results(path: str | os.PathLike) -> Results:
    """
    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is something else than what [`write_results`] wrote.
    """
    try:
        values = json.loads(Path(path).read_text())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no JSON ({error}); give what timesformer-hf bench --out wrote") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f'{path} has no "format": "{FORMAT}"; give what timesformer-hf bench --out wrote')
    if values.get("format_version") != _FORMAT_VERSION:
        version = values.get("format_version")
        raise ValueError(f"{path} is of format version {version}, this program reads {_FORMAT_VERSION}; measure again")
    try:
        cases = [_case_from_json(case) for case in values["cases"]]
        return Results(**_fields_of(Results, values) | {"cases": cases})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}; measure again") from error

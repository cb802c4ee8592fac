"""A report on the near-duplicates in a data set: as text, as a table to train with, and as a page to look at."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..output.atomic import check_output_file, output_file
from ..output.parquet import import_pyarrow
from ..video.printable import printable
from ..video.video_sources import is_url
from .duplicates_page import PageGroup, PageVideo, write_page
from .labelled_videos import LabelledVideo
from .near_duplicates import NearDuplicates


_MOST_PRINTED = 10  # groups, and videos of each
_MOST_SHOWN = 100, 12  # groups of a page, and videos of each
FORMATS = (".csv", ".parquet", ".html")


@dataclass(frozen=True)
class DuplicateReport:
    """
    The near-duplicates among videos, with their labels and splits.

    Attributes:
        videos: the videos. Where nothing is known of a video, it has no label, no split, and its name as its group.
        found: their near-duplicates.
        threshold: the least cosine of near-duplicates.
    """

    videos: Sequence[LabelledVideo]
    found: NearDuplicates
    threshold: float

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """The indices of the videos of each group: first those across splits, then those with different labels."""

        def interest(members: np.ndarray) -> tuple:
            return not self._splits(members), len(self._labels(members)) < 2, -len(members)

        return sorted(self.found.members(), key=interest)

    def _splits(self, members: np.ndarray) -> list[str]:
        """Return the names of the splits of a group, if there are several."""
        names = sorted({self.videos[member].split or "no split" for member in members})
        return names if len(names) > 1 else []

    def _labels(self, members: np.ndarray) -> set[tuple[str, ...]]:
        """Return the different labels of a group. A video without a label has none that differs."""
        return {tuple(sorted(self.videos[member].labels)) for member in members} - {()}

    def summary(self) -> str:
        """Return the numbers, and the first groups, as text."""
        if not self.groups:
            return f"no near-duplicates among {len(self.videos)} videos (cosine {self.threshold:g} or more)"
        inside = int((self.found.groups >= 0).sum())
        lines = [
            f"{_count(len(self.groups), 'group')} of near-duplicates (cosine {self.threshold:g} or more): "
            f"{inside} of {len(self.videos)} videos",
            *self._across_splits(),
        ]
        contradictions = sum(len(self._labels(members)) > 1 for members in self.groups)
        if contradictions:
            lines.append(f"{_count(contradictions, 'group')} with different labels")
        for number, members in enumerate(self.groups[:_MOST_PRINTED], start=1):
            lines += [f"group {number}:", *map(self._line, members[:_MOST_PRINTED])]
            if len(members) > _MOST_PRINTED:
                lines.append(f"  and {len(members) - _MOST_PRINTED} more")
        if len(self.groups) > _MOST_PRINTED:
            lines.append(f"and {_count(len(self.groups) - _MOST_PRINTED, 'more group')}")
        return "\n".join(lines)

    def _across_splits(self) -> list[str]:
        """Return a line for each split whose videos have near-duplicates in another one, except for training."""
        nearest = self.found.nearest_elsewhere
        if nearest is None:
            return []
        lines = []
        for split in dict.fromkeys(video.split for video in self.videos if video.split not in (None, "train")):
            inside = [index for index, video in enumerate(self.videos) if video.split == split]
            leaked = int((nearest.videos[inside] >= 0).sum())
            if leaked:
                lines.append(
                    f"{leaked} of {len(inside)} {printable(split)} videos have a near-duplicate in another split"
                )
        return lines

    def _line(self, member: int) -> str:
        """Return the cosine to the nearest video, split, label and name of a video as a line."""
        video = self.videos[member]
        words = [video.split or "", "|".join(video.labels), video.name]
        return "  ".join([f"  {self.found.nearest.cosines[member]:.4f}", *(printable(word) for word in words if word)])

    def write(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """
        Write a table (.csv, .parquet) of all videos, or a page (.html) of the groups.

        The table has the columns `path`, `label`, `group` and `split`, so that `timesformer-hf finetune --data` reads
        it. Videos of one group, near-duplicates among them, stay together where it is split.

        Raises:
            ValueError, FileExistsError, ImportError: as in [`check_report_file`].
        """
        check_report_file(path, overwrite)
        with output_file(path, overwrite) as new:
            if new.suffix == ".html":
                write_page(new, self._page_groups(), self.heading(), len(self.groups))
            elif new.suffix == ".parquet":
                pa = import_pyarrow()
                pa.parquet.write_table(pa.Table.from_pylist(self.rows(), schema=_schema(pa)), new)
            else:
                with new.open("w", newline="", encoding="utf-8") as file:
                    rows = csv.DictWriter(file, _COLUMNS)
                    rows.writeheader()
                    rows.writerows(row | {"label": "|".join(row["label"])} for row in self.rows())

    def heading(self) -> str:
        """Return what the page is about, in one line."""
        return self.summary().partition("\ngroup 1:")[0].replace("\n", "; ")

    def rows(self) -> list[dict]:
        """Return a row of the table for each video."""
        nearest, together = self.found.nearest, self._groups_together()
        numbers = np.full(len(self.videos), 0)
        for number, members in enumerate(self.groups, start=1):
            numbers[members] = number
        return [
            {
                "path": _absolute(video.name),
                "label": list(video.labels),
                "group": together[index],
                "split": video.split,
                "duplicates": int(numbers[index]) or None,
                "nearest": _absolute(self.videos[nearest.videos[index]].name) if numbers[index] else None,
                "cosine": float(nearest.cosines[index]) if numbers[index] else None,
            }
            for index, video in enumerate(self.videos)
        ]

    def _groups_together(self) -> list[str]:
        """Return for each video a name of the videos that must not be split: groups of the data, near-duplicates."""
        first_of_group = {}
        parents = [first_of_group.setdefault(video.group, index) for index, video in enumerate(self.videos)]

        def root(index: int) -> int:
            while parents[index] != index:
                index = parents[index]
            return index

        for members in self.groups:
            for member in members[1:]:
                parents[root(member)] = root(members[0])
        return [self.videos[root(index)].group for index in range(len(self.videos))]

    def _page_groups(self) -> list[PageGroup]:
        """Return the groups that a page shows."""
        groups, videos = _MOST_SHOWN
        shown = []
        for members in self.groups[:groups]:
            notes = ["across splits"] if self._splits(members) else []
            notes += ["different labels"] if len(self._labels(members)) > 1 else []
            cards = [
                PageVideo(self.videos[member], float(self.found.nearest.cosines[member])) for member in members[:videos]
            ]
            shown.append(PageGroup(cards, len(members), notes))
        return shown


_COLUMNS = ("path", "label", "group", "split", "duplicates", "nearest", "cosine")


def _schema(pa):
    """Return the types of the columns of a Parquet table."""
    kinds = {name: pa.string() for name in _COLUMNS}
    kinds |= {"label": pa.list_(pa.string()), "duplicates": pa.int64(), "cosine": pa.float32()}
    return pa.schema(kinds)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _absolute(name: str) -> str:
    return name if is_url(name) else os.path.abspath(name)


def check_report_file(path: str | os.PathLike, overwrite: bool = False) -> None:
    """
    Check that a report can be written to a file of that name. Call it before long work, so that the work is not lost.

    Raises:
        ValueError: if the ending of the name is no format.
        ImportError: if pyarrow is missing for a Parquet table.
        FileExistsError, NotADirectoryError, PermissionError: if the file can't be written.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ValueError(f"{path}: the name of a report must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if suffix == ".parquet":
        import_pyarrow()
    check_output_file(path, overwrite)

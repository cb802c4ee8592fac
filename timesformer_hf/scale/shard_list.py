"""
The list of labelled videos that shards are made of, in a file. It is written row by row and never read whole, so it may
name millions of videos.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ..data.labelled_videos import LabelledVideo, check_number_of_labels, check_text, name_classes, sort_names
from ..data.local_videos import iterate_class_folders, iterate_table
from ..data.text_tables import TEXT_TABLES
from ..output.parquet import import_pyarrow
from ..video.video_folders import VIDEO_EXTENSIONS
from .remote_files import is_remote


_ROWS, _ABOUT = "list.arrow", "list.json"
_ROWS_AT_ONCE = 8192

logger = logging.get_logger(__name__)


def iterate_labelled_videos(source: str | os.PathLike[str]) -> Iterator[LabelledVideo]:
    """
    Yield the labelled videos of a folder with a folder for each class, or of a table with the columns path and label.

    Raises:
        FileNotFoundError: if there is no such folder or table.
        ValueError: if it is something else, or a row can't be used.
    """
    path = Path(source)
    if path.suffix.lower() in (*TEXT_TABLES, ".parquet") and not path.is_dir():
        yield from iterate_table(path)
    elif path.is_dir():
        yield from iterate_class_folders(path)
    elif path.exists():
        raise ValueError(f"{path} must be a folder with a folder for each class, a .csv, .tsv, .txt or .parquet file")
    else:
        raise FileNotFoundError(f"There is no folder or table {path}")


@dataclass
class _Summary:
    """What is known of a list when all of it was read."""

    labels: set[str] = field(default_factory=set)
    splits: Counter = field(default_factory=Counter)
    extensions: set[str] = field(default_factory=set)
    has_several: bool = False
    without_label: LabelledVideo | None = None

    def add(self, video: LabelledVideo) -> None:
        self.labels.update(video.labels)
        self.splits[video.split] += 1
        self.extensions.add(Path(video.name).suffix.lower())
        self.has_several |= len(video.labels) > 1
        if not video.labels:
            self.without_label = self.without_label or video


def write_list(
    source: str | os.PathLike[str],
    folder: Path,
    label_names: Sequence[str] | None = None,
    validation_share: float = 0.0,
    seed: int = 0,
) -> None:
    """
    Write the videos of a source to a list, which [`ShardList`] reads.

    Args:
        source: see [`iterate_labelled_videos`].
        folder: the folder to write to.
        label_names: names of all classes, in order. Labels that are whole numbers are then indices into it.
        validation_share: the share of the groups that are in the split `validation`, if the source has no splits.
        seed: seed of the choice of these groups. A group is chosen by a hash of its name, so all its videos are on one
            side.

    Raises:
        FileNotFoundError, ValueError: if the source can't be used.
    """
    pa = import_pyarrow()
    schema = pa.schema([("path", pa.large_string()), ("labels", pa.list_(pa.large_string())), ("split", pa.string())])
    summary, rows = _Summary(), []
    with pa.OSFile(str(folder / _ROWS), "wb") as file, pa.ipc.new_file(file, schema) as writer:

        def write() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        videos = iterate_labelled_videos(source)
        for video in _hold_out(videos, source, validation_share, seed) if validation_share else videos:
            check_text((video.name, *video.labels))
            summary.add(video)
            name = video.name if is_remote(video.name) else os.path.abspath(video.name)
            rows.append({"path": name, "labels": video.labels, "split": video.split})
            if len(rows) == _ROWS_AT_ONCE:
                write()
        write()
    _check(summary, source, label_names)
    has_one_extension = len(summary.extensions) == 1 and summary.extensions <= set(VIDEO_EXTENSIONS)
    about = {
        "label_names": list(label_names or sort_names(summary.labels)),
        "are_numbers": label_names is not None and not summary.labels <= set(label_names),
        "multi_label": summary.has_several,
        "extension": summary.extensions.pop().removeprefix(".") if has_one_extension else "video",
        "splits": sorted(name for name in summary.splits if name is not None),
    }
    (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _hold_out(
    videos: Iterator[LabelledVideo], source: str | os.PathLike[str], share: float, seed: int
) -> Iterator[LabelledVideo]:
    """
    Yield videos with the split `train` or `validation`, which a hash of their group decides.

    Raises:
        ValueError: if a video has a split already.
    """
    for video in videos:
        if video.split is not None:
            raise ValueError(f"{source} has splits, for example {video.split}; leave --validation-share out")
        yield replace(video, split="validation" if _hash(video.group, seed) < share else "train")


def _hash(group: str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the name of a group and the seed."""
    digest = hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _check(summary: _Summary, source: str | os.PathLike[str], label_names: Sequence[str] | None) -> None:
    """
    Check that shards can be made of a list, and warn of videos without a split where others have one.

    Raises:
        ValueError: if not.
    """
    if summary.without_label is not None:
        check_number_of_labels([summary.without_label], summary.has_several, source)
    if len(label_names or summary.labels) < 2 and not summary.has_several:
        raise ValueError(f"{source} has one class only, {', '.join(summary.labels)}; a classifier needs two or more")
    name_classes([LabelledVideo("", (label,), "") for label in summary.labels], label_names, source)
    splits = [name for name in summary.splits if name is not None]
    if odd := [name for name in splits if not name.replace("_", "").isalnum()]:
        raise ValueError(f"{source}: a split must have a name of letters, digits and _, which {odd[0]!r} has not")
    if splits and summary.splits[None]:
        logger.warning(f"{summary.splits[None]} videos are in no split, where others are; they are left out")


class ShardList:
    """
    A list that [`write_list`] has written. Its rows stay on the disk.

    Attributes:
        label_names: names of all classes, in order.
        multi_label: whether a video has several labels.
        extension: the extension of all videos without its dot, or `"video"` if they have several.
        splits: for each split, the row numbers of its videos. Without splits, all are in `train`.
    """

    def __init__(self, folder: Path):
        pa = import_pyarrow()
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / _ROWS))).read_all()
        self.label_names: list[str] = about["label_names"]
        self.multi_label: bool = about["multi_label"]
        self.extension: str = about["extension"]
        names = map(str, range(len(self.label_names))) if about["are_numbers"] else self.label_names
        self._numbers = {name: number for number, name in enumerate(names)}
        self.splits: dict[str, np.ndarray] = {name: self._rows_of(name) for name in about["splits"]}
        self.splits = self.splits or {"train": np.arange(len(self._table))}

    def _rows_of(self, split: str) -> np.ndarray:
        import pyarrow.compute as pc

        return np.flatnonzero(pc.equal(self._table.column("split"), split).fill_null(False).to_numpy())

    def read(self, numbers: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return the paths or URLs of the videos with these row numbers, and the numbers of their classes."""
        rows = self._table.take(numbers).to_pylist()
        return [(row["path"], [self._numbers[label] for label in row["labels"]]) for row in rows]

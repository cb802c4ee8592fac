"""Labelled videos of data sets on the Hub, by the library `datasets`: all at once, or as a stream."""

import copy
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from ..output.extras import missing_package
from ..output.hub import HubUnreachableError, hub_or_stored
from ..video.video_sources import VideoSource, is_url
from .labelled_videos import (
    LabelledVideo,
    as_labels,
    check_number_of_labels,
    find_columns,
    name_class,
    name_group,
    name_split,
)
from .text_tables import TEXT_TABLES


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_data_set(source: str | os.PathLike, config: str | None = None) -> tuple[list[LabelledVideo], list[str] | None]:
    """
    Return the videos of all splits, and the class names if the data set has them.

    A split whose labels are not public, for example the test split of a contest, is left out.

    Raises:
        FileNotFoundError: if there is no such data set.
        ImportError: if the library `datasets` is missing.
        ValueError: if a column is missing, or a label is a number that no class has.
    """
    videos, names = [], None
    for split, rows in _load_data_set(source, config).items():
        rows, video_column, label_column, names = _open_columns(source, rows)
        labels, titles = rows[label_column], _list_titles(rows, video_column)
        if all(label is None or label == -1 for label in labels):
            continue
        groups = rows["group"] if "group" in rows.column_names else [None] * len(rows)
        name_of = partial(name_class, names) if names else str
        for index, (title, label, group) in enumerate(zip(titles, labels, groups, strict=True)):
            title = title or f"{source}, {split}, row {index}"
            labels_of_row = _name_labels(label, name_of, title, source)
            fetch = partial(_fetch_row, rows, index, video_column)
            videos.append(LabelledVideo(title, labels_of_row, name_group(group, title), name_split(split), fetch))
    return videos, names


def _load_data_set(source: str | os.PathLike, config: str | None = None, **settings):
    """
    Load a data set with `datasets.load_dataset`, and add the name of the source to its errors.

    Raises:
        FileNotFoundError: if there is no such data set.
        ImportError: if the library `datasets` is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_package("Reading a data set", "datasets", "train") from error
    if not os.path.exists(source) and not _HUB_NAME.fullmatch(os.fspath(source)):
        raise FileNotFoundError(
            f"{source}: there is no such folder or table here, and a data set on the Hub has a name like owner/name"
        )
    try:
        with hub_or_stored(source):
            return datasets.load_dataset(os.fspath(source), config, **settings)
    except HubUnreachableError:
        raise
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"{source} is neither a folder or table here nor a data set that can be reached on the Hub ({error})"
        ) from error


def _open_columns(source: str | os.PathLike, rows) -> tuple:
    """
    Return the data set with undecoded videos, the names of its video and label columns, and its class names or `None`.
    """
    import datasets

    features = rows.features or {}
    columns = list(features)
    of_videos = [name for name in columns if isinstance(features[name], datasets.Video)]
    if of_videos:
        rows = rows.cast_column(of_videos[0], datasets.Video(decode=False))
    video_column, label_column = find_columns(source, [*columns, *(["video"] if of_videos else [])])
    feature = getattr(features[label_column], "feature", features[label_column])
    return rows, of_videos[0] if of_videos else video_column, label_column, getattr(feature, "names", None)


def _list_titles(rows, column: str) -> list[str | None]:
    """Return the names that a data set gives to its videos, without reading the videos."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.data.column(column)
    if pa.types.is_struct(values.type):
        return pc.struct_field(values, "path").to_pylist()
    return [None] * len(rows) if pa.types.is_binary(values.type) else values.to_pylist()


def _name_labels(value, name_of: Callable[[int], str], title: str, source: str | os.PathLike) -> tuple[str, ...]:
    try:
        return as_labels(value, name_of)
    except ValueError as error:
        raise ValueError(f"{title} in {source}: {error}") from error


def _fetch_row(rows, index: int, column: str) -> VideoSource:
    return _fetch_value(rows[index][column])


def _fetch_value(value: dict | str | bytes) -> VideoSource:
    """Return a video in a data set as a source for decoding: the bytes of a file, a path or a URL."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None:
        return value["bytes"]
    path = value["path"]
    if "://" not in path or is_url(path):
        return path
    from datasets.utils.file_utils import xopen  # hf://, zip:// and similar

    with xopen(path, "rb") as file:
        return file.read()


def _part_of_process(rows, process_index: int, num_processes: int):
    """Return the rows that one of several processes reads: whole shards, or every n-th row where these don't divide."""
    if num_processes == 1:
        return rows
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(rows, process_index, num_processes)


class VideoStream:
    """
    The labelled videos of a split of a data set, for data sets larger than the disk.

    Videos are read when they are needed, and never stored.

    Attributes:
        num_videos: the number of videos of all processes, or `None` if the data set doesn't say it.
        order: the settings on which the order of the videos depends, by name.

    Args:
        source, config, label_names, multi_label: the same as in [`read_labelled_videos`]. `label_names` is required if
            the data set doesn't name its classes.
        split: name of the split.
        buffer_size, seed: number of videos that are shuffled at a time, and seed of the order. A size of 0 keeps the
            order.
        process_index, num_processes: the stream gives only the part of this process. The parts of all processes
            together are the whole split, and share no video. They may differ in length.

    Raises:
        ValueError: if the class names are unknown, the split doesn't exist, or the source is a table. Iterating raises
            it too, if a label is not a class or, without `multi_label`, a video doesn't have exactly one label.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        split: str,
        label_names: Sequence[str] | None = None,
        config: str | None = None,
        buffer_size: int = 0,
        seed: int = 0,
        multi_label: bool = False,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        if Path(source).suffix.lower() in (*TEXT_TABLES, ".parquet") and Path(source).is_file():
            raise ValueError(
                f"{source} is a table, so its videos are read when they are needed even without a stream; leave "
                "--streaming out"
            )
        splits = _load_data_set(source, config, streaming=True)
        found = split if split in splits else {name_split(name): name for name in splits}.get(name_split(split))
        if found is None:
            raise ValueError(f"{source} has no split {split!r}; its splits are {', '.join(splits)}")
        rows, self.video_column, self.label_column, names = _open_columns(source, splits[found])
        if label_names is None and names is None:
            raise ValueError(
                f"{source} doesn't name its classes; give their names (--labels), because a stream can't be searched"
            )
        self.source, self.split, self.multi_label = source, split, multi_label
        self.label_names = list(label_names or names)
        self.known = frozenset(self.label_names)
        self.name_of = partial(name_class, names or self.label_names)
        about = (splits[found].info.splits or {}).get(found)
        self.num_videos: int | None = about.num_examples if about else None
        self.order: dict[str, int] = {"shards": rows.num_shards, "shuffle_buffer": buffer_size, "seed": seed}
        self.order |= {"processes": num_processes}
        self.all_rows = rows.shuffle(seed=seed, buffer_size=buffer_size) if buffer_size else rows
        self.rows = _part_of_process(self.all_rows, process_index, num_processes)

    def of_all_processes(self) -> "VideoStream":
        """Return the stream of all videos, which is the same in every process."""
        stream = copy.copy(self)
        stream.rows = self.all_rows
        return stream

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order if the stream is shuffled."""
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[LabelledVideo]:
        """Yield the videos. A worker process of a DataLoader yields only its part."""
        for row in self.rows:
            value = row[self.video_column]
            name = _title_of_value(value) or f"{self.source}, {self.split}, {zlib.crc32(_fetch_value(value)):08x}"
            labels = self.labels_of(row, name)
            video = LabelledVideo(name, labels, name, self.split, partial(_fetch_value, value))
            check_number_of_labels([video], self.multi_label, self.source)
            yield video

    def labels_of(self, row: dict, name: str) -> tuple[str, ...]:
        """
        Return the names of the labels of a row.

        Raises:
            ValueError: if a label is not among the classes.
        """
        labels = _name_labels(row[self.label_column], self.name_of, name, self.source)
        if unknown := [label for label in labels if label not in self.known]:
            raise ValueError(
                f"{name} in {self.source} has the label {unknown[0]}, which is not among the {len(self.known)} given "
                "names (--labels)"
            )
        return labels


def _title_of_value(value: dict | str | bytes) -> str | None:
    """Return the name that a data set gives to a video, or `None`."""
    name = value.get("path") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None

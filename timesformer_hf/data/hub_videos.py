"""Labelled videos of data sets on the Hub, by the library `datasets`; whole, or as a stream that is never stored."""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

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


def read_data_set(source: str | os.PathLike, config: str | None = None) -> tuple[list[LabelledVideo], list[str] | None]:
    """
    The videos of all splits, and the class names where the data set has them. A split whose labels are kept back, as
    that of a contest, is left out.

    Raises:
        ValueError: for a number that no class has.
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
    `datasets.load_dataset`.

    Raises:
        FileNotFoundError: where there is no such data set.
        ImportError: where `datasets` is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('a data set needs datasets: pip install "timesformer_hf[train]"') from error
    try:
        return datasets.load_dataset(os.fspath(source), config, **settings)
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"{source} is neither a folder or table here nor a data set that can be reached on the Hub ({error})"
        ) from error


def _open_columns(source: str | os.PathLike, rows) -> tuple:
    """
    A data set whose videos stay undecoded, the names of its columns of videos and labels, and its class names if it
    has them.
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
    """What a data set calls its videos, without reading them."""
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
    """What a data set gives for a video, as something to decode: the bytes of a file, a path or a URL."""
    if not isinstance(value, dict):
        return value
    if value.get("bytes") is not None:
        return value["bytes"]
    path = value["path"]
    if "://" not in path or is_url(path):
        return path
    from datasets.utils.file_utils import xopen  # hf://, zip:// and the like

    with xopen(path, "rb") as file:
        return file.read()


class VideoStream:
    """
    The labelled videos of a split of a data set, read as they are needed, never stored: for sets larger than the disk.

    Args:
        source, config, label_names, multi_label: as for [`read_labelled_videos`]. A data set that doesn't name its
            classes needs `label_names`.
        buffer_size, seed: of the shuffling; 0 keeps the order.

    Raises:
        ValueError: where the class names are not known, there is no such split, or the source is a table; and on the
            way for a video whose labels are none of the classes or, without `multi_label`, not one.
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
    ):
        if Path(source).suffix.lower() in (*TEXT_TABLES, ".parquet") and Path(source).is_file():
            raise ValueError(
                f"{source} is a table, whose videos are read as they are needed without being a stream; leave "
                "--streaming out"
            )
        splits = _load_data_set(source, config, streaming=True)
        found = split if split in splits else {name_split(name): name for name in splits}.get(name_split(split))
        if found is None:
            raise ValueError(f"{source} has no split {split!r}; its splits are {', '.join(splits)}")
        rows, self.video_column, self.label_column, names = _open_columns(source, splits[found])
        if label_names is None and names is None:
            raise ValueError(f"{source} doesn't name its classes; give their names, a streamed set can't be searched")
        self.source, self.split, self.multi_label = source, split, multi_label
        self.label_names = list(label_names or names)
        self.known = frozenset(self.label_names)
        self.name_of = partial(name_class, names or self.label_names)
        self.rows = rows.shuffle(seed=seed, buffer_size=buffer_size) if buffer_size else rows

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in another way."""
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[LabelledVideo]:
        """In a worker process of a DataLoader, the part of the videos that is the worker's."""
        for row in self.rows:
            value = row[self.video_column]
            name = _title_of_value(value) or f"{self.source}, {self.split}, {zlib.crc32(_fetch_value(value)):08x}"
            labels = self.labels_of(row, name)
            video = LabelledVideo(name, labels, name, self.split, partial(_fetch_value, value))
            check_number_of_labels([video], self.multi_label, self.source)
            yield video

    def labels_of(self, row: dict, name: str) -> tuple[str, ...]:
        labels = _name_labels(row[self.label_column], self.name_of, name, self.source)
        if unknown := [label for label in labels if label not in self.known]:
            raise ValueError(
                f"{name} in {self.source} has the label {unknown[0]}, which is not among the {len(self.known)} given "
                "names (--labels)"
            )
        return labels


def _title_of_value(value: dict | str | bytes) -> str | None:
    """What a data set calls a video, if it calls it anything."""
    name = value.get("path") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None

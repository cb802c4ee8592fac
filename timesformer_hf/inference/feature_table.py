"""
Stores features in a Parquet file, one row for each video. The columns are `video` (string), `feature` (float32,
fixed-size lists nested like its shape) and `frame_indices` (list of integers). The schema's metadata says which model
and settings made the features.

A run stores each finished batch as a part: a file of its own, in a folder beside the output. At the end the parts are
merged. So a run that was interrupted can be continued by another one with the same settings.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..output.parquet import import_pyarrow
from ..output.table_parts import TableParts
from ..video.video_sources import is_url
from .feature_extraction import EmbeddedVideo


ROW_GROUP_BYTES = 2**26  # a merge keeps one row group in memory
_METADATA = {"model": str, "level": str, "version": str, "shape": json.loads, "settings": json.loads}
_SAME_SHAPE = "use a processor that crops and a fixed number of frames, or level clip"


@dataclass
class FeatureTable:
    """
    The features of videos, in memory.

    Attributes:
        videos: the paths or URLs, as given.
        features: float32 (videos, *shape), where `shape` is that of the feature of one video.
        metadata: `model`, `level`, `shape`, `version`, and the `settings` of the run.
    """

    videos: list[str]
    features: np.ndarray
    metadata: dict[str, Any]


def read_features(path: str | os.PathLike[str]) -> FeatureTable:
    """
    Read a table of features, which `timesformer-hf embed` wrote, into memory.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is not a table of features.
        ImportError: where pyarrow is missing.
    """
    pa = import_pyarrow()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}")
    try:
        table = pa.parquet.read_table(path)
        metadata = {name: read(table.schema.metadata[name.encode()].decode()) for name, read in _METADATA.items()}
        videos, features = table.column("video").to_pylist(), table.column("feature").combine_chunks()
        shape = metadata["shape"]
    except (pa.ArrowInvalid, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a table of features made by timesformer-hf embed ({error})") from error
    for _ in shape:
        features = features.flatten()
    return FeatureTable(videos, features.to_numpy().reshape(len(videos), *shape), metadata)


class FeatureParts(TableParts):
    """The finished batches of features, one part each. See [`TableParts`] for the arguments."""

    def __init__(self, folder: str | os.PathLike[str], settings: dict):
        self.shape: tuple[int, ...] | None = None  # of a feature
        super().__init__(folder, settings)

    def register(self, part: Path) -> None:
        """Take the rows of a part into account."""
        super().register(part)
        self.shape = self.shape or _feature_shape(import_pyarrow().parquet.read_schema(part))

    def add(self, videos: list[EmbeddedVideo], sources: list[str]) -> None:
        """
        Store the features of a batch as one part, which is written completely or not at all.

        Args:
            videos: the batch. A video whose feature has another shape than the first one gets an error instead.
            sources: what identifies each video, see [`source_of`].
        """
        shape = self.shape
        rows = [(video, source) for video, source in zip(videos, sources, strict=True) if video.feature is not None]
        for video, _ in rows:
            shape = shape or video.feature.shape
            if video.feature.shape != shape:
                video.error = f"its features are {video.feature.shape}, those before it {shape}: {_SAME_SHAPE}"
        rows = [(video, source) for video, source in rows if video.error is None]
        if rows:
            self.write(*map(list, zip(*rows, strict=True)))

    def write(self, videos: list[EmbeddedVideo], sources: list[str]) -> None:
        """Write videos that all have features of one shape as the next part."""
        self.write_table(_as_arrow(videos, sources), sources)
        self.shape = self.shape or videos[0].feature.shape

    def merge(
        self, sources: Collection[str], path: str | os.PathLike[str], metadata: dict, overwrite: bool = False
    ) -> None:
        """Write the features of `sources` to one file, see [`TableParts.merge_rows`]."""
        metadata = metadata | {"shape": self.shape, "settings": self.settings}
        step = max(1, ROW_GROUP_BYTES // (4 * math.prod(self.shape)))
        self.merge_rows(sources, path, metadata, step, overwrite)


def source_of(video: str) -> str:
    """
    Return what identifies a video: its name, and for a file also its absolute path, size and modification time.
    """
    if is_url(video) or not os.path.exists(video):
        return video
    stat = os.stat(video)
    return json.dumps([video, os.path.abspath(video), stat.st_size, stat.st_mtime_ns])


def unfinished_batches(videos: Sequence, batch_size: int, is_done: Callable) -> list[list]:
    """
    Batches of the videos that are not done. A run that is continued forms the batches of an unbroken one, because the
    size of a batch changes the last digits of a feature.
    """
    batches = [videos[start : start + batch_size] for start in range(0, len(videos), batch_size)]
    batches = [[video for video in batch if not is_done(video)] for batch in batches]
    return [batch for batch in batches if batch]


def _as_arrow(videos: list[EmbeddedVideo], sources: list[str]):
    """Return a batch, whose features all have one shape, as an Arrow table."""
    pa = import_pyarrow()
    stacked = np.stack([video.feature for video in videos])
    features = pa.array(stacked.ravel())
    for size in reversed(stacked.shape[1:]):
        features = pa.FixedSizeListArray.from_arrays(features, size)
    return pa.table(
        {
            "video": pa.array([video.video for video in videos], pa.string()),
            "feature": features,
            "frame_indices": pa.array([video.frame_indices for video in videos], pa.list_(pa.int64())),
            "source": pa.array(sources, pa.string()),
        }
    )


def _feature_shape(schema) -> tuple[int, ...]:
    """Return the shape of a feature, from the sizes of its nested lists."""
    kind, shape = schema.field("feature").type, []
    while hasattr(kind, "list_size"):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape)

"""
Reading labelled videos from folders, tables and data sets.

- A folder per class: `cats/a.mp4` is a video of the class `cats`; also below `train/`, `validation/` and `test/`, as
  with `datasets`' videofolder. What lies in one folder below a class folder, `cats/tape_3/a.mp4`, is one group.
- A .csv, .tsv, .txt or .parquet file with columns `path` and `label`, and `group` and `split` where there are any.
  Relative paths start at the file's folder. A list of labels, in a CSV `a|b`, makes the task multi-label. A text file
  without these names is a list with a path and a label in each line.
- A data set of the Hub, or a folder of its Parquet or WebDataset files: a column of videos and one of labels, found by
  their types and names.

A group is what must not be torn apart between training and validation, such as clips cut from one film.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from .hub_videos import read_data_set
from .labelled_videos import LabelledVideos, check_number_of_labels, name_classes, sort_names
from .local_videos import read_class_folders, read_table
from .text_tables import TEXT_TABLES


_SHARDS = ("*.parquet", "*.tar", "data/*.parquet", "data/*.tar")


def read_labelled_videos(
    source: str | os.PathLike,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    multi_label: bool | None = None,
    config: str | None = None,
) -> LabelledVideos:
    """
    Every labelled video of a source, without opening one.

    Args:
        source: a folder, a table or a data set; see the module.
        split: only the videos of it; those of all splits where `None`.
        label_names: all classes, in order. Labels that are whole numbers are then places in it, as in the authors'
            tables.
        multi_label: whether a video may have several labels or none; where `None`, whether one has several.
        config: of a data set on the Hub that has several.

    Raises:
        FileNotFoundError: where there is no such source.
        ValueError: for an empty class folder, a table without the columns, labels that are not in `label_names`,
            several labels without `multi_label`, or fewer than two classes.
    """
    path = Path(source)
    if path.suffix.lower() in (*TEXT_TABLES, ".parquet") and not path.is_dir():
        videos, names = read_table(path), None
    elif path.is_dir() and not _is_data_set(path):
        videos, names = read_class_folders(path), None
    elif path.is_file():
        raise ValueError(f"{path} must be a folder with a folder for each class, a .csv or a .parquet file")
    else:
        videos, names = read_data_set(source, config)
    videos = name_classes(videos, label_names, source)
    if multi_label is None:
        multi_label = any(len(video.labels) > 1 for video in videos)
    check_number_of_labels(videos, multi_label, source)
    names = list(label_names or names or sort_names({label for video in videos for label in video.labels}))
    if len(names) < 2 and not multi_label:
        raise ValueError(f"{source} has one class only, {', '.join(names)}: there is nothing to tell apart")
    result = LabelledVideos(videos, names, multi_label)
    return result if split is None else result.of_split(split)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder holds the files of a data set instead of class folders."""
    return any(next(folder.glob(pattern), None) is not None for pattern in _SHARDS)

"""
Reading labelled videos from folders, tables and data sets.

- A folder for each class: `cats/a.mp4` is a video of the class `cats`. The class folders may also lie below `train/`,
  `validation/` and `test/`, as with `datasets`' videofolder. The videos in a folder below a class folder, for example
  `cats/tape_3/a.mp4`, form a group.
- A .csv, .tsv, .txt or .parquet file with the columns `path` and `label`, and optionally `group` and `split`. Relative
  paths start at the folder of the file. A list of labels, `a|b` in a CSV file, makes the task multi-label. A text file
  without these names is a list with a path and a label in each line.
- A data set on the Hub, or a folder with its Parquet or WebDataset files. The columns of videos and of labels are found
  by their types and names.

The videos of a group, for example clips cut from one film, must not be separated between training and validation.
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
    source: str | os.PathLike[str],
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    multi_label: bool | None = None,
    config: str | None = None,
) -> LabelledVideos:
    """
    Return every labelled video of a source, without opening a video.

    Args:
        source: a folder, a table or a data set, as described at the top of this module.
        split: name of the split to return. `None` returns all splits.
        label_names: names of all classes, in order. Labels that are whole numbers are then indices into it, as in the
            authors' tables.
        multi_label: whether a video may have several labels or none. `None` means whether any video has several.
        config: name of the configuration, for a data set on the Hub that has several.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: if a class folder is empty, a table lacks a column, a label is not in `label_names`, a video has
            several labels without `multi_label`, or there are fewer than two classes.
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
        raise ValueError(f"{source} has one class only, {', '.join(names)}; a classifier needs two or more")
    result = LabelledVideos(videos, names, multi_label)
    return result if split is None else result.of_split(split)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder contains the files of a data set instead of class folders."""
    return any(next(folder.glob(pattern), None) is not None for pattern in _SHARDS)

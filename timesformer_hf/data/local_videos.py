"""Labelled videos in folders and tables on this machine."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..video.printable import printable
from ..video.video_folders import VIDEO_EXTENSIONS, contains, is_hidden, is_video_file, walk_folder
from .labelled_videos import (
    SPLIT_NAMES,
    LabelledVideo,
    as_labels,
    find_columns,
    group_of_name,
    name_group,
    name_split,
)
from .text_tables import TEXT_TABLES, iterate_text_table


_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def read_class_folders(folder: Path) -> list[LabelledVideo]:
    """
    Return the videos of a folder that contains a folder for each class, or for each split with class folders in it.

    Raises:
        ValueError: if there is no class folder, a class folder contains no video, or classes lie beside splits.
    """
    return list(iterate_class_folders(folder))


def iterate_class_folders(folder: Path) -> Iterator[LabelledVideo]:
    """Yield the videos of [`read_class_folders`] one by one."""
    folders = _class_folders(folder)
    splits = {path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES}
    if "train" not in splits.values():  # `test` alone may be the name of a class
        for path in folders:
            yield from _read_class_folder(path)
        return
    if others := [path.name for path in folders if path not in splits]:
        raise ValueError(
            f"{folder} contains both splits ({', '.join(path.name for path in splits)}) and other folders "
            f"({', '.join(others[:5])}); put the class folders into the splits"
        )
    for path, split in splits.items():
        for class_folder in _class_folders(path):
            for video in _read_class_folder(class_folder):
                yield replace(video, split=split)


def _class_folders(folder: Path) -> list[Path]:
    """
    Return the folders of classes or splits, sorted by name. Hidden ones, and links to a folder above, are left out.

    Raises:
        ValueError: if there is none.
    """
    folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name) and not contains(path, folder)
    )
    if not folders:
        raise ValueError(f"{printable(folder)} must contain a folder of videos for each class; it contains no folder")
    return folders


def _read_class_folder(folder: Path) -> Iterator[LabelledVideo]:
    """
    Yield the videos in the folder of a class and below it, without hidden ones.

    Raises:
        ValueError: if there is no video, or the name of the folder can't be a label in a table.
    """
    if "|" in folder.name:
        raise ValueError(f"The class folder {folder} has a | in its name, which separates labels in a table; rename it")
    found = False
    for directory, files in walk_folder(folder, follow_links=True):
        for file in files:
            path = os.path.join(directory, file)
            if is_video_file(path):
                found = True
                group = group_of_name(path) if directory == str(folder) else directory
                yield LabelledVideo(path, (folder.name,), group)
    if not found:
        raise ValueError(
            f"The class folder {folder} contains no video (a file with {' '.join(VIDEO_EXTENSIONS)}); add some, or "
            "remove the folder"
        )


def read_table(path: Path) -> list[LabelledVideo]:
    """
    Return the videos of a .csv or .parquet table.

    Raises:
        FileNotFoundError: if the table doesn't exist, or none of the files that it names.
        ValueError: if a column is missing, there is no row, or a row has no path.
    """
    videos = list(iterate_table(path))
    _check_some_exist(path, [video.name for video in videos if not _URL.match(video.name)])
    return videos


def iterate_table(path: Path) -> Iterator[LabelledVideo]:
    """Yield the videos of [`read_table`] one by one, without looking for the files."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}")
    rows = iterate_text_table(path) if path.suffix.lower() in TEXT_TABLES else _iterate_parquet(path)
    path_column = label_column = None
    for number, original in enumerate(rows, start=1):
        row = _lower_names(path, original)
        if path_column is None:
            path_column, label_column = find_columns(path, list(row))
        name = row[path_column]
        if not name:
            raise ValueError(f"{path}: row {number} has no {path_column}")
        name = name if _URL.match(name) else str(path.parent / name)
        group, split = name_group(row.get("group"), name), name_split(row.get("split"))
        yield LabelledVideo(name, as_labels(row[label_column]), group, split)
    if path_column is None:
        raise ValueError(f"{path} has no rows; it must have one for each video")


def _lower_names(path: Path, row: dict) -> dict:
    """Return a row with the names of its columns in lower case, so that `Path` and `Label` are found too."""
    lowered = {str(name).strip().lower(): value for name, value in row.items()}
    if len(lowered) < len(row):
        raise ValueError(f"{printable(path)} has two columns whose names differ only in case; rename one")
    return lowered


def _iterate_parquet(path: Path) -> Iterator[dict]:
    from ..output.parquet import import_pyarrow

    pa = import_pyarrow()
    try:
        schema = pa.parquet.read_schema(path)
        videos = [name for name in schema.names if pa.types.is_struct(schema.field(name).type)]
        if videos:
            raise ValueError(f"{path} contains the videos themselves ({', '.join(videos)}); give its folder instead")
        with pa.parquet.ParquetFile(path) as file:
            for rows in file.iter_batches():
                yield from rows.to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file ({error})") from error


def _check_some_exist(table: Path, paths: list[str]) -> None:
    """
    Check that some of the files that a table names exist.

    A single missing file is found when it is read. But if all are missing, the user should know at once.

    Raises:
        FileNotFoundError: if none of about a hundred sampled paths exists.
    """
    sample = paths[:: max(1, len(paths) // 100)]
    if sample and not any(map(os.path.exists, sample)):
        raise FileNotFoundError(
            f"None of the files that {table} names exists, for example {sample[0]}; relative paths start at the folder "
            "of the table"
        )

"""
Labelled videos of folders, tables and data sets.

- A folder per class: `cats/a.mp4` is a video of the class `cats`; also below `train/`, `validation/` and `test/`, as
  with `datasets`' videofolder. What lies in one folder below a class folder, `cats/tape_3/a.mp4`, is one group.
- A .csv or .parquet file with columns `path` and `label`, and `group` and `split` where there are any. Relative paths
  start at the file's folder. A list of labels, in a CSV `a|b`, makes the task multi-label.
- A data set of the Hub, or a folder of its Parquet or WebDataset files: a column of videos and one of labels, found by
  their types and names.

A group is what must not be torn apart between training and validation, such as clips cut from one film.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .feature_extraction import VIDEO_EXTENSIONS, is_url
from .video_sources import VideoSource


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
PATH_COLUMNS = ("path", "video", "file_name", "clip", "file")
LABEL_COLUMNS = ("label", "labels", "class")
SHARDS = ("*.parquet", "*.tar", "data/*.parquet", "data/*.tar")

# File names of public sets that say which film a clip was cut from: UCF101 and Kinetics.
CLIP_NAMES = (re.compile(r"(v_\w+_g\d+)_c\d+"), re.compile(r"(.{11})_\d{6}_\d{6}"))


@dataclass(frozen=True)
class LabelledVideo:
    """
    Attributes:
        name: its path or URL, or what its data set calls it.
        labels: one, or with several labels a video any number of them.
        group: of videos that must stay on one side of a split.
        split: `"train"`, `"validation"`, `"test"`, another name of its source's, or `None`.
        fetch: gives what to decode where that isn't a file of that name.
    """

    name: str
    labels: tuple[str, ...]
    group: str
    split: str | None = None
    fetch: Callable[[], VideoSource] | None = None

    @property
    def source(self) -> VideoSource:
        """What [`~timesformer_hf.video_decoding.decode_frames`] takes."""
        return self.name if self.fetch is None else self.fetch()


@dataclass(frozen=True)
class LabelledVideos(Sequence):
    """
    Attributes:
        videos: in the order of their source.
        label_names: all classes, sorted or in the order in which the source numbers them.
        multi_label: whether a video can have several labels, or none.
    """

    videos: list[LabelledVideo]
    label_names: list[str]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> LabelledVideo:
        return self.videos[index]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(video.split for video in self.videos if video.split is not None))

    def of_split(self, split: str) -> "LabelledVideos":
        """
        The videos of one split, with the label names of all.

        Args:
            split: its name, or another one for it, such as `val` for `validation`.

        Raises:
            ValueError: where there is no such split; the message lists those that there are.
        """
        split = name_split(split)
        videos = [video for video in self.videos if video.split == split]
        if not videos:
            raise ValueError(f"There is no split {split!r}; the splits are {', '.join(self.splits) or 'not given'}")
        return replace(self, videos=videos)


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
    if path.suffix.lower() in (".csv", ".parquet"):
        videos, names = read_table(path), None
    elif path.is_dir() and not is_data_set(path):
        videos, names = read_class_folders(path), None
    elif path.is_file():
        raise ValueError(f"{path} must be a folder with a folder for each class, a .csv or a .parquet file")
    else:
        from .hub_videos import read_data_set

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


def sort_names(names: set[str]) -> list[str]:
    """Alphabetically, as videofolder does; numbers by their value."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def name_classes(
    videos: list[LabelledVideo], label_names: Sequence[str] | None, source: str | os.PathLike
) -> list[LabelledVideo]:
    """
    Labels that are places in `label_names` as the names there.

    Raises:
        ValueError: for a label that has no place in it.
    """
    if label_names is None:
        return videos
    used = {label for video in videos for label in video.labels}
    name_of = dict(zip(label_names, label_names, strict=True))
    if all(label.isdecimal() for label in used) and not used <= name_of.keys():
        name_of = {str(index): name for index, name in enumerate(label_names)}
    if unknown := sort_names(used - name_of.keys()):
        raise ValueError(
            f"{source} has labels that are not among the {len(label_names)} given names: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )
    return [replace(video, labels=tuple(name_of[label] for label in video.labels)) for video in videos]


def check_number_of_labels(videos: list[LabelledVideo], multi_label: bool, source: str | os.PathLike) -> None:
    """
    Raises:
        ValueError: where a video doesn't have one label, unless it may have any number; and for no videos at all.
    """
    if not videos:
        raise ValueError(f"{source} holds no labelled video")
    wrong = next((video for video in videos if len(video.labels) != 1), None)
    if wrong is not None and not multi_label:
        got = f"{len(wrong.labels)} labels, {', '.join(wrong.labels)}" if wrong.labels else "no label"
        raise ValueError(
            f"{wrong.name} in {source} has {got}; one is expected, unless the task is multi-label "
            "(finetune.py: --multi_label true)"
        )


def read_class_folders(folder: Path) -> list[LabelledVideo]:
    """
    Raises:
        ValueError: for a folder without class folders, a class folder without a video, or splits beside classes.
    """
    folders = class_folders(folder)
    splits = {path: SPLIT_NAMES[path.name.lower()] for path in folders if path.name.lower() in SPLIT_NAMES}
    if "train" not in splits.values():  # a lone `test` may be a class
        return [video for path in folders for video in read_class_folder(path)]
    if others := [path.name for path in folders if path not in splits]:
        raise ValueError(
            f"{folder} holds both splits ({', '.join(path.name for path in splits)}) and other folders "
            f"({', '.join(others[:5])}); put the class folders into the splits"
        )
    return [
        replace(video, split=split)
        for path, split in splits.items()
        for class_folder in class_folders(path)
        for video in read_class_folder(class_folder)
    ]


def class_folders(folder: Path) -> list[Path]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise ValueError(f"{folder} must hold a folder of videos for each class; it holds no folder")
    return folders


def read_class_folder(folder: Path) -> Iterator[LabelledVideo]:
    """
    The videos anywhere below the folder of a class, without hidden ones.

    Raises:
        ValueError: where there is none, or the name can't be one label in a table.
    """
    if "|" in folder.name:
        raise ValueError(f"The class folder {folder} has a | in its name, which parts labels in a table; rename it")
    found = False
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(VIDEO_EXTENSIONS) and not file.startswith("."):
                found = True
                path = os.path.join(directory, file)
                group = group_of_name(path) if directory == str(folder) else directory
                yield LabelledVideo(path, (folder.name,), group)
    if not found:
        raise ValueError(
            f"The class folder {folder} holds no video (a file with {' '.join(VIDEO_EXTENSIONS)}); add some, or remove "
            "the folder"
        )


def group_of_name(path: str) -> str:
    """The film that a clip was cut from, where its name says so as those of UCF101 and Kinetics do; or its name."""
    stem = Path(path).stem
    matches = (pattern.fullmatch(stem) for pattern in CLIP_NAMES)
    return next((match.group(1) for match in matches if match), path)


def is_missing(value) -> bool:
    """Whether a cell of a table is empty: 0 isn't, and NaN is what pandas makes of an empty one."""
    return value is None or value == "" or value != value


def name_split(name) -> str | None:
    """`"train"`, `"validation"` or `"test"` for whatever name they go by; others as they are."""
    return None if is_missing(name) else SPLIT_NAMES.get(str(name).strip().lower(), str(name))


def name_group(value, name: str) -> str:
    """The group that a table gives a video of that name, 0 being one too; without, what the name says."""
    return group_of_name(name) if is_missing(value) else str(value)


def read_table(path: Path) -> list[LabelledVideo]:
    """
    Raises:
        FileNotFoundError: where there is no such file, or none of the files that it names.
        ValueError: for missing columns, no rows, or a row without a path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}")
    rows = read_csv(path) if path.suffix.lower() == ".csv" else read_parquet(path)
    if not rows:
        raise ValueError(f"{path} has no rows; it must have one for each video")
    path_column, label_column = find_columns(path, rows[0].keys())
    videos = []
    for number, row in enumerate(rows, start=1):
        name = row[path_column]
        if not name:
            raise ValueError(f"{path}: row {number} has no {path_column}")
        name = name if is_url(name) else str(path.parent / name)
        group, split = name_group(row.get("group"), name), name_split(row.get("split"))
        videos.append(LabelledVideo(name, as_labels(row[label_column]), group, split))
    check_some_exist(path, [video.name for video in videos if not is_url(video.name)])
    return videos


def read_csv(path: Path) -> list[dict]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it in that encoding") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has more or fewer columns than the header ({', '.join(rows[0])})")
    return rows


def read_parquet(path: Path) -> list[dict]:
    from .feature_table import import_pyarrow

    pa = import_pyarrow()
    try:
        schema = pa.parquet.read_schema(path)
        videos = [name for name in schema.names if pa.types.is_struct(schema.field(name).type)]
        if videos:
            raise ValueError(f"{path} holds videos themselves ({', '.join(videos)}); give the folder it lies in")
        return pa.parquet.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file ({error})") from error


def find_columns(source: str | os.PathLike, names: Sequence[str]) -> tuple[str, str]:
    """
    The column of videos and that of labels.

    Raises:
        ValueError: where one isn't there.
    """
    found = [next((name for name in columns if name in names), None) for columns in (PATH_COLUMNS, LABEL_COLUMNS)]
    for what, column, columns in zip(("videos", "labels"), found, (PATH_COLUMNS, LABEL_COLUMNS), strict=True):
        if column is None:
            raise ValueError(
                f"{source} has no column of {what}: it must be called {' or '.join(columns)}, the columns are "
                f"{', '.join(names) or 'missing'}"
            )
    return found[0], found[1]


def as_labels(value, name_of: Callable[[int], str] = str) -> tuple[str, ...]:
    """A label, a list of them, or the names of several between bars, as the names of labels."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(filter(None, (label.strip() for label in value.split("|"))))
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(label if isinstance(label, str) else name_of(label) for label in values)


def name_class(names: Sequence[str], number: int) -> str:
    """
    Raises:
        ValueError: for a number that no class has, such as the -1 of data sets that keep their labels to themselves.
    """
    if not 0 <= number < len(names):
        raise ValueError(f"There is no class {number}; the {len(names)} classes are 0 to {len(names) - 1}")
    return names[number]


def check_some_exist(table: Path, paths: list[str]) -> None:
    """
    Single files that are missing are found out when they are read. That all are missing is worth knowing at once.

    Raises:
        FileNotFoundError: where none of a hundred paths is there.
    """
    sample = paths[:: max(1, len(paths) // 100)]
    if sample and not any(map(os.path.exists, sample)):
        raise FileNotFoundError(
            f"None of the files that {table} names is there, {sample[0]} for one; relative paths start at the folder "
            f"of the table"
        )


def check_text(values: Iterable[str]) -> None:
    """
    Raises:
        ValueError: for a name on disk that is no text, which no table can hold.
    """
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The name {value!a} of a file or folder is no text in UTF-8; rename it") from error


def is_data_set(folder: Path) -> bool:
    """Whether a folder holds the files of a data set instead of class folders."""
    return any(next(folder.glob(pattern), None) is not None for pattern in SHARDS)

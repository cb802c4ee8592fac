"""A labelled video, a list of them, and the meaning of the names of columns, splits, groups and labels."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..video.video_sources import VideoSource


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_PATH_COLUMNS = ("path", "video", "file_name", "clip", "file")
_LABEL_COLUMNS = ("label", "labels", "class", "cls", "labels.json")  # the last two as in WebDataset
_COLUMNS = (_PATH_COLUMNS, _LABEL_COLUMNS)

# File names of UCF101 and Kinetics, which contain the name of the film that a clip was cut from.
_CLIP_NAMES = (re.compile(r"(v_\w+_g\d+)_c\d+"), re.compile(r"(.{11})_\d{6}_\d{6}"))


@dataclass(frozen=True)
class LabelledVideo:
    """
    A video and its labels.

    Attributes:
        name: path or URL of the video, or its name in its data set.
        labels: names of its labels: one, or any number if videos can have several.
        group: name of its group. The videos of a group must stay on one side of a split.
        split: `"train"`, `"validation"`, `"test"`, another name that its source uses, or `None`.
        fetch: function that returns the source to decode. `None` if that is a file or URL of this name.
    """

    name: str
    labels: tuple[str, ...]
    group: str
    split: str | None = None
    fetch: Callable[[], VideoSource] | None = None

    @property
    def source(self) -> VideoSource:
        """The source that [`~timesformer_hf.decode_frames`] decodes."""
        return self.name if self.fetch is None else self.fetch()


@dataclass(frozen=True)
class LabelledVideos(Sequence[LabelledVideo]):
    """
    A list of labelled videos, with the names of all classes.

    Attributes:
        videos: the videos, in the order of their source.
        label_names: names of all classes, sorted, or in the order in which the source numbers them.
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
        """The names of the splits, in the order of the videos."""
        return list(dict.fromkeys(video.split for video in self.videos if video.split is not None))

    def of_split(self, split: str) -> "LabelledVideos":
        """
        Return the videos of one split, with the label names of all splits.

        Args:
            split: name of the split, or a synonym, for example `val` for `validation`.

        Raises:
            ValueError: if there is no such split. The message lists the splits.
        """
        split = name_split(split)
        videos = [video for video in self.videos if video.split == split]
        if not videos:
            raise ValueError(f"There is no split {split!r}; the splits are {', '.join(self.splits) or 'not given'}")
        return replace(self, videos=videos)


def sort_names(names: set[str]) -> list[str]:
    """Sort names alphabetically, as videofolder does, but sort numbers by their value."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def name_classes(
    videos: list[LabelledVideo], label_names: Sequence[str] | None, source: str | os.PathLike
) -> list[LabelledVideo]:
    """
    Return the videos with names from `label_names` in place of labels that are indices into it.

    Raises:
        ValueError: if a label is neither a name nor an index in it.
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
    Check that there are videos, and that each has exactly one label unless the task is multi-label.

    Raises:
        ValueError: if there is no video, or one has the wrong number of labels. The message names the video.
    """
    if not videos:
        raise ValueError(f"{source} contains no labelled video")
    wrong = next((video for video in videos if len(video.labels) != 1), None)
    if wrong is not None and not multi_label:
        got = f"{len(wrong.labels)} labels, {', '.join(wrong.labels)}" if wrong.labels else "no label"
        raise ValueError(
            f"{wrong.name} in {source} has {got}; one is expected, unless the task is multi-label "
            "(finetune: --multi_label true)"
        )


def group_of_name(path: str) -> str:
    """Return the film that a clip was cut from, if its file name tells, as in UCF101 and Kinetics; else its path."""
    stem = Path(path).stem
    matches = (pattern.fullmatch(stem) for pattern in _CLIP_NAMES)
    return next((match.group(1) for match in matches if match), path)


def _is_missing(value) -> bool:
    """Whether a cell of a table is empty. 0 is not empty; NaN is, because pandas makes it from empty cells."""
    return value is None or value == "" or value != value


def name_split(name) -> str | None:
    """Return `"train"`, `"validation"` or `"test"` for their synonyms, other names unchanged, `None` for none."""
    return None if _is_missing(name) else SPLIT_NAMES.get(str(name).strip().lower(), str(name))


def name_group(value, name: str) -> str:
    """Return the group that a table gives to a video (0 is one too). If it gives none, the file name decides."""
    return group_of_name(name) if _is_missing(value) else str(value)


def find_columns(source: str | os.PathLike, names: Sequence[str]) -> tuple[str, str]:
    """
    Return the names of the column of videos and of the column of labels.

    Raises:
        ValueError: if one of them is missing. The message lists the allowed names.
    """
    lowered = {str(name).strip().lower(): name for name in reversed(names)}
    found = [next((lowered[name] for name in columns if name in lowered), None) for columns in _COLUMNS]
    for what, column, columns in zip(("videos", "labels"), found, _COLUMNS, strict=True):
        if column is None:
            raise ValueError(
                f"{source} has no column of {what}: it must be called {' or '.join(columns)}, the columns are "
                f"{', '.join(names) or 'missing'}"
            )
    return found[0], found[1]


def has_columns(names: Iterable[str]) -> bool:
    """Whether there is a column of videos and one of labels."""
    present = set(names)
    return all(present & set(columns) for columns in _COLUMNS)


def as_labels(value, name_of: Callable[[int], str] = str) -> tuple[str, ...]:
    """Return the names of labels. `value` is a label, a list of labels, or several names separated by bars."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(filter(None, (label.strip() for label in value.split("|"))))
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(label if isinstance(label, str) else name_of(label) for label in values)


def name_class(names: Sequence[str], number: int) -> str:
    """
    Return the name of the class with this number.

    Raises:
        ValueError: if no class has this number, for example the -1 of data sets whose labels are not public.
    """
    if not 0 <= number < len(names):
        raise ValueError(f"There is no class {number}; the {len(names)} classes are 0 to {len(names) - 1}")
    return names[number]


def check_text(values: Iterable[str]) -> None:
    """
    Check that names of files and folders are text in UTF-8, so that a table can store them.

    Raises:
        ValueError: if a name is not.
    """
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The name {value!a} of a file or folder is not text in UTF-8; rename it") from error

"""A labelled video, a list of them, and what names of columns, splits, groups and labels mean."""

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
_LABEL_COLUMNS = ("label", "labels", "class")
_COLUMNS = (_PATH_COLUMNS, _LABEL_COLUMNS)

# File names of public sets that say which film a clip was cut from: UCF101 and Kinetics.
_CLIP_NAMES = (re.compile(r"(v_\w+_g\d+)_c\d+"), re.compile(r"(.{11})_\d{6}_\d{6}"))


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
        """What [`~timesformer_hf.decode_frames`] takes."""
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


def group_of_name(path: str) -> str:
    """The film that a clip was cut from, where its name says so as those of UCF101 and Kinetics do; or its name."""
    stem = Path(path).stem
    matches = (pattern.fullmatch(stem) for pattern in _CLIP_NAMES)
    return next((match.group(1) for match in matches if match), path)


def _is_missing(value) -> bool:
    """Whether a cell of a table is empty: 0 isn't, and NaN is what pandas makes of an empty one."""
    return value is None or value == "" or value != value


def name_split(name) -> str | None:
    """`"train"`, `"validation"` or `"test"` for whatever name they go by; others as they are."""
    return None if _is_missing(name) else SPLIT_NAMES.get(str(name).strip().lower(), str(name))


def name_group(value, name: str) -> str:
    """The group that a table gives a video of that name, 0 being one too; without, what the name says."""
    return group_of_name(name) if _is_missing(value) else str(value)


def find_columns(source: str | os.PathLike, names: Sequence[str]) -> tuple[str, str]:
    """
    The column of videos and that of labels.

    Raises:
        ValueError: where one isn't there.
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

"""Which of the labelled videos are trained and which validated with, where their source has splits or has none."""

from collections import Counter

from transformers.utils import logging

from .labelled_videos import LabelledVideos, name_split
from .splits import find_leaks, train_validation_split


logger = logging.get_logger(__name__)


def choose_splits(
    videos: LabelledVideos,
    share: float = 0.2,
    seed: int = 0,
    train_split: str = "train",
    validation_split: str = "validation",
    validation: LabelledVideos | None = None,
) -> tuple[LabelledVideos, LabelledVideos]:
    """
    What is trained and what validated with: the splits of those names; or where there is none to validate with, two
    parts of the former that share no group. Other splits, such as `test`, are left alone.

    Args:
        share: of each class, what is held out where there is no split to validate with.
        seed: of that choice.
        validation: a set of its own to validate with.

    Raises:
        ValueError: where the first or the second would be empty, or has a label to validate with that isn't trained.
    """
    train = videos.of_split(train_split) if videos.splits else videos
    if validation is None and name_split(validation_split) in videos.splits:
        validation = videos.of_split(validation_split)
    if videos.splits:
        _warn_of_unused(videos, {"test", *map(name_split, (train_split, validation_split))})
    if validation is None:
        train, validation = train_validation_split(train, share, seed)
    _check_splits(train, validation)
    return train, validation


def _warn_of_unused(videos: LabelledVideos, known: set[str]) -> None:
    """Warns of videos in other splits than the known ones, or in none; their names may be misspelt."""
    unused = Counter(video.split for video in videos if video.split not in known)
    if unused:
        places = (f"{count} in " + ("no split" if split is None else repr(split)) for split, count in unused.items())
        logger.warning(f"Videos that are neither trained nor validated with: {', '.join(places)}")


def _check_splits(train: LabelledVideos, validation: LabelledVideos) -> None:
    """
    Warns of videos that are in both.

    Raises:
        ValueError: for a class that is validated and not trained, or no label to validate with.
    """
    trained = {label for video in train for label in video.labels}
    validated = {label for video in validation for label in video.labels}
    if missing := sorted(validated - trained):
        raise ValueError(f"No training video has the label {', '.join(missing[:5])}, with which it is validated")
    if not validated:
        raise ValueError("No video to validate with has a label: there is nothing to measure")
    if leaks := find_leaks(train, validation):
        logger.warning(
            f"{len(leaks)} videos to validate with are also trained with, or cut from the same source, {leaks[0]} for "
            "one: the accuracy will be too good"
        )

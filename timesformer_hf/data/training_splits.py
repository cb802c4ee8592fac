"""The choice of videos for training and for validation, for sources with and without splits."""

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
    Return the videos for training and the videos for validation.

    They are the splits with the given names. If there is no split for validation, the training videos are divided into
    two parts that share no group. Other splits, for example `test`, are not used.

    Args:
        videos: the videos of the source.
        share: share of each class for validation, if there is no split for it.
        seed: seed of the choice of that share.
        train_split, validation_split: names of the splits.
        validation: a separate data set for validation.

    Raises:
        ValueError: if one of the two would be empty, or validation has a label that training lacks.
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
    """Warn of videos in no split or in a split with an unknown name, which may be misspelt."""
    unused = Counter(video.split for video in videos if video.split not in known)
    if unused:
        places = (f"{count} in " + ("no split" if split is None else repr(split)) for split, count in unused.items())
        logger.warning(f"Some videos are used neither for training nor for validation: {', '.join(places)}")


def _check_splits(train: LabelledVideos, validation: LabelledVideos) -> None:
    """
    Check that the labels for validation are trained, and warn of videos that are in both parts.

    Raises:
        ValueError: if a label for validation is not trained, or no video for validation has a label.
    """
    trained = {label for video in train for label in video.labels}
    validated = {label for video in validation for label in video.labels}
    if missing := sorted(validated - trained):
        raise ValueError(
            f"No training video has the label {', '.join(missing[:5])}, but validation videos have it; add some"
        )
    if not validated:
        raise ValueError("No validation video has a label, so there is nothing to measure; add labels")
    if leaks := find_leaks(train, validation):
        logger.warning(
            f"{len(leaks)} validation videos are also training videos, or cut from the same source as one, for example "
            f"{leaks[0]}: the accuracy will be too high"
        )

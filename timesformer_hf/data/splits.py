"""
Splits of labelled videos that do not leak: videos that belong together stay on one side.

Two clips of one film look alike in many details. If one is used for training and the other for testing, the accuracy
measures how well films are recognised. So a split never separates clips of one group (a column of the table, a folder
below the class folder, or a name as in UCF101) or files with the same content.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers.utils import logging

from .labelled_videos import LabelledVideo, LabelledVideos


logger = logging.get_logger(__name__)


def train_validation_split(
    videos: LabelledVideos, share: float = 0.2, seed: int = 0
) -> tuple[LabelledVideos, LabelledVideos]:
    """
    Split videos into a training part and a validation part that share no group.

    The validation part gets about `share` of the videos of each class. A class with only one group stays in the
    training part, with a warning.

    Args:
        videos: the videos to split.
        share: share of the videos for validation, in (0, 1).
        seed: seed of the random choice.

    Raises:
        ValueError: if the share lies outside (0, 1), or the validation part would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"The share for validation, {share}, must lie between 0 and 1")
    groups = _group_videos(videos)
    chosen = choose_groups(
        [Counter(label for video in group for label in video.labels) for group in groups], share, seed
    )
    if not chosen:
        raise ValueError(
            f"{len(videos)} videos in {len(groups)} groups can't be split: no class has two groups. Add videos, or "
            "give a separate data set for validation"
        )
    held_out = {video.name for index in chosen for video in groups[index]}
    train = [replace(video, split="train") for video in videos if video.name not in held_out]
    validation = [replace(video, split="validation") for video in videos if video.name in held_out]
    trained, validated = ({label for video in part for label in video.labels} for part in (train, validation))
    if missing := sorted(trained - validated):
        logger.warning(
            f"No validation video has the label {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            f" ({len(missing)} of {len(trained)} labels): a label needs two groups, one for each side"
        )
    return replace(videos, videos=train), replace(videos, videos=validation)


def choose_groups(groups: Sequence[Counter], share: float, seed: int) -> set[int]:
    """
    Choose the groups for validation by iterative stratification (Sechidis et al. 2011), and return their indices.

    The rarest label comes first, and groups are drawn at random among those with the label. Every label keeps a group
    for training.

    Args:
        groups: for each group, the number of videos of each label.
        share: share of the videos for validation.
        seed: seed of the random choice.
    """
    of_label = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(groups)).tolist():
        for label in groups[index]:
            of_label[label].append(index)
    totals, held = Counter(), Counter()  # number of videos of each label, and of those for validation
    for group in groups:
        totals.update(group)
    left = {label: len(indices) for label, indices in of_label.items()}  # number of groups for training
    chosen: set[int] = set()
    for label in sorted(of_label, key=lambda label: (len(of_label[label]), label)):
        wanted = max(1, round(share * totals[label]))
        # first the groups that fit, in random order, then larger ones by size
        for index in sorted(of_label[label], key=lambda index: max(groups[index][label], wanted)):
            size = groups[index][label]
            # A larger group still helps if it exceeds the missing number by less than that number.
            helps = held[label] == 0 or size < 2 * (wanted - held[label])
            if index not in chosen and helps and all(left[other] > 1 for other in groups[index]):
                chosen.add(index)
                held.update(groups[index])
                for other in groups[index]:
                    left[other] -= 1
    return chosen


def _group_videos(videos: Iterable[LabelledVideo]) -> list[list[LabelledVideo]]:
    """
    Return the videos in lists that must stay together, and warn of copies of a file with other labels.

    The videos of a group stay together, and so do groups that share the content of a file.
    """
    groups = defaultdict(list)
    for video in videos:
        groups[video.group].append(video)
    merged = {name: name for name in groups}  # a forest: each group points to the one into which it was merged

    def root(name: str) -> str:
        while merged[name] != name:
            name = merged[name]
        return name

    copies = _same_content(video for group in groups.values() for video in group)
    _warn_of_contradictions(copies)
    for alike in copies:
        for video in alike[1:]:
            merged[root(video.group)] = root(alike[0].group)
    result = defaultdict(list)
    for name, group in groups.items():
        result[root(name)] += group
    return list(result.values())


def _warn_of_contradictions(copies: Iterable[list[LabelledVideo]]) -> None:
    copies = [sorted(alike, key=lambda video: video.name) for alike in copies]
    pairs = [(one, other) for one, *others in copies for other in others if set(other.labels) != set(one.labels)]
    if pairs:
        example = min(pairs, key=lambda pair: pair[1].name)  # the same example in any order of the videos
        one, other = (f"{video.name} ({', '.join(video.labels) or 'no label'})" for video in example)
        logger.warning_once(
            f"Copies of a file have other labels than the file: {len(pairs)}, for example {other}, a copy of {one}"
        )


def _same_content(videos: Iterable[LabelledVideo]) -> list[list[LabelledVideo]]:
    """
    Return lists of videos whose files are equal.

    Only files of the same size are read. Videos that are not files on this machine are left out.
    """
    by_size, by_content = defaultdict(list), defaultdict(list)
    for video in videos:
        if video.fetch is None and os.path.isfile(video.name):
            by_size[os.path.getsize(video.name)].append(video)
    for size, group in by_size.items():
        for video in group if len(group) > 1 and size else []:
            by_content[_hash_file(video.name)].append(video)
    return [group for group in by_content.values() if len(group) > 1]


def _hash_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def find_leaks(train: Iterable[LabelledVideo], validation: Iterable[LabelledVideo]) -> list[str]:
    """
    Return the names of the videos in `validation` that share a group or their content with a video in `train`.

    It checks splits that were made elsewhere.
    """
    train, validation = list(train), list(validation)
    held_out = {id(video) for video in validation}
    leaks = []
    for group in _group_videos([*train, *validation]):
        inside = [video for video in group if id(video) in held_out]
        if len(inside) < len(group):
            leaks += [video.name for video in inside]
    return leaks

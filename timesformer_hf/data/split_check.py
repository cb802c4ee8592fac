"""The search for validation videos that are near-duplicates of training videos, in the seconds before a training."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import zip_longest

import numpy as np
from transformers.utils import logging

from ..video.video_errors import VideoWarning
from ..video.video_sources import is_url
from .frame_signatures import frame_signatures
from .labelled_videos import LabelledVideo
from .near_duplicates import find_near_duplicates


_MOST_SECONDS = 20.0

logger = logging.get_logger(__name__)


def warn_of_near_duplicates(
    train: Sequence[LabelledVideo],
    validation: Sequence[LabelledVideo],
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """
    Compare validation videos with training videos, and warn if some are near-duplicates.

    They are compared by their frame signatures. Both sides are read in turn, in a random order, until all videos are
    read or 20 seconds have passed. URLs and unreadable videos are left out.

    Args:
        seed: seed of the order.
        clock: returns seconds.
    """
    videos = list(_in_turn(train, validation, seed))
    end, read, signatures = clock() + _MOST_SECONDS, [], []
    with warnings.catch_warnings(), closing(frame_signatures(video for video, _ in videos)) as outcomes:
        warnings.simplefilter("ignore", VideoWarning)  # the training has its own say about damaged videos
        for entry, outcome in zip(videos, outcomes, strict=False):
            if not isinstance(outcome, Exception):
                read.append(entry)
                signatures.append(outcome)
            if clock() > end:
                break
    if not read:
        return
    held_out = np.array([is_held_out for _, is_held_out in read])
    nearest = find_near_duplicates(np.stack(signatures), splits=held_out).nearest_elsewhere.videos
    leaked = np.flatnonzero(held_out & (nearest >= 0))
    if not leaked.size:
        return
    one, other = read[leaked[0]][0].name, read[nearest[leaked[0]]][0].name
    compared = f"{len(leaked)} of {held_out.sum()} validation videos"
    if len(read) < len(videos):
        compared += f", compared with {(~held_out).sum()} of {len(train)} training videos,"
    logger.warning(
        f"{compared} are near-duplicates of training videos, for example {one} of {other}: the accuracy will be too "
        "high. `timesformer-hf duplicates` finds them all"
    )


def _in_turn(
    train: Sequence[LabelledVideo], validation: Sequence[LabelledVideo], seed: int
) -> Iterator[tuple[LabelledVideo, bool]]:
    """Yield the videos of both sides in turn, each side in a random order, with whether a video is held out."""
    for pair in zip_longest(_shuffled_files(train, seed), _shuffled_files(validation, seed)):
        for video, is_held_out in zip(pair, (False, True), strict=True):
            if video is not None:
                yield video, is_held_out


def _shuffled_files(videos: Sequence[LabelledVideo], seed: int) -> list[LabelledVideo]:
    """Return the videos that are not URLs, in a random order."""
    files = [video for video in videos if video.fetch is not None or not is_url(video.name)]
    return [files[place] for place in np.random.default_rng(seed).permutation(len(files))]

"""Does a model use time? Its accuracy with the frames as they are, in other orders, and with a single frame."""

import math
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from ..inference.feature_extraction import EmbeddedVideo
from .metrics import wilson_interval


_FRAMES = -4  # the dimension of the frames in pixel_values ([views,] frames, channels, height, width)
_SIGNIFICANT = 0.025  # one-sided


def _reversed(num_frames: int, video: str) -> list[int]:
    return list(range(num_frames))[::-1]


def _shuffled(num_frames: int, video: str) -> list[int]:
    """Return a random order that depends only on the name of the file, so that every run has the same."""
    seed = zlib.crc32(os.path.basename(video).encode(errors="surrogateescape"))
    return np.random.default_rng(seed).permutation(num_frames).tolist()


ARRANGEMENTS: dict[str, Callable[[int, str], list[int]]] = {
    "as they are": lambda num_frames, video: list(range(num_frames)),
    "reversed": _reversed,
    "shuffled": _shuffled,
    "middle frame only": lambda num_frames, video: [num_frames // 2] * num_frames,
}


def score_arrangements(videos: Iterable[EmbeddedVideo], score: Callable[[list[EmbeddedVideo]], None]) -> None:
    """
    Set the scores of loaded videos to those of all arrangements one after the other, (arrangements * labels,).

    Args:
        score: sets the scores of a list of loaded videos, or their errors.
    """
    loaded = [video for video in videos if video.error is None]
    scores: list[list[np.ndarray]] = [[] for _ in loaded]
    for arrange in ARRANGEMENTS.values():
        copies = [_rearranged(video, arrange) for video in loaded]
        score(copies)
        for video, its_scores, copy in zip(loaded, scores, copies, strict=True):
            its_scores.append(copy.feature)
            video.error = video.error or copy.error
    for video, its_scores in zip(loaded, scores, strict=True):
        video.feature, video.pixel_values = None if video.error else np.concatenate(its_scores), None


def _rearranged(video: EmbeddedVideo, arrange: Callable[[int, str], list[int]]) -> EmbeddedVideo:
    order = torch.tensor(arrange(video.pixel_values.shape[_FRAMES], video.video))
    return replace(video, pixel_values=video.pixel_values.index_select(_FRAMES, order.to(video.pixel_values.device)))


def time_audit_results(scores: np.ndarray, labels: np.ndarray) -> dict:
    """
    Return the accuracy of each arrangement with Wilson's interval of 95 %, and what follows, for JSON.

    Args:
        scores: (videos, arrangements, labels).
        labels: the right labels, integers (videos,).
    """
    correct = scores.argmax(axis=2) == labels[:, None]
    total = len(labels)
    rows = [
        {
            "frames": name,
            "accuracy": float(right.mean()),
            "interval": wilson_interval(int(right.sum()), total),
            "is_lower": bool(is_lower(correct[:, 0], right)),
        }
        for name, right in zip(ARRANGEMENTS, correct.T, strict=True)
    ]
    most_common = int(np.bincount(labels).max())
    knows_something = rows[0]["interval"][0] > most_common / total
    lower = {row["frames"]: row["is_lower"] for row in rows}
    return {"arrangements": rows, "conclusion": _conclude(lower, knows_something)}


def is_lower(before: np.ndarray, after: np.ndarray) -> bool:
    """
    Return whether fewer videos are right after a change, by an exact one-sided sign test (McNemar's) at 2.5 %.

    Args:
        before, after: whether each video is right, booleans (videos,).
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    changed = lost + gained
    chance = sum(math.comb(changed, count) for count in range(lost, changed + 1)) / 2**changed
    return changed > 0 and chance <= _SIGNIFICANT


def _conclude(lower: dict[str, bool], knows_something: bool) -> str:
    """Return one sentence on what the accuracies mean."""
    if not knows_something:
        return "Nothing follows: the model is not clearly better than a guess that always names the most common label."
    if lower["reversed"]:
        return "The direction of time matters: the model is right less often when the frames are reversed."
    if lower["shuffled"]:
        return "The order of the frames matters, but not its direction: reversed frames do as well."
    if lower["middle frame only"]:
        return "Several frames help, but their order does not matter."
    return "These videos can be told from a single frame: the model is not clearly worse with the middle frame alone."


def time_audit_text(results: dict) -> str:
    """Return the results of [`time_audit_results`] as text."""
    rows = [
        f"{row['accuracy']:9.2%}  ({row['interval'][0]:.2%} to {row['interval'][1]:.2%})  {row['frames']}"
        for row in results["arrangements"]
    ]
    return "\n".join(["accuracy by the order of the frames:", *rows, results["conclusion"]])

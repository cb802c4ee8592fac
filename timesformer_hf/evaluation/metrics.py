"""
How well scores fit labels: pure functions of numpy arrays. Scores may be logits or probabilities where only their order
counts; calibration needs probabilities. [`evaluate_metrics`] has them as metrics of the library `evaluate`.

Of equal scores the label with the smaller number comes first, everywhere, as in `argmax`. So the numbers don't depend
on a sorting algorithm, and top-1 is the share of videos whose prediction is right.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


def check_scores(scores: np.ndarray, labels: np.ndarray) -> None:
    """
    Raises:
        ValueError: where `scores` (videos, labels) and `labels` (videos,) don't fit, or hold what can't be counted.
    """
    if scores.ndim != 2 or labels.ndim != 1 or len(scores) != len(labels):
        raise ValueError(
            f"scores must have shape (videos, labels) and labels (videos,), got {scores.shape} and {labels.shape}"
        )
    if not len(labels):
        raise ValueError("There is no accuracy of no videos; give at least one")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite; a model in float16 may overflow: use bfloat16 or float32")
    _check_classes(labels, scores.shape[1], "labels")


def _check_classes(classes: np.ndarray, num_labels: int, name: str) -> None:
    """
    Raises:
        ValueError: for a class that isn't an integer from 0 to `num_labels` - 1.
    """
    wrong = classes[(classes < 0) | (classes >= num_labels)] if np.issubdtype(classes.dtype, np.integer) else classes
    if wrong.size:
        raise ValueError(f"{name} must be integers in 0..{num_labels - 1}, got {wrong.ravel()[:5].tolist()}")


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    How many labels stand before the right one: 0 where the prediction is right.

    Args:
        scores: (videos, labels).
        labels: the right ones, integers (videos,).

    Returns:
        integers (videos,).

    Raises:
        ValueError: where the two don't fit.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    check_scores(scores, labels)
    right = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > right) | ((scores == right) & before)).sum(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """
    The share of videos whose label is among the `k` with the highest scores. Arguments as of [`label_ranks`].

    Raises:
        ValueError: where they don't fit, or `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    return float((label_ranks(scores, labels) < k).mean())


def mean_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """
    The mean over the classes that occur of the share of their videos that is predicted right: each class counts alike,
    however many videos it has.

    Args:
        predictions, labels: classes, integers (videos,).

    Raises:
        ValueError: for no videos.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"predictions and labels must have one shape (videos,), got {predictions.shape} and {labels.shape}"
        )
    return float(np.mean([(predictions[labels == label] == label).mean() for label in np.unique(labels)]))


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """
    Counts (num_labels, num_labels): a row for each label, a column for each prediction.

    Raises:
        ValueError: for a class outside of 0..`num_labels` - 1.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    _check_classes(predictions, num_labels, "predictions")
    _check_classes(labels, num_labels, "labels")
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Wilson's score interval of a share: where the accuracy on ever more videos of this kind lies, with this confidence.
    Unlike the normal one it stays within [0, 1] and has a width where all or none are right.

    Raises:
        ValueError: for no videos, or more right ones than there are.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"correct={correct} of total={total}: must be from 0 to total, and total at least 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = correct / total, z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class _ReliabilityBin:
    """
    The videos whose prediction is about equally sure.

    Attributes:
        lower, upper: their confidences are in (lower, upper]; 0 is in the first.
        videos: how many there are.
        confidence: the mean of theirs, `None` where there is none.
        accuracy: the share of them that is right, `None` where there is none.
    """

    lower: float
    upper: float
    videos: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> list[_ReliabilityBin]:
    """
    What a reliability diagram shows, in bins of equal width.

    Args:
        confidences: the probability of each prediction, (videos,).
        correct: whether it is right, booleans (videos,).

    Raises:
        ValueError: for a confidence outside of [0, 1], other shapes, or no bin.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1")
    if confidences.ndim != 1 or confidences.shape != correct.shape:
        raise ValueError(
            f"confidences and correct must have one shape (videos,), got {confidences.shape} and {correct.shape}"
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():  # NaN is in no order with anything
        raise ValueError("confidences must be probabilities in [0, 1]: the softmax of logits, not logits")
    edges = np.arange(num_bins + 1) / num_bins
    places = np.maximum(np.searchsorted(edges, confidences, side="left") - 1, 0)
    bins = []
    for number in range(num_bins):
        inside = places == number
        means = (float(values[inside].mean()) if inside.any() else None for values in (confidences, correct))
        bins.append(_ReliabilityBin(float(edges[number]), float(edges[number + 1]), int(inside.sum()), *means))
    return bins


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> float:
    """
    How far confidence and accuracy are apart, the mean over all videos of the difference in their bin (Guo et al. 2017,
    "On Calibration of Modern Neural Networks"). Arguments as of [`reliability_bins`].

    Raises:
        ValueError: as there, and for no videos.
    """
    bins = [one for one in reliability_bins(confidences, correct, num_bins) if one.videos]
    if not bins:
        raise ValueError("There is no calibration of no videos; give at least one")
    total = sum(one.videos for one in bins)
    return sum(one.videos * abs(one.confidence - one.accuracy) for one in bins) / total


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """
    The mean over the videos that have the label of the precision among the videos with at least their score: the area
    under the steps of the precision-recall curve. Equal scores are one step.

    Args:
        scores: of one label, (videos,).
        targets: whether they have it, booleans (videos,).

    Raises:
        ValueError: where none has it.
    """
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    if not targets.any():
        raise ValueError("There is no average precision of a label that no video has")
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(targets[order])
    last_of_step = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    precision = found[last_of_step] / (last_of_step + 1)
    gained = np.diff(found[last_of_step], prepend=0)
    return float((precision * gained).sum() / found[-1])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """
    The mean over the labels that occur of [`average_precision`], for videos that may have several labels.

    Args:
        scores: (videos, labels).
        targets: 1 where a video has a label and 0 where not, (videos, labels).

    Raises:
        ValueError: where they don't fit, or no video has a label.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must have one shape (videos, labels), got {scores.shape} and {targets.shape}"
        )
    if not np.isfinite(scores).all() or not np.isin(targets, (0, 1)).all():
        raise ValueError("scores must be finite, and targets 0 or 1")
    occurring = np.flatnonzero(targets.any(axis=0))
    if not occurring.size:
        raise ValueError("There is no average precision where no video has a label")
    return float(np.mean([average_precision(scores[:, label], targets[:, label]) for label in occurring]))

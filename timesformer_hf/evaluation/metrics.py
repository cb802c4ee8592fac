"""
How well scores fit labels: pure functions of numpy arrays. Scores may be logits or probabilities where only their order
matters. Calibration needs probabilities.

Among equal scores, the label with the smaller number always comes first, as in `argmax`. So the numbers don't depend on
a sorting algorithm, and top-1 is the share of videos whose prediction is right.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


def check_scores(scores: np.ndarray, labels: np.ndarray) -> None:
    """
    Check scores (videos, labels) and labels (videos,) before a metric is computed.

    Raises:
        ValueError: where the two don't fit, there are none, scores aren't finite, or a label isn't a class.
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
    Check that classes are integers from 0 to `num_labels` - 1.

    Raises:
        ValueError: for another class. `name` is what the message calls them.
    """
    wrong = classes[(classes < 0) | (classes >= num_labels)] if np.issubdtype(classes.dtype, np.integer) else classes
    if wrong.size:
        raise ValueError(f"{name} must be integers in 0..{num_labels - 1}, got {wrong.ravel()[:5].tolist()}")


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    The number of labels that come before the right one: 0 where the prediction is right.

    Args:
        scores: (videos, labels).
        labels: the right labels, integers (videos,).

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
    The share of videos whose label is among the `k` with the highest scores.

    Args:
        scores: (videos, labels).
        labels: the right labels, integers (videos,).

    Raises:
        ValueError: where scores and labels don't fit, or `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    return float((label_ranks(scores, labels) < k).mean())


def mean_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """
    The mean accuracy of the classes that occur. Each class counts the same, however many videos it has.

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
    Wilson's score interval of an accuracy, which contains the accuracy on very many such videos with this confidence.
    Unlike the normal interval, it stays within [0, 1] and has a width where all or none are right.

    Args:
        correct: how many videos are right.
        total: how many videos there are.

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
    The videos whose predictions have about the same confidence.

    Attributes:
        lower, upper: the confidences are in (lower, upper]; 0 is in the first bin.
        videos: how many videos there are.
        confidence: their mean confidence, `None` where there is no video.
        accuracy: the share of them that is right, `None` where there is no video.
    """

    lower: float
    upper: float
    videos: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(confidences: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> list[_ReliabilityBin]:
    """
    The bins of a reliability diagram, which have equal widths.

    Args:
        confidences: the probability of each prediction, (videos,).
        correct: whether each prediction is right, booleans (videos,).

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
    The mean over all videos of the difference between confidence and accuracy in their bin (Guo et al. 2017, "On
    Calibration of Modern Neural Networks").

    Args:
        confidences: the probability of each prediction, (videos,).
        correct: whether each prediction is right, booleans (videos,).

    Raises:
        ValueError: for a confidence outside of [0, 1], other shapes, no bin, or no videos.
    """
    bins = [one for one in reliability_bins(confidences, correct, num_bins) if one.videos]
    if not bins:
        raise ValueError("There is no calibration of no videos; give at least one")
    total = sum(one.videos for one in bins)
    return sum(one.videos * abs(one.confidence - one.accuracy) for one in bins) / total


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """
    The area under the precision-recall curve of one label. The curve has steps, and equal scores are one step.

    Args:
        scores: the scores of the label, (videos,).
        targets: whether each video has the label, booleans (videos,).

    Raises:
        ValueError: where no video has it.
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
    The mean of [`average_precision`] over the labels that occur, for videos that may have several labels.

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

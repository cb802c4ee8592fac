"""
Labels that are most probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels", Section 3.1).

A model is confident of a class if its probability is at least as high as the mean over the videos with this label, or
at least 0.9. (The paper has the mean alone. A good model has a mean of 0.999, and then overlooks a wrong label where it
gives 0.99 to the right one.) A label is suspect if the model is confident of another class. The model must not have
been trained on these videos, because then it has learnt their labels, right or wrong.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..output.atomic import output_file
from .metrics import check_scores


_SURE = 0.9
_MOST_CREDIBLE = 0.25  # errors a video
_MOST_IN_RESULTS, _MOST_PRINTED = 20, 10
_COLUMNS = ("path", "label", "suggestion", "label_score", "suggestion_score")


def find_label_errors(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Return the videos whose labels are most probably wrong, the most probable first.

    They are ordered by how much more probable the prediction is than the label.

    Args:
        scores: probabilities (videos, labels) of a model that was not trained on these videos.
        labels: the given labels, integers (videos,).

    Returns:
        indices of videos, integers (errors,).

    Raises:
        ValueError: where scores and labels don't fit, or scores are not probabilities.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    check_scores(scores, labels)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be probabilities in [0, 1]: the softmax of logits, not logits")
    thresholds = np.full(scores.shape[1], np.inf)  # nobody can be confident of a class that no video has
    for label in np.unique(labels):
        thresholds[label] = min(_SURE, scores[labels == label, label].mean())
    is_confident = scores >= thresholds
    confident_class = np.where(is_confident, scores, -1).argmax(axis=1)
    predictions = scores.argmax(axis=1)
    suspect = is_confident.any(axis=1) & (confident_class != labels) & (predictions != labels)
    (suspects,) = np.nonzero(suspect)
    margins = scores[suspects, labels[suspects]] - scores[suspects, predictions[suspects]]
    return suspects[np.argsort(margins, kind="stable")]


def list_label_errors(
    paths: Sequence[str], scores: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> list[dict]:
    """
    Return the labels that are most probably wrong, the most probable first, as rows of a table.

    A row has `path`, `label`, `suggestion` and their probabilities `label_score` and `suggestion_score`. If a video may
    have several labels, each of them is looked at alone: a label with no suggestion should probably be removed, and a
    suggestion with no label should probably be added.

    Args:
        paths: the names of the videos.
        scores: probabilities (videos, labels).
        targets: the given labels: integers (videos,), or 0 or 1 for each label (videos, labels).
        names: the names of the labels.

    Raises:
        ValueError: as in [`find_label_errors`].
    """
    rows = (_errors_of_one_label if targets.ndim == 1 else _errors_of_several_labels)(paths, scores, targets, names)
    return sorted(rows, key=lambda row: row["label_score"] - row["suggestion_score"])


def _errors_of_one_label(
    paths: Sequence[str], scores: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Iterator[dict]:
    for video in find_label_errors(scores, labels):
        label, best = labels[video], scores[video].argmax()
        yield _row(paths[video], names[label], names[best], scores[video, label], scores[video, best])


def _errors_of_several_labels(
    paths: Sequence[str], scores: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> Iterator[dict]:
    for name, column, given in zip(names, scores.T, targets.T, strict=True):
        both = np.stack([1 - column, column], axis=1)  # without and with the label
        for video in find_label_errors(both, given):
            label, suggestion = (name, "") if given[video] else ("", name)
            yield _row(paths[video], label, suggestion, both[video, given[video]], both[video, 1 - given[video]])


def _row(video: str, label: str, suggestion: str, label_score: float, suggestion_score: float) -> dict:
    values = (video, label, suggestion, float(label_score), float(suggestion_score))
    return dict(zip(_COLUMNS, values, strict=True))


def label_error_results(rows: list[dict], num_videos: int) -> dict:
    """Return the number of label errors and the first of them, for JSON."""
    return {"found": len(rows), "videos": num_videos, "most_probable": rows[:_MOST_IN_RESULTS]}


def write_label_errors(path: Path, rows: list[dict]) -> None:
    """Write all label errors to a CSV file. It replaces one that exists."""
    with output_file(path, overwrite=True) as new, new.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        table.writerows(rows)


def label_error_text(results: dict) -> str:
    """Return the results of [`label_error_results`] as text."""
    shown = results["most_probable"][:_MOST_PRINTED]
    if not shown:
        return "no label is probably wrong"
    if results["found"] > _MOST_CREDIBLE * results["videos"]:
        return (
            f"label_errors.csv has {results['found']} labels of {results['videos']} videos, too many to trust: a model "
            "that is often wrong can't tell which labels are"
        )
    others = f"; all {results['found']} are in label_errors.csv" if results["found"] > len(shown) else ""
    lines = [f"labels that are most probably wrong{others}:"]
    for row in shown:
        label = row["label"] or f"not {row['suggestion']}"
        suggestion = row["suggestion"] or f"not {row['label']}"
        scores = f"{label} {row['label_score']:.1%}, but {suggestion} {row['suggestion_score']:.1%}"
        lines.append(f"  {row['path']}: {scores}")
    return "\n".join(lines)

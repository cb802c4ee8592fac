"""Results of a classifier, from the scores of videos: a dictionary for JSON, a table of the videos, a text."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .metrics import (
    average_precision,
    confusion_matrix,
    expected_calibration_error,
    mean_average_precision,
    mean_class_accuracy,
    reliability_bins,
    top_k_accuracy,
    wilson_interval,
)


_MAX_PRINTED = 30  # classes; of more, the worst ten
_MAX_CONFUSIONS = 20


def single_label_results(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """
    Accuracies with Wilson's intervals of 95 %, every class that occurs, calibration, and the most common confusions.

    Args:
        scores: probabilities (videos, labels).
        labels: the right labels, integers (videos,).
        names: the names of the labels.

    Returns:
        a dictionary that can be written as JSON.

    Raises:
        ValueError: where scores and labels don't fit, or there are none.
    """
    predictions, confidences = scores.argmax(axis=1), scores.max(axis=1)
    correct = predictions == labels
    results = {"interval": "Wilson, 95 %"}
    for k in (1, 5) if len(names) > 5 else (1,):
        accuracy = top_k_accuracy(scores, labels, k)
        results[f"top_{k}_accuracy"] = accuracy
        results[f"top_{k}_interval"] = wilson_interval(round(accuracy * len(labels)), len(labels))
    return results | {
        "mean_class_accuracy": mean_class_accuracy(predictions, labels),
        "expected_calibration_error": expected_calibration_error(confidences, correct),
        "classes": [_class_result(names[label], correct[labels == label]) for label in np.unique(labels)],
        "reliability": [asdict(one) for one in reliability_bins(confidences, correct)],
        "confusions": _common_confusions(confusion_matrix(predictions, labels, len(names)), names),
    }


def _class_result(name: str, correct: np.ndarray) -> dict:
    """The accuracy of one class, with its interval."""
    videos, right = len(correct), int(correct.sum())
    accuracy, interval = right / videos, wilson_interval(right, videos)
    return {"label": name, "videos": videos, "correct": right, "accuracy": accuracy, "interval": interval}


def _common_confusions(counts: np.ndarray, names: Sequence[str]) -> list[dict]:
    """The pairs of a label and a wrong prediction, the most common first."""
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        {"label": names[row], "prediction": names[column], "videos": int(wrong[row, column])}
        for row, column in pairs
        if wrong[row, column]
    ]


def multi_label_results(scores: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """
    The mean average precision, and the average precision of every label that occurs.

    Args:
        scores: (videos, labels).
        targets: 1 where a video has a label and 0 where not, (videos, labels).

    Raises:
        ValueError: where scores and targets don't fit, or no video has a label.
    """
    classes = [
        {
            "label": names[label],
            "videos": int(targets[:, label].sum()),
            "average_precision": average_precision(scores[:, label], targets[:, label]),
        }
        for label in np.flatnonzero(targets.any(axis=0))
    ]
    return {"mean_average_precision": mean_average_precision(scores, targets), "classes": classes}


def video_table(paths: Sequence[str], targets: np.ndarray, scores: np.ndarray, names: Sequence[str]):
    """
    An Arrow table with a row for each video: `path`, `label` and `prediction` (or `labels`, where a video may have
    several) and `scores`. The metadata of the schema names the labels of the scores, as JSON.
    """
    from ..output.parquet import import_pyarrow

    pa = import_pyarrow()
    columns = {"path": pa.array(paths, pa.string())}
    if targets.ndim == 2:
        labels = [[names[label] for label in np.flatnonzero(row)] for row in targets]
        columns["labels"] = pa.array(labels, pa.list_(pa.string()))
    else:
        columns["label"] = pa.array([names[label] for label in targets], pa.string())
        columns["prediction"] = pa.array([names[label] for label in scores.argmax(axis=1)], pa.string())
    columns["scores"] = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), len(names))
    return pa.table(columns).replace_schema_metadata({"labels": json.dumps(list(names), ensure_ascii=False)})


def summary(results: dict) -> str:
    """The most important results as text, for one label a video or several."""
    lines = [
        f"{name.replace('_', ' '):<27}{value:8.2%}{_describe_interval(results, name)}"
        for name, value in results.items()
        if isinstance(value, float)
    ]
    measure = "accuracy" if "interval" in results else "average_precision"
    rows = sorted(results["classes"], key=lambda row: row[measure])
    shown = rows if len(rows) <= _MAX_PRINTED else rows[:10]
    others = "" if shown is rows else f"; the other {len(rows) - 10} are in results.json"
    lines.append(f"{measure.replace('_', ' ')} of each label, the lowest first{others}:")
    return "\n".join([*lines, *(f"{row[measure]:9.2%} of {row['videos']:5}  {row['label']}" for row in shown)])


def _describe_interval(results: dict, name: str) -> str:
    """The interval of an accuracy as text, if it has one."""
    interval = results.get(f"{name.removesuffix('accuracy')}interval")
    return f"  ({interval[0]:.2%} to {interval[1]:.2%}; {results['interval']})" if interval else ""

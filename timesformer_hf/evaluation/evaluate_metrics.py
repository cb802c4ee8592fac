"""
The metrics of this package as metrics of the library `evaluate`. They are classes, so nothing is fetched from the Hub.

    metric = TopKAccuracy()
    metric.add_batch(predictions=outputs.logits, references=labels)
    metric.compute(k=5)

All of them take scores (videos, labels) as predictions, so that `evaluate.combine` can combine several.
"""

import datasets
import evaluate
import numpy as np

from .metrics import (
    check_scores,
    expected_calibration_error,
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


if not hasattr(evaluate, "Metric"):  # a program beside examples/evaluate.py imports that instead
    raise ImportError(f"{evaluate.__file__} hides the library `evaluate`; start Python with -P")

SCORES = datasets.Sequence(datasets.Value("float64"))


class _ScoresMetric(evaluate.Metric):
    """A metric of scores (videos, labels) against labels (videos,)."""

    description = ""
    references = datasets.Value("int64")

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions: scores (videos, labels); references: the labels of the videos.",
            features=datasets.Features({"predictions": SCORES, "references": self.references}),
        )


class TopKAccuracy(_ScoresMetric):
    """`compute(k=5)` gives `{"top_5_accuracy": ...}`. The default is top-1. Predictions are logits or probabilities."""

    description = "The share of videos whose label is among the k with the highest scores."

    def _compute(self, predictions, references, k: int = 1) -> dict[str, float]:
        return {f"top_{k}_accuracy": top_k_accuracy(predictions, references, k)}


class MeanClassAccuracy(_ScoresMetric):
    """`compute()` gives `{"mean_class_accuracy": ...}`. Predictions are logits or probabilities."""

    description = "The mean over classes of the share of their videos that is predicted right."

    def _compute(self, predictions, references) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        check_scores(scores, labels)
        return {"mean_class_accuracy": mean_class_accuracy(scores.argmax(axis=1), labels)}


class ExpectedCalibrationError(_ScoresMetric):
    """`compute()` gives `{"expected_calibration_error": ...}`. Predictions are probabilities: the softmax of logits."""

    description = "How far the confidence of predictions and their accuracy are apart."

    def _compute(self, predictions, references, num_bins: int = 15) -> dict[str, float]:
        scores, labels = np.asarray(predictions), np.asarray(references)
        check_scores(scores, labels)
        error = expected_calibration_error(scores.max(axis=1), scores.argmax(axis=1) == labels, num_bins)
        return {"expected_calibration_error": error}


class MeanAveragePrecision(_ScoresMetric):
    """`compute()` gives `{"mean_average_precision": ...}` for several labels a video. References are zeros and ones."""

    description = "The mean over labels of the area under their precision-recall curve."
    references = datasets.Sequence(datasets.Value("int64"))

    def _compute(self, predictions, references) -> dict[str, float]:
        return {"mean_average_precision": mean_average_precision(predictions, references)}

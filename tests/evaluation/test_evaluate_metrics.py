"""The metrics of the library `evaluate` against our own functions."""

import sys
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from scores import random_scores, softmax

from timesformer_hf.evaluation.metrics import (
    expected_calibration_error,
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


class TestEvaluateMetrics:
    """As metrics of `evaluate`: batch by batch, combined, and without the network (conftest)."""

    @pytest.fixture
    def metrics(self):
        pytest.importorskip("evaluate")
        from timesformer_hf.evaluation import evaluate_metrics

        return evaluate_metrics

    def test_batches_add_up_to_the_functions(self, metrics):
        import evaluate

        scores, labels = random_scores()
        probabilities = softmax(scores)
        parts = [metrics.TopKAccuracy(), metrics.MeanClassAccuracy(), metrics.ExpectedCalibrationError()]
        assert all(isinstance(part, evaluate.Metric) for part in parts)
        combined = evaluate.combine(parts)
        for start in range(0, len(labels), 7):
            combined.add_batch(
                predictions=probabilities[start : start + 7].tolist(), references=labels[start : start + 7].tolist()
            )
        predictions = probabilities.argmax(axis=1)
        assert combined.compute() == pytest.approx(
            {
                "top_1_accuracy": top_k_accuracy(probabilities, labels),
                "mean_class_accuracy": mean_class_accuracy(predictions, labels),
                "expected_calibration_error": expected_calibration_error(
                    probabilities.max(axis=1), predictions == labels
                ),
            },
            abs=1e-15,
        )

    def test_top_k_is_a_setting(self, metrics):
        scores, labels = random_scores()
        metric = metrics.TopKAccuracy()
        metric.add_batch(predictions=scores, references=labels)
        assert metric.compute(k=3) == {"top_3_accuracy": top_k_accuracy(scores, labels, 3)}

    def test_several_labels_are_averaged(self, metrics):
        rng = np.random.default_rng(0)
        scores, targets = rng.random((20, 4)), rng.integers(0, 2, (20, 4))
        result = metrics.MeanAveragePrecision().compute(predictions=scores, references=targets)
        assert result == {"mean_average_precision": mean_average_precision(scores, targets)}

    def test_a_script_named_evaluate_does_not_hide_the_library(self, metrics, monkeypatch):
        """As for one beside examples/evaluate.py, which comes first on its path."""
        script = ModuleType("evaluate")
        script.__file__ = "examples/evaluate.py"
        monkeypatch.setitem(sys.modules, "evaluate", script)
        monkeypatch.delitem(sys.modules, metrics.__name__)
        with pytest.raises(ImportError, match=r"evaluate\.py hides the library `evaluate`; start Python with -P"):
            import_module(metrics.__name__)

"""Results and their summary."""

import json

import numpy as np
import pytest
from scores import random_scores, softmax

from timesformer_hf.evaluation.metrics import confusion_matrix
from timesformer_hf.evaluation.results import multi_label_results, single_label_results, summary


class TestResults:
    def test_single_label_results_agree_with_the_metrics(self):
        scores, labels = random_scores()
        names = list("abcdefgh")
        results = single_label_results(softmax(scores), labels, names)
        assert json.loads(json.dumps(results)) is not None
        assert [row["label"] for row in results["classes"]] == names[:6]  # the others don't occur
        assert sum(row["correct"] for row in results["classes"]) / 60 == pytest.approx(results["top_1_accuracy"])
        assert results["mean_class_accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in results["classes"]]))
        low, high = results["top_5_interval"]
        assert low < results["top_5_accuracy"] < high
        assert sum(one["videos"] for one in results["reliability"]) == 60
        counts = confusion_matrix(scores.argmax(axis=1), labels, 8)
        for row in results["confusions"]:
            assert counts[names.index(row["label"]), names.index(row["prediction"])] == row["videos"]
        sizes = [row["videos"] for row in results["confusions"]]
        wrong = counts[~np.eye(8, dtype=bool)]
        assert sizes == sorted(wrong[wrong > 0].tolist(), reverse=True)[:20]

    def test_few_labels_have_no_top_5(self):
        results = single_label_results(np.eye(5), np.arange(5), list("abcde"))
        assert results["top_1_accuracy"] == 1
        assert "top_5_accuracy" not in results

    def test_multi_label(self):
        rng = np.random.default_rng(0)
        scores, targets = rng.random((20, 4)), rng.integers(0, 2, (20, 4))
        targets[:, 1] = 0
        results = multi_label_results(scores, targets, list("abcd"))
        assert [row["label"] for row in results["classes"]] == ["a", "c", "d"]
        assert results["classes"][1]["videos"] == targets[:, 2].sum()
        mean = np.mean([row["average_precision"] for row in results["classes"]])
        assert results["mean_average_precision"] == pytest.approx(mean)

    def test_summary_names_the_metrics_and_the_worst_labels(self):
        scores, labels = random_scores(videos=400, labels=42)
        text = summary(single_label_results(softmax(scores), labels, [f"label {i}" for i in range(42)]))
        assert "top 5 accuracy" in text
        assert "Wilson, 95 %" in text
        assert "the lowest first; the other 30 are in results.json" in text
        assert len(text.splitlines()) == 4 + 1 + 10
        rng = np.random.default_rng(0)
        several = summary(multi_label_results(rng.random((9, 2)), np.ones((9, 2), int), ["x", "y"]))
        assert several.splitlines()[0] == "mean average precision      100.00%"

"""Metrics against naive loops, closed forms and numbers worked out by hand."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scores import random_scores

from timesformer_hf.evaluation.metrics import (
    average_precision,
    confusion_matrix,
    expected_calibration_error,
    label_ranks,
    mean_average_precision,
    mean_class_accuracy,
    reliability_bins,
    top_k_accuracy,
    wilson_interval,
)


class TestAccuracy:
    @pytest.mark.parametrize("k", [1, 2, 5, 8, 100])
    @pytest.mark.parametrize("seed", range(3))
    def test_top_k_is_that_of_sorted_labels(self, k, seed):
        scores, labels = random_scores(seed=seed)
        hits = 0
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            best = sorted(range(len(row)), key=lambda place: (-row[place], place))[:k]
            hits += label in best
        assert top_k_accuracy(scores, labels, k) == hits / len(labels)

    def test_top_1_is_that_of_argmax(self):
        scores, labels = random_scores()
        assert top_k_accuracy(scores, labels) == (scores.argmax(axis=1) == labels).mean()

    def test_ties_are_ranked_by_place(self):
        scores = np.array([[0.1, 0.7, 0.2], [5.0, 5.0, 5.0], [-1.0, -3.0, -2.0]])
        assert label_ranks(scores, np.array([1, 2, 1])).tolist() == [0, 2, 2]

    def test_mean_class_accuracy_by_hand(self):
        """Nine of ten cats right and one of two dogs; no horses."""
        labels = np.array([0] * 10 + [1] * 2)
        predictions = np.array([0] * 9 + [2] + [1, 0])
        assert mean_class_accuracy(predictions, labels) == pytest.approx((9 / 10 + 1 / 2) / 2)

    @pytest.mark.parametrize("seed", range(3))
    def test_confusion_matrix_is_that_of_a_loop(self, seed):
        scores, labels = random_scores(seed=seed)
        predictions = scores.argmax(axis=1)
        counts = [[0] * 8 for _ in range(8)]
        for prediction, label in zip(predictions, labels, strict=True):
            counts[label][prediction] += 1
        matrix = confusion_matrix(predictions, labels, 8)
        assert matrix.tolist() == counts
        shares = [matrix[label, label] / matrix[label].sum() for label in range(8) if matrix[label].sum()]
        assert mean_class_accuracy(predictions, labels) == pytest.approx(np.mean(shares))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: top_k_accuracy(np.zeros((2, 3)), np.array([0, 3])), r"labels must be integers in 0\.\.2, got \[3"),
            (
                lambda: top_k_accuracy(np.zeros((2, 3)), np.array([0, -1])),
                r"labels must be integers in 0\.\.2, got \[-1",
            ),
            (lambda: top_k_accuracy(np.zeros((2, 3)), np.array([0.0, 1.0])), "labels must be integers"),
            (lambda: top_k_accuracy(np.zeros((2, 3)), np.array([0])), r"got \(2, 3\) and \(1,\)"),
            (lambda: top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int)), "There is no accuracy of no videos"),
            (lambda: top_k_accuracy(np.full((1, 3), np.nan), np.array([0])), "scores must be finite"),
            (lambda: top_k_accuracy(np.zeros((1, 3)), np.array([0]), 0), "k=0 must be at least 1"),
            (lambda: mean_class_accuracy(np.array([1]), np.array([1, 2])), r"one shape \(videos,\), got \(1,\) and"),
            (lambda: confusion_matrix(np.array([3]), np.array([0]), 3), r"predictions must be integers in 0\.\.2"),
        ],
    )
    def test_bad_input_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestInterval:
    def test_wilson_interval_is_the_published_one(self):
        """9 of 10 at 95 %: 59.58 % to 98.21 % (Brown, Cai and DasGupta's formula, by hand)."""
        assert wilson_interval(9, 10) == pytest.approx((0.5958500, 0.9821238), abs=1e-6)

    @pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (3, 7), (500, 1000), (99, 100)])
    @pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
    def test_ends_are_where_the_test_just_rejects(self, correct, total, confidence):
        """The definition: (share - p)^2 = z^2 p (1 - p) / n at both ends."""
        from statistics import NormalDist

        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        for p in wilson_interval(correct, total, confidence):
            assert (correct / total - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / total, abs=1e-12)

    def test_narrower_with_more_videos(self):
        widths = [high - low for low, high in (wilson_interval(8 * n, 10 * n) for n in (1, 10, 100))]
        assert widths[0] > widths[1] > widths[2]

    @pytest.mark.parametrize(("correct", "total"), [(2, 1), (-1, 3), (0, 0)])
    def test_bad_input_is_refused(self, correct, total):
        with pytest.raises(ValueError, match=f"correct={correct} of total={total}"):
            wilson_interval(correct, total)


class TestCalibration:
    @pytest.mark.parametrize("num_bins", [1, 4, 10, 15])
    @pytest.mark.parametrize("seed", range(3))
    def test_calibration_error_is_that_of_loops(self, num_bins, seed):
        """With confidences on the edges of bins, which belong to the bin below."""
        rng = np.random.default_rng(seed)
        confidences = np.concatenate([rng.random(200), np.arange(num_bins + 1) / num_bins])
        correct = rng.random(len(confidences)) < confidences
        expected, total = 0.0, len(confidences)
        bins = reliability_bins(confidences, correct, num_bins)
        for number, one in enumerate(bins):
            lower, upper = number / num_bins, (number + 1) / num_bins
            inside = [i for i in range(total) if lower < confidences[i] <= upper or (number == 0 == confidences[i])]
            assert (one.lower, one.upper, one.videos) == (lower, upper, len(inside))
            if inside:
                accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
                confidence = sum(confidences[i] for i in inside) / len(inside)
                assert (one.accuracy, one.confidence) == (pytest.approx(accuracy), pytest.approx(confidence))
                expected += len(inside) / total * abs(accuracy - confidence)
            else:
                assert (one.accuracy, one.confidence) == (None, None)
        assert expected_calibration_error(confidences, correct, num_bins) == pytest.approx(expected, abs=1e-12)

    def test_perfect_and_worst(self):
        assert expected_calibration_error(np.ones(5), np.ones(5, bool)) == 0
        assert expected_calibration_error(np.ones(5), np.zeros(5, bool)) == 1
        assert expected_calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])) == 0

    def test_one_bin_is_the_difference_of_the_means(self):
        rng = np.random.default_rng(0)
        confidences, correct = rng.random(50), rng.random(50) < 0.3
        expected = abs(confidences.mean() - correct.mean())
        assert expected_calibration_error(confidences, correct, 1) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("bad", [[1.5], [-0.1], [np.nan]])
    def test_logits_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"must be probabilities in \[0, 1\]"):
            reliability_bins(np.array(bad), np.array([True]))

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match="num_bins=0 must be at least 1"):
            reliability_bins(np.zeros(1), np.ones(1), 0)
        with pytest.raises(ValueError, match=r"one shape \(videos,\), got \(2,\) and \(1,\)"):
            reliability_bins(np.zeros(2), np.ones(1))
        with pytest.raises(ValueError, match="no calibration of no videos"):
            expected_calibration_error(np.zeros(0), np.zeros(0, bool))


def average_precision_by_steps(scores: list[float], targets: list[int]) -> float:
    """The definition: of every threshold, what recall it gains, times the precision there."""
    area, recall = Fraction(0), Fraction(0)
    for threshold in sorted(set(scores), reverse=True):
        kept = [target for score, target in zip(scores, targets, strict=True) if score >= threshold]
        gained = Fraction(sum(kept), sum(targets)) - recall
        area, recall = area + gained * Fraction(sum(kept), len(kept)), recall + gained
    return float(area)


class TestAveragePrecision:
    @pytest.mark.parametrize("seed", range(5))
    def test_average_precision_is_its_definition(self, seed):
        rng = np.random.default_rng(seed)
        scores, targets = rng.integers(0, 9, (40, 6)) / 8, rng.integers(0, 2, (40, 6))
        targets[:, 2] = 0  # a label that doesn't occur
        expected = [
            average_precision_by_steps(scores[:, i].tolist(), targets[:, i].tolist()) for i in range(6) if i != 2
        ]
        for label, value in zip([0, 1, 3, 4, 5], expected, strict=True):
            assert average_precision(scores[:, label], targets[:, label]) == pytest.approx(value, abs=1e-12)
        assert mean_average_precision(scores, targets) == pytest.approx(np.mean(expected), abs=1e-12)

    def test_average_precision_by_hand(self):
        """Found at places 1, 3 and 4 of five: (1/1 + 2/3 + 3/4) / 3."""
        scores, targets = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 1, 0])
        assert average_precision(scores, targets) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)

    def test_average_precision_of_closed_forms(self):
        """All scores equal: the share of videos that have the label. The best order: 1."""
        targets = np.array([1, 0, 0, 1, 0, 0, 0, 0])
        assert average_precision(np.full(8, 0.3), targets) == pytest.approx(2 / 8)
        assert average_precision(targets + 0.1, targets) == 1
        last = average_precision(-np.arange(8.0), np.array([0] * 7 + [1]))
        assert last == pytest.approx(1 / 8)

    def test_average_precision_is_scikit_learns(self):
        metrics = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(0)
        scores, targets = rng.integers(0, 9, (40, 6)) / 8, rng.integers(0, 2, (40, 6))
        expected = metrics.average_precision_score(targets, scores, average="macro")
        assert mean_average_precision(scores, targets) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("scores", "targets", "message"),
        [
            (np.zeros((2, 3)), np.zeros((2, 3)), "where no video has a label"),
            (np.zeros((2, 3)), np.zeros((2, 2)), r"one shape \(videos, labels\), got \(2, 3\) and \(2, 2\)"),
            (np.zeros((2, 3)), np.full((2, 3), 2), "targets 0 or 1"),
            (np.full((2, 3), np.inf), np.ones((2, 3)), "scores must be finite"),
        ],
    )
    def test_bad_input_is_refused(self, scores, targets, message):
        with pytest.raises(ValueError, match=message):
            mean_average_precision(scores, targets)

    def test_label_that_no_video_has(self):
        with pytest.raises(ValueError, match="no average precision of a label that no video has"):
            average_precision(np.zeros(3), np.zeros(3))


def test_import_is_light():
    """Metrics need numpy alone: a script with the name of the library, or without it, can use them."""
    code = "import sys, timesformer_hf.evaluation.metrics; print({'evaluate', 'datasets', 'torch'} & {*sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert process.stdout.strip() == "set()", process.stderr

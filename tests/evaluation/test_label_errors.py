"""Label errors against cleanlab, against the paper's formula in a loop, and against errors that were planted."""

import csv
import json

import numpy as np
import pytest
from scores import softmax

from timesformer_hf import find_label_errors
from timesformer_hf.evaluation.label_errors import (
    label_error_results,
    label_error_text,
    list_label_errors,
    write_label_errors,
)


def noisy(videos: int = 400, classes: int = 6, errors: int = 40, seed: int = 0, skill: float = 3.0) -> tuple:
    """Probabilities of a model that has some skill, labels some of which are wrong, and which those are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, videos)
    scores = softmax(rng.standard_normal((videos, classes)) + skill * np.eye(classes)[truth])
    labels, wrong = truth.copy(), rng.choice(videos, errors, replace=False)
    labels[wrong] = (truth[wrong] + rng.integers(1, classes, errors)) % classes
    return scores, labels, set(wrong.tolist())


def by_the_formula(scores: np.ndarray, labels: np.ndarray) -> set[int]:
    """Equations 1 and 2 of the paper, in Python's own numbers, for labels that the model does not predict."""
    rows, found = scores.tolist(), set()
    thresholds = {}
    for label in set(labels.tolist()):
        own = [row[label] for row, given in zip(rows, labels, strict=True) if given == label]
        thresholds[label] = min(0.9, sum(own) / len(own))
    for video, row in enumerate(rows):
        confident = {label: row[label] for label, threshold in thresholds.items() if row[label] >= threshold}
        if confident and max(confident, key=confident.get) != labels[video] and max(row) != row[labels[video]]:
            found.add(video)
    return found


class TestOneLabel:
    @pytest.mark.parametrize(("classes", "skill"), [(2, 1.0), (6, 3.0), (6, 0.5), (40, 4.0)])
    def test_they_are_those_of_the_formula(self, classes, skill):
        scores, labels, _ = noisy(classes=classes, skill=skill)
        found = find_label_errors(scores, labels)
        assert set(found.tolist()) == by_the_formula(scores, labels)
        assert len(found) > 10

    @pytest.mark.parametrize(("classes", "skill"), [(2, 1.5), (6, 3.0), (40, 5.0)])
    def test_they_are_those_of_cleanlab_in_its_order(self, classes, skill):
        cleanlab = pytest.importorskip("cleanlab.filter", reason="the oracle")
        scores, labels, _ = noisy(classes=classes, skill=skill)
        expected = cleanlab.find_label_issues(
            labels, scores, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1
        )
        assert find_label_errors(scores, labels).tolist() == expected.tolist()
        assert len(expected) > 10

    def test_with_thresholds_of_0_9_at_most_they_are_those_of_cleanlab_too(self):
        count = pytest.importorskip("cleanlab.count", reason="the oracle")
        scores, labels, _ = noisy(skill=9.0, errors=12)
        means = np.array([scores[labels == label, label].mean() for label in range(6)])
        _, expected = count.compute_confident_joint(
            labels,
            scores,
            thresholds=np.minimum(means, 0.9),
            calibrate=False,
            return_indices_of_off_diagonals=True,
        )
        assert (means > 0.9).any()
        assert set(find_label_errors(scores, labels).tolist()) == set(expected)
        assert len(expected) > 8

    @pytest.mark.parametrize("skill", [6.0, 12.0])
    def test_planted_errors_are_found_and_come_first(self, skill):
        scores, labels, wrong = noisy(skill=skill)
        found = find_label_errors(scores, labels).tolist()
        assert len(wrong & set(found)) >= 38
        assert set(found[:30]) <= wrong

    def test_a_model_that_is_very_sure_overlooks_no_error_of_which_it_is_a_little_less_sure(self):
        scores = np.array([[0.999, 0.001], [0.999, 0.001], [0.001, 0.999], [0.01, 0.99]])
        assert find_label_errors(scores, np.array([0, 0, 1, 0])).tolist() == [3]

    def test_nobody_is_confident_of_a_class_that_no_video_has(self):
        scores = np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
        assert find_label_errors(scores, np.array([0, 1, 0])).tolist() == []
        assert find_label_errors(scores, np.array([0, 1, 2])).tolist() == [0, 2]

    def test_labels_that_all_agree_are_right(self):
        assert find_label_errors(np.eye(3), np.arange(3)).tolist() == []

    @pytest.mark.parametrize(
        ("scores", "labels", "message"),
        [
            (np.ones((2, 2)), np.zeros(3, int), "must have shape"),
            (np.array([[2.0, -1], [0, 1]]), np.zeros(2, int), "must be probabilities"),
            (np.array([[np.nan, 1], [0, 1]]), np.zeros(2, int), "must be finite"),
            (np.eye(2), np.array([0, 2]), r"labels must be integers in 0\.\.1"),
        ],
    )
    def test_bad_input(self, scores, labels, message):
        with pytest.raises(ValueError, match=message):
            find_label_errors(scores, labels)


def several(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets (videos, labels) of videos with several labels, of which a tenth is wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.random((300, 5)) < 0.4
    scores = 1 / (1 + np.exp(-(4 * truth - 2 + rng.standard_normal((300, 5)))))
    return scores, (truth ^ (rng.random((300, 5)) < 0.1)).astype(np.int64)


class TestRows:
    def test_of_one_label(self):
        scores, labels, _ = noisy(classes=3, videos=60, errors=9)
        paths, names = [f"{number}.mp4" for number in range(60)], ["run", "sit", "jump"]
        rows = list_label_errors(paths, scores, labels, names)
        found = find_label_errors(scores, labels)
        assert [row["path"] for row in rows] == [paths[video] for video in found]
        for row, video in zip(rows, found, strict=True):
            assert row["label"] == names[labels[video]]
            assert row["suggestion"] == names[scores[video].argmax()] != row["label"]
            assert row["label_score"] == scores[video, labels[video]] < row["suggestion_score"] == scores[video].max()

    def test_of_several_labels_they_are_those_of_cleanlab(self):
        multilabel = pytest.importorskip("cleanlab.multilabel_classification.filter", reason="the oracle")
        scores, targets = several()
        names = list("abcde")
        rows = list_label_errors([str(number) for number in range(300)], scores, targets, names)
        issues = multilabel.find_multilabel_issues_per_class(
            [np.flatnonzero(row).tolist() for row in targets], scores, filter_by="confident_learning", n_jobs=1
        )
        expected = {(str(video), names[label]) for video, label in np.argwhere(issues)}
        assert {(row["path"], row["label"] or row["suggestion"]) for row in rows} == expected
        assert len(expected) > 50

    def test_a_label_to_add_and_a_label_to_remove(self):
        scores, targets = several()
        rows = list_label_errors([str(number) for number in range(300)], scores, targets, list("abcde"))
        margins = [row["label_score"] - row["suggestion_score"] for row in rows]
        assert margins == sorted(margins)
        assert max(margins) < 0
        kinds = set()
        for row in rows:
            name, is_given = row["label"] or row["suggestion"], bool(row["label"])
            probability = scores[int(row["path"]), "abcde".index(name)]
            assert targets[int(row["path"]), "abcde".index(name)] == is_given
            assert row["suggestion_score"] == pytest.approx(1 - probability if is_given else probability)
            assert "" in (row["label"], row["suggestion"])
            kinds.add(is_given)
        assert kinds == {True, False}

    def test_a_label_that_all_or_no_videos_have_has_no_error(self):
        scores, targets = several()
        targets[:, 0], targets[:, 1] = 1, 0
        rows = list_label_errors([""] * 300, scores, targets, list("abcde"))
        assert {row["label"] or row["suggestion"] for row in rows} == set("cde")


class TestOutput:
    def test_text_and_table(self, tmp_path):
        scores, labels, _ = noisy()
        rows = list_label_errors([f"{number}.mp4" for number in range(400)], scores, labels, list("abcdef"))
        results = json.loads(json.dumps(label_error_results(rows, 400)))
        assert (results["found"], len(results["most_probable"])) == (len(rows), 20)
        lines = label_error_text(results).splitlines()
        assert lines[0] == f"labels that are most probably wrong; all {len(rows)} are in label_errors.csv:"
        first = rows[0]
        assert lines[1] == (
            f"  {first['path']}: {first['label']} {first['label_score']:.1%}, but "
            f"{first['suggestion']} {first['suggestion_score']:.1%}"
        )
        assert len(lines) == 11
        write_label_errors(tmp_path / "out.csv", rows)
        with (tmp_path / "out.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert [row["path"] for row in table] == [row["path"] for row in rows]
        assert float(table[0]["suggestion_score"]) == first["suggestion_score"]

    def test_labels_to_add_and_to_remove_in_words(self):
        row = {"path": "a.mp4", "label": "run", "suggestion": "", "label_score": 0.1, "suggestion_score": 0.9}
        other = {"path": "b.mp4", "label": "", "suggestion": "sit", "label_score": 0.2, "suggestion_score": 0.8}
        assert label_error_text(label_error_results([row, other], 9)).splitlines()[1:] == [
            "  a.mp4: run 10.0%, but not run 90.0%",
            "  b.mp4: not sit 20.0%, but sit 80.0%",
        ]

    def test_many_are_not_believed(self):
        row = {"path": "a.mp4", "label": "run", "suggestion": "sit", "label_score": 0.1, "suggestion_score": 0.2}
        assert label_error_text(label_error_results([row] * 2, 8)).startswith("labels that are most probably wrong")
        assert label_error_text(label_error_results([row] * 3, 8)) == (
            "label_errors.csv has 3 labels of 8 videos, too many to trust: a model that is often wrong can't tell "
            "which labels are"
        )

    def test_none(self):
        assert label_error_text(label_error_results([], 9)) == "no label is probably wrong"

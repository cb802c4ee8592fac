"""`timesformer-hf evaluate` against videos classified one by one, with labels of all kinds and corrupt videos."""

import csv
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from clips import moving_pattern, write_video
from evaluating import LABELS, arguments, files, good, nearly, read
from transformers import pipeline

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.data.labelled_videos import LabelledVideo, LabelledVideos
from timesformer_hf.evaluation import measuring
from timesformer_hf.evaluation.time_audit import ARRANGEMENTS


pa = pytest.importorskip("pyarrow", reason="the results of videos are a Parquet file")
pq = pytest.importorskip("pyarrow.parquet", reason="the results of videos are a Parquet file")
pytest.importorskip("matplotlib", reason="the confusion matrix is drawn")


class TestNumbers:
    @pytest.mark.parametrize("flags", [{}, {"views": "paper"}, {"views": "original"}, {"num_clips": 2, "num_crops": 3}])
    def test_scores_are_those_of_videos_one_by_one(self, model, data, tmp_path, flags):
        given = [word for name, value in flags.items() for word in (f"--{name}", value)]
        assert main(arguments(model, data, tmp_path, "--batch_size", 3, *given)) == 0
        table = pq.read_table(tmp_path / "videos.parquet")
        assert table.column_names == ["path", "label", "prediction", "scores"]
        assert json.loads(table.schema.metadata[b"labels"]) == LABELS
        paths = sorted(map(str, data.rglob("*.mp4")))
        assert table.column("path").to_pylist() == paths
        classifier = pipeline("video-classification", model=model)
        right, right_of = 0, {}
        for row in table.to_pylist():
            expected = {r["label"]: r["score"] for r in classifier(row["path"], top_k=7, **flags)}
            assert dict(zip(LABELS, row["scores"], strict=True)) == pytest.approx(expected, abs=1e-4)
            assert row["label"] == Path(row["path"]).parent.name
            assert row["prediction"] == max(expected, key=expected.get)
            right += row["prediction"] == row["label"]
            right_of.setdefault(row["label"], []).append(row["prediction"] == row["label"])
        results = read(tmp_path)
        assert results["top_1_accuracy"] == pytest.approx(right / 7)
        means = {label: np.mean(values) for label, values in right_of.items()}
        assert {row["label"]: row["accuracy"] for row in results["classes"]} == pytest.approx(means)
        assert results["mean_class_accuracy"] == pytest.approx(np.mean(list(means.values())))
        assert (results["videos"], results["failed"]) == (7, [])

    def test_the_average_of_the_papers_views_can_be_of_logits(self, model, data, tmp_path):
        assert main(arguments(model, data, tmp_path, "--views", "paper", "--average", "logits")) == 0
        classifier, differs = pipeline("video-classification", model=model), []
        for row in pq.read_table(tmp_path / "videos.parquet").to_pylist():
            expected, other = (
                {r["label"]: r["score"] for r in classifier(row["path"], top_k=7, views="paper", average=average)}
                for average in ("logits", "probabilities")
            )
            got = dict(zip(LABELS, row["scores"], strict=True))
            assert got == pytest.approx(expected, abs=1e-4)
            differs.append(got != pytest.approx(other, abs=1e-3))
        assert any(differs)

    def test_worker_processes_change_nothing(self, model, data, tmp_path):
        assert main(arguments(model, data, tmp_path / "none", "--batch_size", 2)) == 0
        words = arguments(model, data, tmp_path / "two", "--batch_size", 2)
        words[words.index("--num_workers") + 1] = "2"
        assert main(words) == 0
        assert files(tmp_path / "two") == files(tmp_path / "none")

    def test_frames_of_several_sizes_have_a_pass_for_each_size(self, model, data, tmp_path):
        folder = shutil.copytree(model, tmp_path / "model")
        square = {"height": 32, "width": 32}
        wide = write_video(tmp_path / "wide.mp4", moving_pattern(9, 32, 64))
        tall = write_video(tmp_path / "tall.mp4", moving_pattern(9, 64, 32))
        odd = write_video(tmp_path / "odd.mp4", moving_pattern(9, 32, 36))
        TimesformerVideoProcessor(
            size={"shortest_edge": 32}, crop_size=square, do_center_crop=False, num_frames=4
        ).save_pretrained(folder)
        table = tmp_path / "list.csv"
        table.write_text(f"path,label\n{wide},running\n{tall},sitting\n{odd},sitting\n")
        assert main(arguments(folder, table, tmp_path / "out")) == 0
        assert pq.read_table(tmp_path / "out" / "videos.parquet").column("path").to_pylist() == [str(wide), str(tall)]
        (failed,) = read(tmp_path / "out")["failed"]
        assert failed["video"] == str(odd)
        assert "width=36 of pixel_values" in failed["error"]

    def test_several_labels_have_the_mean_average_precision(self, model, data, tmp_path, capsys):
        paths = good(data)
        lists = ["running|sitting", "sitting", "", "jumping|running", "sitting|jumping", "running", "jumping"]
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], *zip(paths, lists, strict=True)])
        assert main(arguments(model, tmp_path / "list.csv", tmp_path / "out")) == 0
        assert "mean average precision" in capsys.readouterr().out
        table = pq.read_table(tmp_path / "out" / "videos.parquet")
        labels = table.column("labels").to_pylist()
        assert labels[:4] == [["running", "sitting"], ["sitting"], [], ["running", "jumping"]]
        classifier = pipeline("video-classification", model=model, function_to_apply="sigmoid")
        scores = np.array(table.column("scores").to_pylist())
        expected = {row["label"]: row["score"] for row in classifier(str(paths[1]), top_k=7)}
        assert dict(zip(LABELS, scores[1], strict=True)) == pytest.approx(expected, abs=1e-4)
        precisions = []
        for label in LABELS[:3]:
            ranked = sorted(zip(scores[:, LABELS.index(label)], lists, strict=True), reverse=True)
            hits = [label in names.split("|") for _, names in ranked]
            precisions.append(np.mean([np.mean(hits[: place + 1]) for place in range(7) if hits[place]]))
        assert read(tmp_path / "out")["mean_average_precision"] == pytest.approx(np.mean(precisions))

    def test_a_video_listed_twice_counts_twice(self, model, data, tmp_path):
        first, *_, last = good(data)
        table = tmp_path / "list.csv"
        table.write_text(f"path,label\n{first},running\n{last},sitting\n{first},jumping\n")
        assert main(arguments(model, table, tmp_path / "out")) == 0
        labels = pq.read_table(tmp_path / "out" / "videos.parquet").column("label").to_pylist()
        assert labels == ["running", "sitting", "jumping"]

    def test_rows_of_a_data_set_with_one_name_are_different_videos(self, model, data, tmp_path, monkeypatch):
        """As where it keeps the names of files without their folders."""
        paths = good(data)[:3]
        videos = [LabelledVideo("a.mp4", ("running",), str(path), fetch=path.read_bytes) for path in paths]
        monkeypatch.setattr(measuring, "read_videos", lambda *args: LabelledVideos(videos, LABELS))
        assert main(arguments(model, data, tmp_path)) == 0
        classifier = pipeline("video-classification", model=model)
        for path, row in zip(paths, pq.read_table(tmp_path / "videos.parquet").to_pylist(), strict=True):
            expected = {r["label"]: r["score"] for r in classifier(str(path), top_k=7)}
            assert dict(zip(LABELS, row["scores"], strict=True)) == pytest.approx(expected, abs=1e-4)


class TestLabels:
    def test_case_and_punctuation_do_not_matter_where_that_is_clear(self, model, data, tmp_path):
        """As when it is fine-tuned; results have the model's names."""
        folder = shutil.copytree(data, tmp_path / "videos")
        (folder / "jumping").rename(folder / "Jumping_")
        assert main(arguments(model, folder, tmp_path / "out")) == 0
        rows = pq.read_table(tmp_path / "out" / "videos.parquet").to_pylist()
        assert Counter(row["label"] for row in rows) == {"running": 3, "sleeping": 2, "jumping": 2}

    def test_numbers_need_names(self, model, data, tmp_path, capsys):
        """Matched by name, never by order: what a number stands for must be said."""
        paths = good(data)
        table = tmp_path / "list.csv"
        table.write_text("path,label\n" + "".join(f"{path},{number % 2}\n" for number, path in enumerate(paths)))
        assert main(arguments(model, table, tmp_path / "out")) == 2
        assert "--label_names says what they stand for" in capsys.readouterr().err
        (tmp_path / "names.txt").write_text("waving\nfalling\n")
        assert main(arguments(model, table, tmp_path / "out", "--label_names", tmp_path / "names.txt")) == 0
        labels = pq.read_table(tmp_path / "out" / "videos.parquet").column("label").to_pylist()
        assert labels == ["waving", "falling"] * 3 + ["waving"]

    def test_a_split_is_measured_alone(self, model, data, tmp_path):
        folder = tmp_path / "videos"
        for split in ("train", "test"):
            shutil.copytree(data, folder / split)
        assert main(arguments(model, folder, tmp_path / "out", "--split", "test")) == 0
        paths = pq.read_table(tmp_path / "out" / "videos.parquet").column("path").to_pylist()
        assert len(paths) == 7
        assert all("/test/" in path for path in paths)


class TestCorruptVideos:
    def test_they_are_named_and_counted(self, model, data, broken_data, tmp_path, capsys):
        assert main(arguments(model, broken_data, tmp_path / "out", "--batch_size", 2)) == 0
        output = capsys.readouterr()
        assert "broken.mp4: can't be decoded" in output.err
        assert "7 videos measured, 1 failed" in output.out
        (failed,) = read(tmp_path / "out")["failed"]
        assert failed["video"].endswith("jumping/broken.mp4")
        rows = pq.read_table(tmp_path / "out" / "videos.parquet").to_pylist()
        assert [row["path"] for row in rows] == sorted(str(broken_data / path.relative_to(data)) for path in good(data))
        assert all(row["label"] == Path(row["path"]).parent.name for row in rows)

    def test_the_time_audit_is_added_to_the_same_results(self, model, broken_data, tmp_path, capsys):
        """A broken video is left out of all arrangements. Settings of an audit are not those of a run without."""
        words = arguments(model, broken_data, tmp_path / "audit", "--views", "paper", "--batch_size", 2)
        assert main([*words, "--time-audit"]) == 0
        printed = capsys.readouterr().out
        assert main([*words, "--overwrite"]) == 0
        plain = read(tmp_path / "audit")
        assert main([*words, "--time-audit", "--overwrite"]) == 0
        audit = read(tmp_path / "audit")
        found = audit.pop("time_audit")
        assert plain.pop("settings") != audit.pop("settings")
        assert audit == nearly(plain)
        assert [row["frames"] for row in found["arrangements"]] == list(ARRANGEMENTS)
        assert found["arrangements"][0]["accuracy"] == plain["top_1_accuracy"]
        assert found["arrangements"][0]["interval"] == plain["top_1_interval"]
        assert printed.rstrip().endswith(found["conclusion"])
        table = pq.read_table(tmp_path / "audit" / "videos.parquet")
        assert len(table.column("scores")[0]) == len(LABELS)

    def test_the_time_audit_needs_one_label_a_video(self, model, data, tmp_path, capsys):
        videos = sorted(map(str, data.rglob("*.mp4")))
        (tmp_path / "videos.csv").write_text(f"path,label\n{videos[0]},running|jumping\n{videos[1]},sitting\n")
        assert main(arguments(model, tmp_path / "videos.csv", tmp_path / "out", "--time-audit")) == 2
        assert "--time_audit measures accuracies, and the videos of these data may have" in capsys.readouterr().err

    def test_a_name_that_is_no_text_is_an_error_of_its_video(self, model, broken_data, tmp_path):
        """As a file system may have it; a table can't."""
        name = os.fsdecode(b"\xff.mp4")
        (broken_data / "jumping" / "broken.mp4").rename(broken_data / "jumping" / name)
        assert main(arguments(model, broken_data, tmp_path / "out")) == 0
        (failed,) = read(tmp_path / "out")["failed"]
        assert failed["video"] == str(broken_data / "jumping" / name)
        assert "its name is not UTF-8" in failed["error"]

    def test_strict_stops_at_the_first(self, model, broken_data, tmp_path, capsys):
        assert main(arguments(model, broken_data, tmp_path / "out", "--strict")) == 2
        assert "broken.mp4: can't be decoded" in capsys.readouterr().err
        assert not (tmp_path / "out" / "results.json").exists()

    def test_without_a_readable_video_there_is_nothing_to_measure(self, model, tmp_path, capsys):
        for label in LABELS[:2]:
            (tmp_path / "videos" / label).mkdir(parents=True)
            (tmp_path / "videos" / label / "a.mp4").write_text("nothing")
        assert main(arguments(model, tmp_path / "videos", tmp_path / "out")) == 2
        assert "none of the videos could be read" in capsys.readouterr().err

    def test_scores_that_are_not_finite_are_errors(self, model, data, tmp_path, capsys):
        folder = shutil.copytree(model, tmp_path / "model")
        broken = TimesformerForVideoClassification.from_pretrained(model)
        broken.classifier.bias.data[0] = float("nan")
        broken.save_pretrained(folder)
        assert main(arguments(folder, data, tmp_path / "out")) == 2
        assert "its scores are not finite in torch.float32" in capsys.readouterr().err

    def test_a_missing_decoder_is_not_an_error_of_a_video(self, model, data, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "av", None)
        assert main(arguments(model, data, tmp_path / "out")) == 2
        assert "needs PyAV" in capsys.readouterr().err


class TestLabelErrors:
    def test_they_are_in_the_results_in_a_table_and_printed(self, model, data, tmp_path, capsys):
        """Every label is the model's prediction, but for one."""
        assert main(arguments(model, data, tmp_path / "before")) == 0
        predictions = [
            (row["path"], row["prediction"])
            for row in pq.read_table(tmp_path / "before" / "videos.parquet").to_pylist()
        ]
        counts = Counter(label for _, label in predictions)
        (wrong, right) = max(predictions, key=lambda row: counts[row[1]])
        other = next(label for label in counts if label != right)
        rows = [(path, other if path == wrong else label) for path, label in predictions]
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], *rows])
        capsys.readouterr()
        assert main(arguments(model, tmp_path / "list.csv", tmp_path / "out")) == 0
        with (tmp_path / "out" / "label_errors.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        found = read(tmp_path / "out")["label_errors"]
        assert found["found"] == len(table) == 1
        assert (table[0]["path"], table[0]["label"], table[0]["suggestion"]) == (wrong, other, right)
        assert found["most_probable"][0] == nearly(
            table[0] | {name: float(table[0][name]) for name in ("label_score", "suggestion_score")}
        )
        assert f"labels that are most probably wrong:\n  {wrong}: {other} " in capsys.readouterr().out

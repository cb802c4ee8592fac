"""`timesformer-hf evaluate` against videos classified one by one; after a kill; two processes against one."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from clips import moving_pattern, write_video
from killing import KILLED_AFTER_TWO_PARTS
from tiny_models import make_keen_model, make_model
from transformers import pipeline

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.commands.evaluate import parse_arguments
from timesformer_hf.data.labelled_videos import LabelledVideo, LabelledVideos
from timesformer_hf.evaluation import measuring, scoring
from timesformer_hf.evaluation.time_audit import ARRANGEMENTS
from timesformer_hf.inference.feature_table import FeatureParts


pa = pytest.importorskip("pyarrow", reason="the results of videos are a Parquet file")
pq = pytest.importorskip("pyarrow.parquet", reason="the results of videos are a Parquet file")
pytest.importorskip("matplotlib", reason="the confusion matrix is drawn")

LABELS = ["running", "sitting", "jumping", "falling", "sleeping", "waving", "spinning"]
OUTPUTS = ["confusion_matrix.png", "results.json", "videos.parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """What it calls its labels is in another order than the alphabet's, which folders come in."""
    folder = tmp_path_factory.mktemp("model")
    make_keen_model(num_labels=7, id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    TimesformerVideoProcessor(
        size={"shortest_edge": 32}, crop_size=size, num_frames=4, frame_sampling_rate=2
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven videos of three classes, all different."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(7):
        path = folder / LABELS[[0, 4, 2][number % 3]] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        pattern = moving_pattern(12 + 9 * number, *((48, 64) if number % 2 else (64, 40)))
        write_video(path, [frame // (1 + number % 3) for frame in pattern])
    return folder


@pytest.fixture
def broken_data(data, tmp_path) -> Path:
    folder = shutil.copytree(data, tmp_path / "videos")
    (folder / "jumping" / "broken.mp4").write_text("no video at all")
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """For runs in this process, whose files are compared byte for byte: the same sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def good(data: Path) -> list[Path]:
    return sorted(data.rglob("*.mp4"))


def arguments(model, data, out, *others) -> list[str]:
    flags = ["--model", model, "--data", data, "--output_dir", out, "--num_workers", 0, "--use_cpu", *others]
    return ["evaluate", *map(str, flags)]


def read(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def files(out: Path) -> dict[str, bytes]:
    """The outputs, and nothing else is there."""
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    return {name: (out / name).read_bytes() for name in OUTPUTS}


def assert_same_results(got: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """
    Check the results of runs whose processes differ: numbers to 1e-5, all else to the letter.

    With another number of threads the sums in the model come in another order. Logits of about 10 then differ by some
    units of float32's last place, 1e-6, and scores by no more than logits do.
    """
    assert got["confusion_matrix.png"] == expected["confusion_matrix.png"]
    tables = [pq.read_table(pa.BufferReader(contents["videos.parquet"])) for contents in (got, expected)]
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].to_pylist() == nearly(tables[1].to_pylist())
    assert json.loads(got["results.json"]) == nearly(json.loads(expected["results.json"]))


def nearly(value):
    """What equals `value` where its numbers that aren't whole differ by 1e-5 at most."""
    if isinstance(value, dict):
        return {name: nearly(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [nearly(entry) for entry in value]
    return pytest.approx(value, rel=0, abs=1e-5) if isinstance(value, float) else value


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


@pytest.fixture(scope="module")
def unbroken(model, data, tmp_path_factory) -> dict[str, bytes]:
    """The results of one process without interruption, in batches of two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    assert main(arguments(model, data, out, "--batch_size", 2)) == 0
    torch.set_num_threads(threads)
    return files(out)


class TestResuming:
    @pytest.fixture
    def broken(self, model, data, tmp_path, monkeypatch) -> Path:
        """The folder of a run that was interrupted after two batches of two videos."""
        write = FeatureParts.write

        def interrupted(self, *args):
            if len(self.places) == 4:
                raise KeyboardInterrupt
            write(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "write", interrupted)
            assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 130
        return tmp_path / "out"

    def test_only_the_rest_is_done_and_the_result_is_the_same(self, unbroken, broken, model, data, monkeypatch):
        decoded, load = [], scoring.load_labelled_video
        monkeypatch.setattr(scoring, "load_labelled_video", lambda *args: decoded.append(args[1].name) or load(*args))
        assert main(arguments(model, data, broken, "--batch_size", 2)) == 0
        assert decoded == sorted(map(str, data.rglob("*.mp4")))[4:]
        assert files(broken) == unbroken

    def test_a_killed_run_goes_on(self, unbroken, model, data, tmp_path):
        """By a signal that leaves no time to clean up, while it writes."""
        code = f"""{KILLED_AFTER_TWO_PARTS}
import sys
from timesformer_hf.cli import main

sys.exit(main({arguments(model, data, tmp_path / "out", "--batch_size", 2)!r}))
"""
        process = subprocess.run([sys.executable, "-c", code], timeout=300)
        assert process.returncode == -9
        assert len(list((tmp_path / "out" / "parts").glob("*/*.parquet"))) == 2
        assert not (tmp_path / "out" / "results.json").exists()
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert_same_results(files(tmp_path / "out"), unbroken)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_says_how_to_go_on(self, number, unbroken, model, data, tmp_path, monkeypatch, capsys):
        """As in `finetune`."""
        write, out = FeatureParts.write, tmp_path / "out"

        def interrupted(self, *args):
            if self.places:
                os.kill(os.getpid(), number)
            write(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "write", interrupted)
            try:
                code = main(arguments(model, data, out, "--batch_size", 2))
            except SystemExit as ending:
                code = ending.code
        assert code == 128 + number
        message = "timesformer-hf: interrupted. What is done is kept; the same command goes on from there.\n"
        assert capsys.readouterr().err.endswith(message)
        assert [path.name for path in out.iterdir()] == ["parts"]
        assert main(arguments(model, data, out, "--batch_size", 2)) == 0
        assert files(out) == unbroken

    def test_killed_while_it_removes_its_parts(self, unbroken, model, data, tmp_path, monkeypatch):
        remove = shutil.rmtree

        def interrupted(folder, **settings):
            if any(Path(folder).rglob("settings.json")):
                next(Path(folder).rglob("settings.json")).unlink()
                raise KeyboardInterrupt
            remove(folder, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupted)
            assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 130
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2, "--overwrite")) == 0
        assert files(tmp_path / "out") == unbroken
        assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]

    def test_what_another_process_has_done_counts(self, unbroken, model, data, tmp_path):
        """One process goes on where the second of two was cut off."""
        options = parse_arguments(arguments(model, data, tmp_path / "out", "--batch_size", 2)[1:])
        second = SimpleNamespace(
            process_index=1,
            num_processes=2,
            is_main_process=False,
            is_local_main_process=False,
            device=torch.device("cpu"),
            wait_for_everyone=lambda: None,
        )
        assert measuring.evaluate_model(options, second) is None
        parts = sorted((tmp_path / "out" / "parts").rglob("*.parquet"))
        assert [part.parent.name for part in parts] == ["00001", "00001"]
        assert sum(pq.read_metadata(part).num_rows for part in parts) == 3  # of 2, 2, 2 and 1: the second and fourth
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert files(tmp_path / "out") == unbroken

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--views", "paper"], "views was None and now is 'paper'"),
            (["--dtype", "bfloat16"], "dtype was 'float32' and now is 'bfloat16'"),
            (["--average", "logits"], "average was 'probabilities' and now is 'logits'"),
        ],
    )
    def test_other_settings_are_refused(self, broken, model, data, flags, message, capsys):
        assert main(arguments(model, data, broken, *flags)) == 2
        assert message in capsys.readouterr().err

    def test_other_data_are_refused(self, broken, model, data, tmp_path, capsys):
        moved = shutil.copytree(data, tmp_path / "moved")
        assert main(arguments(model, moved, broken)) == 2
        assert f"data was '{data}' and now is '{moved}'" in capsys.readouterr().err

    def test_finished_results_stay(self, unbroken, model, data, tmp_path, capsys):
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert main(arguments("/no/such/model", data, tmp_path / "out")) == 2  # told before any work
        assert "results.json exists; give another name, or --overwrite" in capsys.readouterr().err
        assert files(tmp_path / "out") == unbroken
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2, "--overwrite")) == 0
        assert files(tmp_path / "out") == unbroken


def test_two_processes_give_the_same_numbers_to_the_last_clip(model, broken_data, tmp_path):
    """
    By gloo. Of seven videos and two that are broken, in batches of two, one process has five and the other four, both
    of the broken ones among them. They have one thread each, the process that was alone has two.
    """
    torch.set_num_threads(2)
    (broken_data / "running" / "also.mp4").write_text("nothing")
    words = ["--batch_size", "2"]
    assert main(arguments(model, broken_data, tmp_path / "one", *words)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [*launcher, "-m", "timesformer_hf", *arguments(model, broken_data, tmp_path / "two", *words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("7 videos measured, 2 failed") == 1
    for name in ("jumping/broken.mp4", "running/also.mp4"):
        assert process.stderr.count(f"timesformer-hf: {broken_data / name}") == 1
    assert_same_results(files(tmp_path / "two"), files(tmp_path / "one"))


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--num_crops", "2"], "num_crops=2 must be 1 (the centre) or 3"),
            (["--num_frames", "0"], "num_frames=0 must be at least 1"),
            (["--num_clips", "-1"], "num_clips=-1 must be at least 1"),
            (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
            (["--split", "test"], "There is no split 'test'"),
            (["--label_names", "nonsense"], "'nonsense' is neither a label list"),
        ],
    )
    def test_settings_are_checked_before_any_video(self, model, data, tmp_path, flags, message, capsys):
        assert main(arguments(model, data, tmp_path / "out", *flags)) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert len(errors.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_a_protocol_needs_a_rate(self, model, data, tmp_path, capsys):
        folder = shutil.copytree(model, tmp_path / "model")
        size = {"height": 32, "width": 32}
        TimesformerVideoProcessor(size=size, crop_size=size, num_frames=4).save_pretrained(folder)
        assert main(arguments(folder, data, tmp_path / "out", "--views", "original")) == 2
        assert "frame_sampling='original' needs a frame_sampling_rate" in capsys.readouterr().err

    def test_models_that_cannot_be_measured_are_refused(self, model, data, tmp_path, capsys):
        def error(folder) -> str:
            assert main(arguments(folder, data, tmp_path / "out")) == 2
            return capsys.readouterr().err

        assert "can't load the model /no/such/folder" in error("/no/such/folder")
        headless = shutil.copytree(model, tmp_path / "headless")
        TimesformerForVideoClassification.from_pretrained(model).timesformer.save_pretrained(headless)
        assert "headless lacks 2 weights, classifier.bias among them" in error(headless)
        regression = shutil.copytree(model, tmp_path / "regression")
        make_model(num_labels=1, problem_type="regression").save_pretrained(regression)
        assert "is a model for regression" in error(regression)

    def test_a_full_disk_loses_nothing_that_is_done(self, unbroken, model, data, tmp_path, monkeypatch, capsys):
        """While it writes the results: what is done isn't lost."""

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(measuring, "plot_confusion_matrix", full)
            assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 2
        message = f"{tmp_path}/out/confusion_matrix.png can't be written, and no part of it stays: No space left"
        shown = capsys.readouterr().err
        assert message in shown
        assert "When there is room, repeat the command. What is done is kept" in shown
        assert not (tmp_path / "out" / "results.json").exists()
        monkeypatch.setattr(scoring, "score_batch", None)  # nothing is left to score
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert files(tmp_path / "out") == unbroken

    def test_too_little_memory_says_what_to_lower(self, unbroken, model, data, tmp_path, monkeypatch, capsys):
        def exhausted(*args):
            raise torch.OutOfMemoryError("tried to allocate")

        monkeypatch.setattr(scoring, "score_batch", exhausted)
        assert main(arguments(model, data, tmp_path / "out")) == 2
        assert "repeat it with a smaller --batch_size" in capsys.readouterr().err

    def test_help_begins_with_examples(self, capsys):
        with pytest.raises(SystemExit) as exit_info:
            main(["evaluate", "--help"])
        assert exit_info.value.code == 0
        output = capsys.readouterr().out
        assert "--views paper --frame_sampling_rate 32" in output
        assert "{paper,original}" in output

    def test_no_more_workers_than_cores(self, model, data, tmp_path, monkeypatch):
        """More of them are slower, and torch warns of them."""
        workers = []
        monkeypatch.setattr(measuring, "count_cores", lambda: 1)
        monkeypatch.setattr(
            measuring, "DataLoader", lambda *args, **settings: workers.append(settings["num_workers"]) or []
        )
        monkeypatch.setattr(measuring, "write_results", lambda *args: None)
        options = parse_arguments(
            ["--model", model, "--data", str(data), "--output_dir", str(tmp_path / "o"), "--use_cpu"]
        )
        measuring.evaluate_model(options, Accelerator(cpu=True))
        assert workers == [1]

"""`timesformer-hf timeline`: what it prints and writes, going on after an interruption, and messages on bad input."""

import csv
import json
import os
import sys

import pytest
from clips import moving_pattern, write_video
from tiny_models import LABELS, make_keen_model, make_video_processor
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor

from timesformer_hf import make_timeline
from timesformer_hf.cli import main
from timesformer_hf.output.terminal import counted
from timesformer_hf.timeline import stream_classifier
from timesformer_hf.timeline.window_scoring import WindowScorer


OPTIONS = ["--window", "0.4", "--stride", "0.12", "--threshold", "0.3", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    make_keen_model(**labels).save_pretrained(path)
    make_video_processor(frame_sampling_rate=3).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("films")
    return [str(write_video(path / f"{name}.mkv", moving_pattern(83 + 10 * i))) for i, name in enumerate("ab")]


@pytest.fixture
def command(folder):
    return lambda *words: main(["timeline", *OPTIONS, "--model", folder, *words])


@pytest.fixture(scope="module")
def expected(films):
    """The timeline of the first film, by the function."""
    model = make_keen_model(id2label=dict(enumerate(LABELS)))
    settings = {"window": 0.4, "stride": 0.12, "threshold": 0.3}
    return make_timeline(model, make_video_processor(frame_sampling_rate=3), films[0], **settings)


def stop_after(windows: int, monkeypatch) -> None:
    """The model is interrupted after so many windows."""
    score, done = WindowScorer.score, []

    def stopping(self, clips):
        if sum(done) >= windows:
            raise KeyboardInterrupt
        done.append(len(clips))
        return score(self, clips)

    monkeypatch.setattr(WindowScorer, "score", stopping)


class TestPrinting:
    def test_table(self, command, films, expected, capsys):
        assert command(films[0]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == films[0]
        assert len(lines) == 1 + len(expected.segments) > 3
        for line, segment in zip(lines[1:], expected.segments, strict=True):
            start, end, label, score = line.split()
            assert (float(start.split(":")[2]), float(end.split(":")[2])) == (
                pytest.approx(segment.start, abs=0.0051),
                pytest.approx(segment.end, abs=0.0051),
            )
            assert (label, float(score[:-1])) == (segment.label, pytest.approx(100 * segment.score, abs=0.01))

    def test_json_has_a_line_for_each_video(self, command, films, expected, corrupt, capsys):
        assert command(films[0], corrupt, films[1], "missing.mp4", "--json") == 1
        captured = capsys.readouterr()
        rows = [json.loads(line) for line in captured.out.splitlines()]
        assert [row["video"] for row in rows] == [films[0], corrupt, films[1], "missing.mp4"]
        assert [sorted(row) for row in rows][1::2] == [["error", "video"]] * 2
        assert "can't be decoded" in rows[1]["error"]
        assert "there is no such file" in rows[3]["error"]
        assert "2 of 4 videos failed" in captured.err
        assert len(rows[0]["windows"]) == len(expected.windows)
        assert [(s["label"], s["start"], s["end"]) for s in rows[0]["segments"]] == [
            (s.label, pytest.approx(s.start), pytest.approx(s.end)) for s in expected.segments
        ]

    def test_labels_and_a_short_video(self, command, films, capsys):
        assert command(films[0], "--labels", "jumping", "falling", "--window", "9", "--threshold", "0.0001") == 0
        captured = capsys.readouterr()
        assert f"{films[0]} is shorter than a window of 9 s, so it is one window" in captured.err
        assert captured.out.split()[3] in ("jumping", "falling")

    def test_no_segment(self, command, films, capsys):
        assert command(films[0], "--threshold", "2") == 0
        assert "no segment: no score reaches the threshold; give a --threshold below 2" in capsys.readouterr().out

    def test_no_segment_in_a_file(self, command, films, tmp_path, capsys):
        """An empty file of markers looks like a fault of the editor."""
        out = tmp_path / "out.srt"
        assert command(films[0], "--threshold", "2", "--labels", "falling", "--out", str(out)) == 0
        captured = capsys.readouterr()
        assert f"{films[0]}: 0 segments in {out}" in captured.out
        assert "no segment with these labels: give a --threshold below 2, or leave out --labels" in captured.err


class TestOutputs:
    def test_several_formats(self, command, films, expected, tmp_path, capsys):
        names = [str(tmp_path / "new" / f"out.{ending}") for ending in ("json", "csv", "srt", "mp4")]
        assert command(films[0], *[word for name in names for word in ("--out", name)]) == 0
        assert sorted(os.listdir(tmp_path / "new")) == ["out.csv", "out.json", "out.mp4", "out.srt"]
        content = json.loads((tmp_path / "new" / "out.json").read_text())
        assert len(content["segments"]) == len(expected.segments)
        with (tmp_path / "new" / "out.csv").open(newline="") as file:
            assert [row["label"] for row in csv.DictReader(file)] == [s.label for s in expected.segments]
        assert f"{counted(len(expected.segments), 'segment')} in" in capsys.readouterr().out

    def test_several_videos(self, command, films, tmp_path, capsys):
        assert command(*films, "--out", str(tmp_path / "{name}.json")) == 0
        assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]
        assert json.loads((tmp_path / "b.json").read_text())["video"] == films[1]
        assert command(*films, "--out", str(tmp_path / "all.json")) == 2
        assert "two timelines would be written to" in capsys.readouterr().err
        assert command(films[0], "--out", str(tmp_path / "c.csv"), "--out", str(tmp_path / "c.csv")) == 2

    def test_an_interrupted_run_goes_on(self, command, films, tmp_path, monkeypatch, capsys):
        whole, out = tmp_path / "whole.json", tmp_path / "out.json"
        assert command(films[0], "--out", str(whole)) == 0
        with monkeypatch.context() as patch:
            stop_after(16, patch)
            assert command(films[0], "--out", str(out)) == 130
        assert sorted(os.listdir(tmp_path)) == ["out.json.scores", "whole.json"]
        assert "Finished windows are kept; the same command goes on from there." in capsys.readouterr().err
        with monkeypatch.context() as patch:
            stop_after(9, patch)  # 25 windows in all: 16 are known
            assert command(films[0], "--out", str(out)) == 0
        assert out.read_text() == whole.read_text()
        assert sorted(os.listdir(tmp_path)) == ["out.json", "whole.json"]

    def test_other_settings_do_not_go_on(self, command, films, tmp_path, monkeypatch, capsys):
        out = tmp_path / "out.json"
        with monkeypatch.context() as patch:
            stop_after(8, patch)
            command(films[0], "--out", str(out))
        assert command(films[0], "--out", str(out), "--stride", "0.2") == 2
        assert "interrupted run with another stride" in capsys.readouterr().err


class TestBadInput:
    """Before the work starts: no window is scored."""

    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        monkeypatch.setattr(WindowScorer, "score", lambda *args: pytest.fail("the work has started"))

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--labels", "runing"], "The model has no label 'runing'. The nearest of its 5 labels: 'running'"),
            (["--out", "a.txt"], "a.txt: the name of a timeline's file must end in one of .json, .csv"),
            (["--out", "/proc/nothing/a.json"], "can't be created"),
            (["--window", "-1"], "window=-1.0 must be a positive number of seconds"),
            (["--threshold", "nan"], "threshold=nan must be a finite number"),
            (["--live", "--out", "a.json"], "--out is for videos with an end"),
            (["b.mp4", "--live"], "--live reads one source, got 2"),
        ],
        ids=str,
    )
    def test_messages(self, words, message, command, films, capsys):
        assert command(films[0], *words) == 2
        assert message in capsys.readouterr().err

    def test_a_model_of_another_kind(self, films, tmp_path, capsys):
        config = VideoMAEConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        VideoMAEForVideoClassification(config).save_pretrained(tmp_path)
        VideoMAEVideoProcessor().save_pretrained(tmp_path)
        assert main(["timeline", films[0], "--model", str(tmp_path)]) == 2
        assert "A timeline needs a TimesformerVideoProcessor, got VideoMAEVideoProcessor" in capsys.readouterr().err

    def test_an_output_that_exists(self, command, films, tmp_path, capsys):
        out = tmp_path / "out.json"
        out.write_text("before")
        assert command(films[0], "--out", str(out)) == 2
        assert "exists; give another name, or --overwrite" in capsys.readouterr().err
        assert out.read_text() == "before"

    def test_shots_without_the_package(self, command, films, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "scenedetect", None)
        assert command(films[0], "--shots") == 2
        assert 'pip install "timesformer_hf[timeline]"' in capsys.readouterr().err


class TestLive:
    def test_a_line_as_each_segment_ends(self, command, films, expected, capsys):
        assert command(films[0], "--live", "--json") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["video"], row["label"]) for row in rows] == [(films[0], s.label) for s in expected.segments]
        assert [row["end"] for row in rows] == pytest.approx([s.end for s in expected.segments])

    def test_an_interrupt_ends_the_open_segment(self, command, films, monkeypatch, capsys):
        add, frames = stream_classifier.StreamClassifier.add, []

        def stopping(self, frame, time):
            frames.append(time)
            if len(frames) == 60:
                raise KeyboardInterrupt
            return add(self, frame, time)

        monkeypatch.setattr(stream_classifier.StreamClassifier, "add", stopping)
        assert command(films[0], "--live", "--json") == 130
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert rows[-1]["end"] == pytest.approx(59 / 25)

    def test_a_broken_source(self, command, capsys):
        assert command("camera:77", "--live") == 2
        assert "camera:77: there is no such camera" in capsys.readouterr().err

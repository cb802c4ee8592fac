"""`timesformer-hf explain` from its words to its files, and what it says of input that it can't use."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import av, moving_pattern, write_sound, write_video
from tiny_models import LABELS, make_keen_model, make_video_processor

from timesformer_hf import CAMERA_MOTION, explain_video
from timesformer_hf.cli import main
from timesformer_hf.commands.explain import OUTPUTS
from timesformer_hf.explanation.video_explanation import load_explainable


pytest.importorskip("matplotlib", reason="draws")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("video") / "clip.mp4", moving_pattern(20)))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """It was saved with a protocol of several views, which an explanation leaves out."""
    folder = tmp_path_factory.mktemp("model")
    make_keen_model(id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    make_video_processor(frame_sampling_rate=3, views="paper").save_pretrained(folder)
    return str(folder)


def explain(*words) -> int:
    return main(["explain", *map(str, words), "--device", "cpu"])


@pytest.fixture
def quick(monkeypatch):
    """No pictures are drawn; their files have a letter instead."""
    for name in ("draw_sheet", "draw_times", "write_film", "write_gif"):
        monkeypatch.setattr(f"timesformer_hf.explanation.drawing.{name}", lambda path, *others: path.write_text("x"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestOneVideo:
    def test_all_files_are_written(self, model, video, tmp_path, capsys):
        assert explain(video, "--model", model, "--out", tmp_path / "a" / "out", "--label", "Falling") == 0
        out = tmp_path / "a" / "out"
        assert files(out) == sorted(OUTPUTS)
        loaded, processor = load_explainable(model)
        expected = explain_video(loaded, processor, video, "falling")
        with np.load(out / "relevance.npz") as written:
            assert sorted(written) == ["frame_indices", "label", "relevance", "score"]
            np.testing.assert_allclose(written["relevance"], expected.relevance, atol=1e-6)
            assert written["relevance"].shape == (4, 4, 4)
            assert written["frame_indices"].tolist() == expected.frame_indices == [5, 8, 11, 14]
            assert str(written["label"]) == "falling"
            assert float(written["score"]) == pytest.approx(expected.score, abs=1e-6)
        with av.open(str(out / "overlay.mp4")) as film:
            assert len(list(film.decode(video=0))) == 10  # from frame 5 to 14
        output, errors = capsys.readouterr()
        assert "is shorter" not in errors
        assert f"falling  {expected.score:.2%} (predicted: {expected.predicted})" in output
        assert str(out) in output

    def test_the_shipped_model_is_the_default(self, tmp_path, video, quick, capsys):
        assert explain(video, "--out", tmp_path / "out") == 0
        with np.load(tmp_path / "out" / "relevance.npz") as written:
            assert str(written["label"]) in load_explainable(CAMERA_MOTION)[0].config.label2id
            assert written["relevance"].shape == (8, 4, 4)
        note = "clip.mp4 is shorter than a clip of this model, which gets its last frame several times"
        assert note in capsys.readouterr().err  # it has 20 frames, and a clip 29

    def test_results_stay_unless_they_may_be_replaced(self, model, video, tmp_path, quick, capsys):
        (tmp_path / "time.png").write_text("mine")
        assert explain(video, "--model", "/no/such/model", "--out", tmp_path) == 2  # told before any work
        assert "time.png exists; give another name, or --overwrite" in capsys.readouterr().err
        assert files(tmp_path) == ["time.png"]
        assert explain(video, "--model", model, "--out", tmp_path, "--overwrite") == 0
        assert files(tmp_path) == sorted(OUTPUTS)
        assert (tmp_path / "time.png").read_bytes() != b"mine"

    def test_an_error_leaves_no_half_file(self, model, video, tmp_path, quick, monkeypatch, capsys):
        def full(*args):
            Path(args[0]).write_text("half")
            raise OSError("No space left on device")

        monkeypatch.setattr("timesformer_hf.explanation.drawing.write_film", full)
        assert explain(video, "--model", model, "--out", tmp_path / "out") == 2
        assert "No space left" in capsys.readouterr().err
        assert files(tmp_path / "out") == sorted(set(OUTPUTS) - {"overlay.mp4"})


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--label", "jump"], "The model has no label 'jump'. The nearest of its 5 labels: 'jumping'"),
            (["--model", "/no/such/model"], "can't load the model /no/such/model"),
        ],
    )
    def test_words(self, model, video, tmp_path, words, message, capsys):
        assert explain(video, "--model", model, "--out", tmp_path / "out", *words) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert len(errors.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_files_that_are_no_video(self, model, tmp_path, corrupt, capsys):
        for file, message in (
            (corrupt, "corrupt.mp4: can't be decoded"),
            (write_sound(tmp_path / "sound.mp4"), "has no video stream (streams in it: audio)"),
            (tmp_path / "none.mp4", "none.mp4"),
        ):
            assert explain(file, "--model", model, "--out", tmp_path / "out") == 2
            assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_can_not_be_written_is_told_before_the_work(self, video, tmp_path, monkeypatch, capsys):
        (tmp_path / "file").write_text("")
        assert explain(video, "--model", "/no/such/model", "--out", tmp_path / "file" / "out") == 2
        assert "file is a file, not a folder" in capsys.readouterr().err

        def read_only(*args, **settings):
            raise PermissionError(30, "Read-only file system")

        monkeypatch.setattr("timesformer_hf.output.atomic.tempfile.TemporaryDirectory", read_only)
        assert explain(video, "--model", "/no/such/model", "--out", tmp_path / "out") == 2
        assert f"{tmp_path} can't be written to (Read-only file system)" in capsys.readouterr().err

    def test_what_is_missing_or_too_much(self, video, tmp_path, capsys):
        assert explain(video) == 2
        assert "--out DIR is needed" in capsys.readouterr().err
        assert explain("--score", tmp_path, "--label", "jumping") == 2
        assert "--label is for a single video" in capsys.readouterr().err
        for words in ([], [video, "--score", str(tmp_path)], [video, "--out", "x", "--method", "gradcam"]):
            with pytest.raises(SystemExit) as exit_info:
                explain(*words)
            assert exit_info.value.code == 2

    def test_without_matplotlib(self, video, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("timesformer_hf.output.extras.importlib.util.find_spec", lambda name: None)
        assert explain(video, "--model", "/no/such/model", "--out", tmp_path / "out") == 2
        assert 'pip install "timesformer_hf[viz]"' in capsys.readouterr().err


class TestScore:
    @pytest.fixture
    def folder(self, tmp_path):
        for number in range(2):
            write_video(tmp_path / f"{number}.mp4", moving_pattern(12 + number))
        with (tmp_path / "boxes.csv").open("w", newline="") as file:
            rows = [("0.mp4", frame, 0, 0, 32, 24) for frame in range(12)]
            csv.writer(file).writerows([("video", "frame", "left", "top", "right", "bottom"), *rows])
        return tmp_path

    def test_the_table(self, model, folder, capsys):
        torch.manual_seed(0)
        assert explain("--score", folder, "--model", model) == 0
        output = capsys.readouterr().out
        for row in ("gradient_rollout", "rollout", "random", "centre"):
            assert f"\n| {row} " in output
        assert "deletion: 2 clips, insertion: 2 clips, pointing game: 1 clips" in output
        assert "\ngradient_rollout is " in output
        assert "0.250 ± nan" in output.split("| random")[1].splitlines()[0]  # a quarter of the frame is in the box

    def test_a_broken_video_is_reported_and_left_out(self, model, folder, capsys):
        (folder / "2.mp4").write_text("no video")
        assert explain("--score", folder, "--model", model) == 1
        captured = capsys.readouterr()
        assert "2.mp4: can't be decoded" in captured.err
        assert "deletion: 2 clips" in captured.out

    def test_nothing_to_score(self, model, tmp_path, capsys):
        assert explain("--score", tmp_path, "--model", model) == 2
        assert "There is no video in the folder" in capsys.readouterr().err
        assert explain("--score", tmp_path / "none", "--model", model) == 2
        assert "is not a folder" in capsys.readouterr().err

"""What `timesformer-hf evaluate` refuses, and what it says."""

import errno
import shutil

import pytest
import torch
from accelerate import Accelerator
from evaluating import arguments, files
from tiny_models import make_model

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.commands.evaluate import parse_arguments
from timesformer_hf.evaluation import measuring, scoring


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

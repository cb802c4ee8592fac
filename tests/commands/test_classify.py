"""`timesformer-hf classify`: what it prints, and that a bad file is its own failure alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips import moving_pattern, write_sound, write_video
from repository import SAMPLE
from tiny_models import make_model, save_classifier
from transformers import pipeline
from view_twins import save_keen_classifier, write_videos

import timesformer_hf
from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.commands.classify import speed_line
from timesformer_hf.inference.encoder import InferenceEncoder
from timesformer_hf.inference.file_classification import BusyTime
from timesformer_hf.video.multi_view import VIEW_PROTOCOLS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classifier(folder):
    return pipeline("video-classification", model=folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    clips = tmp_path_factory.mktemp("clips")
    sizes = [(48, 64), (64, 48), (96, 96)]
    return [str(write_video(clips / f"{i}.mp4", moving_pattern(20 + 20 * i, *size))) for i, size in enumerate(sizes)]


class TestCommand:
    def test_table_has_the_best_labels(self, folder, videos, classifier, capsys):
        assert main(["classify", videos[0], videos[1], "--model", folder, "--top-k", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [lines[0], lines[3]] == videos[:2]
        first = classifier(videos[0], top_k=2)
        width = max(len(row["label"]) for row in first)
        for line, row in zip(lines[1:3], first, strict=True):
            score = float(line.removesuffix("%").split()[-1]) / 100
            assert line == f"  {row['label']:<{width}}  {score:7.2%}"
            assert score == pytest.approx(row["score"], abs=6e-5)  # rounded, of a model that adds in another order

    def test_int8_is_near(self, folder, videos, classifier, capsys):
        pytest.importorskip("torchao", reason="needs torchao where the CPU has no int8 products")
        assert main(["classify", videos[0], "--model", folder, "--quantize", "int8", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["predictions"]
        expected = {row["label"]: row["score"] for row in classifier(videos[0])}
        differences = [abs(row["score"] - expected[row["label"]]) for row in rows]
        assert 0 < max(differences) < 0.05  # of probabilities; see test_quantization.py

    def test_an_exported_model(self, folder, videos, classifier, tmp_path, capsys):
        assert main(["export", folder, "--format", "torch-export", "--out", str(tmp_path / "out")]) == 0
        capsys.readouterr()
        command = ["classify", videos[0], "--model", str(tmp_path / "out"), "--device", "cpu"]
        assert main([*command, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["predictions"]
        for row, expected in zip(rows, classifier(videos[0]), strict=True):
            assert row == pytest.approx(expected, abs=1e-5)
        assert main([*command, "--dtype", "bfloat16"]) == 2
        assert "is an exported model, which has its dtype" in capsys.readouterr().err

    def test_json_has_a_line_for_each_video(self, folder, videos, corrupt, capsys):
        assert main(["classify", videos[0], corrupt, videos[1], "--model", folder, "--json"]) == 1
        output = capsys.readouterr()
        rows = [json.loads(line) for line in output.out.splitlines()]
        assert [row["video"] for row in rows] == [videos[0], corrupt, videos[1]]
        assert [sorted(row) for row in rows] == [["predictions", "video"], ["error", "video"], ["predictions", "video"]]
        assert [sorted(row) for row in rows[0]["predictions"]] == [["label", "score"]] * 5
        assert "corrupt.mp4: can't be decoded" in rows[1]["error"]
        assert "1 of 3 videos failed" in output.err

    def test_settings_reach_the_pipeline(self, folder, videos, classifier, capsys):
        main(["classify", videos[2], "--model", folder, "--json", "--num-frames", "6", "--frame-sampling-rate", "2"])
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        expected = classifier(videos[2], num_frames=6, frame_sampling_rate=2)
        assert [p["score"] for p in row["predictions"]] == pytest.approx([p["score"] for p in expected], abs=1e-6)

    @pytest.mark.parametrize("command", ["classify", "embed"])
    def test_answers_come_from_the_optimized_model(self, command, folder, videos, tmp_path, monkeypatch):
        """Whoever asks for answers alone gets them sooner."""
        runs, run = [], InferenceEncoder.run
        monkeypatch.setattr(InferenceEncoder, "run", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
        out = ["--out", str(tmp_path / "features.parquet")] if command == "embed" else []
        assert main([command, videos[0], "--model", folder, "--device", "cpu", *out]) == 0
        assert runs == [1]

    def test_an_adapter_has_its_say(self, folder, videos, tmp_path, capsys):
        """As a fine-tuning with LoRA leaves it: the adapter has its say."""
        peft = pytest.importorskip("peft")
        model = TimesformerForVideoClassification.from_pretrained(folder)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False))
        adapted.save_pretrained(tmp_path)
        processor = TimesformerVideoProcessor.from_pretrained(folder)
        processor.save_pretrained(tmp_path)
        assert main(["classify", videos[0], "--model", str(tmp_path), "--device", "cpu", "--json"]) == 0
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        with torch.no_grad():
            logits = adapted.eval()(**processor(videos[0], return_tensors="pt")).logits
        expected = logits.softmax(-1)[0].sort(descending=True).values.tolist()
        assert [p["score"] for p in row["predictions"]] == pytest.approx(expected, abs=1e-6)

    def test_failures_are_named_and_the_others_classified(self, folder, videos, corrupt, tmp_path, capsys):
        sound = str(write_sound(tmp_path / "sound.m4a"))
        missing = str(tmp_path / "missing.mp4")
        arguments = [missing, videos[0], corrupt, sound]
        assert main(["classify", *arguments, "--model", folder, "--top-k", "1"]) == 1
        output = capsys.readouterr()
        assert output.out.splitlines()[0] == videos[0]
        for name in (missing, corrupt, sound):
            assert name in output.err
        assert "3 of 4 videos failed" in output.err

    def test_a_folder_stands_for_its_videos(self, folder, videos, capsys):
        place = str(Path(videos[0]).parent)
        assert main(["classify", place, videos[0], "--model", folder, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["video"] for row in rows] == videos

    def test_a_folder_without_videos_is_told(self, folder, tmp_path, capsys):
        assert main(["classify", str(tmp_path), "--model", folder]) == 2
        assert f"There is no video in the folder {tmp_path}" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["classify", "embed"])
    def test_files_are_looked_at_before_a_model_is_loaded(self, command, tmp_path, monkeypatch, capsys):
        def load(*args, **kwargs):
            raise AssertionError("the model is loaded")

        monkeypatch.setattr("timesformer_hf.inference.loading.load_fast_pipeline", load)
        monkeypatch.setattr("timesformer_hf.commands.embed.run_many", load)
        missing = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
        more = ["--out", str(tmp_path / "f.parquet"), "--model", "x"] if command == "embed" else []
        assert main([command, *missing, *more]) == 2
        errors = capsys.readouterr().err
        assert all(errors.count(f"{name}: there is no such file") == 1 for name in missing)
        assert "model" not in errors

    def test_missing_files_have_their_line_of_json(self, tmp_path, capsys):
        missing = str(tmp_path / "a.mp4")
        assert main(["classify", missing, "--json"]) == 2
        assert json.loads(capsys.readouterr().out) == {"video": missing, "error": f"{missing}: there is no such file"}

    @pytest.mark.parametrize("device", ["gpu", "meta"])
    def test_a_device_that_torch_lacks_is_told(self, device, folder, videos, capsys):
        assert main(["classify", videos[0], "--model", folder, "--device", device]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"timesformer-hf: --device {device}: torch can't compute there (")
        assert "this machine has cpu" in line
        assert len(line) < 150

    def test_any_failure_is_of_its_video_alone(self, folder, videos, monkeypatch, capsys):
        """As a device that runs out of memory on one of them."""
        original = TimesformerVideoProcessor.preprocess

        def exhausted(self, video, **settings):
            if isinstance(video, str) and video == videos[1]:
                raise RuntimeError("out of memory")
            return original(self, video, **settings)

        monkeypatch.setattr(TimesformerVideoProcessor, "preprocess", exhausted)
        assert main(["classify", *videos, "--model", folder, "--json"]) == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert ["error" in row for row in rows] == [False, True, False]
        assert rows[1]["error"] == "out of memory"

    def test_an_interrupt_exits_with_130(self, folder, videos, monkeypatch, capsys):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(TimesformerVideoProcessor, "preprocess", interrupt)
        assert main(["classify", videos[0], "--model", folder]) == 130
        assert "timesformer-hf: interrupted" in capsys.readouterr().err

    def test_empty_model_name_is_not_the_shipped_model(self, videos, capsys):
        assert main(["classify", videos[0], "--model", ""]) == 2
        assert "can't load the model" in capsys.readouterr().err

    def test_a_missing_model_is_told(self, videos, capsys):
        assert main(["classify", videos[0], "--model", "/no/such/folder"]) == 2
        assert "can't load the model /no/such/folder: there is no such folder" in capsys.readouterr().err

    def test_weights_that_contradict_the_config_are_told(self, videos, tmp_path, capsys):
        make_model().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | {"hidden_size": 96}
        (tmp_path / "config.json").write_text(json.dumps(config))
        TimesformerVideoProcessor().save_pretrained(tmp_path)
        assert main(["classify", videos[0], "--model", str(tmp_path)]) == 2
        assert "classifier.weight is (5, 48), the config asks for (5, 96)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["classify"], "the following arguments are required: VIDEO"),
            (["classify", "a.mp4", "--top-k", "0"], "0 must be at least 1"),
            (["classify", "a.mp4", "--dtype", "int3"], "invalid choice: 'int3'"),
        ],
    )
    def test_mistakes_in_the_call(self, arguments, message, capsys):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err

    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit) as exit_info:
            main(["classify", "--help"])
        assert exit_info.value.code == 0
        assert "timesformer-hf classify videos/ --model ./my-model --json" in capsys.readouterr().out

    def test_quickstart_classifies_the_sample_by_the_shipped_model(self):
        """The installed command on the shipped clip, without a model: the camera pans to the right."""
        command = [sys.executable, "-m", "timesformer_hf.cli", "classify", str(SAMPLE)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        assert "no --model given, so this is the one that is shipped" in process.stderr
        assert len(process.stderr.splitlines()) == 2  # nothing of other packages, as torchao has for torch to log
        lines = process.stdout.splitlines()
        assert lines[0] == str(SAMPLE)
        assert len(lines) == 6
        assert lines[1].split()[0] == "pan_right"
        assert float(lines[1].split()[1].removesuffix("%")) > 99


class TestReadingAhead:
    def test_batches_and_workers_change_no_answer(self, folder, videos, corrupt, capsys):
        """Only the last digits, by other roundings."""
        mixed = [*videos[:2], corrupt, *videos[2:]]
        printed = []
        for arguments in ([], ["--batch-size", "3"], ["--batch-size", "100", "--num-workers", "3"]):
            assert main(["classify", *mixed, "--model", folder, "--json", *arguments]) == 1
            printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        for rows in printed:
            assert [row["video"] for row in rows] == mixed
            for row, expected in zip(rows, printed[0], strict=True):
                assert row.get("error") == expected.get("error")
                scores, others = ({p["label"]: p["score"] for p in r.get("predictions", [])} for r in (row, expected))
                assert scores == pytest.approx(others, abs=1e-6)

    def test_speed_of_several_on_stderr(self, folder, videos, capsys):
        assert main(["classify", *videos, "--model", folder, "--json"]) == 0
        output = capsys.readouterr()
        assert len(output.out.splitlines()) == len(videos)
        assert f"timesformer-hf: {len(videos)} videos in " in output.err
        assert "% of the time" in output.err

    def test_no_speed_of_one(self, folder, videos, capsys):
        assert main(["classify", videos[0], "--model", folder]) == 0
        assert "of the time" not in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--batch-size", "--num-workers"])
    def test_numbers_below_one_are_refused(self, option, capsys):
        with pytest.raises(SystemExit):
            main(["classify", "a.mp4", option, "0"])
        assert "0 must be at least 1" in capsys.readouterr().err


class TestViews:
    """Several views of a video, as the pipeline makes them."""

    @pytest.fixture
    def videos(self, tmp_path_factory) -> dict[str, str]:
        return write_videos(tmp_path_factory.mktemp("clips"))

    @pytest.fixture
    def folder(self, tmp_path_factory) -> str:
        return save_keen_classifier(tmp_path_factory.mktemp("model"))

    def test_flags_reach_the_pipeline(self, folder, videos, capsys):
        classifier = pipeline("video-classification", model=folder)
        for flags, settings in (
            (["--views", "original"], {"views": "original"}),
            (["--num-clips", "2", "--num-crops", "3"], {"num_clips": 2, "num_crops": 3}),
        ):
            assert main(["classify", videos["wide"], "--model", folder, "--json", *flags]) == 0
            (row,) = map(json.loads, capsys.readouterr().out.splitlines())
            expected = [p["score"] for p in classifier(videos["wide"], **settings)]
            assert [p["score"] for p in row["predictions"]] == pytest.approx(expected, abs=1e-5)  # logits of about 10

    def test_a_protocol_needs_a_rate(self, videos, tmp_path, capsys):
        save_classifier(tmp_path)
        several = [videos["wide"], videos["tall"]]
        assert main(["classify", *several, "--model", str(tmp_path), "--views", "paper"]) == 2
        errors = capsys.readouterr().err
        assert errors.count("frame_sampling='center' needs a frame_sampling_rate") == 1
        assert "tall" not in errors

    def test_crops_of_a_squeezed_model_are_refused_once(self, videos, capsys):
        assert main(["classify", videos["wide"], videos["tall"], "--views", "paper"]) == 2
        errors = capsys.readouterr().err
        assert errors.count("views='paper' needs do_center_crop=True") == 1
        assert "For more views of a video, use several clips, for example num_clips=3" in errors

    def test_help_names_every_protocol(self, capsys):
        with pytest.raises(SystemExit):
            main(["classify", "--help"])
        assert f"--views {{{','.join(VIEW_PROTOCOLS)}}}" in capsys.readouterr().out


def test_speed_line_by_hand():
    times = iter([0, 1, 9, 10, 10, 10])
    busy = BusyTime(clock=lambda: next(times))
    with busy.measured():
        pass
    assert speed_line(20, busy) == "20 videos in 10.0 s, 2.0 a second; the model was busy 80% of the time"


def test_the_sample_clip_has_under_300_kb():
    assert SAMPLE.stat().st_size < 300_000
    assert str(SAMPLE) == timesformer_hf.SAMPLE_CLIP

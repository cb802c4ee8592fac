"""From a file to its labels: `pipeline("video-classification")` and the command `timesformer-hf`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips import moving_pattern, write_sound, write_video
from test_modeling import make_model
from transformers import pipeline

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor, VideoReadError
from timesformer_hf.cli import main
from timesformer_hf.inference.encoder import InferenceEncoder


SAMPLE = Path(__file__).parents[1] / "timesformer_hf" / "samples" / "big_buck_bunny.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    labels = dict(enumerate(("running", "sitting", "jumping", "falling", "sleeping")))
    make_model(id2label=labels, label2id={name: i for i, name in labels.items()}).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    TimesformerVideoProcessor(size=size, crop_size=size, num_frames=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(folder):
    return pipeline("video-classification", model=folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    clips = tmp_path_factory.mktemp("clips")
    sizes = [(48, 64), (64, 48), (96, 96)]
    return [str(write_video(clips / f"{i}.mp4", moving_pattern(20 + 20 * i, *size))) for i, size in enumerate(sizes)]


@pytest.fixture
def corrupt(tmp_path) -> str:
    path = tmp_path / "corrupt.mp4"
    path.write_text("no video at all")
    return str(path)


def scores(classifier, video, **settings) -> list[dict]:
    """What the pipeline should say, step by step."""
    inputs = classifier.video_processor(video, return_tensors="pt", **settings)
    with torch.no_grad():
        probabilities = classifier.model(**inputs).logits[0].softmax(-1)
    ranked = sorted(enumerate(probabilities.tolist()), key=lambda pair: -pair[1])
    return [{"label": classifier.model.config.id2label[i], "score": pytest.approx(p, abs=1e-6)} for i, p in ranked]


class TestPipeline:
    def test_one_video(self, classifier, videos):
        assert classifier(videos[0]) == scores(classifier, videos[0])
        assert classifier(videos[0], top_k=2) == scores(classifier, videos[0])[:2]

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_list(self, classifier, videos, batch_size):
        expected = [scores(classifier, video) for video in videos]
        assert classifier(videos, batch_size=batch_size) == expected

    def test_more_frames(self, classifier, videos):
        assert classifier(videos[2], num_frames=9) == scores(classifier, videos[2], num_frames=9)

    def test_frame_sampling_rate_takes_effect(self, classifier, videos):
        """The built-in pipeline ignores it with a video processor."""
        expected = scores(classifier, videos[2], frame_sampling="center", frame_sampling_rate=3)
        assert classifier(videos[2], frame_sampling_rate=3) == expected
        assert classifier(videos[2]) != expected

    def test_rate_of_the_saved_processor(self, folder, videos):
        processor = TimesformerVideoProcessor.from_pretrained(folder, frame_sampling_rate=3)
        classifier = pipeline("video-classification", model=folder, video_processor=processor)
        assert classifier(videos[2]) == scores(classifier, videos[2])
        assert classifier(videos[2]) == classifier(videos[2], frame_sampling_rate=3)

    def test_dtype_and_device(self, folder, videos, classifier):
        half = pipeline("video-classification", model=folder, dtype=torch.bfloat16, device="cpu")
        assert half.model.dtype == torch.bfloat16
        for got, expected in zip(half(videos), classifier(videos), strict=True):
            full = {row["label"]: row["score"] for row in expected}
            # bfloat16 keeps 8 bits of logits of about 1
            assert all(row["score"] == pytest.approx(full[row["label"]], abs=0.03) for row in got)

    def test_video_of_one_frame(self, classifier, tmp_path):
        path = write_video(tmp_path / "one.mp4", moving_pattern(1))
        assert len(classifier(str(path))) == 5

    def test_corrupt_file_in_a_batch_is_named(self, classifier, videos, corrupt):
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4: can't be decoded"):
            classifier([videos[0], corrupt, videos[1]], batch_size=2)

    def test_several_videos_in_one_entry(self, classifier, videos):
        with pytest.raises(ValueError, match="Give the pipeline its 2 videos as a list"):
            classifier(tuple(videos[:2]))

    def test_processor_saved_with_fps(self, folder, videos):
        processor = TimesformerVideoProcessor.from_pretrained(folder, fps=5)
        classifier = pipeline("video-classification", model=folder, video_processor=processor)
        assert classifier(videos[0]) == scores(classifier, videos[0], fps=5)

    def test_works_without_torchcodec(self, classifier, videos, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchcodec", None)
        assert len(classifier(videos[0])) == 5


class TestCommand:
    def test_table(self, folder, videos, classifier, capsys):
        assert main(["classify", videos[0], videos[1], "--model", folder, "--top-k", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [lines[0], lines[3]] == videos[:2]
        first = classifier(videos[0], top_k=2)
        width = max(len(row["label"]) for row in first)
        assert lines[1:3] == [f"  {row['label']:<{width}}  {row['score']:7.2%}" for row in first]

    def test_json(self, folder, videos, corrupt, capsys):
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
        assert [p["score"] for p in row["predictions"]] == pytest.approx([p["score"] for p in expected])

    @pytest.mark.parametrize("command", ["classify", "embed"])
    def test_optimized(self, command, folder, videos, tmp_path, monkeypatch):
        """Whoever asks for answers alone gets them sooner."""
        runs, run = [], InferenceEncoder.run
        monkeypatch.setattr(InferenceEncoder, "run", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
        out = ["--out", str(tmp_path / "features.parquet")] if command == "embed" else []
        assert main([command, videos[0], "--model", folder, "--device", "cpu", *out]) == 0
        assert runs == [1]

    def test_adapter(self, folder, videos, tmp_path, capsys):
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
        arguments = [missing, videos[0], corrupt, sound, str(tmp_path)]
        assert main(["classify", *arguments, "--model", folder, "--top-k", "1"]) == 1
        output = capsys.readouterr()
        assert output.out.splitlines()[0] == videos[0]
        for name in (missing, corrupt, sound, str(tmp_path)):
            assert name in output.err
        assert "4 of 5 videos failed" in output.err

    def test_any_failure_is_of_its_video_alone(self, folder, videos, monkeypatch, capsys):
        """As a device that runs out of memory on one of them."""
        original = TimesformerVideoProcessor.preprocess

        def exhausted(self, video, **settings):
            if video == videos[1]:
                raise RuntimeError("out of memory")
            return original(self, video, **settings)

        monkeypatch.setattr(TimesformerVideoProcessor, "preprocess", exhausted)
        assert main(["classify", *videos, "--model", folder, "--json"]) == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert ["error" in row for row in rows] == [False, True, False]
        assert rows[1]["error"] == "out of memory"

    def test_interrupted(self, folder, videos, monkeypatch, capsys):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(TimesformerVideoProcessor, "preprocess", interrupt)
        assert main(["classify", videos[0], "--model", folder]) == 130
        assert "timesformer-hf: interrupted" in capsys.readouterr().err

    def test_empty_model_name_is_not_the_shipped_model(self, videos, capsys):
        assert main(["classify", videos[0], "--model", ""]) == 2
        assert "can't load the model" in capsys.readouterr().err

    def test_missing_model(self, videos, capsys):
        assert main(["classify", videos[0], "--model", "/no/such/folder"]) == 2
        assert "can't load the model /no/such/folder: there is no such folder" in capsys.readouterr().err

    def test_contradicting_model(self, videos, tmp_path, capsys):
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
        assert "timesformer-hf classify *.mp4 --model ./my-model --json" in capsys.readouterr().out

    def test_quickstart(self):
        """The installed command on the shipped clip, without a model: the camera rises slowly."""
        command = [sys.executable, "-m", "timesformer_hf.cli", "classify", str(SAMPLE)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        assert "no --model given, so this is the one that is shipped" in process.stderr
        lines = process.stdout.splitlines()
        assert lines[0] == str(SAMPLE)
        assert len(lines) == 6
        assert lines[1].split()[0] == "tilt_up"


def test_sample_clip_is_small():
    assert SAMPLE.stat().st_size < 300_000

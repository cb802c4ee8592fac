"""examples/classify_onnx.py: the script that needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import EXAMPLES, SAMPLE
from tiny_exports import require_onnx, save_small_classifier

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.inference.export import export_model


EXAMPLE = EXAMPLES / "classify_onnx.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_small_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def onnx_folder(folder, tmp_path_factory) -> Path:
    require_onnx()
    out = tmp_path_factory.mktemp("exports") / "onnx"
    export_model(folder, out, format="onnx")
    return out


class TestExample:
    """The script that needs no torch."""

    @pytest.fixture(autouse=True)
    def _needs_av(self):
        pytest.importorskip("av", reason="the script decodes a video")

    @pytest.mark.parametrize(
        ("changed", "problem_type"),
        [
            ({}, None),
            ({"do_flip_channel_order": True}, None),
            ({"frame_sampling_rate": 4}, None),
            ({"frame_sampling_rate": 50, "do_center_crop": False, "size": {"height": 32, "width": 48}}, None),
            ({}, "multi_label_classification"),
        ],
    )
    def test_agrees_with_the_pipeline(self, folder, onnx_folder, tmp_path, changed, problem_type):
        from transformers import AutoModelForVideoClassification, pipeline

        for path in onnx_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        settings = json.loads((folder / "video_preprocessor_config.json").read_text())
        settings |= changed
        config = json.loads((folder / "config.json").read_text()) | {"problem_type": problem_type}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
        process = run_example(str(tmp_path), str(SAMPLE))
        assert process.returncode == 0, process.stderr
        got = {line.split()[1]: float(line.split("%")[0]) / 100 for line in process.stdout.splitlines()}

        model = AutoModelForVideoClassification.from_pretrained(folder, problem_type=problem_type)
        processor = TimesformerVideoProcessor.from_pretrained(tmp_path)
        rows = pipeline("video-classification", model=model, video_processor=processor)(str(SAMPLE))
        # PIL and torchvision round a resized pixel to grey levels one apart, of 57 that a deviation has
        assert got == pytest.approx({row["label"]: row["score"] for row in rows}, abs=0.01)
        assert next(iter(got)) == rows[0]["label"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["/no/such/folder", str(SAMPLE)], "/no/such/folder has no model.onnx"),
            (["ONNX", "/no/such.mp4"], "No such file"),
            (["ONNX", str(EXAMPLE)], "Invalid data found"),
            (["ONNX", str(SAMPLE), "--num-frames", "0"], "must be at least 1"),
        ],
    )
    def test_mistaken_arguments_are_told(self, onnx_folder, arguments, message):
        process = run_example(*[str(onnx_folder) if word == "ONNX" else word for word in arguments])
        assert process.returncode == 2
        assert message in process.stderr
        assert "Traceback" not in process.stderr

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            ("config.json", {"problem_type": "regression"}, "the model is for regression, so it has no labels"),
            ("config.json", {"num_channels": 1}, "the model takes 1 channels; this script can only use"),
            ("video_preprocessor_config.json", {"size": 224}, "the preprocessor file has size=224; this script only"),
            ("video_preprocessor_config.json", {"size": {"shortest_edge": 9, "longest_edge": 12}}, "this script only"),
            ("video_preprocessor_config.json", {"fps": 3}, "the model's frames are sampled by {'fps': 3}"),
        ],
    )
    def test_other_models_are_refused(self, onnx_folder, tmp_path, name, values, message):
        for path in onnx_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).write_text(json.dumps(json.loads((tmp_path / name).read_text()) | values))
        process = run_example(str(tmp_path), str(SAMPLE))
        assert process.returncode == 2
        assert message in process.stderr

    def test_a_damaged_graph_is_told(self, onnx_folder, tmp_path):
        for path in onnx_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".onnx" else None])
        process = run_example(str(tmp_path), str(SAMPLE))
        assert process.returncode == 2
        assert "model.onnx can't be loaded" in process.stderr
        assert "Traceback" not in process.stderr


def run_example(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)

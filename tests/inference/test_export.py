"""Exported graphs against the model, in the runtimes that they are for, at sizes that they were not traced at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repository import REPOSITORY
from tiny_models import SCHEMES, make_clip, make_model

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.inference import export
from timesformer_hf.inference.export import ExportError, ExportFormat, check_export, export_model, export_program
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.embedding_tables import nearest_indices


SAMPLE = REPOSITORY / "timesformer_hf" / "samples" / "big_buck_bunny.mp4"
EXAMPLE = REPOSITORY / "examples" / "classify_onnx.py"

# 14 x 14 patches, as the base model: resized to 16, onnxruntime's own nearest picks other entries than torch's.
SMALL = {
    "image_size": 28,
    "patch_size": 2,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
# Frames, rows and columns that are odd and even, more and fewer than traced, a batch of one and of several.
SHAPES = [(1, 4, 3, 28, 28), (3, 5, 3, 32, 22), (1, 3, 3, 6, 32), (2, 8, 3, 18, 8), (1, 7, 3, 14, 30), (1, 6, 3, 8, 6)]
# The same sums in another order (float32), and 11 bits on the way through a layer (float16).
FLOAT32, FLOAT16 = 1e-5, 5e-3


def small_model(scheme: str = "joint_space_time", **settings) -> torch.nn.Module:
    return make_model(scheme, **SMALL | settings)


def difference(model, run, shape) -> float:
    """Of logits, in units of the largest."""
    clip = make_clip(*shape)
    with torch.no_grad():
        expected = model(clip).logits
    return ((run(clip) - expected).abs().max() / expected.abs().max()).item()


def require_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason='ONNX export needs pip install "timesformer_hf[export]"')


def write(format: str, program, folder: Path) -> Path:
    path = folder / export.FORMATS[format].file
    with export.quiet_export():
        export.FORMATS[format].write(program, path)
    return path


@pytest.fixture(scope="module", params=SCHEMES)
def traced(request):
    """A model of each scheme and its graph, traced once."""
    model = small_model(request.param)
    return model, export_program(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    labels = dict(enumerate(("running", "sitting", "jumping", "falling", "sleeping")))
    small_model(id2label=labels, label2id={name: i for i, name in labels.items()}).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    TimesformerVideoProcessor(size={"shortest_edge": 32}, crop_size=size, num_frames=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def onnx_folder(folder, tmp_path_factory) -> Path:
    require_onnx()
    out = tmp_path_factory.mktemp("exports") / "onnx"
    export_model(folder, out, format="onnx")
    return out


class TestEveryScheme:
    def test_torch_export(self, traced, tmp_path):
        model, program = traced
        run = export.load_program(write("torch-export", program, tmp_path))
        for shape in SHAPES:
            assert difference(model, run, shape) <= FLOAT32, shape

    def test_torch_export_refuses_less_than_it_can(self, traced):
        model, program = traced
        least = 2 if not any(step.halved for step in ATTENTION_SCHEMES[model.config.attention_type].steps) else 3
        shape = (1, least, 3, 2 * least, 2 * least)
        assert difference(model, program.module(), shape) <= FLOAT32
        with pytest.raises(Exception, match=r"Guard failed|Runtime assertion|Expected input"):
            program.module()(make_clip(1, 4, 3, 2 * least - 2, 28))

    def test_onnx(self, traced, tmp_path):
        """There even a single frame, row or column works."""
        require_onnx()
        model, program = traced
        run = export.load_onnx(write("onnx", program, tmp_path))
        for shape in [*SHAPES, (2, 1, 3, 12, 10), (1, 3, 3, 2, 8), (1, 2, 3, 8, 2), (1, 1, 3, 2, 2)]:
            assert difference(model, run, shape) <= FLOAT32, shape

    @pytest.mark.slow
    def test_aoti(self, traced, tmp_path):
        model, program = traced
        run = export.load_package(write("aoti", program, tmp_path))
        for shape in SHAPES:
            assert difference(model, run, shape) <= FLOAT32, shape


class TestHalf:
    """Weights and sums in between in float16, clips and logits in float32."""

    @pytest.mark.parametrize("format", ["onnx", "torch-export", pytest.param("aoti", marks=pytest.mark.slow)])
    def test_format(self, format, tmp_path):
        if format == "onnx":
            require_onnx()
        model = small_model()
        path = write(format, export_program(model, "float16"), tmp_path)
        run = export.FORMATS[format].load(path)
        assert run(make_clip(*SHAPES[0])).dtype == torch.float32
        assert all(0 < difference(model, run, shape) <= FLOAT16 for shape in SHAPES)
        assert model.dtype == torch.float32
        if format == "onnx":
            import onnx

            # in float32 are only position and time tables, which are resized in it
            matrices = [tensor for tensor in onnx.load(path).graph.initializer if len(tensor.dims) in (2, 4)]
            float16 = [tensor for tensor in matrices if tensor.data_type == onnx.TensorProto.FLOAT16]
            assert len(float16) == 6  # patches, qkv, attention's output, two of the MLP, head
            assert all(len(tensor.dims) != 2 or tensor in float16 for tensor in matrices)


class TestResizing:
    def test_nearest_is_torchs(self):
        for old in (1, 2, 3, 7, 8, 14, 16, 28, 96):
            table = torch.arange(old, dtype=torch.float32)[None, None]
            for new in range(1, 200):
                expected = torch.nn.functional.interpolate(table, size=new, mode="nearest")[0, 0]
                assert nearest_indices(old, new, torch.device("cpu")).tolist() == expected.tolist(), (old, new)

    def test_bicubic(self, tmp_path):
        require_onnx()
        model = small_model(interpolation_mode="bicubic")
        run = export.load_onnx(write("onnx", export_program(model), tmp_path))
        for shape in SHAPES:
            assert difference(model, run, shape) <= FLOAT32, shape

    def test_model_of_one_frame_and_one_patch(self):
        """The least size is traced at a larger one."""
        model = small_model(image_size=2, num_frames=1)
        checks = check_export(model, export_program(model).module(), FLOAT32)
        assert checks[0].shape == (2, 2, 3, 4, 4)

    def test_oblong_patches(self):
        model = small_model(image_size=(12, 20), patch_size=(4, 2))
        assert len(check_export(model, export_program(model).module(), FLOAT32)) == 3


class TestOnnxFile:
    def test_names_axes_and_opset(self, onnx_folder):
        import onnx

        model = onnx.load(onnx_folder / "model.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [(domain.domain, domain.version) for domain in model.opset_import] == [("", export.OPSET)]
        (pixel_values,), (logits,) = model.graph.input, model.graph.output
        assert (pixel_values.name, logits.name) == ("pixel_values", "logits")
        assert axes(pixel_values) == ["batch", "frames", 3, "height", "width"]
        assert axes(logits) == ["batch", 5]

    def test_nothing_of_our_disk_is_in_it(self, onnx_folder):
        assert str(REPOSITORY).encode() not in (onnx_folder / "model.onnx").read_bytes()

    def test_external_data(self, folder, tmp_path, monkeypatch):
        require_onnx()
        monkeypatch.setattr(export, "EXTERNAL_DATA_BYTES", 1000)
        export_model(folder, tmp_path / "out", format="onnx")
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["config.json", "model.onnx", "model.onnx.data", "video_preprocessor_config.json"]
        (tmp_path / "out").rename(tmp_path / "moved")
        run = export.load_onnx(tmp_path / "moved" / "model.onnx")
        assert difference(export.load_classifier(folder), run, SHAPES[1]) <= FLOAT32


def axes(value) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


class TestCommand:
    def test_says_what_was_checked(self, folder, tmp_path, capsys):
        out = tmp_path / "out"
        assert main(["export", str(folder), "--format", "torch-export", "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{out}: model.pt2 (")
        assert [line.split(":")[0] for line in lines[1:4]] == [
            "  checked 2 x 4 x 3 x 28 x 28",
            "  checked 3 x 5 x 3 x 30 x 30",
            "  checked 1 x 6 x 3 x 28 x 30",
        ]
        assert lines[4].endswith("allowed 1e-04")
        for name in ("config.json", "video_preprocessor_config.json"):
            assert (out / name).read_bytes() == (folder / name).read_bytes()

    def test_writes_beside_the_model_and_refuses_to_overwrite(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(export, "FORMATS", {"onnx": ExportFormat("model.onnx", write_nothing, load_itself)})
        monkeypatch.chdir(tmp_path)
        Path("my-model").symlink_to(folder)
        assert main(["export", "my-model/", "--format", "onnx"]) == 0
        assert Path("my-model-onnx", "model.onnx").exists()
        assert main(["export", "my-model", "--format", "onnx"]) == 2
        assert "my-model-onnx exists; give another name, or --overwrite" in capsys.readouterr().err
        assert main(["export", "my-model", "--format", "onnx", "--overwrite"]) == 0

    def test_a_model_is_never_overwritten(self, folder, capsys):
        """Neither the one that is exported nor another: its weights are not what an export writes."""
        before = {path: path.read_bytes() for path in folder.iterdir()}
        assert main(["export", str(folder), "--format", "onnx", "--out", str(folder), "--overwrite"]) == 2
        assert "model.safetensors. It is not overwritten" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    @pytest.mark.parametrize(
        ("load", "message"),
        [
            (lambda path: lambda clip: load_itself(path)(clip) + 0.1, "differ from the model's by"),
            (lambda path: lambda clip: load_itself(path)(clip) * float("nan"), "no finite float32 logits"),
            (lambda path: lambda clip: load_itself(path)(clip)[:1], "no finite float32 logits"),
        ],
    )
    def test_failed_check_leaves_nothing(self, folder, tmp_path, capsys, monkeypatch, load, message):
        monkeypatch.setattr(export, "FORMATS", {"onnx": ExportFormat("model.onnx", write_nothing, load)})
        assert main(["export", str(folder), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_no_model(self, tmp_path, capsys):
        assert main(["export", str(tmp_path), "--format", "torch-export"]) == 2
        assert f"{tmp_path} is no model folder: it has no config.json" in capsys.readouterr().err

    def test_another_model(self, tmp_path, capsys):
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        assert main(["export", str(tmp_path), "--format", "torch-export", "--out", str(tmp_path / "out")]) == 2
        assert "is no TimeSformer: its config.json says model_type 'vit'" in capsys.readouterr().err

    def test_no_classifier(self, tmp_path, capsys):
        small_model().timesformer.save_pretrained(tmp_path)
        assert main(["export", str(tmp_path), "--format", "torch-export", "--out", str(tmp_path / "out")]) == 2
        assert "is no whole classifier: it lacks classifier.bias, classifier.weight" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_missing_packages(self, folder, tmp_path, capsys, monkeypatch):
        packages = ("no_such_package",)
        monkeypatch.setattr(
            export, "FORMATS", {"onnx": ExportFormat("model.onnx", write_nothing, load_itself, packages)}
        )
        assert main(["export", str(folder), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
        assert 'no_such_package, not installed: pip install "timesformer_hf[export]"' in capsys.readouterr().err

    def test_no_compiler(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert main(["export", str(folder), "--format", "aoti", "--out", str(tmp_path / "out")]) == 2
        assert "finds no compiler: install g++, or set CXX" in capsys.readouterr().err

    @pytest.mark.slow
    def test_aoti(self, folder, tmp_path):
        assert main(["export", str(folder), "--format", "aoti", "--out", str(tmp_path / "out")]) == 0

    def test_unknown_format_and_dtype(self, folder, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--format", "tflite"])
        assert "invalid choice: 'tflite'" in capsys.readouterr().err
        for settings in ({"format": "tflite"}, {"format": "onnx", "dtype": "int8"}):
            with pytest.raises(ExportError, match="must be one of"):
                export_model(folder, tmp_path / "out", **settings)

    def test_help_teaches(self, capsys):
        with pytest.raises(SystemExit):
            main(["export", "--help"])
        text = capsys.readouterr().out
        assert "timesformer-hf export ./my-model --format onnx" in text
        assert f"opset {export.OPSET}" in text
        assert f"over {export.EXTERNAL_DATA_BYTES // 2**20} MB" in text


def write_nothing(program, path: Path) -> None:
    path.write_bytes(b"")
    torch.export.save(program, path.with_name("model.pt2"))


def load_itself(path: Path):
    return export.load_program(path.with_name("model.pt2"))


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
    def test_mistaken_arguments(self, onnx_folder, arguments, message):
        process = run_example(*[str(onnx_folder) if word == "ONNX" else word for word in arguments])
        assert process.returncode == 2
        assert message in process.stderr
        assert "Traceback" not in process.stderr

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            ("config.json", {"problem_type": "regression"}, "the model is for regression and has no labels"),
            ("config.json", {"num_channels": 1}, "the model takes 1 channels; this script gives 3"),
            ("video_preprocessor_config.json", {"size": 224}, "the preprocessor file has size=224; this script knows"),
            ("video_preprocessor_config.json", {"size": {"shortest_edge": 9, "longest_edge": 12}}, "this script knows"),
            ("video_preprocessor_config.json", {"fps": 3}, "the model's frames are sampled by {'fps': 3}"),
        ],
    )
    def test_models_that_it_is_not_for(self, onnx_folder, tmp_path, name, values, message):
        for path in onnx_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).write_text(json.dumps(json.loads((tmp_path / name).read_text()) | values))
        process = run_example(str(tmp_path), str(SAMPLE))
        assert process.returncode == 2
        assert message in process.stderr

    def test_damaged_graph(self, onnx_folder, tmp_path):
        for path in onnx_folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".onnx" else None])
        process = run_example(str(tmp_path), str(SAMPLE))
        assert process.returncode == 2
        assert "model.onnx can't be loaded" in process.stderr
        assert "Traceback" not in process.stderr


def run_example(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)

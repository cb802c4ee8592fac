"""`timesformer-hf export`."""

from pathlib import Path

import pytest
import torch
from tiny_exports import save_small_classifier, small_model

from timesformer_hf.cli import main
from timesformer_hf.inference import export
from timesformer_hf.inference.export import ExportError, ExportFormat, export_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_small_classifier(tmp_path_factory.mktemp("model"))


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
            (lambda path: lambda clip: load_itself(path)(clip) * float("nan"), "doesn't return finite float32 logits"),
            (lambda path: lambda clip: load_itself(path)(clip)[:1], "doesn't return finite float32 logits"),
        ],
    )
    def test_failed_check_leaves_nothing(self, folder, tmp_path, capsys, monkeypatch, load, message):
        monkeypatch.setattr(export, "FORMATS", {"onnx": ExportFormat("model.onnx", write_nothing, load)})
        assert main(["export", str(folder), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_a_message(self, folder, tmp_path, capsys):
        """torch's own writer would abort the process."""
        resource = pytest.importorskip("resource", reason="limits the size of files")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            assert main(["export", str(folder), "--format", "torch-export", "--out", str(tmp_path / "out")]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        message = f"{tmp_path}/out can't be written, and no part of it stays: File too large"
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_missing_model_is_told(self, tmp_path, capsys):
        assert main(["export", str(tmp_path), "--format", "torch-export"]) == 2
        assert f"{tmp_path} is not a model folder: it has no config.json" in capsys.readouterr().err

    def test_another_model_type_is_refused(self, tmp_path, capsys):
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        assert main(["export", str(tmp_path), "--format", "torch-export", "--out", str(tmp_path / "out")]) == 2
        assert "is not a TimeSformer: its config.json says model_type 'vit'" in capsys.readouterr().err

    def test_a_model_without_a_classifier_is_refused(self, tmp_path, capsys):
        small_model().timesformer.save_pretrained(tmp_path)
        assert main(["export", str(tmp_path), "--format", "torch-export", "--out", str(tmp_path / "out")]) == 2
        assert "is not a complete classifier: it lacks classifier.bias, classifier.weight" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_missing_packages_are_named_with_their_extra(self, folder, tmp_path, capsys, monkeypatch):
        packages = ("no_such_package",)
        monkeypatch.setattr(
            export, "FORMATS", {"onnx": ExportFormat("model.onnx", write_nothing, load_itself, packages)}
        )
        assert main(["export", str(folder), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
        assert 'no_such_package, not installed: pip install "timesformer_hf[export]"' in capsys.readouterr().err

    def test_a_missing_compiler_is_told_before_the_work(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert main(["export", str(folder), "--format", "aoti", "--out", str(tmp_path / "out")]) == 2
        assert "found none: install g++, or set CXX" in capsys.readouterr().err

    @pytest.mark.slow
    def test_aoti_package_is_written(self, folder, tmp_path):
        assert main(["export", str(folder), "--format", "aoti", "--out", str(tmp_path / "out")]) == 0

    def test_unknown_format_and_dtype_are_refused(self, folder, tmp_path, capsys):
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

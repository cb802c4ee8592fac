"""Folders of `timesformer-hf export` as classifiers, each in its own runtime."""

import zipfile

import pytest
import torch
from tiny_exports import require_onnx, save_small_classifier
from tiny_models import make_clip

from timesformer_hf.inference.export import ExportError, export_model, load_classifier
from timesformer_hf.inference.exported_models import find_export, load_export


FLOAT32 = 1e-5  # the same sums in another order, relative to the largest logit


def require(format: str) -> None:
    if format == "onnx":
        require_onnx()
    elif format == "openvino":
        pytest.importorskip("openvino", reason="needs openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_classifier(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch-export", pytest.param("aoti", marks=pytest.mark.slow)])
def test_an_export_is_a_classifier(format, folder, tmp_path):
    require(format)
    export_model(folder, tmp_path / "out", format=format)
    model, exported = load_classifier(folder), load_export(tmp_path / "out")
    assert find_export(tmp_path / "out") == format
    for shape in ((1, 4, 3, 28, 28), (3, 5, 3, 32, 22)):
        clip = make_clip(*shape)
        with torch.no_grad():
            expected = model(clip).logits
            got = exported(pixel_values=clip, output_attentions=False).logits
        assert (got - expected).abs().max() <= FLOAT32 * expected.abs().max()
    assert exported.config.id2label == model.config.id2label
    with pytest.raises(ValueError, match="returns logits alone; it can't take labels, output_attentions"):
        exported(clip, output_attentions=True, labels=torch.zeros(3))


def test_openvino_in_int8(folder, tmp_path):
    require("openvino")
    pytest.importorskip("nncf", reason="needs nncf")
    clips = [make_clip(1, 4, 3, 28, 28) for _ in range(2)]
    checks = export_model(folder, tmp_path / "out", format="openvino", calibration=clips)
    assert [check.same_label for check in checks[:3]] == [None] * 3
    assert len(checks) == 5
    assert all(1e-4 < check.difference < 0.2 for check in checks[3:])  # 1/255 of the largest, in each of two layers
    model, exported = load_classifier(folder), load_export(tmp_path / "out")
    with torch.no_grad():
        got, expected = exported(clips[0]).logits, model(clips[0]).logits
    assert ((got - expected).abs().max() / expected.abs().max()).item() == pytest.approx(checks[3].difference, rel=0.1)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.xml")) == ["model.xml"]
    with pytest.raises(ExportError, match='only format "openvino" can be quantized, not "onnx"'):
        export_model(folder, tmp_path / "other", format="onnx", calibration=clips)


def test_what_is_no_export(folder, tmp_path):
    assert find_export(folder) is None
    with pytest.raises(ValueError, match=r"is not an export: it has none of model.onnx, model.pt2, model.xml"):
        load_export(folder)
    save_small_classifier(tmp_path)
    (tmp_path / "model.pt2").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"model.pt2 is not a program of torch.export or AOTInductor"):
        load_export(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data/aotinductor/model/model.so", b"of another machine")
    with pytest.raises(
        ValueError, match=r"(?s)Can't load the aoti export .*compiled for another one; export the model again"
    ):
        load_export(tmp_path)

"""Exported graphs against the model, in the runtimes that they are for, at sizes that they were not traced at."""

from pathlib import Path

import pytest
import torch
from repository import REPOSITORY
from tiny_exports import require_onnx, save_small_classifier, small_model
from tiny_models import SCHEMES, make_clip

from timesformer_hf.inference import export
from timesformer_hf.inference.export import check_export, export_model, export_program
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.embedding_tables import nearest_indices


# Frames, rows and columns that are odd and even, more and fewer than traced, a batch of one and of several.
SHAPES = [(1, 4, 3, 28, 28), (3, 5, 3, 32, 22), (1, 3, 3, 6, 32), (2, 8, 3, 18, 8), (1, 7, 3, 14, 30), (1, 6, 3, 8, 6)]


# The same sums in another order (float32), and 11 bits on the way through a layer (float16).
FLOAT32, FLOAT16 = 1e-5, 5e-3


def difference(model, run, shape) -> float:
    """Of logits, in units of the largest."""
    clip = make_clip(*shape)
    with torch.no_grad():
        expected = model(clip).logits
    return ((run(clip) - expected).abs().max() / expected.abs().max()).item()


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
    return save_small_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def onnx_folder(folder, tmp_path_factory) -> Path:
    require_onnx()
    out = tmp_path_factory.mktemp("exports") / "onnx"
    export_model(folder, out, format="onnx")
    return out


class TestEveryScheme:
    def test_torch_export_equals_the_model_at_every_shape(self, traced, tmp_path):
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

    def test_onnx_equals_the_model_at_every_shape(self, traced, tmp_path):
        """There even a single frame, row or column works."""
        require_onnx()
        model, program = traced
        run = export.load_onnx(write("onnx", program, tmp_path))
        for shape in [*SHAPES, (2, 1, 3, 12, 10), (1, 3, 3, 2, 8), (1, 2, 3, 8, 2), (1, 1, 3, 2, 2)]:
            assert difference(model, run, shape) <= FLOAT32, shape

    @pytest.mark.slow
    def test_aoti_equals_the_model_at_every_shape(self, traced, tmp_path):
        model, program = traced
        run = export.load_package(write("aoti", program, tmp_path))
        for shape in SHAPES:
            assert difference(model, run, shape) <= FLOAT32, shape


class TestHalf:
    """Weights and sums in between in float16, clips and logits in float32."""

    @pytest.mark.parametrize("format", ["onnx", "torch-export", pytest.param("aoti", marks=pytest.mark.slow)])
    def test_half_precision_of_every_format(self, format, tmp_path):
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

    def test_bicubic_is_torchs(self, tmp_path):
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

    def test_oblong_patches_are_exported(self):
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

    def test_large_weights_lie_beside_the_graph(self, folder, tmp_path, monkeypatch):
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

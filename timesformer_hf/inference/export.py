"""
Exports a classifier as a graph that runs without this package: ONNX, OpenVINO, `torch.export` or AOTInductor.

One graph takes any batch size, number of frames, height and width. Before an export is kept, it is run in its own
runtime on clips of the traced size and of other sizes, and compared with the model.
"""

import copy
import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..model.attention_schemes import ATTENTION_SCHEMES
from ..model.configuration_timesformer import TimesformerConfig, as_pair, stored_config_values
from ..output.atomic import output_folder
from ..output.extras import check_packages
from ..output.terminal import loading_error
from .openvino_format import load_openvino, quantize_openvino, write_openvino


INPUT, OUTPUT = "pixel_values", "logits"
_INPUT_AXES, _OUTPUT_AXES = ("batch", "frames", "channels", "height", "width"), ("batch", "labels")
OPSET = 18  # the one that torch writes directly, without a conversion afterwards
EXTERNAL_DATA_BYTES = 100 * 2**20  # larger weights go to a file of their own, because an ONNX file can't exceed 2 GB
_EXPORTED = ("model.onnx", "model.onnx.data", "model.xml", "model.bin", "model.pt2")
_COPIED = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Largest allowed difference of logits, relative to the largest logit. float32: the same sums in another order, through
# all layers. float16: it has 11 bits, so each rounding adds up to 0.0005, and a value is rounded a few dozen times.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}

_Shape = tuple[int, int, int, int, int]
_Runner = Callable[[torch.Tensor], torch.Tensor]


class ExportError(ValueError):
    """Raised where a model can't be exported, or where its export computes other logits than the model."""


@dataclass(frozen=True)
class Check:
    """
    One comparison of an export with the model.

    Attributes:
        shape: of the random clip, (batch, frames, channels, height, width).
        difference: the largest difference of logits, relative to the largest logit.
        same_label: whether both give the clip the same likeliest label. `None` where it was not asked.
    """

    shape: _Shape
    difference: float
    same_label: bool | None = None


@dataclass(frozen=True)
class ExportFormat:
    """
    How to write and run one export format.

    Attributes:
        file: the name of the file that is written.
        write: writes a program to a path, with further files beside it where the format needs them.
        load: reads such a file and returns a function from clips to logits, which runs in the format's own runtime.
        packages: names of the packages that writing and checking needs.
        runtime: names of the packages that loading needs.
        extra: the extra of this package that installs them.
    """

    file: str
    write: Callable[[ExportedProgram, Path], None]
    load: Callable[[Path], _Runner]
    packages: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    extra: str = "export"


class _LogitsOnly(nn.Module):
    """A classifier that takes float32 pixels and returns only its logits, in float32, whatever dtype it computes in."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_labels) of clips (batch, frames, channels, height, width)."""
        return self.model(pixel_values).logits.float()


def export_model(
    model_folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str,
    dtype: str = "float32",
    calibration: Sequence[torch.Tensor] = (),
    overwrite: bool = False,
) -> list[Check]:
    """
    Export a classifier to a folder: the graph, and copies of the config (for the labels) and the preprocessor files.

    Args:
        model_folder: a folder that `save_pretrained` of a classifier wrote.
        out: the folder to write. After an error it doesn't exist.
        format: `"onnx"`, `"openvino"`, `"torch-export"` or `"aoti"`.
        dtype: `"float32"`, or `"float16"` for the weights and all that is computed inside. Clips and logits are always
            float32.
        calibration: with pixel values (1, frames, channels, height, width) of typical clips, the `"openvino"` export is
            quantized to int8 by NNCF, which measures the ranges of inner values on them.
        overwrite: replace `out` where it is an earlier export.

    Returns:
        the comparisons with the model in float32, one for each clip shape, and then one for each clip of `calibration`.

    Raises:
        ExportError: for an unknown format or dtype, a model that can't be exported, or an export with other logits.
        FileNotFoundError: where there is no model.
        FileExistsError: where `out` exists and may not be overwritten.
        ImportError: where a package is missing.
    """
    check_can_export(format, dtype, int8=bool(calibration))
    with output_folder(out, overwrite, (*_EXPORTED, *_COPIED)) as folder:
        model = load_classifier(model_folder)
        for name in _COPIED:
            if (Path(model_folder) / name).exists():
                shutil.copyfile(Path(model_folder) / name, folder / name)
        path = folder / FORMATS[format].file
        with quiet_export():
            FORMATS[format].write(export_program(model, dtype), path)
        checks = check_export(model, FORMATS[format].load(path), TOLERANCES[dtype])
        if calibration:
            with quiet_export():
                quantize_openvino(path, calibration)
            checks += _compare(model, FORMATS[format].load(path), calibration)
        return checks


def _compare(model: nn.Module, run: _Runner, clips: Sequence[torch.Tensor]) -> list[Check]:
    """Compare a quantized export with the model, on clips."""
    checks = []
    for clip in clips:
        with torch.no_grad():
            expected, got = model(clip).logits, run(clip)
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        checks.append(Check(tuple(clip.shape), difference, bool((got.argmax(-1) == expected.argmax(-1)).all())))
    return checks


def check_can_export(format: str, dtype: str, int8: bool = False) -> None:
    """
    Check that this machine can export to that format and dtype, with `int8` quantized.

    Raises:
        ExportError: for an unknown format or dtype, or where the format needs a C++ compiler and there is none.
        ImportError: where a package is missing.
    """
    for name, value, choices in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise ExportError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    if int8 and format != "openvino":
        raise ExportError(
            f'only format "openvino" can be quantized, not "{format}"; see timesformer_hf.quantize for torch'
        )
    packages = (*FORMATS[format].packages, *(("nncf",) if int8 else ()))
    check_packages(f'format "{format}"' + (" in int8" if int8 else ""), packages, FORMATS[format].extra)
    if format == "aoti" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ExportError('format "aoti" needs a C++ compiler and found none: install g++, or set CXX to a compiler')


def load_classifier(folder: str | os.PathLike[str]) -> nn.Module:
    """
    Load the classifier of a folder in float32, in evaluation mode.

    Raises:
        FileNotFoundError: where there is no model.
        ExportError: where it is not a TimeSformer, can't be loaded, lacks weights or has no labels.
    """
    from ..model.modeling_timesformer import TimesformerForVideoClassification

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json")
    model_type = stored_config_values(folder, {}).get("model_type")
    if model_type != TimesformerConfig.model_type:
        raise ExportError(f"{folder} is not a TimeSformer: its config.json says model_type {model_type!r}")
    try:
        model, info = TimesformerForVideoClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    except Exception as error:  # any error here is about this folder
        raise ExportError(loading_error(folder, error)) from error
    if info["missing_keys"] or model.num_labels < 1:
        missing = ", ".join(sorted(info["missing_keys"])) or "any label"
        raise ExportError(f"{folder} is not a complete classifier: it lacks {missing}")
    return model.eval()


def _least_sides(config: TimesformerConfig) -> tuple[int, int]:
    """
    Return the fewest frames, and the fewest patches along a side, that a `torch.export` graph can take.

    `torch.export` treats a size of 1 as a special case, so the least is 2. Where a scheme halves a side, each half must
    be more than 1, so the least is 3.
    """
    halves = any(step.halved for step in ATTENTION_SCHEMES[config.attention_type].steps)
    return (3, 3) if halves else (2, 2)


def _dynamic_shapes(config: TimesformerConfig) -> dict:
    """
    Return the free dimensions of `pixel_values` for `torch.export`: all but channels. Sides are multiples of a patch.
    """
    least_frames, least_patches = _least_sides(config)
    height, width = (
        patch * Dim(name, min=least_patches)
        for name, patch in zip(("rows", "columns"), as_pair(config.patch_size), strict=True)
    )
    return {INPUT: {0: Dim("batch", min=1), 1: Dim("frames", min=least_frames), 3: height, 4: width}}


def _traced_shape(config: TimesformerConfig) -> _Shape:
    """Return the shape to trace: two clips of the model's own size, or of the least size that can be traced."""
    least_frames, least_patches = _least_sides(config)
    sides = [
        patch * max(patches, least_patches)
        for patch, patches in zip(as_pair(config.patch_size), config.grid_size, strict=True)
    ]
    return (2, max(config.num_frames, least_frames), config.num_channels, *sides)


def _checked_shapes(config: TimesformerConfig) -> list[_Shape]:
    """Return the shapes to check: the traced one and two with other batch, frames, rows and columns, odd and even."""
    batch, frames, channels, height, width = _traced_shape(config)
    patch_height, patch_width = as_pair(config.patch_size)
    one_more = (batch + 1, frames + 1, channels, height + patch_height, width + patch_width)
    return [(batch, frames, channels, height, width), one_more, (1, frames + 2, channels, height, width + patch_width)]


def export_program(model: nn.Module, dtype: str = "float32") -> ExportedProgram:
    """
    Trace a classifier as a graph for any batch size, number of frames, height and width. The model is not changed.

    The least sizes are 2 frames and 2 patches along a side, or 3 where the attention scheme halves sides.

    Raises:
        ExportError: where torch can't trace the model.
    """
    config = model.config
    twin = copy.deepcopy(model).eval().to(DTYPES[dtype])
    twin.set_attn_implementation("sdpa")
    # Where a scheme halves sides, torch can't prove that odd and even sizes fit. The graph asserts it when it runs.
    deferred = _least_sides(config) == (3, 3)
    try:
        with torch.no_grad():
            return torch.export.export(
                _LogitsOnly(twin),
                (torch.zeros(_traced_shape(config)),),
                dynamic_shapes=_dynamic_shapes(config),
                prefer_deferred_runtime_asserts_over_guards=deferred,
            )
    except Exception as error:  # torch raises many classes of errors here
        raise ExportError(f"torch.export can't trace the model: {error}") from error


def check_export(model: nn.Module, run: _Runner, tolerance: float) -> list[Check]:
    """
    Check that an export computes the model's logits, on random clips of three shapes.

    Args:
        model: the classifier in float32.
        run: the export, a function from clips to logits.
        tolerance: the largest allowed difference of logits, relative to the largest logit.

    Raises:
        ExportError: where logits differ by more, have another shape or dtype, or aren't finite.
    """
    checks = []
    for shape in _checked_shapes(model.config):
        clip = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, got = model(clip).logits, run(clip)
        if got.dtype != torch.float32 or got.shape != expected.shape or not got.isfinite().all():
            raise ExportError(
                f"the export doesn't return finite float32 logits {tuple(expected.shape)} for a clip {shape}. "
                "Nothing was written"
            )
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= tolerance:
            raise ExportError(
                f"the export's logits of a clip {shape} differ from the model's by {difference:.2g} of the largest; "
                f"at most {tolerance:.2g} is allowed. Nothing was written"
            )
        checks.append(Check(shape, difference))
    return checks


@contextmanager
def quiet_export() -> Iterator[None]:
    """Silence the logs and warnings of torch's exporters inside the block, which are about their own internals."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._inductor", "torch.fx")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write an ONNX file. Where the weights exceed `EXTERNAL_DATA_BYTES`, they go to `path`.data beside it."""
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    _name_axes(exported.model)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    exported.save(path, external_data=num_bytes > EXTERNAL_DATA_BYTES)


def _name_axes(model) -> None:
    """
    Name the free dimensions of input and output, for example "frames". Delete the exporter's own symbols inside the
    graph, and its notes about which source line each node comes from.
    """
    graph = model.graph
    graph.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            value.shape = None if value not in graph.outputs else value.shape
    for value, axes in ((graph.inputs[0], _INPUT_AXES), (graph.outputs[0], _OUTPUT_AXES)):
        for dimension, axis in enumerate(axes):
            if not isinstance(value.shape[dimension], int):
                value.shape[dimension] = axis


def load_onnx(path: Path) -> _Runner:
    """Return a function from clips to logits that runs an ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run([OUTPUT], {INPUT: clip.numpy()})[0])


def _write_archive(path: Path, write: Callable[[io.BytesIO], None]) -> None:
    """Let torch write an archive to memory, and write it to a file. On a full disk, torch's own writer aborts."""
    archive = io.BytesIO()
    write(archive)
    path.write_bytes(archive.getbuffer())


def _write_program(program: ExportedProgram, path: Path) -> None:
    _write_archive(path, lambda archive: torch.export.save(program, archive))


def load_program(path: Path) -> _Runner:
    """Return a function from clips to logits that runs a `torch.export` file."""
    return torch.export.load(path).module()


def _write_package(program: ExportedProgram, path: Path) -> None:
    _write_archive(path, lambda archive: torch._inductor.aoti_compile_and_package(program, package_path=archive))


def load_package(path: Path) -> _Runner:
    """Return a function from clips to logits that runs an AOTInductor package on the CPU."""
    return torch._inductor.aoti_load_package(str(path))


FORMATS = {
    "onnx": ExportFormat(
        "model.onnx", write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime"), runtime=("onnxruntime",)
    ),
    "openvino": ExportFormat(
        "model.xml", write_openvino, load_openvino, ("openvino",), runtime=("openvino",), extra="openvino"
    ),
    "torch-export": ExportFormat("model.pt2", _write_program, load_program),
    "aoti": ExportFormat("model.pt2", _write_package, load_package),
}

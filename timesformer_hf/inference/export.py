"""
A classifier as a graph that runs without this package: ONNX, `torch.export`, AOTInductor.

One graph takes every batch, number of frames and size. What is written is run on clips of the traced size and of
another, in the runtime that it is made for, and compared with the model itself before it stays.
"""

import copy
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
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


INPUT, OUTPUT = "pixel_values", "logits"
_INPUT_AXES, _OUTPUT_AXES = ("batch", "frames", "channels", "height", "width"), ("batch", "labels")
OPSET = 18  # what torch translates to without a conversion afterwards
EXTERNAL_DATA_BYTES = 100 * 2**20  # of weights; an ONNX file itself can't pass 2 GB
_EXPORTED = ("model.onnx", "model.onnx.data", "model.pt2")
_COPIED = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Largest difference in units of the largest logit. float32: the same sums in another order, through all layers.
# float16: 11 bits, so that each of some dozen roundings on the way of a value adds 0.0005.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}

_Shape = tuple[int, int, int, int, int]
_Runner = Callable[[torch.Tensor], torch.Tensor]


class ExportError(ValueError):
    """A model that can't be exported, or whose export doesn't compute what the model does."""


@dataclass(frozen=True)
class Check:
    """A clip of `shape` that an export was run on, and the difference of its logits, relative to the largest."""

    shape: _Shape
    difference: float


@dataclass(frozen=True)
class ExportFormat:
    """
    Attributes:
        file: name of what is written.
        write: writes a program, and whatever belongs beside it.
        load: a file -> what runs it, in the runtime that it is for.
        packages: what must be installed.
    """

    file: str
    write: Callable[[ExportedProgram, Path], None]
    load: Callable[[Path], _Runner]
    packages: tuple[str, ...] = ()


class LogitsOnly(nn.Module):
    """pixel_values, float32 -> logits, float32, whatever the model computes in."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels, height, width) -> (batch, num_labels)"""
        return self.model(pixel_values).logits.float()


def export_model(
    model_folder: str | os.PathLike, out: str | os.PathLike, *, format: str, dtype: str = "float32", overwrite=False
) -> list[Check]:
    """
    Write `out`, a folder: the graph and a copy of the config and the preprocessor files, so that labels and statistics
    travel with it. After an error nothing of it stays.

    Args:
        model_folder: what `save_pretrained` of a classifier wrote.
        format: a name in `FORMATS`.
        dtype: `"float32"`, or `"float16"` for the weights and what is computed in between.

    Returns:
        what was compared with the model in float32.

    Raises:
        ExportError: where model, format and dtype don't go together, or the export computes something else.
        FileNotFoundError, FileExistsError, ImportError: where something is missing, or is there.
    """
    check_can_export(format, dtype)
    with output_folder(out, overwrite, (*_EXPORTED, *_COPIED)) as folder:
        model = load_classifier(model_folder)
        for name in _COPIED:
            if (Path(model_folder) / name).exists():
                shutil.copyfile(Path(model_folder) / name, folder / name)
        path = folder / FORMATS[format].file
        with quiet_export():
            FORMATS[format].write(export_program(model, dtype), path)
        return check_export(model, FORMATS[format].load(path), TOLERANCES[dtype])


def check_can_export(format: str, dtype: str) -> None:
    """
    Raises:
        ExportError: for an unknown format or dtype, or no C++ compiler where one is needed.
        ImportError: where packages are missing.
    """
    for name, value, choices in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise ExportError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    check_packages(f'format "{format}"', FORMATS[format].packages, "export")
    if format == "aoti" and not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ExportError('format "aoti" compiles C++ and finds no compiler: install g++, or set CXX to one')


def load_classifier(folder: str | os.PathLike) -> nn.Module:
    """
    The classifier in a folder, in float32.

    Raises:
        FileNotFoundError: where there is no model.
        ExportError: where it is something else than a TimeSformer with labels.
    """
    from ..model.modeling_timesformer import TimesformerForVideoClassification

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json")
    model_type = stored_config_values(folder, {}).get("model_type")
    if model_type != TimesformerConfig.model_type:
        raise ExportError(f"{folder} is no TimeSformer: its config.json says model_type {model_type!r}")
    try:
        model, info = TimesformerForVideoClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    except Exception as error:  # whatever it is, it is about this folder
        raise ExportError(loading_error(folder, error)) from error
    if info["missing_keys"] or model.num_labels < 1:
        missing = ", ".join(sorted(info["missing_keys"])) or "any label"
        raise ExportError(f"{folder} is no whole classifier: it lacks {missing}")
    return model.eval()


def _least_sides(config: TimesformerConfig) -> tuple[int, int]:
    """
    The fewest frames, and patches along a side, that a `torch.export` graph takes: one is no size but a special case
    to it; and where a scheme halves a side, each half must be more than one.
    """
    halves = any(step.halved for step in ATTENTION_SCHEMES[config.attention_type].steps)
    return (3, 3) if halves else (2, 2)


def dynamic_shapes(config: TimesformerConfig) -> dict:
    """Which dimensions of `pixel_values` are free: all but the channels, height and width in steps of a patch."""
    least_frames, least_patches = _least_sides(config)
    height, width = (
        patch * Dim(name, min=least_patches)
        for name, patch in zip(("rows", "columns"), as_pair(config.patch_size), strict=True)
    )
    return {INPUT: {0: Dim("batch", min=1), 1: Dim("frames", min=least_frames), 3: height, 4: width}}


def _traced_shape(config: TimesformerConfig) -> _Shape:
    """Two clips of the size that the model is made for, or the least that can be traced."""
    least_frames, least_patches = _least_sides(config)
    sides = [
        patch * max(patches, least_patches)
        for patch, patches in zip(as_pair(config.patch_size), config.grid_size, strict=True)
    ]
    return (2, max(config.num_frames, least_frames), config.num_channels, *sides)


def _checked_shapes(config: TimesformerConfig) -> list[_Shape]:
    """The traced shape, and two others, in which batch, frames, rows and columns are another number, odd and even."""
    batch, frames, channels, height, width = _traced_shape(config)
    patch_height, patch_width = as_pair(config.patch_size)
    one_more = (batch + 1, frames + 1, channels, height + patch_height, width + patch_width)
    return [(batch, frames, channels, height, width), one_more, (1, frames + 2, channels, height, width + patch_width)]


def export_program(model: nn.Module, dtype: str = "float32") -> ExportedProgram:
    """
    A classifier -> its graph for any batch, frames, height and width; see `_least_sides` for the limits. The model
    stays as it is.

    Raises:
        ExportError: where torch can't trace it.
    """
    config = model.config
    twin = copy.deepcopy(model).eval().to(DTYPES[dtype])
    twin.set_attn_implementation("sdpa")
    # Of a scheme that halves sides, torch can't prove that sizes fit whether odd or even: the graph asserts it.
    deferred = _least_sides(config) == (3, 3)
    try:
        with torch.no_grad():
            return torch.export.export(
                LogitsOnly(twin),
                (torch.zeros(_traced_shape(config)),),
                dynamic_shapes=dynamic_shapes(config),
                prefer_deferred_runtime_asserts_over_guards=deferred,
            )
    except Exception as error:  # torch has many classes of them
        raise ExportError(f"torch.export can't trace the model: {error}") from error


def check_export(model: nn.Module, run: _Runner, tolerance: float) -> list[Check]:
    """
    Compare what was exported with the model, on random clips of `_checked_shapes`.

    Raises:
        ExportError: where logits differ by more than `tolerance` of the largest, or aren't finite.
    """
    checks = []
    for shape in _checked_shapes(model.config):
        clip = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, got = model(clip).logits, run(clip)
        if got.dtype != torch.float32 or got.shape != expected.shape or not got.isfinite().all():
            raise ExportError(f"the export gives no finite float32 logits {tuple(expected.shape)} for a clip {shape}")
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= tolerance:
            raise ExportError(
                f"the export's logits of a clip {shape} differ from the model's by {difference:.2g} of the largest; "
                f"at most {tolerance:.2g} was expected. Nothing was written"
            )
        checks.append(Check(shape, difference))
    return checks


@contextmanager
def quiet_export() -> Iterator[None]:
    """Without what torch's exporters say of their own insides."""
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
    """`path`, and `path`.data beside it where the weights are more than `EXTERNAL_DATA_BYTES`."""
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    _name_axes(exported.model)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    exported.save(path, external_data=num_bytes > EXTERNAL_DATA_BYTES)


def _name_axes(model) -> None:
    """
    Our names for the free dimensions of input and output. The exporter's symbols in between, and its notes of where
    in whose source a node comes from, go.
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
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run([OUTPUT], {INPUT: clip.numpy()})[0])


def _write_program(program: ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def load_program(path: Path) -> _Runner:
    return torch.export.load(path).module()


def _write_package(program: ExportedProgram, path: Path) -> None:
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load_package(path: Path) -> _Runner:
    return torch._inductor.aoti_load_package(str(path))


FORMATS = {
    "onnx": ExportFormat("model.onnx", write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch-export": ExportFormat("model.pt2", _write_program, load_program),
    "aoti": ExportFormat("model.pt2", _write_package, load_package),
}

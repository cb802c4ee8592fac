"""OpenVINO: writes an exported program as its intermediate representation, in int8 if asked, and runs it on the CPU."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram


def _import_openvino():
    """
    Import OpenVINO without its telemetry, which would send events over the network unless the user had refused. It
    works without that package.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def write_openvino(program: ExportedProgram, path: Path) -> None:
    """Write `path`, model.xml, and the weights as model.bin beside it."""
    openvino = _import_openvino()
    converted = openvino.convert_model(program)
    converted.inputs[0].get_tensor().set_names({"pixel_values"})
    converted.outputs[0].get_tensor().set_names({"logits"})
    openvino.save_model(converted, path, compress_to_fp16=False)


def load_openvino(path: Path, precision: str = "f32", threads: int | None = None) -> Callable:
    """
    Return a function from clips to logits, float32 tensors, that runs model.xml on the CPU, one call at a time.

    Args:
        path: the file that [`write_openvino`] wrote.
        precision: what OpenVINO may compute in, `"f32"` or `"bf16"`.
        threads: by default as many as torch uses.
    """
    openvino = _import_openvino()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda clip: torch.from_numpy(compiled([clip.numpy()])[0])


def quantize_openvino(path: Path, clips: Sequence[torch.Tensor]) -> None:
    """
    Replace model.xml by a model in int8, by NNCF's quantization for transformers.

    Args:
        path: the file that [`write_openvino`] wrote.
        clips: pixel values (1, frames, channels, height, width), from which the ranges of inner values are measured.
    """
    openvino = _import_openvino()
    os.environ.setdefault("NNCF_CI", "1")  # its switch against telemetry
    import nncf

    model = openvino.Core().read_model(path)
    dataset = nncf.Dataset([clip.numpy() for clip in clips])
    quantized = nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(clips))
    # the weights of both models are mapped from the files here, so those may not be written over
    new = path.with_stem("quantized")
    openvino.save_model(quantized, new, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        os.replace(new.with_suffix(suffix), path.with_suffix(suffix))

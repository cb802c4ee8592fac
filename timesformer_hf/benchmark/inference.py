"""Cases that run the forward pass of a model, with divided or joint attention."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..inference.export import DTYPES as EXPORT_DTYPES
from ..inference.export import INPUT, OUTPUT, check_can_export, export_program, quiet_export, write_onnx
from ..inference.folding import optimize_for_inference
from ..inference.openvino_format import load_openvino, quantize_openvino, write_openvino
from ..inference.quantization import quantize
from .cases import QUANTIZED, Case
from .matrix_products import total_multiply_accumulates
from .measuring import CodePath, Environment, Prepared, UnavailableError, Workload
from .memory import peak_in_child
from .models import (
    DTYPES,
    TOLERANCES,
    ModelBench,
    check_dtype,
    compiled,
    relative_difference,
)


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Return the workload of a case: one forward pass.

    Raises:
        UnavailableError: where the hardware doesn't have the case's dtype.
    """
    check_dtype(case.dtype, environment.device)
    torch.compiler.reset()  # compilations of earlier cases count towards torch's limit, after which it compiles no more
    bench = ModelBench(case, environment)
    return Workload(
        prepare={name: partial(PATHS[name].prepare, bench) for name in case.paths},
        reference=bench.reference_logits,
        difference=relative_difference,
        tolerance=partial(tolerance, bench),
        peak_bytes=partial(peak_in_child, case, environment) if case.memory else None,
        multiply_accumulates=total_multiply_accumulates(bench.products),
    )


def tolerance(bench: ModelBench, path: str) -> float:
    """
    Return the largest difference of logits that counts as agreement. It depends on the dtype of the case, or for a path
    that isn't quantized on the dtype of its model.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    return TOLERANCES[names[bench.dtype] if path == "built-in-unquantized" else bench.case.dtype]


def prepare_ours(bench: ModelBench) -> Prepared:
    """Prepare a forward pass of this package's model."""
    return _prepare_model(bench, _in_dtype_of_case(bench, bench.ours()))


def prepare_ours_compiled(bench: ModelBench) -> Prepared:
    """Prepare a forward pass of this package's model with torch.compile."""
    return _prepare_model(bench, compiled(_in_dtype_of_case(bench, bench.ours())))


def _prepare_optimized(bench: ModelBench) -> Prepared:
    return _prepare_model(bench, _in_dtype_of_case(bench, optimize_for_inference(bench.ours())))


def _prepare_optimized_compiled(bench: ModelBench) -> Prepared:
    return _prepare_model(bench, compiled(_in_dtype_of_case(bench, optimize_for_inference(bench.ours()))))


def _prepare_optimized_graphs(bench: ModelBench) -> Prepared:
    model = _in_dtype_of_case(bench, optimize_for_inference(bench.ours()))
    return _prepare_model(bench, _compiled_to_graphs(model, bench.device))


def prepare_built_in(bench: ModelBench) -> Prepared:
    """Prepare a forward pass of transformers' built-in model."""
    return _prepare_model(bench, _in_dtype_of_case(bench, bench.built_in()))


def prepare_built_in_compiled(bench: ModelBench) -> Prepared:
    """Prepare a forward pass of transformers' built-in model with torch.compile."""
    return _prepare_model(bench, compiled(_in_dtype_of_case(bench, bench.built_in())))


def _prepare_built_in_graphs(bench: ModelBench) -> Prepared:
    return _prepare_model(bench, _compiled_to_graphs(_in_dtype_of_case(bench, bench.built_in()), bench.device))


def _compiled_to_graphs(model: nn.Module, device: str) -> nn.Module:
    """
    Return the model compiled with CUDA graphs. They help small batches, where launching a kernel takes longer than the
    kernel itself.

    Raises:
        UnavailableError: for a device that is not CUDA.
    """
    _check_cuda("CUDA graphs need", device)
    return torch.compile(model, dynamic=False, mode="reduce-overhead")


def _check_cuda(what_needs: str, device: str) -> None:
    if not device.startswith("cuda"):
        raise UnavailableError(f"{what_needs} a CUDA device; this is {device}")


def _prepare_built_in_autotuned(bench: ModelBench) -> Prepared:
    """
    Prepare a forward pass of the built-in model with kernels that torch.compile has chosen by measuring.

    Raises:
        UnavailableError: for a device that is not CUDA.
    """
    _check_cuda("max-autotune is measured on", bench.device)
    model = _in_dtype_of_case(bench, bench.built_in())
    return _prepare_model(bench, torch.compile(model, dynamic=False, mode="max-autotune"))


def _prepare_tensorrt(bench: ModelBench) -> Prepared:
    """
    Prepare a forward pass in TensorRT, of the built-in model, which torch-tensorrt compiles.

    Raises:
        ImportError: where torch-tensorrt is missing.
        UnavailableError: for a device that is not CUDA, or a quantized dtype.
    """
    _check_cuda("TensorRT needs", bench.device)
    if bench.case.dtype in QUANTIZED:
        raise UnavailableError(f"TensorRT is measured in fp32, bf16 and fp16, not {bench.case.dtype}")
    import torch_tensorrt  # noqa: F401  it registers the backend

    return _prepare_model(bench, torch.compile(bench.built_in(), dynamic=False, backend="tensorrt"))


def _prepare_unquantized(bench: ModelBench) -> Prepared:
    return _prepare_model(bench, bench.built_in())


def _in_dtype_of_case(bench: ModelBench, model: nn.Module) -> nn.Module:
    return quantize(model, bench.case.dtype) if bench.case.dtype in QUANTIZED else model


def _prepare_model(bench: ModelBench, model: nn.Module) -> Prepared:
    pixel_values = bench.pixel_values

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model(pixel_values).logits

    return Prepared(run)


def prepare_limit(bench: ModelBench) -> Prepared:
    """Prepare the limit: the matmuls of the original model."""
    return Prepared(torch.inference_mode()(bench.prepare_products()))


def _prepare_onnxruntime(bench: ModelBench) -> Prepared:
    """
    Prepare a forward pass in ONNX Runtime, of this package's own export, on as many threads as torch uses. In int8 it
    is quantized by ONNX Runtime's dynamic quantization, which measures ranges in every call.

    Raises:
        ImportError: where a package is missing.
        UnavailableError: where the export doesn't have the dtype, or the device is not a CPU.
    """
    names = {dtype: name for name, dtype in EXPORT_DTYPES.items()}
    if bench.dtype not in names or bench.case.dtype == "fp8":
        raise UnavailableError(f"the ONNX export doesn't have {bench.case.dtype}, only {', '.join(EXPORT_DTYPES)}")
    if bench.device != "cpu":
        raise UnavailableError(f"ONNX Runtime is measured on the CPU only, not on {bench.device}")
    check_can_export("onnx", names[bench.dtype])
    path = bench.weights / f"{names[bench.dtype]}.onnx"
    if not path.exists():
        with quiet_export():
            write_onnx(export_program(bench.ours(torch.float32), names[bench.dtype]), path)
    if bench.case.dtype == "int8":
        path = _quantize_onnx(path)
    run = _load_session(path, bench.environment.threads)
    clips = bench.clips.numpy()
    return Prepared(lambda: torch.from_numpy(run(clips)))


def _quantize_onnx(path: Path) -> Path:
    """Return the file of the same model in int8. It is written if it doesn't exist."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = path.with_stem(f"{path.stem}-int8")
    if not quantized.exists():
        with quiet_export():
            quantize_dynamic(
                path, quantized, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=True
            )
    return quantized


def _prepare_openvino(bench: ModelBench) -> Prepared:
    """
    Prepare a forward pass in OpenVINO, of this package's own export, on as many threads as torch uses. In int8 it is
    quantized by NNCF, which measures ranges on the clips of the case.

    Raises:
        ImportError: where a package is missing.
        UnavailableError: where OpenVINO doesn't compute in the dtype, or the device is not a CPU.
    """
    precisions = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # in int8: what is not quantized
    if bench.case.dtype not in precisions:
        raise UnavailableError(f"OpenVINO's CPU plugin is measured in {', '.join(precisions)}, not {bench.case.dtype}")
    if bench.device != "cpu":
        raise UnavailableError(f"OpenVINO is measured on the CPU only, not on {bench.device}")
    int8 = bench.case.dtype == "int8"
    check_can_export("openvino", "float32", int8)
    path = bench.weights / ("int8.xml" if int8 else "float32.xml")
    if not path.exists():
        with quiet_export():
            write_openvino(export_program(bench.ours(torch.float32)), path)
            if int8:
                quantize_openvino(path, bench.clips[:1].split(1))
    run = load_openvino(path, precisions[bench.case.dtype], bench.environment.threads)
    clips = bench.clips
    return Prepared(lambda: run(clips))


def _load_session(path: Path, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run([OUTPUT], {INPUT: clips})[0]


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, eager PyTorch", prepare_ours),
    "ours-compiled": CodePath("ours", "timesformer_hf, torch.compile", prepare_ours_compiled, on_request=True),
    "ours-optimized": CodePath("ours", "optimize_for_inference, eager", _prepare_optimized),
    "ours-optimized-compiled": CodePath(
        "ours", "optimize_for_inference, torch.compile", _prepare_optimized_compiled, on_request=True
    ),
    "ours-optimized-graphs": CodePath(
        "ours", "optimize_for_inference, torch.compile with CUDA graphs", _prepare_optimized_graphs, on_request=True
    ),
    "built-in": CodePath("peer", "the model built into transformers, eager", prepare_built_in),
    "built-in-compiled": CodePath("peer", "the same, torch.compile", prepare_built_in_compiled, on_request=True),
    "built-in-graphs": CodePath(
        "peer", "the same, torch.compile with CUDA graphs", _prepare_built_in_graphs, on_request=True
    ),
    "built-in-max-autotune": CodePath(
        "peer", "the same, torch.compile with max-autotune", _prepare_built_in_autotuned, on_request=True
    ),
    "tensorrt": CodePath("peer", "the same in TensorRT, by torch-tensorrt", _prepare_tensorrt, on_request=True),
    "built-in-unquantized": CodePath("peer", "the same, eager, not quantized", _prepare_unquantized),
    "onnxruntime": CodePath("peer", "ONNX Runtime, with our export", _prepare_onnxruntime),
    "openvino": CodePath("peer", "OpenVINO, with our export", _prepare_openvino),
    "matrix-products": CodePath("limit", "the original model's matmuls alone", prepare_limit),
}

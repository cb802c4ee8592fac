"""Loads models for commands that only need their outputs: faster, quantized, with kernels that were chosen before."""

import contextlib
import os
from collections.abc import Mapping

from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

from ..model.loading_checks import check_complete
from ..output.terminal import loading_model
from .exported_models import find_export, load_export
from .folding import optimize_for_inference
from .linear_kernels import set_kernels
from .quantization import check_quantization, quantize


def load_fast_pipeline(name: str, device: str, dtype: str, quantization: str | None = None):
    """
    Return the pipeline of a model that is made faster, see [`load_pipeline`] and [`optimized`].

    Raises:
        ValueError: where it can't be loaded.
    """
    classifier = load_pipeline(name, device, dtype, quantization)
    with loading_model(name):
        classifier.model = optimized(classifier.model, quantization)
    return classifier


def load_pipeline(name: str, device: str, dtype: str, quantization: str | None = None):
    """
    Return the pipeline of a model as it is.

    Args:
        name: a folder, also one of `timesformer-hf export`, or a name on the Hub.
        device, dtype: where and in what the model computes. `"auto"` is the dtype of the checkpoint.
        quantization: is refused for an exported model.

    Raises:
        ValueError: where it can't be loaded.
    """
    if os.path.isdir(name) and find_export(name):
        if dtype != "auto" or device != "cpu" or quantization is not None:
            raise ValueError(
                f"{name} is an exported model, which has its dtype and runs on the CPU: leave --dtype and --quantize "
                "out, and give --device cpu"
            )
        processor = AutoVideoProcessor.from_pretrained(name)
        return pipeline("video-classification", model=load_export(name), video_processor=processor, device="cpu")
    with loading_model(name):
        model, info = AutoModelForVideoClassification.from_pretrained(name, dtype=dtype, output_loading_info=True)
        check_complete(name, model, info)
        processor = AutoVideoProcessor.from_pretrained(name)
        return pipeline("video-classification", model=model.to(device), video_processor=processor, device=device)


def optimized(model, quantization: str | None = None, kernels: Mapping[str, str] | None = None):
    """
    Return the model, made faster by `optimize_for_inference` for a command that only needs its outputs, and then
    quantized if that is asked for. A model that can't be optimized (quantized, with an adapter, of another class) stays
    as it is.

    Args:
        kernels: the kernel of each linear layer, see [`set_kernels`] (default: the fastest, by a measurement).
    """
    if getattr(model, "is_exported", False):
        return model
    if quantization is not None:
        check_quantization(quantization)
    with contextlib.suppress(TypeError, ValueError):
        model = optimize_for_inference(model, linear_kernel=None if kernels is None else "torch")
        set_kernels(model, kernels or {})
    return model if quantization is None else quantize(model, quantization)

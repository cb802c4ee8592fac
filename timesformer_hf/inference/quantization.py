"""
Quantizes linear layers: weights once, activations during the forward pass. An optimized float32 model on a CPU gets
int8 layers of this package, any other model those of torchao.
"""

import warnings
from typing import Any, TypeVar

import torch
from torch import nn

from ..output.extras import missing_package
from .int8_linear import Int8Linear, has_int8_products
from .linear_kernels import InferenceLinear, is_quantized


# name -> torchao's config, which has one scale for each token and each row of a weight
CONFIGS = {"int8": "Int8DynamicActivationInt8WeightConfig", "fp8": "Float8DynamicActivationFloat8WeightConfig"}


def quantization_config(name: str) -> Any:
    """
    Return torchao's config for `torchao.quantization.quantize_` or for transformers' `TorchAoConfig`.

    Args:
        name: `"int8"` for CPU and CUDA, or `"fp8"` for CUDA devices with fp8 matmuls (Ada, Hopper and later).

    Raises:
        ValueError: for another name.
        ImportError: where torchao is missing.
    """
    if name not in CONFIGS:
        raise ValueError(f"Unknown quantization {name!r}; it must be one of {', '.join(map(repr, CONFIGS))}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao import quantization
    except ImportError as error:
        raise missing_package(name, "torchao", "quantization") from error
    return getattr(quantization, CONFIGS[name])()


def check_quantization(name: str) -> None:
    """
    Check that [`quantize`] can quantize an optimized model in that way. To be called before long work.

    Raises:
        ValueError, ImportError: see [`quantization_config`].
    """
    if name != "int8" or not has_int8_products() or torch.accelerator.is_available():
        quantization_config(name)


_Model = TypeVar("_Model", bound=nn.Module)


def quantize(model: _Model, name: str) -> _Model:
    """
    Quantize the model's linear layers in place. If you want both, call [`optimize_for_inference`] first.

    Args:
        name: see [`quantization_config`].

    Returns:
        The same model.
    """
    if name == "int8" and _takes_int8_layers(model):
        for module in list(model.modules()):
            for child_name, child in module.named_children():
                if isinstance(child, InferenceLinear) and not child.of_cls:
                    setattr(module, child_name, Int8Linear(child))
        return model
    for module in model.modules():
        if isinstance(module, InferenceLinear):
            module.set_kernel("torch")
    config = quantization_config(name)
    from torchao.quantization import quantize_

    quantize_(model, config)
    return model


def _takes_int8_layers(model: nn.Module) -> bool:
    """Return whether the model is optimized and in float32 on a CPU that has int8 products."""
    layers = [module for module in model.modules() if isinstance(module, InferenceLinear)]
    return (
        bool(layers)
        and has_int8_products()
        and all(
            layer.weight.device.type == "cpu" and layer.weight.dtype is torch.float32 and not is_quantized(layer)
            for layer in layers
        )
    )

"""Quantizes linear layers with torchao: weights once, activations token by token during the forward pass."""

import warnings

from torch import nn

from ..output.extras import missing_package


# name -> torchao's config, which has one scale for each token and each row of a weight
CONFIGS = {"int8": "Int8DynamicActivationInt8WeightConfig", "fp8": "Float8DynamicActivationFloat8WeightConfig"}


def quantization_config(name: str):
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


def quantize(model: nn.Module, name: str) -> nn.Module:
    """
    Quantize the model's linear layers in place. If you want both, call [`optimize_for_inference`] first.

    Args:
        name: see [`quantization_config`].

    Returns:
        The same model.
    """
    config = quantization_config(name)
    from torchao.quantization import quantize_

    quantize_(model, config)
    return model

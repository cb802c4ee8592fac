"""Linear layers with fewer bits, by torchao: weights once, activations as they come."""

import warnings

from torch import nn

from ..output.extras import missing_package


# name -> torchao's config: one scale for each token and each row of a weight
CONFIGS = {"int8": "Int8DynamicActivationInt8WeightConfig", "fp8": "Float8DynamicActivationFloat8WeightConfig"}


def quantization_config(name: str):
    """
    The config of torchao by name: for `torchao.quantization.quantize_`, or in transformers' `TorchAoConfig`.

    Args:
        name: `"int8"`, on CPU and CUDA, or `"fp8"`, on CUDA devices that have it (Ada, Hopper and later).

    Raises:
        ValueError: for another name. ImportError: where torchao is missing.
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
    Quantize the model's linear layers in place; after [`optimize_for_inference`], if both are wanted.

    Args:
        name: see [`quantization_config`].

    Returns:
        The same model.
    """
    config = quantization_config(name)
    from torchao.quantization import quantize_

    quantize_(model, config)
    return model

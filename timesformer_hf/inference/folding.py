"""
For inference: the same outputs with less arithmetic. Consecutive linear maps are folded into one.

- An added attention step has an output projection and a linear layer of its own. In training, dropout and stochastic
  depth stand between them. In inference nothing does, so the two are one matrix.
- The scale and shift of a norm become part of the linear layer after it.
- The scale and shift of a processor's normalisation become part of the patch embedding.
"""

import copy
import math
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from ..model.configuration_timesformer import TimesformerConfig
from ..model.modeling_timesformer import (
    TimesformerLayer,
    TimesformerModel,
    TimesformerPreTrainedModel,
)
from .encoder import InferenceEncoder, has_grid_layout
from .linear_kernels import FoldedLinear, InferenceLinear, is_quantized
from .patch_embeddings import PatchConvolution, RawPixelPatchEmbeddings, in_float64


if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.video_processing_utils import BaseVideoProcessor


_Model = TypeVar("_Model", bound=TimesformerPreTrainedModel)


def optimize_for_inference(
    model: _Model, processor: "BaseVideoProcessor | BaseImageProcessor | None" = None, linear_kernel: str | None = None
) -> _Model:
    """
    Return a copy of the model for inference: the same outputs, faster, on the same device and in the same dtype.

    The copy is saved like any other model. What is loaded from there is the ordinary model again. The copy is not for
    training and can't load weights. Optimize before you quantize or compile. Where a CPU emulates 16-bit matmuls, the
    blocks of a 16-bit model compute in float32.

    Args:
        model: a TimeSformer in evaluation mode, on one device. It is not changed.
        processor: a video or image processor. With it the optimized model rescales and normalises pixels itself: it
            also takes what the processor returns with `do_rescale=False, do_normalize=False`, which is uint8 (batch,
            frames, channels, height, width).
        linear_kernel: what multiplies by the weights: `"torch"`, or `"onednn"` on CPUs that have it. By default the
            fastest one is taken for each shape, by a measurement of some milliseconds. `print(model)` shows which.

    Raises:
        TypeError: for a model of another class.
        ValueError: for a kernel that this machine doesn't have, or for a model that is in training mode, already
            optimized, quantized, offloaded, on several devices, or has adapters.

    Example:

    ```python
    >>> model = AutoModelForVideoClassification.from_pretrained(timesformer_hf.CAMERA_MOTION)
    >>> model = timesformer_hf.optimize_for_inference(model)
    ```"""
    _check_can_optimize(model)
    model = copy.deepcopy(model).requires_grad_(False)
    base = model.base_model
    for layer in base.encoder.layer:
        _fold_layer(layer)
        _choose_kernels(
            layer, base.config, linear_kernel, cls_only=(base is not model) and layer is base.encoder.layer[-1]
        )
    if has_grid_layout(base.scheme):
        base.encoder = InferenceEncoder(base.encoder, base.config)
    patches = base.config.num_frames * math.prod(base.config.grid_size)
    PatchConvolution.replace(base.embeddings.patch_embeddings.projection, patches, linear_kernel)
    if processor is not None:
        base.embeddings.patch_embeddings = RawPixelPatchEmbeddings(base.embeddings.patch_embeddings, processor)
    return model


def _check_can_optimize(model: TimesformerPreTrainedModel) -> None:
    """
    Check that the model can be optimized.

    Raises:
        TypeError, ValueError: see [`optimize_for_inference`].
    """
    if not isinstance(model, TimesformerPreTrainedModel):
        raise TypeError(f"optimize_for_inference takes a TimeSformer of timesformer_hf, got {type(model).__name__}")
    if isinstance(model.base_model.encoder, InferenceEncoder):
        raise ValueError("The model is already optimized for inference; use it as it is")
    if model.training:
        raise ValueError("The model is in training mode, and only inference can be optimized; call model.eval() first")
    _check_layers(model.base_model)
    if getattr(model, "is_quantized", False) or any(
        isinstance(module, nn.Linear) and is_quantized(module) for module in model.modules()
    ):
        raise ValueError("The model is quantized, so its weights can't be folded; optimize it first, then quantize")
    places = {parameter.device for parameter in model.parameters()}
    if len(places) > 1 or torch.device("meta") in places or any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise ValueError(
            "The weights are offloaded, sharded or on several devices "
            f"({', '.join(sorted(map(str, places)))}); load the model on one device"
        )


def _check_layers(model: TimesformerModel) -> None:
    """
    Check that each layer has the class that this package gave it.

    Raises:
        ValueError: where a layer was replaced, for example by an adapter. Its effect would be lost.
    """
    with torch.device("meta"):
        classes = {name: type(module) for name, module in TimesformerModel(model.config).named_modules()}
    for name, module in model.named_modules():
        if type(module) is not classes.get(name):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which isn't one of the model's own layers; merge adapters into "
                "the weights, remove parametrizations and quantized layers, then optimize"
            )


@torch.no_grad()
def _fold_layer(layer: TimesformerLayer) -> None:
    for step in layer.steps:
        attention = getattr(layer, step.attention)
        _fold_norm(getattr(layer, step.norm), attention.attention.qkv)
        if step.dense is not None:
            _fold_linear(attention.output.dense, getattr(layer, step.dense))
            setattr(layer, step.dense, FoldedLinear(getattr(layer, step.dense)))
    _fold_norm(layer.layernorm_after, layer.intermediate.dense)


def _choose_kernels(layer: TimesformerLayer, config: TimesformerConfig, kernel: str | None, cls_only: bool) -> None:
    """
    Replace the linear layers of a block by ones that their fastest kernel computes.

    Args:
        kernel: the name of the kernel, `None` for the fastest.
        cls_only: whether what follows the last attention is computed for CLS alone.
    """
    rows, columns = config.grid_size
    tokens = config.num_frames * (1 + rows * columns)
    for step in layer.steps:
        attention = getattr(layer, step.attention)
        for_cls = cls_only and step is layer.steps[-1]
        head_dim = attention.attention.head_dim
        attention.attention.qkv = InferenceLinear(attention.attention.qkv, tokens, kernel, head_dim, of_cls=for_cls)
        attention.output.dense = InferenceLinear(
            attention.output.dense, config.num_frames if for_cls else tokens, kernel
        )
    for part in (layer.intermediate, layer.output):
        part.dense = InferenceLinear(part.dense, 1 if cls_only else tokens, kernel)


def _fold_linear(first: nn.Linear, second: nn.Linear) -> None:
    """Change `first` so that it computes both layers: first(x) becomes second(first(x))."""
    weight = in_float64(second.weight)
    first.bias.copy_(weight @ in_float64(first.bias) + in_float64(second.bias))
    first.weight.copy_(weight @ in_float64(first.weight))


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Move the scale and shift of a norm into the linear layer after it, if that has a bias for the shift."""
    if linear.bias is None:
        return
    weight = in_float64(linear.weight)
    linear.bias.copy_(in_float64(linear.bias) + weight @ in_float64(norm.bias))
    linear.weight.copy_(weight * in_float64(norm.weight))
    norm.weight.fill_(1)
    norm.bias.zero_()

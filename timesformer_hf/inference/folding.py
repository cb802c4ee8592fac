"""
The same answers with less arithmetic: linear maps that meet in inference with nothing between them, made one.

While training, dropout and stochastic depth stand between the output projection of an added attention step and the
step's own linear layer, and each has its gradient. In inference they are one map. The scale and shift of a norm are
part of the linear layer behind it, and those of a processor's normalisation part of the patch embedding.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from ..model.modeling_timesformer import (
    TimesformerLayer,
    TimesformerModel,
    TimesformerPatchEmbeddings,
    TimesformerPreTrainedModel,
)
from .encoder import FoldedLinear, HeadMajorLinear, InferenceEncoder, has_grid_layout, is_quantized


def optimize_for_inference(model: TimesformerPreTrainedModel, processor=None) -> TimesformerPreTrainedModel:
    """
    A model with the same answers, on the same device and in the same number format, that computes less and moves less.

    It is saved as any other, and can be loaded without this function; loaded, it computes as much as before. It isn't
    for training, and loads no weights. To quantize, optimize first; to compile, too. On a CPU that has to emulate
    products of 16-bit numbers, a model of them computes its blocks in float32.

    Args:
        model: a TimeSformer in evaluation mode, on one device; it is left as it is.
        processor: the video or image processor whose rescaling and normalisation the model shall do itself. It then
            also takes the pixels that the processor makes with `do_rescale=False, do_normalize=False`: uint8 (batch,
            frames, channels, height, width).

    Raises:
        TypeError: for another model.
        ValueError: for a model in training mode, or one that is quantized, has adapters, is offloaded or on several
            devices.

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
    if has_grid_layout(base.scheme):
        base.encoder = InferenceEncoder(base.encoder, base.config)
    if processor is not None:
        base.embeddings.patch_embeddings = RawPixelPatchEmbeddings(base.embeddings.patch_embeddings, processor)
    return model


def _check_can_optimize(model: TimesformerPreTrainedModel) -> None:
    """
    Raises:
        TypeError, ValueError: see [`optimize_for_inference`].
    """
    if not isinstance(model, TimesformerPreTrainedModel):
        raise TypeError(f"optimize_for_inference takes a TimeSformer of timesformer_hf, got {type(model).__name__}")
    if isinstance(model.base_model.encoder, InferenceEncoder):
        raise ValueError("The model is optimized for inference already")
    if model.training:
        raise ValueError("The model is in training mode, where nothing can be folded; call model.eval() first")
    _check_layers(model.base_model)
    if getattr(model, "is_quantized", False) or any(
        isinstance(module, nn.Linear) and is_quantized(module) for module in model.modules()
    ):
        raise ValueError("The model is quantized, and its weights can't be folded; optimize it first, then quantize")
    places = {parameter.device for parameter in model.parameters()}
    if len(places) > 1 or torch.device("meta") in places or any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise ValueError(
            "The weights are offloaded, sharded or on several devices "
            f"({', '.join(sorted(map(str, places)))}); load the model on one device"
        )


def _check_layers(model: TimesformerModel) -> None:
    """
    Raises:
        ValueError: where others have put in layers of their own, whose part in the answers would be lost.
    """
    with torch.device("meta"):
        classes = {name: type(module) for name, module in TimesformerModel(model.config).named_modules()}
    for name, module in model.named_modules():
        if type(module) is not classes.get(name):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which isn't the model's own; merge adapters into the "
                "weights, and remove parametrizations and quantized layers, then optimize"
            )


@torch.no_grad()
def _fold_layer(layer: TimesformerLayer) -> None:
    for step in layer.steps:
        attention = getattr(layer, step.attention)
        _fold_norm(getattr(layer, step.norm), attention.attention.qkv)
        if step.dense is not None:
            _fold_linear(attention.output.dense, getattr(layer, step.dense))
            setattr(layer, step.dense, FoldedLinear(getattr(layer, step.dense)))
        attention.attention.qkv = HeadMajorLinear(attention.attention.qkv, attention.attention.head_dim)
    _fold_norm(layer.layernorm_after, layer.intermediate.dense)


def _fold_linear(first: nn.Linear, second: nn.Linear) -> None:
    """Make `first` what both do one after the other."""
    weight = exact(second.weight)
    first.bias.copy_(weight @ exact(first.bias) + exact(second.bias))
    first.weight.copy_(weight @ exact(first.weight))


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Let `linear` do the norm's scale and shift, where it has a bias to take the shift."""
    if linear.bias is None:
        return
    weight = exact(linear.weight)
    linear.bias.copy_(exact(linear.bias) + weight @ exact(norm.bias))
    linear.weight.copy_(weight * exact(norm.weight))
    norm.weight.fill_(1)
    norm.bias.zero_()


def exact(values: torch.Tensor) -> torch.Tensor:
    """In float64, on the CPU: not every device has it."""
    return values.detach().cpu().double()


class RawPixelPatchEmbeddings(TimesformerPatchEmbeddings):
    """
    The patch embeddings of a model, whose weights they share, that take uint8 pixels too. Patches have no padding, so
    that rescaling and normalising pixels is a scale of the filters and a shift of their bias.
    """

    def __init__(self, embeddings: TimesformerPatchEmbeddings, processor):
        nn.Module.__init__(self)
        self.num_channels, self.patch_size = embeddings.num_channels, embeddings.patch_size
        self.projection = projection = embeddings.projection
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        mean, std = (torch.tensor(value, dtype=torch.float64).expand(self.num_channels) for value in (mean, std))
        weight = exact(projection.weight) / std[:, None, None]
        bias = exact(projection.bias) - torch.einsum("ocij,c->o", weight, mean)
        weight = weight * (processor.rescale_factor if processor.do_rescale else 1.0)
        self.register_buffer("raw_weight", weight.to(projection.weight), persistent=False)
        self.register_buffer("raw_bias", bias.to(projection.bias), persistent=False)
        self.train(embeddings.training)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels, height, width), uint8 or not -> (batch, frames, hidden_size, rows, columns)"""
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.dtype is not torch.uint8:
            return super().forward(pixel_values)
        pixels = pixel_values.to(self.raw_weight.dtype)
        self.check_pixel_values(pixels)
        patches = F.conv2d(pixels.flatten(0, 1), self.raw_weight, self.raw_bias, stride=self.patch_size)
        return patches.unflatten(0, pixel_values.shape[:2])

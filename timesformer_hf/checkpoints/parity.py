"""
Compares a converted model in float64 with a reference that doesn't use this package's fast code. References are:

- stored outputs of the source's own code,
- transformers' built-in TimeSformer or image ViT,
- attention masks over all tokens, which define our attention schemes.

Each comparison returns the largest difference, relative to the largest expected value.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..model.configuration_timesformer import TimesformerConfig
from ..model.masked_attention import masked_attend
from ..model.modeling_timesformer import TimesformerForVideoClassification
from .files import read_safetensors
from .keys import VIT, restore_keys


_TOLERANCE = 1e-10  # for float64; outputs that were computed in float32 have errors of about 1e-5
Weights = Mapping[str, torch.Tensor]


class ParityError(ValueError):
    """Raised where a converted model does not compute what its source computes."""


def check_parity(difference: float, reference: str, tolerance: float = _TOLERANCE) -> None:
    """
    Check that a model equals its reference.

    Args:
        difference: the largest difference of their outputs, relative to the largest expected value.
        reference: its name, for the message.
        tolerance: the largest allowed difference.

    Raises:
        ParityError: where the difference is larger than the tolerance, or NaN.
    """
    if not difference <= tolerance:
        raise ParityError(
            f"The model differs from {reference} by {difference:.1e} of the largest value, more than {tolerance:.0e}; "
            "nothing was written. If the number of heads was assumed, give it as --num-attention-heads"
        )


def _in_double(model: TimesformerForVideoClassification) -> TimesformerForVideoClassification:
    return copy.deepcopy(model).double().eval()


def random_clip(*shape: int) -> torch.Tensor:
    """Return the same normally distributed noise in every call, in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _largest_difference(outputs: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@torch.no_grad()
def difference_from_outputs(model: TimesformerForVideoClassification, path: Path) -> tuple[float, float]:
    """
    Compare a model's logits with those in a safetensors file.

    The file has `pixel_values` (batch, frames, channels, height, width) and `logits` (batch, num_labels), or several
    pairs of them as `NAME.pixel_values` and `NAME.logits`.

    Returns:
        the largest difference, and the tolerance for the dtype of the stored logits.

    Raises:
        ValueError: where the file has no such pair, or the shapes of logits differ.
    """
    tensors, model = read_safetensors(Path(path), shapes_only=False), _in_double(model)
    cases = [name.removesuffix("pixel_values") for name in tensors if name.endswith("pixel_values")]
    cases = [case for case in cases if f"{case}logits" in tensors]
    if not cases:
        raise ValueError(f"{path} lacks pixel_values with logits; it has {', '.join(sorted(tensors)[:8]) or 'nothing'}")
    differences, tolerance = [], _TOLERANCE
    for case in cases:
        expected, logits = tensors[f"{case}logits"], model(tensors[f"{case}pixel_values"].double()).logits
        if expected.shape != logits.shape:
            raise ValueError(f"{case}logits in {path} are {tuple(expected.shape)}, the model's {tuple(logits.shape)}")
        tolerance = tolerance if expected.dtype == torch.float64 else 1e-4
        differences.append(_largest_difference(logits, expected))
    return max(differences), tolerance


@torch.no_grad()
def difference_from_built_in(model: TimesformerForVideoClassification, weights: Weights) -> float | None:
    """
    Compare a model with transformers' built-in TimeSformer that has the source's `weights`.

    The clip has frames of the configured size: two of them, or as many as configured where the time embeddings can't be
    resized exactly. With space-only attention the built-in model has one result for each frame; their mean is taken.

    Returns:
        the largest difference of logits, or `None` where the built-in model has no such scheme or size.
    """
    from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
    from transformers.models.timesformer.modeling_timesformer import TimesformerForVideoClassification as Native

    config = model.config
    known = ("divided_space_time", "joint_space_time", "space_only")
    rectangular = config.grid_size[0] != config.grid_size[1] or not isinstance(config.patch_size, int)
    if config.attention_type not in known or rectangular:
        return None
    frames = min(2, config.num_frames) if config.interpolation_mode == "nearest" else config.num_frames
    native = Native(NativeConfig(**config.to_dict() | {"num_frames": frames, "drop_path_rate": 0})).double().eval()
    weights = dict(weights)
    times = weights.get("timesformer.embeddings.time_embeddings")
    if times is not None:  # nearest resizing gives a clip of so many frames these rows
        rows = [index * times.shape[1] // frames for index in range(frames)]
        weights["timesformer.embeddings.time_embeddings"] = times[:, rows]
    native.load_state_dict(weights, strict=True)
    clip = random_clip(1, frames, config.num_channels, *(side * config.patch_size for side in config.grid_size))
    outputs = native(clip, output_hidden_states=True)
    expected = outputs.logits
    if config.attention_type == "space_only":
        averaged = outputs.hidden_states[-1].unflatten(0, (1, frames)).mean(dim=1)
        expected = native.classifier(native.timesformer.layernorm(averaged)[:, 0])
    return _largest_difference(_in_double(model)(clip).logits, expected)


@torch.no_grad()
def difference_of_configs(model: TimesformerForVideoClassification, values: Mapping[str, object]) -> float:
    """
    Compare a model with one that has the same weights and other config values, for example `{"hidden_act": "gelu"}`.

    Returns:
        the largest difference of logits, on a clip of up to two frames of the configured size.
    """
    config = TimesformerConfig.from_dict(model.config.to_dict() | values)
    twin = TimesformerForVideoClassification(config).double().eval()
    twin.load_state_dict(model.state_dict())
    clip = _configured_clip(model)
    return _largest_difference(twin(clip).logits, _in_double(model)(clip).logits)


def _configured_clip(model: TimesformerForVideoClassification) -> torch.Tensor:
    """Return a random clip of the configured size with two frames, or with one where the model is made for one."""
    patch = model.base_model.embeddings.patch_embeddings.patch_size
    sides = (length * side for length, side in zip(model.config.grid_size, patch, strict=True))
    return random_clip(1, min(2, model.config.num_frames), model.config.num_channels, *sides)


@torch.no_grad()
def difference_from_masks(model: TimesformerForVideoClassification) -> float:
    """
    Compare a model with one whose attention steps are masks over all tokens, which is their definition. This is for
    the attention schemes that no other program has.

    Returns:
        the largest difference of logits, on a clip of up to two frames of the configured size.
    """
    twin, clip = _in_double(model), _configured_clip(model)
    logits = twin(clip).logits
    for layer in twin.base_model.encoder.layer:
        layer.attend = partial(_attend_by_mask, layer)
    return _largest_difference(logits, twin(clip).logits)


def _attend_by_mask(
    layer: nn.Module, step, hidden_states: torch.Tensor, grid, *unused, **kwargs
) -> tuple[torch.Tensor]:
    """Do what `TimesformerLayer.attend` does, by the step's mask over all tokens."""
    return (masked_attend(layer, step, hidden_states, grid),)


@dataclass(frozen=True)
class _ImageClip:
    """
    How to make a clip on which an attention scheme computes the same as an image ViT on an image.

    Attributes:
        crop: a function of images and the patch size (height, width). It returns the part of the images for the ViT.
        clip: a function of that part, the number of frames and the patch size. It returns the clip (batch, frames,
            channels, height, width) for the TimeSformer.
    """

    crop: Callable
    clip: Callable


def whole(images, patch):
    """Return the images as they are."""
    return images


def _first_column(images, patch):
    return images[..., : patch[1]]


def still(images, frames, patch):
    """Return clips of equal frames: (batch, channels, height, width) -> (batch, frames, channels, height, width)."""
    return images.unsqueeze(1).expand(-1, frames, -1, -1, -1)


def _one_frame(images, frames, patch):
    return images.unsqueeze(1)


def _every_patch_eight_times(images, frames, patch):
    """
    Return clips with each patch twice in time, height and width. There every strided subset of patches is the image.
    """
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // patch[0], patch[0], width // patch[1], patch[1])
    patches = patches.repeat_interleave(2, dim=2).repeat_interleave(2, dim=4)
    return still(patches.reshape(batch, channels, 2 * height, 2 * width), 2, patch)


IMAGE_CLIPS = {
    "divided_space_time": _ImageClip(whole, still),
    "space_only": _ImageClip(whole, still),
    "joint_space_time": _ImageClip(whole, _one_frame),
    "sparse_local_global": _ImageClip(whole, _every_patch_eight_times),
    "axial": _ImageClip(_first_column, still),
}


@torch.no_grad()
def difference_from_image_vit(model: TimesformerForVideoClassification, weights: Weights) -> float:
    """
    Compare the CLS feature of a model with that of transformers' ViT, on a clip where both must compute the same. For
    divided and space-only attention this is a clip of equal frames.

    Args:
        model: a TimeSformer that was just created from the ViT, at the ViT's own image size.
        weights: the ViT's weights under the names of a TimeSformer.

    Returns:
        the largest difference of features.
    """
    from transformers import ViTConfig, ViTModel

    config, clips = model.config, IMAGE_CLIPS[model.config.attention_type]
    rows, columns = config.grid_size
    patch = model.base_model.embeddings.patch_embeddings.patch_size
    images = random_clip(2, config.num_channels, rows * patch[0], columns * patch[1])
    part = clips.crop(images, patch)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    names = (*names, "layer_norm_eps", "num_channels", "qkv_bias", "patch_size")
    settings = {name: getattr(config, name) for name in names} | {"image_size": tuple(part.shape[-2:])}
    vit = ViTModel(ViTConfig(**settings), add_pooling_layer=False).double().eval()
    weights = {name: tensor.double() for name, tensor in weights.items() if not name.startswith("classifier.")}
    positions = weights["timesformer.embeddings.position_embeddings"]
    kept = positions[:, 1:].unflatten(1, (rows, columns))[:, :, : part.shape[-1] // patch[1]].flatten(1, 2)
    weights["timesformer.embeddings.position_embeddings"] = torch.cat((positions[:, :1], kept), dim=1)
    vit.load_state_dict(restore_keys(weights, VIT), strict=True)
    twin = _in_double(model)
    twin.base_model.embeddings.interpolation_mode = "nearest"  # so that repeated patches get repeated positions
    features = twin.base_model(clips.clip(part, min(config.num_frames, 3), patch)).last_hidden_state[:, 0]
    return _largest_difference(features, vit(part).last_hidden_state[:, 0])

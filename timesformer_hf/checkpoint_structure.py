"""What a model is, told from the names and shapes of its weights alone."""

import math
from collections.abc import Mapping

import torch

from .attention_schemes import ATTENTION_SCHEMES, ATTENTION_STEPS
from .checkpoint_keys import as_pattern
from .configuration_timesformer import as_pair


def infer_config_values(
    weights: Mapping[str, torch.Tensor], source: str, num_attention_heads: int | None = None, image_size=None
) -> dict:
    """
    The values of a [`TimesformerConfig`] that weights imply by their shapes: attention scheme, frames, size, patch,
    width, depth and classes.

    Args:
        weights: under this model's names.
        source: their name, for messages.
        num_attention_heads: by default one for every 64 channels: weights don't tell it.
        image_size: the side or (height, width) of the frames that the weights were trained with; by default a square.

    Raises:
        ValueError: where something is missing, or can't be told by shapes.
    """
    embeddings, first_layer = "timesformer.embeddings.", "timesformer.encoder.layer.0."
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    projection, positions, up = (
        shapes.get(name)
        for name in (
            f"{embeddings}patch_embeddings.projection.weight",
            f"{embeddings}position_embeddings",
            f"{first_layer}intermediate.dense.weight",
        )
    )
    if projection is None or positions is None or up is None:
        raise ValueError(
            f"{source} lacks its patch projection, position embeddings or first MLP: it is half a checkpoint, or of a "
            "Vision Transformer that a TimeSformer can't start from"
        )
    hidden_size, num_channels, *patch_size = projection
    values = {
        "image_size": find_image_size(positions[1] - 1, tuple(patch_size), source, image_size),
        "patch_size": patch_size[0] if patch_size[0] == patch_size[1] else patch_size,
        "num_channels": num_channels,
        "hidden_size": hidden_size,
        "intermediate_size": up[0],
        "num_hidden_layers": count_layers(weights, source),
        "num_attention_heads": find_heads(hidden_size, source, num_attention_heads),
        "qkv_bias": f"{first_layer}attention.attention.qkv.bias" in weights,
        "attention_type": find_scheme(weights, source),
    }
    if f"{embeddings}time_embeddings" in shapes:
        values["num_frames"] = shapes[f"{embeddings}time_embeddings"][1]
    if "classifier.weight" in shapes:
        values["num_labels"] = shapes["classifier.weight"][0]
    return values


def find_image_size(num_patches: int, patch_size: tuple[int, int], source: str, image_size=None):
    """
    Raises:
        ValueError: for positions that are no square grid, unless `image_size` says which grid they are.
    """
    if image_size is not None:
        height, width = as_pair(image_size, "image_size")
        if (height // patch_size[0]) * (width // patch_size[1]) == num_patches:
            return image_size
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(
            f"{source} has {num_patches} positions of {patch_size[0]} x {patch_size[1]} pixels, which is no square: "
            "give the size that it was trained with as --image-size HEIGHTxWIDTH"
        )
    height, width = (side * patch for patch in patch_size)
    return height if height == width else [height, width]


def find_heads(hidden_size: int, source: str, num_attention_heads: int | None = None) -> int:
    if num_attention_heads is None:
        if hidden_size % 64:
            raise ValueError(
                f"{source} is {hidden_size} wide, no multiple of 64: say how many heads it has, --num-attention-heads. "
                "The weights don't tell"
            )
        return hidden_size // 64
    if hidden_size % num_attention_heads:
        raise ValueError(f"--num-attention-heads {num_attention_heads} does not divide the width {hidden_size}")
    return num_attention_heads


def count_layers(weights: Mapping[str, torch.Tensor], source: str) -> int:
    pattern = as_pattern("timesformer.encoder.layer.{i}.{rest}")
    numbers = {int(match["i"]) for name in weights if (match := pattern.fullmatch(name))}
    if numbers != set(range(len(numbers))):
        missing = sorted(set(range(max(numbers))) - numbers)
        raise ValueError(f"{source} lacks the blocks {', '.join(map(str, missing))} of {max(numbers) + 1}")
    return len(numbers)


def find_scheme(weights: Mapping[str, torch.Tensor], source: str) -> str:
    """The scheme in the table whose attentions a block has; space-only has no time embedding."""
    first_layer = "timesformer.encoder.layer.0."
    attentions = {
        step.attention for step in ATTENTION_STEPS if f"{first_layer}{step.attention}.attention.qkv.weight" in weights
    }
    has_times = "timesformer.embeddings.time_embeddings" in weights
    for name, scheme in ATTENTION_SCHEMES.items():
        if {step.attention for step in scheme.steps} == attentions and scheme.frames_apart != has_times:
            return name
    listing = ", ".join(sorted(attentions)) or "none"
    raise ValueError(
        f"{source} has {'a' if has_times else 'no'} time embedding and these attentions in its first block: {listing}. "
        f"No scheme has those: {', '.join(ATTENTION_SCHEMES)}"
    )

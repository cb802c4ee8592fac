"""Describes a checkpoint without loading it as a model: from its config and the names and shapes of its weights."""

import math
import os

import torch

from ..model.configuration_timesformer import TimesformerConfig, as_pair
from ..model.modeling_timesformer import TimesformerForVideoClassification
from .conversion import attach_labels
from .files import Checkpoint, read_checkpoint
from .formats import CheckpointFormat, find_format, own_weights
from .limits import CheckpointLimits
from .processors import find_preprocessor, is_bgr
from .structure import find_config


def describe_checkpoint(
    source: str | os.PathLike, num_attention_heads: int | None = None, limits: CheckpointLimits | None = None
) -> dict:
    """
    Describe a checkpoint as values for JSON: format, attention scheme, sizes, classes, labels, parameters, dtypes.

    The entry `missing` lists the weights and files that it lacks to be used by itself.

    Args:
        source: a file, a folder, or a name on the Hub.
        num_attention_heads: is needed where no config says it (default: one for every 64 channels).
        limits: how large the parts of the checkpoint may be, see [`CheckpointLimits`].

    Raises:
        ValueError, OSError: see [`read_checkpoint`], [`find_format`] and [`find_config`].
    """
    checkpoint = read_checkpoint(source, shapes_only=True, limits=limits)
    found = find_format(checkpoint)
    weights = own_weights(checkpoint, found)
    config, assumed = find_config(checkpoint, found, weights, num_attention_heads)
    with torch.device("meta"):
        model = TimesformerForVideoClassification(config)
    label_list = attach_labels(model, found, None) if config.num_labels else None
    preprocessor, expected = find_preprocessor(checkpoint), model.state_dict().keys()
    missing, left_over = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
    return {
        "source": str(source),
        "format": found.name,
        "title": found.title,
        "attention_type": "image model" if found.is_image_model else config.attention_type,
        "num_frames": None if model.base_model.scheme.frames_apart else config.num_frames,
        "image_size": as_pair(config.image_size, "image_size"),
        "patch_size": as_pair(config.patch_size),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "assumed": assumed,
        "num_labels": config.num_labels,
        "label_list": label_list,
        "parameters": sum(math.prod(tensor.shape) for tensor in weights.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}),
        "image_mean": preprocessor.get("image_mean") or [found.mean] * config.num_channels,
        "image_std": preprocessor.get("image_std") or [found.std] * config.num_channels,
        "channels": "BGR" if is_bgr(checkpoint, found, label_list) else "RGB",
        "missing": [*(f"weight {name}" for name in missing), *_missing_files(checkpoint, found, config)],
        "left_over": left_over,
    }


def _missing_files(checkpoint: Checkpoint, found: CheckpointFormat, config: TimesformerConfig) -> list[str]:
    """Return what a folder lacks beside its weights to be used by itself."""
    missing = []
    if not checkpoint.config:
        missing.append("config.json")
    if not checkpoint.preprocessor:
        missing.append("preprocessor_config.json")
    if not config.num_labels:
        missing.append("a head")
    elif config.id2label[0] == "LABEL_0":
        missing.append("class names")
    return missing

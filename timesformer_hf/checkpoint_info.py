"""What a checkpoint is, told without loading a model: from its config and the names and shapes of its weights."""

import math
import os

import torch

from .checkpoint_conversion import attach_labels, find_config
from .checkpoint_files import Checkpoint, read_checkpoint
from .checkpoint_formats import CheckpointFormat, find_format, own_weights
from .configuration_timesformer import TimesformerConfig, as_pair
from .image_vit import read_image_vit
from .modeling_timesformer import TimesformerForVideoClassification


def describe_checkpoint(source: str | os.PathLike, num_attention_heads: int | None = None) -> dict:
    """
    Format, attention scheme, frames, size, width, depth, classes, labels, parameters, number format, and `missing`:
    what it lacks to be used.

    Raises:
        ValueError, OSError: as [`read_checkpoint`] and [`find_format`] do.
    """
    checkpoint = read_checkpoint(source, shapes_only=True)
    found = find_format(checkpoint)
    if found.is_image_model:
        weights, values = read_image_vit(checkpoint, num_attention_heads)
        config = TimesformerConfig(**values)
        config.num_labels = len(weights["classifier.weight"]) if "classifier.weight" in weights else 0
    else:
        weights = own_weights(checkpoint, found)
        config = find_config(checkpoint, weights, num_attention_heads, None)
    with torch.device("meta"):
        model = TimesformerForVideoClassification(config)
    label_list = attach_labels(model, found, None) if config.num_labels else None
    expected = model.state_dict().keys()
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
        "heads_are_known": bool(num_attention_heads or checkpoint.config.get("num_attention_heads")),
        "num_labels": config.num_labels,
        "label_list": label_list,
        "parameters": sum(math.prod(tensor.shape) for tensor in weights.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}),
        "image_mean": checkpoint.preprocessor.get("image_mean") or [found.mean] * 3,
        "image_std": checkpoint.preprocessor.get("image_std") or [found.std] * 3,
        "channels": channel_order(checkpoint, found, label_list),
        "missing": [*(f"weight {name}" for name in missing), *missing_files(checkpoint, found, config)],
        "left_over": left_over,
    }


def channel_order(checkpoint: Checkpoint, found: CheckpointFormat, label_list: str | None) -> str:
    bgr = checkpoint.preprocessor.get("do_flip_channel_order", label_list in found.bgr_labels)
    return "BGR" if bgr else "RGB"


def missing_files(checkpoint: Checkpoint, found: CheckpointFormat, config: TimesformerConfig) -> list[str]:
    """What a folder needs beside its weights, to be used by itself."""
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

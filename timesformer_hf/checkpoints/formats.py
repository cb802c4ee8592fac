"""
The table of public checkpoint formats of TimeSformers and image ViTs. A row says how to recognise the format, what it
calls each weight, and what is known about the models that were published in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .files import Checkpoint, list_names
from .keys import (
    MMACTION2_DIVIDED,
    MMACTION2_UNDIVIDED,
    ORIGINAL,
    OWN,
    OWN_HEADLESS,
    TIMM,
    VIT,
    VIT_FILE,
    VIT_HEADS,
    KeyTable,
    rename_keys,
    with_prefix,
)


@dataclass(frozen=True)
class CheckpointFormat:
    """
    A row of the table of formats.

    Attributes:
        name: the value of `--from`. Variants of a format have the same name.
        title: the name for messages, for example "an image ViT of timm".
        signature: a key that only this format has.
        keys: names of the format -> names of this package.
        is_image_model: whether it is an image ViT.
        mean: mean of the pixels in [0, 1] that the published models were trained with, for each channel.
        std: standard deviation, likewise.
        licence: identifier on the Hub of the published weights' licence.
        labels: number of classes -> name of the published weights' label list.
        bgr_labels: names of the label lists whose published weights were trained on BGR.
    """

    name: str
    title: str
    signature: str
    keys: KeyTable
    is_image_model: bool = False
    mean: float = 0.5
    std: float = 0.5
    licence: str = "other"
    labels: Mapping[int, str] = field(default_factory=dict)
    bgr_labels: tuple[str, ...] = ()


_OWN, _QKV = "a TimeSformer of transformers", "encoder.layer.0.attention.attention.qkv.weight"
_ORIGINAL = {
    "mean": 0.45,
    "std": 0.225,
    "licence": "cc-by-nc-4.0",
    "labels": {400: "kinetics400", 600: "kinetics600", 174: "ssv2"},
    "bgr_labels": ("ssv2",),
}
_MMACTION2 = {"licence": "apache-2.0", "labels": {400: "kinetics400"}}
_DIVIDED, _UNDIVIDED = (
    f"backbone.transformer_layers.layers.0.{name}.weight" for name in ("attentions.1.norm", "norms.0")
)
_WITHOUT_PREFIX = {name.removeprefix("model."): ours for name, ours in ORIGINAL.items()}

FORMATS = (
    CheckpointFormat("original", "the authors' .pyth", "model.patch_embed.proj.weight", ORIGINAL, **_ORIGINAL),
    CheckpointFormat("original", "the authors' model by itself", "time_embed", _WITHOUT_PREFIX, **_ORIGINAL),
    CheckpointFormat("mmaction2", "mmaction2's .pth", _DIVIDED, MMACTION2_DIVIDED, **_MMACTION2),
    CheckpointFormat("mmaction2", "mmaction2's .pth", _UNDIVIDED, MMACTION2_UNDIVIDED, **_MMACTION2),
    CheckpointFormat("timesformer", _OWN, f"timesformer.{_QKV}", OWN, mean=0.45, std=0.225),
    CheckpointFormat("timesformer", _OWN, _QKV, OWN_HEADLESS, mean=0.45, std=0.225),
    *(
        CheckpointFormat(
            "vit", "an image ViT of transformers", f"{prefix}{query}", with_prefix(prefix, table, VIT_HEADS), True
        )
        for prefix in ("vit.", "")
        for table, query in (
            (VIT_FILE, "encoder.layer.0.attention.attention.query.weight"),
            (VIT, "layers.0.attention.q_proj.weight"),
        )
    ),
    CheckpointFormat("timm", "an image ViT of timm", "patch_embed.proj.weight", TIMM, True),
)
_FORMAT_NAMES = tuple(dict.fromkeys(row.name for row in FORMATS))


def find_format(checkpoint: Checkpoint, name: str | None = None) -> CheckpointFormat:
    """
    Return the format of a checkpoint, recognised by its signature key.

    Args:
        checkpoint: its weights may be on the meta device.
        name: the format that the checkpoint must have, a name in the table (default: any).

    Raises:
        ValueError: where the format is unknown, or is not `name`. The message says what was found and what is known.
    """
    if name is not None and name not in _FORMAT_NAMES:
        raise ValueError(f"Unknown format {name!r}; it must be one of {', '.join(_FORMAT_NAMES)}")
    found = next((row for row in FORMATS if row.signature in checkpoint.state_dict), None)
    if found is None:
        keys = sorted(checkpoint.state_dict)
        known = "; ".join(f"{row.name} ({row.title}) with {row.signature}" for row in FORMATS)
        raise ValueError(
            f"{checkpoint.source} has an unknown layout. Found {len(keys)} weights: {list_names(keys[:8])}, ... "
            f"Known: {known}"
        )
    if name is not None and found.name != name:
        raise ValueError(f"{checkpoint.source} is not in the format {name!r}; it is {found.title} ({found.name!r})")
    return found


def own_weights(checkpoint: Checkpoint, found: CheckpointFormat) -> dict[str, torch.Tensor]:
    """
    Return the weights of a checkpoint under the names of this package.

    Raises:
        ValueError: where the format doesn't have a key, or where a weight is not a dense floating-point tensor. The
            message lists the keys.
    """
    wrong = [key for key, tensor in checkpoint.state_dict.items() if not _is_plain(tensor)]
    if wrong:
        raise ValueError(
            f"{checkpoint.source} has weights that are not dense floating-point numbers: {list_names(wrong[:1])}"
        )
    try:
        return rename_keys(checkpoint.state_dict, found.keys)
    except ValueError as error:
        raise ValueError(f"{checkpoint.source} looks like {found.title}, but doesn't fit: {error}") from error


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_quantized

"""
The public forms of a TimeSformer's or an image ViT's weights, as a table: how to tell them, their names, and what is
known of the models that were published in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .files import Checkpoint
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
        name: as in `--from`; variants of a format share it.
        title: what it is, for messages.
        signature: the key that tells it.
        keys: its names -> ours.
        is_image_model: whether it is an image ViT.
        mean, std: pixel statistics that its models were trained with.
        licence: of the published weights, by its identifier on the Hub.
        labels: number of classes -> the label list that the published weights have.
        bgr_labels: label lists whose published weights were trained on BGR.
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
    The format of a checkpoint, by the key that tells it.

    Args:
        name: what the caller says that it is, a name in the table; `None` to find out.

    Raises:
        ValueError: where it has none of them, or another one; the message says what was found and what is known.
    """
    if name is not None and name not in _FORMAT_NAMES:
        raise ValueError(f"Unknown format {name!r}; it must be one of {', '.join(_FORMAT_NAMES)}")
    found = next((row for row in FORMATS if row.signature in checkpoint.state_dict), None)
    if found is None:
        keys = sorted(checkpoint.state_dict)
        known = "; ".join(f"{row.name} ({row.title}) with {row.signature}" for row in FORMATS)
        raise ValueError(
            f"{checkpoint.source} has an unknown layout. Found {len(keys)} weights: {', '.join(keys[:8])}, ... "
            f"Known: {known}"
        )
    if name is not None and found.name != name:
        raise ValueError(f"{checkpoint.source} is not in the format {name!r}; it is {found.title} ({found.name!r})")
    return found


def own_weights(checkpoint: Checkpoint, found: CheckpointFormat) -> dict[str, torch.Tensor]:
    """
    The weights under this model's names.

    Raises:
        ValueError: naming the keys that the format doesn't have, or that are no plain weights.
    """
    wrong = [key for key, tensor in checkpoint.state_dict.items() if not _is_plain(tensor)]
    if wrong:
        raise ValueError(f"{checkpoint.source} holds weights that are no dense floating-point numbers: {wrong[0]}")
    try:
        return rename_keys(checkpoint.state_dict, found.keys)
    except ValueError as error:
        raise ValueError(f"{checkpoint.source} is not quite {found.title}: {error}") from error


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_quantized

"""
A TimeSformer that starts from an image ViT (paper, Section 4): the ViT's attention becomes the last step of every block
and is copied, with its norm, to the steps before it, whose further linear layers start at zero.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from ..model.attention_schemes import ATTENTION_SCHEMES
from ..model.configuration_timesformer import TimesformerConfig
from .files import Checkpoint, read_checkpoint
from .formats import CheckpointFormat, find_format, own_weights
from .structure import find_config, make_config


# Fields of the config that are free where the weights are given; all else is fixed by the image model.
_FREE_FIELDS = (
    *("num_labels", "id2label", "label2id", "problem_type", "interpolation_mode", "initializer_range"),
    *("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"),
)
_TIMM_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu"}


def read_image_vit(
    vit,
    num_attention_heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    found: CheckpointFormat | None = None,
) -> tuple[dict[str, torch.Tensor], TimesformerConfig, list[str]]:
    """
    An image ViT's weights under a TimeSformer's names, the config of a model of single frames that they make, and in
    words what had to be assumed.

    Args:
        vit: a model of transformers (`ViTModel`, `ViTForImageClassification`) or timm (`VisionTransformer`), the
            folder, file or Hub name of one of either, or a state dict of either.
        num_attention_heads: where `vit` has no config that says it; one for every 64 channels by default.
        image_size: what it was trained with, where that is no square and stands in no config.
        found: its format, where that is known already.

    Raises:
        ValueError: where `vit` is something else; FileNotFoundError: where there is no such thing.
    """
    checkpoint = _as_checkpoint(vit)
    found = find_format(checkpoint) if found is None else found
    if not found.is_image_model:
        raise ValueError(f"{checkpoint.source} is {found.title}, no image ViT; from_pretrained or convert takes it")
    if any(tensor.is_meta for tensor in checkpoint.state_dict.values()) and not checkpoint.path.exists():
        raise ValueError(f"{checkpoint.source} is on the meta device: it has no weights")
    weights = own_weights(checkpoint, found)
    return weights, *find_config(checkpoint, found, weights, num_attention_heads, image_size)


def _as_checkpoint(vit) -> Checkpoint:
    """A model, a state dict or the name of a checkpoint, as a checkpoint."""
    if isinstance(vit, Checkpoint):
        return vit
    if isinstance(vit, nn.Module):
        config = vit.config.to_dict() if hasattr(vit, "config") else _timm_module_values(vit)
        return Checkpoint(type(vit).__name__, _NOWHERE, vit.state_dict(), config)
    if isinstance(vit, Mapping):
        return Checkpoint("the state dict", _NOWHERE, dict(vit))
    return read_checkpoint(vit)


_NOWHERE = Path("not a file")


def _timm_module_values(module: nn.Module) -> dict:
    """What a VisionTransformer of timm knows and its weights don't tell; nothing of another module."""
    blocks = getattr(module, "blocks", None)
    if not blocks or not hasattr(blocks[0], "attn") or not hasattr(blocks[0], "mlp"):
        return {}
    block, activation = blocks[0], type(blocks[0].mlp.act).__name__
    if activation not in _TIMM_ACTIVATIONS or getattr(block.mlp.act, "approximate", "none") != "none":
        raise ValueError(f"{type(module).__name__} has an activation that is not known here: {block.mlp.act}")
    return {
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": float(block.norm1.eps),
        "hidden_act": _TIMM_ACTIVATIONS[activation],
        "global_pool": getattr(module, "global_pool", None),
    }


def start_from_image_vit(
    model_class,
    vit,
    attention_type: str = "divided_space_time",
    num_frames: int = 8,
    image_size: int | tuple[int, int] | None = None,
    num_attention_heads: int | None = None,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    **fields,
):
    """See [`~TimesformerPreTrainedModel.from_image_vit`]."""
    _check_fields(fields)
    weights, start, _ = read_image_vit(vit, num_attention_heads, image_size)
    fields |= {"attention_type": attention_type, "num_frames": num_frames}
    model = make_start(model_class, weights, start, attn_implementation, **fields)
    if dtype is not None:
        model.to(dtype)
    model.resize_embeddings(image_size=image_size)
    return model


def make_start(
    model_class,
    weights: Mapping[str, torch.Tensor],
    start: TimesformerConfig,
    attn_implementation: str | None = None,
    **fields,
):
    """
    A model of the image model's size, in evaluation mode and the type of its weights.

    Args:
        weights, start: as [`read_image_vit`] returns them.
        fields: what differs from `start`.
    """
    config = make_config(start.to_dict() | _label_fields(fields, start), "the model that starts from it")
    config._attn_implementation = attn_implementation
    model = model_class(config)
    weights = {name: weights[name] for name in weights if fits(name, weights[name], model)}
    weights |= _copies_for_added_steps(weights, config)
    if model is model.base_model:
        weights = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in weights.items()}
    _load_start(model, weights)
    return model.to(next(iter(weights.values())).dtype).eval()


def _check_fields(fields: dict) -> None:
    """
    Raises:
        TypeError: for a field that is none, or that the image model fixes.
    """
    unknown = [name for name in fields if name not in _FREE_FIELDS]
    if unknown:
        raise TypeError(
            f"from_image_vit takes no {', '.join(unknown)}: the image model fixes the structure. It takes image_size, "
            f"num_attention_heads, dtype, attn_implementation, {', '.join(_FREE_FIELDS)}"
        )


def _label_fields(fields: dict, start: TimesformerConfig) -> dict:
    """
    The fields that were given, with class numbers and names that agree. A headless ViT gets transformers' two classes.

    Raises:
        ValueError: where the number of classes is not that of their names.
    """
    fields, names = dict(fields), fields.get("id2label")
    if names is None and fields.get("label2id"):
        names = fields["id2label"] = {index: name for name, index in fields["label2id"].items()}
    number = fields.pop("num_labels", None)
    if names is not None:
        if number not in (None, len(names)):
            raise ValueError(f"num_labels={number}, but id2label names {len(names)} classes")
        return fields
    if number is None:
        number = start.num_labels or PreTrainedConfig().num_labels
        if number == start.num_labels:
            return fields
    return fields | {"id2label": {index: f"LABEL_{index}" for index in range(number)}}


def fits(name: str, tensor: torch.Tensor, model: nn.Module) -> bool:
    """Whether the model has a use for a weight: not for a head on other classes."""
    if not name.startswith("classifier."):
        return True
    head = getattr(model, "classifier", None)
    return isinstance(head, nn.Linear) and head.out_features == tensor.shape[0]


def _copies_for_added_steps(weights: Mapping[str, torch.Tensor], config: TimesformerConfig) -> dict[str, torch.Tensor]:
    """The image model's attentions and their norms, under the names of the steps that are added to it."""
    *added, own = ATTENTION_SCHEMES[config.attention_type].steps
    copies = {}
    for name, tensor in weights.items():
        for step in added:
            for ours, theirs in ((own.norm, step.norm), (own.attention, step.attention)):
                layer, found, rest = name.partition(f".{ours}.")
                if found and "encoder.layer." in layer and layer.count(".") == 3:
                    copies[f"{layer}.{theirs}.{rest}"] = tensor.clone()
    return copies


def _load_start(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """
    Raises:
        ValueError: where a weight has no place, or one is missing that an image model should have.
    """
    new = [step.dense for step in model.base_model.scheme.steps[:-1]] + ["time_embeddings", "classifier"]
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if not any(part in new for part in name.split("."))]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"The image ViT doesn't fit: missing {', '.join(missing[:10]) or 'nothing'}; left over "
            f"{', '.join(result.unexpected_keys[:10]) or 'nothing'}"
        )

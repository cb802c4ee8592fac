"""
Creates a TimeSformer from an image ViT, as a start for training (paper, Section 4).

The ViT's attention becomes the last step of every block. It is copied, with its norm, to the added steps before it. The
linear layer at the end of each added step starts at zero.
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


# The fields of the config that a caller may choose. The image model fixes all others.
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
    Read an image ViT as a TimeSformer of single frames.

    Args:
        vit: a model of transformers (`ViTModel`, `ViTForImageClassification`) or of timm (`VisionTransformer`), the
            folder, file or Hub name of such a model, or its state dict.
        num_attention_heads: is needed where no config says it (default: one for every 64 channels).
        image_size: the side or (height, width) in pixels that the ViT was trained with. It is needed where they are
            not square and no config says it.
        found: its format, if that is known already.

    Returns:
        the weights under the names of a TimeSformer, the config, and a phrase for each value that was assumed.

    Raises:
        ValueError: where `vit` is not an image ViT, or its values contradict each other.
        FileNotFoundError: where there is no such file, folder or model.
    """
    checkpoint = _as_checkpoint(vit)
    found = find_format(checkpoint) if found is None else found
    if not found.is_image_model:
        raise ValueError(f"{checkpoint.source} is {found.title}, not an image ViT; use from_pretrained or convert")
    if any(tensor.is_meta for tensor in checkpoint.state_dict.values()) and not checkpoint.path.exists():
        raise ValueError(f"{checkpoint.source} is on the meta device, so it has no weights; load them first")
    weights = own_weights(checkpoint, found)
    return weights, *find_config(checkpoint, found, weights, num_attention_heads, image_size)


def _as_checkpoint(vit) -> Checkpoint:
    """Return a checkpoint made from a model, a state dict or the name of a checkpoint."""
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
    """
    Return the config values that a VisionTransformer of timm has and its weights don't tell; nothing for other modules.

    Raises:
        ValueError: for an unknown activation function.
    """
    blocks = getattr(module, "blocks", None)
    if not blocks or not hasattr(blocks[0], "attn") or not hasattr(blocks[0], "mlp"):
        return {}
    block, activation = blocks[0], type(blocks[0].mlp.act).__name__
    if activation not in _TIMM_ACTIVATIONS or getattr(block.mlp.act, "approximate", "none") != "none":
        raise ValueError(
            f"{type(module).__name__} has an unknown activation {block.mlp.act}; it must be one of "
            f"{', '.join(_TIMM_ACTIVATIONS)}"
        )
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
    """Return a model that starts from an image ViT. See [`~TimesformerPreTrainedModel.from_image_vit`]."""
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
    Return a model with the image size of the ViT, in evaluation mode and in the dtype of the weights.

    Args:
        model_class: the class of the model.
        weights: of the ViT, as [`read_image_vit`] returns them.
        start: the config that [`read_image_vit`] returns.
        attn_implementation: as in `from_pretrained`.
        fields: config values that replace those of `start`.
    """
    config = make_config(start.to_dict() | _label_fields(fields, start), "the model that starts from it")
    config._attn_implementation = attn_implementation
    model = model_class(config)
    weights = {name: weights[name] for name in weights if _is_used(name, weights[name], model)}
    weights |= _copies_for_added_steps(weights, config)
    if model is model.base_model:
        weights = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in weights.items()}
    _load_start(model, weights)
    return model.to(next(iter(weights.values())).dtype).eval()


def _check_fields(fields: dict) -> None:
    """
    Check that the caller may choose these fields of the config.

    Raises:
        TypeError: for a field that doesn't exist, or that the image model fixes.
    """
    unknown = [name for name in fields if name not in _FREE_FIELDS]
    if unknown:
        raise TypeError(
            f"from_image_vit doesn't take {', '.join(unknown)}: the image model fixes the structure. It takes "
            f"image_size, num_attention_heads, dtype, attn_implementation, {', '.join(_FREE_FIELDS)}"
        )


def _label_fields(fields: dict, start: TimesformerConfig) -> dict:
    """
    Return the given fields with class names for every class. A ViT without a head gets two classes, as is the default
    of transformers.

    Raises:
        ValueError: where the number of classes is not the number of names.
    """
    fields, names = dict(fields), fields.get("id2label")
    if names is None and fields.get("label2id"):
        names = fields["id2label"] = {index: name for name, index in fields["label2id"].items()}
    number = fields.pop("num_labels", None)
    if names is not None:
        if number not in (None, len(names)):
            raise ValueError(f"num_labels={number}, but id2label names {len(names)} classes; give one of them")
        return fields
    if number is None:
        number = start.num_labels or PreTrainedConfig().num_labels
        if number == start.num_labels:
            return fields
    return fields | {"id2label": {index: f"LABEL_{index}" for index in range(number)}}


def _is_used(name: str, tensor: torch.Tensor, model: nn.Module) -> bool:
    """Return whether the model uses a weight of the ViT: all but a head with another number of classes."""
    if not name.startswith("classifier."):
        return True
    head = getattr(model, "classifier", None)
    return isinstance(head, nn.Linear) and head.out_features == tensor.shape[0]


def _copies_for_added_steps(weights: Mapping[str, torch.Tensor], config: TimesformerConfig) -> dict[str, torch.Tensor]:
    """Return copies of the image model's attentions and norms, under the names of the added steps."""
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
    Load the weights of the ViT and the copies of them.

    Raises:
        ValueError: where a weight is left over, or one is missing that an image model should have.
    """
    new = [step.dense for step in model.base_model.scheme.steps[:-1]] + ["time_embeddings", "classifier"]
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if not any(part in new for part in name.split("."))]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"The image ViT doesn't fit: missing {', '.join(missing[:10]) or 'nothing'}; left over "
            f"{', '.join(result.unexpected_keys[:10]) or 'nothing'}"
        )

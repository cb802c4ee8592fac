"""
A TimeSformer that starts from an image ViT (paper, Section 4): the ViT's attention becomes the last step of every block
and is copied, with its norm, to the steps before it, whose further linear layers start at zero.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from .attention_schemes import ATTENTION_SCHEMES
from .checkpoint_files import Checkpoint, read_checkpoint
from .checkpoint_formats import find_format, own_weights
from .checkpoint_structure import infer_config_values
from .configuration_timesformer import TimesformerConfig


VIT_CONFIG_VALUES = ("hidden_act", "image_size", "layer_norm_eps", "num_attention_heads", "patch_size")


def read_image_vit(vit, num_attention_heads: int | None = None) -> tuple[dict[str, torch.Tensor], dict]:
    """
    An image ViT's weights under a TimeSformer's names, and the values of the config that they imply.

    Args:
        vit: a model of transformers (`ViTModel`, `ViTForImageClassification`), the folder, file or Hub name of one of
            transformers or timm, or a state dict of either.
        num_attention_heads: where `vit` has no config that says it; one for every 64 channels by default.

    Raises:
        ValueError: where it is something else; FileNotFoundError: where there is no such thing.
    """
    if isinstance(vit, Mapping):
        vit = Checkpoint("the state dict", Path(), dict(vit))
    elif isinstance(vit, nn.Module):
        config = vit.config.to_dict() if hasattr(vit, "config") else {}
        vit = Checkpoint(type(vit).__name__, Path(), vit.state_dict(), config)
    elif not isinstance(vit, Checkpoint):
        vit = read_checkpoint(vit)
    found = find_format(vit)
    if not found.is_image_model:
        raise ValueError(f"{vit.source} is {found.title} already, no image ViT; from_pretrained or convert takes it")
    weights = own_weights(vit, found)
    known = {name: vit.config[name] for name in VIT_CONFIG_VALUES if name in vit.config and found.name == "vit"}
    values = infer_config_values(
        weights, vit.source, num_attention_heads or known.get("num_attention_heads"), known.get("image_size")
    )
    values |= known | ({} if num_attention_heads is None else {"num_attention_heads": num_attention_heads})
    if "classifier.weight" in weights and len(vit.config.get("id2label") or ()) == values["num_labels"]:
        values["id2label"] = {int(index): label for index, label in vit.config["id2label"].items()}
        del values["num_labels"]
    return weights, values


def start_from_image_vit(
    model_class,
    vit,
    attention_type: str = "divided_space_time",
    num_frames: int = 8,
    image_size: int | tuple[int, int] | None = None,
    num_attention_heads: int | None = None,
    **config_values,
):
    """See [`~TimesformerPreTrainedModel.from_image_vit`]."""
    weights, values = read_image_vit(vit, num_attention_heads)
    if "id2label" in config_values or "num_labels" in config_values:
        values = {name: value for name, value in values.items() if name not in ("id2label", "num_labels")}
    values |= {"attention_type": attention_type, "num_frames": num_frames} | config_values
    config = TimesformerConfig(**values)
    model = model_class(config)
    weights = {name: weights[name] for name in weights if fits(name, weights[name], model)}
    weights |= copies_for_added_steps(weights, config)
    if model is model.base_model:
        weights = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in weights.items()}
    load_start(model, weights)
    model.to(next(iter(weights.values())).dtype)
    model.resize_embeddings(image_size=image_size)
    return model.eval()


def fits(name: str, tensor: torch.Tensor, model: nn.Module) -> bool:
    """Whether the model has a use for a weight: not for a head on other classes."""
    if not name.startswith("classifier."):
        return True
    head = getattr(model, "classifier", None)
    return isinstance(head, nn.Linear) and head.out_features == tensor.shape[0]


def copies_for_added_steps(weights: Mapping[str, torch.Tensor], config: TimesformerConfig) -> dict[str, torch.Tensor]:
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


def load_start(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
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

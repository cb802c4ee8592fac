"""Finds the config of a checkpoint: from its config file, and from the names and shapes of its weights."""

import math
from collections.abc import Mapping, Sequence

import torch

from ..model.attention_schemes import ATTENTION_SCHEMES, ATTENTION_STEPS
from ..model.configuration_timesformer import TimesformerConfig, as_pair
from .files import Checkpoint
from .formats import CheckpointFormat
from .keys import as_pattern


_VIT_FIELDS = ("hidden_act", "image_size", "layer_norm_eps", "num_attention_heads", "patch_size")
# Values that the weights don't tell, as the published models of a format have them.
_UNSTATED = {"vit": {"layer_norm_eps": 1e-12}}
_MOST_LABELS = 10**6
_EPSILON = "layer norm epsilon {layer_norm_eps:g} and the exact GELU"


def find_config(
    checkpoint: Checkpoint,
    found: CheckpointFormat,
    weights: Mapping[str, torch.Tensor],
    num_attention_heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[TimesformerConfig, list[str]]:
    """
    Return the config of a checkpoint: the values in its own config, and the others from its weights.

    Args:
        checkpoint: the source.
        found: the format of the source.
        weights: the weights under the names of this package.
        num_attention_heads: the number of heads (default: the config's, or one for every 64 channels).
        image_size: the side or (height, width) in pixels that the weights were trained with. It is needed where frames
            are not square and no config says it.

    Returns:
        the config, and a phrase for each value that was assumed.

    Raises:
        ValueError: where config, weights and arguments contradict each other, or where something is missing.
    """
    stated = _stated_values(checkpoint, found)
    heads = stated.get("num_attention_heads")
    if num_attention_heads and heads and heads != num_attention_heads:
        raise ValueError(
            f"{checkpoint.source} states {heads} heads, not --num-attention-heads {num_attention_heads}; leave it out"
        )
    implied = infer_config_values(
        weights, checkpoint.source, num_attention_heads or heads, stated.get("image_size"), image_size
    )
    implied.setdefault("num_labels", 0)
    if wrong := _contradictions(stated, implied):
        raise ValueError(f"The config.json of {checkpoint.source} contradicts its weights: {'; '.join(wrong)}")
    labels = stated.pop("id2label", None) if stated.pop("num_labels", None) == implied["num_labels"] else None
    values = _UNSTATED.get(found.name, {}) | implied | stated
    if labels:
        values = {name: value for name, value in values.items() if name != "num_labels"} | {"id2label": labels}
    config = make_config(values, checkpoint.source)
    assumed = [] if num_attention_heads or heads else [f"{config.num_attention_heads} heads, of 64 channels each"]
    if found.is_image_model and "layer_norm_eps" not in stated:
        assumed.append(_EPSILON.format(layer_norm_eps=config.layer_norm_eps))
    return config, assumed


def _stated_values(checkpoint: Checkpoint, found: CheckpointFormat) -> dict:
    """Return the values in the checkpoint's own config.json, or those of the module that its weights are from."""
    stored = checkpoint.config
    kind = {"timesformer": "timesformer", "vit": "vit"}.get(found.name)
    if kind is not None and stored and stored.get("model_type") != kind:
        raise ValueError(
            f"{checkpoint.source} has the weights of {found.title}, but its config.json says model type "
            f"{stored.get('model_type')!r}"
        )
    if found.name == "timesformer" and stored:
        config = make_config(stored, checkpoint.source)
        return config.to_dict() | {"num_labels": config.num_labels, "id2label": config.id2label}
    if found.name == "vit":
        labels = stored.get("id2label") or {}
        stated = {name: stored[name] for name in _VIT_FIELDS if name in stored}
        return stated | ({"id2label": labels, "num_labels": len(labels)} if labels else {})
    return _timm_values(checkpoint) if found.name == "timm" else {}


def _timm_values(checkpoint: Checkpoint) -> dict:
    """
    Return the values in timm's config.json, or those of a timm module.

    Raises:
        ValueError: for a model that doesn't classify by the CLS token.
    """
    stored = checkpoint.config
    pool = stored.get("global_pool") or (stored.get("model_args") or {}).get("global_pool") or "token"
    if pool != "token":
        raise ValueError(
            f"{checkpoint.source} pools its patches (global_pool={pool!r}); a TimeSformer classifies by the CLS token"
        )
    values = {name: stored[name] for name in ("hidden_act", "layer_norm_eps", "num_attention_heads") if name in stored}
    names = stored.get("label_names")
    return values | ({"id2label": dict(enumerate(names)), "num_labels": len(names)} if names else {})


def _contradictions(stated: dict, implied: dict) -> list[str]:
    """Return one phrase for each value in which the config and the weights differ."""

    def plain(name, value):
        return as_pair(value, name) if name in ("image_size", "patch_size") else value

    return [
        f"{name}={stated[name]!r}, the weights say {value!r}"
        for name, value in implied.items()
        if name in stated and plain(name, stated[name]) != plain(name, value) and (name != "num_labels" or value)
    ]


def make_config(values: dict, source: str) -> TimesformerConfig:
    """
    Return a config with these values.

    Args:
        values: the fields of the config.
        source: the name of the checkpoint, for messages.

    Raises:
        ValueError: where a value has the wrong type or is not allowed, or where a class has no name.
    """
    labels = values.get("num_labels")
    if isinstance(labels, (int, float)) and labels > _MOST_LABELS:  # the config makes a name for each
        raise ValueError(f"The config of {source} can't be used: it has {labels:,} classes, more than {_MOST_LABELS:,}")
    try:
        config = TimesformerConfig.from_dict(dict(values))
        names = [config.id2label[index] for index in range(config.num_labels)]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("id2label must give every class a name")
    except Exception as error:  # wrong types raise many classes of errors, all of them about these values
        reason = f"no class {error}" if isinstance(error, KeyError) else str(error).strip()
        raise ValueError(f"The config of {source} can't be used: {reason}") from error
    return config


def infer_config_values(
    weights: Mapping[str, torch.Tensor],
    source: str,
    num_attention_heads: int | None = None,
    stated_size: int | Sequence[int] | None = None,
    given_size: int | tuple[int, int] | None = None,
) -> dict:
    """
    Return the values of a [`TimesformerConfig`] that follow from the names and shapes of weights: attention scheme,
    frames, image size, patch size, width, depth and classes.

    Args:
        weights: the weights under the names of this package.
        source: the name of the checkpoint, for messages.
        num_attention_heads: the number of heads, which weights don't tell (default: one for every 64 channels).
        stated_size: the side or (height, width) of the frames in pixels, according to the checkpoint's config.
        given_size: the same according to the caller. It is used only where there is no `stated_size` and the frames are
            not square.

    Raises:
        ValueError: where a weight is missing, or where shapes don't decide a value.
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
            f"{source} lacks its patch projection, position embeddings or first MLP: the checkpoint is incomplete, or "
            "is a Vision Transformer that a TimeSformer can't start from"
        )
    if len(projection) != 4 or len(positions) != 3 or positions[1] < 2 or len(up) != 2 or 0 in projection:
        raise ValueError(
            f"{source} has a patch projection {projection}, position embeddings {positions} and first MLP {up}; they "
            "must be (width, channels, height, width), (1, 1 + patches, width) and (hidden width, width)"
        )
    hidden_size, num_channels, *patch_size = projection
    values = {
        "image_size": _find_image_size(positions[1] - 1, tuple(patch_size), source, stated_size, given_size),
        "patch_size": patch_size[0] if patch_size[0] == patch_size[1] else patch_size,
        "num_channels": num_channels,
        "hidden_size": hidden_size,
        "intermediate_size": up[0],
        "num_hidden_layers": _count_layers(weights, source),
        "num_attention_heads": _find_heads(hidden_size, source, num_attention_heads),
        "qkv_bias": f"{first_layer}attention.attention.qkv.bias" in weights,
        "attention_type": _find_scheme(weights, source),
    }
    if f"{embeddings}time_embeddings" in shapes:
        values["num_frames"] = shapes[f"{embeddings}time_embeddings"][1]
    if "classifier.weight" in shapes:
        values["num_labels"] = shapes["classifier.weight"][0]
    return values


def _find_image_size(num_patches: int, patch_size: tuple[int, int], source: str, stated_size=None, given_size=None):
    """
    Return the image size: one side where it is square, else [height, width].

    Raises:
        ValueError: where the positions are not a square grid and no given size fits them.
    """
    side = math.isqrt(num_patches)
    square = (side * patch_size[0], side * patch_size[1]) if side * side == num_patches else None
    for size in (stated_size, square, given_size):
        if size is not None:
            height, width = as_pair(size, "image_size")
            if (height // patch_size[0]) * (width // patch_size[1]) == num_patches:
                return height if height == width else [height, width]
    raise ValueError(
        f"{source} has {num_patches} positions of {patch_size[0]} x {patch_size[1]} pixels, which are not a square; "
        "give the size that it was trained with as --image-size HEIGHTxWIDTH"
    )


def _find_heads(hidden_size: int, source: str, num_attention_heads: int | None = None) -> int:
    if num_attention_heads is None:
        if hidden_size % 64:
            raise ValueError(
                f"{source} has the width {hidden_size}, which is not a multiple of 64, and weights don't tell the "
                "number of heads; give --num-attention-heads"
            )
        return hidden_size // 64
    if hidden_size % num_attention_heads:
        raise ValueError(f"--num-attention-heads {num_attention_heads} must divide the width {hidden_size}")
    return num_attention_heads


def _count_layers(weights: Mapping[str, torch.Tensor], source: str) -> int:
    pattern = as_pattern("timesformer.encoder.layer.{i}.{rest}")
    numbers = {int(match["i"]) for name in weights if (match := pattern.fullmatch(name))}
    if numbers != set(range(len(numbers))):  # at least one number below their count is missing
        missing = ", ".join(str(number) for number in range(len(numbers)) if number not in numbers)
        raise ValueError(f"{source} lacks the blocks {missing} of {max(numbers) + 1}")
    return len(numbers)


def _find_scheme(weights: Mapping[str, torch.Tensor], source: str) -> str:
    """Return the scheme with the attentions of the first block. Only space-only has no time embedding."""
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
        f"None of the schemes has those: {', '.join(ATTENTION_SCHEMES)}"
    )

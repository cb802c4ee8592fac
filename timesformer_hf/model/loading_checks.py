"""Checks that the weights of a checkpoint belong to the model that its config describes."""

from .attention_schemes import ATTENTION_SCHEMES
from .configuration_timesformer import TimesformerConfig


SIZES = ("num_frames", "image_size")  # fields for which embeddings are resized on load
STRUCTURE = ("attention_type", "num_hidden_layers", "qkv_bias")  # fields that decide which parameters there are


class WeightsMismatchError(ValueError, RuntimeError):
    """
    Raised if weights contradict the config of the model that loads them.

    It is a RuntimeError too, because transformers raises one for some of these contradictions.
    """


def has_same_structure(stored: dict, config: TimesformerConfig) -> bool:
    """Whether the config values stored in a checkpoint and `config` describe a model with the same parameters."""
    return all(stored.get(name, getattr(type(config), name)) == getattr(config, name) for name in STRUCTURE)


def check_shapes(checkpoint, info: dict) -> None:
    """
    Check that the stored weights have the shapes of the model's parameters.

    Args:
        checkpoint: its name, for the error message.
        info: the loading info that transformers returns.

    Raises:
        WeightsMismatchError: if a shape differs. The message lists the first five.
    """
    mismatches = [
        f"{key} is {tuple(stored)}, the config asks for {tuple(expected)}"
        for key, stored, expected in sorted(info["mismatched_keys"])
    ]
    if mismatches:
        more = f"; and {len(mismatches) - 5} more" if len(mismatches) > 5 else ""
        raise WeightsMismatchError(
            f"The weights of {checkpoint} don't fit the config: {'; '.join(mismatches[:5])}{more}. Correct its "
            "config.json, or pass ignore_mismatched_sizes=True to initialise these weights anew"
        )


def check_no_attention_left_over_or_missing(checkpoint, config: TimesformerConfig, info: dict) -> None:
    """
    Check that the weights contain every attention of the model, and no layer that the model doesn't have.

    Otherwise config and weights belong to different models. Single missing parameters are allowed: they get their
    initial values.

    Raises:
        WeightsMismatchError: if an attention is missing or a layer is left over. The message names a parameter of each.
    """
    left_over = sorted(key for key in info["unexpected_keys"] if "encoder.layer." in key or "embeddings." in key)
    missing = sorted(key for key in info["missing_keys"] if key.endswith(".qkv.weight"))
    if len(missing) == config.num_hidden_layers * len(ATTENTION_SCHEMES[config.attention_type].steps):
        missing = []  # no attention at all: a checkpoint of another kind of model, which transformers reports
    problems = [
        f"{len(keys)} {what}, for example {keys[0]}"
        for keys, what in ((left_over, "weights have no place in the model"), (missing, "attentions have no weights"))
        if keys
    ]
    if problems:
        structure = ", ".join(f"{name}={getattr(config, name)!r}" for name in STRUCTURE)
        raise WeightsMismatchError(
            f"The weights of {checkpoint} do not belong to the model that its config.json describes ({structure}): "
            f"{'; '.join(problems)}. Correct the config.json; to change the structure on purpose, pass the values in "
            "parentheses to from_pretrained"
        )

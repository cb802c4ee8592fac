"""Whether the weights of a checkpoint are those that its config describes."""

from .attention_schemes import ATTENTION_SCHEMES
from .configuration_timesformer import TimesformerConfig


SIZES = ("num_frames", "image_size")  # what embeddings are resized for on load
STRUCTURE = ("attention_type", "num_hidden_layers", "qkv_bias")  # what decides which parameters there are


class WeightsMismatchError(ValueError, RuntimeError):
    """Weights that contradict the config they are loaded into. (transformers raises a RuntimeError for some of it.)"""


def describes(stored: dict, config: TimesformerConfig) -> bool:
    """Whether a checkpoint's stored config values have the structure of `config`: the caller changed nothing of it."""
    return all(stored.get(name, getattr(type(config), name)) == getattr(config, name) for name in STRUCTURE)


def check_shapes(checkpoint, info: dict) -> None:
    """
    Args:
        checkpoint: its name, for the message.
        info: transformers' loading info.

    Raises:
        WeightsMismatchError: where weights have other shapes than the model's parameters.
    """
    mismatches = [
        f"{key} is {tuple(stored)}, the config asks for {tuple(expected)}"
        for key, stored, expected in sorted(info["mismatched_keys"])
    ]
    if mismatches:
        more = f"; and {len(mismatches) - 5} more" if len(mismatches) > 5 else ""
        raise WeightsMismatchError(
            f"The weights of {checkpoint} don't fit the config: {'; '.join(mismatches[:5])}{more}. Correct its "
            "config.json, or pass ignore_mismatched_sizes=True to start these weights anew"
        )


def check_no_attention_left_over_or_missing(checkpoint, config: TimesformerConfig, info: dict) -> None:
    """
    Single missing parameters get their initial values; a whole attention that is missing, or weights of layers that
    the model doesn't have, mean that config and weights are of different models.

    Raises:
        WeightsMismatchError: naming some of the parameters.
    """
    left_over = sorted(key for key in info["unexpected_keys"] if "encoder.layer." in key or "embeddings." in key)
    missing = sorted(key for key in info["missing_keys"] if key.endswith(".qkv.weight"))
    if len(missing) == config.num_hidden_layers * len(ATTENTION_SCHEMES[config.attention_type].steps):
        missing = []  # no attention at all: the checkpoint is of something else, which transformers reports
    problems = [
        f"{len(keys)} {what}, {keys[0]} among them"
        for keys, what in ((left_over, "weights have no place in it"), (missing, "attentions have no weights"))
        if keys
    ]
    if problems:
        structure = ", ".join(f"{name}={getattr(config, name)!r}" for name in STRUCTURE)
        raise WeightsMismatchError(
            f"The weights of {checkpoint} are not of the model that its config.json describes ({structure}): "
            f"{'; '.join(problems)}. Correct the config.json; to change the structure on purpose, pass these values to "
            "from_pretrained"
        )

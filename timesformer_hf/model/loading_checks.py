"""Checks that the weights of a checkpoint belong to the model that its config describes."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

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


def stored_shapes(checkpoint, hub_arguments: dict) -> dict[str, tuple[int, ...]] | None:
    """
    Return the shapes of the weights in a checkpoint's safetensors files by name, without reading the weights.

    Returns `None` if there are no such files.

    Args:
        checkpoint: a folder or a name on the Hub.
        hub_arguments: arguments of `cached_file`, for example `revision`.
    """

    def find(name: str) -> str | None:
        try:
            return cached_file(checkpoint, name, **hub_arguments, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):  # loading the model will say what is wrong
            return None

    files: Iterable[str | None] = [find(SAFE_WEIGHTS_NAME)]
    if files == [None]:
        index = find(SAFE_WEIGHTS_INDEX_NAME)
        if index is None:
            return None
        names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        files = [find(name) for name in sorted(names)]
    shapes = {}
    for file in files:
        if file is None:
            return None
        with safe_open(file, "pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return shapes


def compare_shapes(stored: dict[str, tuple[int, ...]], one_block: nn.Module, num_layers: int) -> dict:
    """
    Compare stored weights with a model that has not been built: return what transformers' loading info would say.

    Args:
        stored: shapes by name, with or without the prefix of the base model.
        one_block: the model with a single block, on the meta device. All its blocks have the same shapes.
        num_layers: the number of blocks of the model.
    """
    prefix = f"{one_block.base_model_prefix}."
    expected = {name.removeprefix(prefix): tuple(value.shape) for name, value in one_block.state_dict().items()}
    of_block = {name: shape for name, shape in expected.items() if name.startswith(_FIRST_BLOCK)}
    unexpected, mismatched, blocks = [], [], set()
    for name, shape in stored.items():
        block, parameter = _split_block(name.removeprefix(prefix))
        known = expected.get(parameter) if block < num_layers else None
        blocks.add(block)
        if known is None:
            unexpected.append(name)
        elif known != shape:
            mismatched.append((name, shape, known))
    missing = [
        name.replace(_FIRST_BLOCK, f"encoder.layer.{block}.")
        for block in range(num_layers)
        if block not in blocks
        for name in of_block
    ]
    return {"unexpected_keys": unexpected, "missing_keys": missing, "mismatched_keys": mismatched}


_FIRST_BLOCK = "encoder.layer.0."


def _split_block(name: str) -> tuple[int, str]:
    """Return the number of the block of a parameter, -1 outside the blocks, and its name in the first block."""
    match = re.match(r"encoder\.layer\.(\d+)\.(.*)", name)
    return (-1, name) if match is None else (int(match[1]), _FIRST_BLOCK + match[2])


def check_complete(checkpoint, model: nn.Module, info: dict) -> None:
    """
    Check that a loaded model can answer: it has labels if it has a head, and all its weights, which are finite.

    Args:
        checkpoint: its name, for the error message.
        info: the loading info that transformers returns.

    Raises:
        WeightsMismatchError: if not. The message names what is missing.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise WeightsMismatchError(
            f"{checkpoint} lacks weights, so the model would answer at random: {', '.join(missing[:5])}{more}. Give a "
            "complete checkpoint, or train these weights first"
        )
    if hasattr(model, "classifier") and model.config.num_labels < 1:
        raise WeightsMismatchError(f"{checkpoint} has no labels: set id2label in its config.json, one for each class")
    broken = [name for name, weight in model.named_parameters() if not _is_finite(weight)]
    if broken:
        raise WeightsMismatchError(
            f"{checkpoint} has {len(broken)} weights with NaN or infinity, {broken[0]} among them: the file or the "
            "training that wrote it is broken. Use an earlier checkpoint"
        )


def _is_finite(weight: nn.Parameter) -> bool:
    """Whether all values are finite. The sum tells it fastest, unless it overflows. Quantized ones aren't checked."""
    if weight.is_meta or type(weight) is not nn.Parameter or not weight.is_floating_point():
        return True
    weight = weight.detach()
    return bool(weight.sum().isfinite()) or bool(weight.isfinite().all())


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

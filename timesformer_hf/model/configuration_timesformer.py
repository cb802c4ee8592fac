"""The configuration of a TimeSformer: typed fields, and the rules that their values must follow."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .attention_schemes import ATTENTION_SCHEMES


# Arguments of a `from_pretrained` call that say where files are
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_INTERPOLATION_MODES = ("nearest", "bicubic")
_PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")


class _TensorParallelPlan:
    """
    A class attribute whose value, `config.base_model_tp_plan`, depends on the attention scheme of the config.

    transformers expects one dictionary for the class. But its tests reject a rule for a module that the model doesn't
    have, and the scheme decides which modules there are. An instance can still override the attribute.
    """

    def __get__(self, config, owner: type | None = None) -> dict[str, str] | None:
        return None if config is None else _tensor_parallel_plan(config.attention_type)


@strict
class TimesformerConfig(PreTrainedConfig):
    r"""
    Configuration of a TimeSformer ("Is Space-Time Attention All You Need for Video Understanding?", arXiv 2102.05095).
    The defaults are the paper's base model: 8 frames of 224 x 224 pixels, ViT-Base width, divided attention.

    Args:
        image_size (`int` or pair of `int`, defaults to 224):
            Size of a frame in pixels, for which the position embeddings are made: the side of a square, or
            `(height, width)`. The model accepts other sizes too: its forward pass resizes the position embeddings.
        patch_size (`int` or pair of `int`, defaults to 16):
            Size of a patch in pixels: the side of a square, or `(height, width)`. It must divide `image_size`.
        num_channels (`int`, defaults to 3):
            Number of colour channels of a frame.
        num_frames (`int`, defaults to 8):
            Number of frames for which the time embeddings are made. The model accepts any other number too: its
            forward pass resizes the time embeddings.
        hidden_size (`int`, defaults to 768):
            Width of a token. `num_attention_heads` must divide it.
        num_hidden_layers (`int`, defaults to 12):
            Number of blocks.
        num_attention_heads (`int`, defaults to 12):
            Number of heads of every attention.
        intermediate_size (`int`, defaults to 3072):
            Hidden width of the MLP.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation function of the MLP. The authors' code uses the exact GELU.
        hidden_dropout_prob (`float`, defaults to 0.0):
            Dropout of embeddings, projections and MLP, in [0, 1). The authors' code has none.
        attention_probs_dropout_prob (`float`, defaults to 0.0):
            Dropout of attention probabilities during training, in [0, 1).
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the truncated normal distribution that initialises the weights.
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the layer norms.
        qkv_bias (`bool`, defaults to `True`):
            Whether query, key and value have a bias.
        attention_type (`str`, defaults to `"divided_space_time"`):
            Name of the attention scheme (paper, Section 3, Figure 2) in [`~timesformer_hf.ATTENTION_SCHEMES`].
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth rate of the last block, in [0, 1). The rate rises linearly from 0 in the first block.
            The authors train with 0.1.
        interpolation_mode (`str`, defaults to `"nearest"`):
            How embeddings are resized to another number of frames or another size. `"nearest"` is the method of the
            authors' code. `"bicubic"` resizes position embeddings bicubically and time embeddings linearly.

    Raises:
        ValueError: if a value breaks one of the rules above. The message names the field, the value and the rule.
        StrictDataclassFieldValidationError: if a value has the wrong type (from huggingface_hub).

    Example:

    ```python
    >>> from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification

    >>> config = TimesformerConfig(num_frames=16, image_size=(256, 448), attention_type="joint_space_time")
    >>> config.grid_size
    (16, 28)
    ```"""

    model_type = "timesformer"
    base_model_tp_plan: ClassVar[dict[str, Any] | None] = _TensorParallelPlan()
    # All other parameters, the final norm and the head, belong to FSDP's root module: they are gathered once, and kept
    # for the backward pass.
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {
        "embeddings": "free_full_weight",
        "encoder.layer.*": "free_full_weight",
    }

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    num_frames: int = 8
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    attention_type: str = "divided_space_time"
    drop_path_rate: float | int = 0.0
    interpolation_mode: str = "nearest"

    def __post_init__(self, **kwargs: Any) -> None:
        num_labels = kwargs.get("num_labels")
        if isinstance(num_labels, int) and num_labels < 0:  # it would end as a model without a head
            raise ValueError(f"TimesformerConfig: num_labels={num_labels} must be at least 0")
        super().__post_init__(**kwargs)
        self.check_values()

    @property
    def grid_size(self) -> tuple[int, int]:
        """The patch grid of a frame of `image_size`: (rows, columns)."""
        height, width = as_pair(self.image_size, "image_size")
        patch_height, patch_width = as_pair(self.patch_size, "patch_size")
        return height // patch_height, width // patch_width

    def check_values(self) -> None:
        """
        Check every field, except that the heads divide the width.

        This runs when a config is made, and again when a model is made from it, because fields can change in between.

        Raises:
            ValueError: if a value breaks a rule. The message names the field, the value and the rule.
        """
        for name in ("num_channels", "num_frames", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            _require(getattr(self, name) >= 1, self, name, "must be at least 1")
        _require(self.intermediate_size >= 1, self, "intermediate_size", "must be at least 1")
        for name in ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(0 <= getattr(self, name) < 1, self, name, "must lie in [0, 1)")
        for name in ("layer_norm_eps", "initializer_range"):
            _require(0 < getattr(self, name) < math.inf, self, name, "must be positive and finite")
        from transformers.activations import ACT2FN  # imported here, so that AutoConfig doesn't load it

        _require_choice(self, "hidden_act", ACT2FN)
        _require_choice(self, "problem_type", _PROBLEM_TYPES)
        _require_choice(self, "attention_type", ATTENTION_SCHEMES)
        _require_choice(self, "interpolation_mode", _INTERPOLATION_MODES)
        sizes = as_pair(self.image_size, "image_size")
        patches = as_pair(self.patch_size, "patch_size")
        for size, patch, side in zip(sizes, patches, ("height", "width"), strict=True):
            _require(
                size % patch == 0, self, "image_size", f"must be a multiple of patch_size={self.patch_size} in {side}"
            )

    def check_heads(self) -> None:
        """
        Check that the width of a token can be shared out to the heads.

        This runs only when a model is made: transformers' own tests make configs of widths that their models reject.

        Raises:
            ValueError: if the heads don't divide the width. The message names both.
        """
        rule = f"must divide hidden_size={self.hidden_size}"
        _require(self.hidden_size % self.num_attention_heads == 0, self, "num_attention_heads", rule)

    def to_dict(self) -> dict[str, Any]:
        """
        Return the fields as a dictionary that the TimeSformer built into transformers can load, if it supports the
        values.

        The built-in model accepts a square size only as one number, and a stochastic depth of zero only as an integer.
        """
        values = super().to_dict()
        for name in ("image_size", "patch_size"):
            if name in values and not isinstance(values[name], int):
                height, width = values[name]
                values[name] = height if height == width else [height, width]
        if values.get("drop_path_rate") == 0:
            values["drop_path_rate"] = 0
        return values


def _tensor_parallel_plan(attention_type: str) -> dict[str, str]:
    """
    Return how tensor parallelism splits the linear layers of the blocks over devices.

    The rows of `qkv` are (3, heads, head_dim), so an equal share of the rows is not a set of whole heads. Therefore the
    output of `qkv` is gathered and every device attends with all heads, as in transformers' own models with such a
    layer. transformers' `packed_colwise` would share out the heads, but it packs two parts, not three, and expects a
    bias that is not packed.
    """
    plan = {
        "encoder.layer.*.intermediate.dense": "colwise",
        "encoder.layer.*.output.dense": "rowwise",
    }
    for step in ATTENTION_SCHEMES[attention_type].steps:
        attention = f"encoder.layer.*.{step.attention}"
        plan[f"{attention}.attention.qkv"] = "colwise_gather_output"
        if step.dense is None:
            plan[f"{attention}.output.dense"] = "rowwise_split_input"
        else:  # two linear layers in a row need only one reduction
            plan[f"{attention}.output.dense"] = "colwise"
            plan[f"encoder.layer.*.{step.dense}"] = "rowwise"
    return plan


def as_pair(size: int | Sequence[int], name: str = "size") -> tuple[int, int]:
    """
    Return a size, given as one side or as a pair, as `(height, width)`.

    Raises:
        ValueError: if the size is neither a positive integer nor a pair of positive integers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"{name}={size!r} must be a positive integer or a pair (height, width) of positive integers")
    return pair


def stored_config_values(checkpoint, arguments: dict) -> dict:
    """
    Return the values in a checkpoint's config.json, whatever its model type. They are empty if there is no such file.

    Args:
        checkpoint: a folder or a name on the Hub.
        arguments: the keyword arguments of a `from_pretrained` call. Only those for the Hub are used.
    """
    try:
        values, _ = PreTrainedConfig.get_config_dict(
            checkpoint, **{name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}
        )
    except OSError:
        return {}
    return values or {}


def _require(kept: bool, config: TimesformerConfig, name: str, rule: str) -> None:
    if not kept:
        raise ValueError(f"TimesformerConfig: {name}={getattr(config, name)!r} {rule}")


def _require_choice(config: TimesformerConfig, name: str, choices) -> None:
    legal = ", ".join(repr(choice) for choice in choices)
    _require(getattr(config, name) in choices, config, name, f"must be one of {legal}")


__all__ = ["TimesformerConfig"]

"""
TimeSformer: embeddings -> blocks of attention steps and an MLP -> final norm -> head (paper, Section 3, Figure 2).

One token layout runs through the model: (batch, 1 + patches * frames, dim), CLS first, then the patches with the frame
index running fastest. `attention_schemes` defines how each attention step regroups these tokens. With `space_only`,
every frame is a separate sequence: (batch * frames, 1 + patches, dim).
"""

import copy
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging

from .activation_recompute import DETERMINISTIC, hooks_on, is_untouched, recomputed
from .attention_schemes import (
    ATTENTION_SCHEMES,
    ATTENTION_STEPS,
    AttentionScheme,
    AttentionStep,
    Grid,
    frames_to_tokens,
)
from .backends import apply_linear, faster_than_sdpa, padding_mask
from .classification_labels import Problem, check_labels, infer_problem_type
from .configuration_timesformer import HUB_ARGUMENTS, TimesformerConfig, as_pair, stored_config_values
from .embedding_tables import resize_position_table, resize_time_table, table_grid
from .loading_checks import (
    SIZES,
    check_no_attention_left_over_or_missing,
    check_shapes,
    compare_shapes,
    has_same_structure,
    stored_shapes,
)
from .model_outputs import FEATURE_LEVELS, TimesformerClassifierOutput, TimesformerModelOutput, check_level


logger = logging.get_logger(__name__)


class TimesformerPatchEmbeddings(nn.Module):
    """The linear embedding of non-overlapping patches of each frame (paper, equation 1)."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.config = config
        patch_size = as_pair(config.patch_size)
        self.projection: nn.Conv2d = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=patch_size, stride=patch_size
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels, as the config says."""
        return as_pair(self.config.image_size)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels: of the projection, or of the config if that is not a convolution."""
        return getattr(self.projection, "kernel_size", as_pair(self.config.patch_size))

    @property
    def num_patches(self) -> int:
        """Number of patches in a frame of `image_size`."""
        return math.prod(self.config.grid_size)

    @property
    def num_channels(self) -> int | None:
        """Number of channels that the projection takes, or `None` if that is not known."""
        modules = self.projection.modules()  # an adapter keeps the convolution inside
        return next((module.in_channels for module in modules if hasattr(module, "in_channels")), None)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """
        Embed the patches of clips (batch, frames, channels, height, width).

        Returns the embedded patches (batch * frames, rows * columns, hidden_size), the number of frames, and the number
        of columns.
        """
        self.check_pixel_values(pixel_values)
        patches = self.projection(pixel_values.flatten(0, 1).to(_dtype_of(self.projection, pixel_values)))
        return patches.flatten(2).transpose(1, 2), pixel_values.shape[1], patches.shape[-1]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches that the projection makes of frames of this size in pixels."""
        strides = getattr(self.projection, "stride", self.patch_size)
        rows, columns = (
            (size - patch) // stride + 1
            for size, patch, stride in zip((height, width), self.patch_size, strides, strict=True)
        )
        return rows, columns

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """
        Check that `pixel_values` is a tensor of clips that the model accepts.

        Raises:
            TypeError: if it is not a floating-point tensor.
            ValueError: if its shape doesn't fit. The message gives the shape and the expected one.
        """
        expected = "(batch, frames, channels, height, width)"
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            is_tensor = isinstance(pixel_values, torch.Tensor)
            got = pixel_values.dtype if is_tensor else f"{type(pixel_values).__name__}, which is not a tensor"
            raise TypeError(
                f"pixel_values must be a floating-point tensor {expected}, got {got}. Use a video processor: it "
                "scales and normalises the frames."
            )
        shape = tuple(pixel_values.shape)
        if pixel_values.ndim != 5:
            raise ValueError(f"pixel_values must have 5 dimensions {expected}, got {len(shape)}: {shape}")
        batch, frames, channels, height, width = shape
        num_channels = self.num_channels
        if num_channels is not None and channels != num_channels:
            hint = " Dimensions 1 and 2 look swapped: try transpose(1, 2)." if frames == num_channels else ""
            raise ValueError(
                f"pixel_values must have {num_channels} channels in dimension 2 of {expected}, got {channels}: "
                f"{shape}.{hint}"
            )
        for dimension, (name, size) in enumerate((("clip", batch), ("frame", frames))):
            if size == 0:
                raise ValueError(
                    f"pixel_values must contain at least one {name} in dimension {dimension} of {expected}, got {shape}"
                )
        for name, size, patch in zip(("height", "width"), (height, width), self.patch_size, strict=True):
            if size == 0 or size % patch:
                raise ValueError(
                    f"{name}={size} of pixel_values {shape} must be a positive multiple of the patch {name}, {patch}"
                )


def _dtype_of(module: nn.Module, otherwise: torch.Tensor) -> torch.dtype:
    """Return the dtype of the first weight of a module, or that of a tensor if the module has none."""
    weight = getattr(module, "weight", None)
    return next(module.parameters(), otherwise).dtype if weight is None else weight.dtype


class TimesformerEmbeddings(nn.Module):
    """The tokens of the first block: embedded patches and CLS, with their position and time embeddings."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.config = config
        self.attention_type: str = config.attention_type
        self.scheme: AttentionScheme = ATTENTION_SCHEMES[config.attention_type]
        self.patch_embeddings: TimesformerPatchEmbeddings = TimesformerPatchEmbeddings(config)
        self.cls_token: nn.Parameter = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings: nn.Parameter = nn.Parameter(
            torch.zeros(1, 1 + math.prod(config.grid_size), config.hidden_size)
        )
        self.pos_drop: nn.Dropout = nn.Dropout(config.hidden_dropout_prob)
        if not self.scheme.frames_apart:
            self.time_embeddings: nn.Parameter = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
            self.time_drop: nn.Dropout = nn.Dropout(config.hidden_dropout_prob)

    @property
    def num_patches(self) -> int:
        """Number of patches for which there are position embeddings."""
        return self.position_embeddings.shape[1] - 1

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Embed clips (batch, frames, channels, height, width) and return the tokens.

        The tokens are (batch, 1 + patches * frames, hidden_size), or (batch * frames, 1 + patches, hidden_size) with a
        scheme that keeps frames apart.
        """
        patches, frames, columns = self.patch_embeddings(pixel_values)
        frames = 1 if self.scheme.frames_apart else frames
        grid = (patches.shape[1] // columns, columns)
        positions = resize_position_table(
            self.position_embeddings, self.position_grid(), grid, self.config.interpolation_mode
        )
        cls_token = self.cls_token + positions[:, :1]
        # (batch * frames, patches, dim) -> (batch, patches, frames, dim)
        patches = patches.unflatten(0, (-1, frames)).transpose(1, 2) + positions[:, 1:].unsqueeze(2)
        patches = self.pos_drop(patches)
        if not self.scheme.frames_apart:
            times = resize_time_table(self.time_embeddings, frames, self.config.interpolation_mode)
            patches = self.time_drop(patches + times.unsqueeze(1))
        batch = pixel_values.shape[0] * (pixel_values.shape[1] if self.scheme.frames_apart else 1)
        cls_token = self.pos_drop(cls_token.expand(batch, -1, -1))
        return torch.cat((cls_token, patches.flatten(1, 2)), dim=1)

    def grid_of(self, pixel_values: torch.Tensor) -> Grid:
        """Return the grid of the tokens of clips: (frames, rows, columns), with one frame if frames are apart."""
        frames, _, height, width = pixel_values.shape[1:]
        return (1 if self.scheme.frames_apart else frames, *self.patch_embeddings.grid_of(height, width))

    def position_grid(self) -> tuple[int, int]:
        """
        Return the grid (rows, columns) of the position embeddings: the config's, or a square if that doesn't fit.

        Raises:
            ValueError: if their number fits neither. The message gives it and the config's grid.
        """
        return table_grid(self.num_patches, self.config.grid_size)

    @torch.no_grad()
    def resize(self, num_frames: int, grid_size: tuple[int, int]) -> None:
        """Resize the parameters as the forward pass would. They stay contiguous, because FSDP requires it."""
        mode = self.config.interpolation_mode
        positions = resize_position_table(self.position_embeddings, self.position_grid(), grid_size, mode)
        self.position_embeddings = nn.Parameter(positions.contiguous(), self.position_embeddings.requires_grad)
        if not self.scheme.frames_apart:
            times = resize_time_table(self.time_embeddings, num_frames, mode)
            self.time_embeddings = nn.Parameter(times.contiguous(), self.time_embeddings.requires_grad)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Compute softmax attention (paper, equations 5 to 7), and return its probabilities too.

    (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). This is the slow twin of every faster
    backend.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = module.attn_drop(scores.softmax(dim=-1))
    context = torch.matmul(probabilities, value)
    return context.transpose(1, 2).contiguous(), probabilities


class TimesformerSelfAttention(nn.Module):
    """Queries, keys and values of the tokens, and attention inside each group."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, config.hidden_size * 3, bias=config.qkv_bias)
        self.attn_drop = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        output_attentions: bool = False,
        real_tokens: torch.Tensor | None = None,
        first_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...]:
        """
        Attend inside each group (groups, length, hidden_size), and return a tuple with the same shape.

        With `output_attentions` its second entry is the probabilities (groups, heads, length, length). `real_tokens`
        (groups, length) is False for padding. With `first_only`, only the first token of each group is a query, so the
        first entry is (groups, 1, hidden_size).
        """
        qkv = apply_linear(self.qkv, hidden_states).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (groups, heads, length, head_dim)
        query = query[:, :, :1] if first_only else query
        context, probabilities = self.attend(query, key, value, real_tokens, output_attentions, **kwargs)
        context = context.flatten(2)
        return (context, probabilities) if output_attentions else (context,)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        real_tokens: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Attend with the backend of the config, and return the context and, if the backend has them, the probabilities.

        (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). Only eager attention has probabilities
        to return, or to show to a hook or another module in place of the dropout.
        """
        needs_probabilities = output_attentions or not is_untouched(self.attn_drop, nn.Dropout)
        # transformers' sdpa fixes the batch size in a graph of torch.jit.trace.
        needs_eager = needs_probabilities or torch.jit.is_tracing()
        implementation = "eager" if needs_eager else self.config._attn_implementation
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.attn_drop.p if implementation != "eager" and self.attn_drop.training else 0.0
        if implementation == "sdpa" and real_tokens is None and not dropout:
            attention_interface = faster_than_sdpa(query, key) or attention_interface
        return attention_interface(
            self,
            query,
            key,
            value,
            None if real_tokens is None else padding_mask(real_tokens, implementation, query.dtype),
            dropout=dropout,
            scaling=self.scale,
            **kwargs,
        )


class TimesformerSelfOutput(nn.Module):
    """The output projection of an attention."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(apply_linear(self.dense, hidden_states))


class TimeSformerAttention(nn.Module):
    """Multi-head self-attention inside groups of tokens, and its output projection."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.attention = TimesformerSelfAttention(config)
        self.output = TimesformerSelfOutput(config)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, ...]:
        """Return a tuple of the residual and, with `output_attentions`, the probabilities."""
        context, *probabilities = self.attention(hidden_states, output_attentions, **kwargs)
        return self.output(context), *probabilities


class TimesformerIntermediate(nn.Module):
    """The first linear layer of the MLP, its activation and its dropout."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.intermediate_act_fn(apply_linear(self.dense, hidden_states)))


class TimesformerOutput(nn.Module):
    """The second linear layer of the MLP."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(apply_linear(self.dense, hidden_states))


class TimesformerDropPath(nn.Module):
    """
    Stochastic depth: during training, drop each residual in the first dimension with probability `drop_prob`.

    The kept residuals are scaled up. As in the authors' code, each residual is one location through time in the time
    step, a frame in the space step, and a clip in the MLP.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return residual
        keep_prob = 1.0 - self.drop_prob
        mask = residual.new_empty((residual.shape[0],) + (1,) * (residual.ndim - 1)).bernoulli_(keep_prob)
        return residual * mask / keep_prob

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3g}"


class TimesformerLayer(GradientCheckpointingLayer):
    """A block: the attention steps of the scheme, then the MLP. Each adds the residual of a pre-norm branch."""

    def __init__(self, config: TimesformerConfig, layer_index: int):
        super().__init__()
        self.config = config
        self.attention_type = config.attention_type
        self.steps = ATTENTION_SCHEMES[config.attention_type].steps
        *added, own = self.steps
        # Modules are made in the order of the model built into transformers, because the state of an optimizer stores
        # parameters by their number.
        self.drop_path = TimesformerDropPath(config.drop_path_rate * layer_index / max(config.num_hidden_layers - 1, 1))
        self.add_module(own.attention, TimeSformerAttention(config))
        self.intermediate = TimesformerIntermediate(config)
        self.output = TimesformerOutput(config)
        self.add_module(own.norm, nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        for step in added:
            self.add_module(step.norm, nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
            self.add_module(step.attention, TimeSformerAttention(config))
            dense = nn.Linear(config.hidden_size, config.hidden_size)
            dense.starts_at_zero = True  # so an added step starts as the identity, in every block
            self.add_module(step.dense, dense)

    def forward(
        self,
        hidden_states: torch.Tensor,
        output_attentions: bool = False,
        grid: Grid | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...]:
        """
        Run the block on tokens (batch, 1 + patches * frames, hidden_size), and return a tuple with the same shape.

        With `output_attentions`, the probabilities of the last step follow, then those of the added steps. Without
        `grid`, the tokens are those of a clip of the config's size. With `cls_only`, the first entry is CLS alone,
        (batch, 1, hidden_size), if the last step never pads groups.
        """
        grid = configured_grid(self.config, hidden_states) if grid is None else grid
        added_maps = []
        for step in self.steps[:-1]:
            residual, *maps = self.attend(step, hidden_states, grid, output_attentions, **kwargs)
            hidden_states = hidden_states + residual
            added_maps += maps
        if cls_only and not self.steps[-1].halved:
            hidden_states, own_maps = hidden_states[:, :1] + self.attend_with_cls(hidden_states, grid, **kwargs), []
        else:
            residual, *own_maps = self.attend(self.steps[-1], hidden_states, grid, output_attentions, **kwargs)
            hidden_states = hidden_states + residual
        return hidden_states + self.drop_path(self.mlp(hidden_states)), *own_maps, *added_maps

    def attend(
        self,
        step: AttentionStep,
        hidden_states: torch.Tensor,
        grid: Grid,
        output_attentions: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, ...]:
        """Return a tuple of the residual of one attention step, in the shape of the tokens, and its probabilities."""
        norm, real_tokens = getattr(self, step.norm), step.real_tokens(hidden_states, grid)
        if real_tokens is not None:
            kwargs["real_tokens"] = real_tokens
        with recomputed(norm, lambda: self.normalized_groups(step, norm, hidden_states, grid)) as groups:
            residual, *maps = getattr(self, step.attention)(groups, output_attentions, **kwargs)
        residual = self.drop_path(residual)
        if step.dense is None:
            return step.restore(residual, grid), *maps
        dense = getattr(self, step.dense)
        if is_untouched(dense, nn.Linear):  # it acts on each token alone, so the groups need no copy before it
            return step.restore(apply_linear(dense, residual), grid), *maps
        patches = dense(step.restore(residual, grid)[:, 1:].contiguous())
        return F.pad(patches, (0, 0, 1, 0)), *maps  # CLS took no part

    def attend_with_cls(
        self, hidden_states: torch.Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Return the residual of the last attention step for CLS, (batch, 1, hidden_size): the mean of its copies."""
        step = self.steps[-1]
        norm = getattr(self, step.norm)
        with recomputed(norm, lambda: self.normalized_groups(step, norm, hidden_states, grid)) as groups:
            (residual,) = getattr(self, step.attention)(groups, first_only=True, **kwargs)
        return self.drop_path(residual).unflatten(0, (hidden_states.shape[0], -1)).mean(dim=1)

    def normalized_groups(
        self, step: AttentionStep, norm: nn.Module, hidden_states: torch.Tensor, grid: Grid
    ) -> torch.Tensor:
        """
        Return the groups of normalised tokens (groups, length, hidden_size).

        A layer norm acts on each token alone, and there are fewer tokens before they are grouped. A hook or another
        module gets the groups, as in the model built into transformers.
        """
        if is_untouched(norm, nn.LayerNorm):
            return step.regroup(norm(hidden_states), grid)
        return norm(step.regroup(hidden_states, grid))

    def mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the residual of the MLP, in the shape of the tokens."""
        norm, intermediate = self.layernorm_after, self.intermediate
        if not is_untouched(intermediate, TimesformerIntermediate):
            with recomputed(norm, lambda: norm(hidden_states)) as normed:
                return self.output(intermediate(normed))
        with recomputed(norm, lambda: norm(hidden_states)) as normed:
            wide = intermediate.dense(normed)
        activation = intermediate.intermediate_act_fn
        with recomputed(activation, lambda: activation(wide)) as activated:
            return self.output(intermediate.dropout(activated))


def configured_grid(config: TimesformerConfig, hidden_states: torch.Tensor) -> Grid:
    """
    Return the grid of tokens of a clip of the config's number of frames and width. Its height may be another.

    Raises:
        ValueError: if the number of tokens doesn't fit. The message gives it and what to pass.
    """
    frames = 1 if ATTENTION_SCHEMES[config.attention_type].frames_apart else config.num_frames
    columns, patches = config.grid_size[1], hidden_states.shape[1] - 1
    rows = patches // (frames * columns)
    if not rows or rows * frames * columns != patches:
        raise ValueError(
            f"{patches} tokens of patches don't fit the config's {frames} frames of {columns} columns; pass the size "
            "of the clip as grid=(frames, rows, columns)"
        )
    return frames, rows, columns


class TimesformerEncoder(nn.Module):
    """All blocks, one after the other."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.config = config
        self.layer: nn.ModuleList = nn.ModuleList(
            [TimesformerLayer(config, index) for index in range(config.num_hidden_layers)]
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        grid: Grid | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerModelOutput | tuple[Any, ...]:
        """
        Run all blocks on tokens. The output has them before the final norm, and what the flags ask for.

        Without `grid`, the tokens are those of a clip of the config's size. With `cls_only`, the last block may return
        CLS alone.
        """
        if grid is not None:
            kwargs["grid"] = grid
        names = [step.maps for step in _own_step_first(self.config)]
        all_hidden_states, all_maps = [hidden_states], []
        for number, layer in enumerate(self.layer, start=1):
            if cls_only and number == len(self.layer):
                kwargs["cls_only"] = True
            hidden_states, *maps = layer(hidden_states, output_attentions, **kwargs)
            all_maps.append(maps)
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
        outputs = TimesformerModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            **(dict(zip(names, zip(*all_maps, strict=True), strict=True)) if output_attentions else {}),
        )
        return outputs if return_dict else outputs.to_tuple()


def _own_step_first(config: TimesformerConfig) -> tuple[AttentionStep, ...]:
    """Return the steps in the order in which a block returns their maps: the last step, then the added ones."""
    *added, own = ATTENTION_SCHEMES[config.attention_type].steps
    return own, *added


class TimesformerPreTrainedModel(PreTrainedModel):
    """The base class of the models: initial weights, loading with resized embeddings, and flags for transformers."""

    config: TimesformerConfig
    base_model_prefix = "timesformer"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("video",)
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch, so Trainer itself must divide it by the number of accumulation steps.
    accepts_loss_kwargs = False
    # Conv2d is here for accelerate. With FSDP2 it shards the input embeddings separately, and that fails if a module
    # around them has been sharded first.
    _no_split_modules = ["Conv2d", "TimesformerEmbeddings", "TimesformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs):
        """Make a model, as `from_config` of the Auto classes does, also from a config of the built-in model."""
        return super()._from_config(_as_own_config(cls, config), **kwargs)

    def __init__(self, config: TimesformerConfig, *args: Any, **kwargs: Any):
        if not isinstance(config, TimesformerConfig):
            raise TypeError(
                f"{type(self).__name__} needs a config of {TimesformerConfig.__module__}, got one of "
                f"{type(config).__module__}; convert it by TimesformerConfig.from_dict(config.to_dict())"
            )
        config.check_values()
        config.check_heads()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise weights as the authors' code does. `init` skips every parameter that a checkpoint has filled."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            if getattr(module, "starts_at_zero", False):
                init.zeros_(module.weight)
            else:
                init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):  # torch's own default
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TimesformerEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
            if not module.scheme.frames_apart:
                init.zeros_(module.time_embeddings)

    def resize_embeddings(self, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None) -> None:
        """
        Resize the position and time embeddings in place, and set the config to the new size.

        The new values are those that the forward pass computes for a clip of that size.

        Args:
            num_frames: number of frames for the time embeddings. `None` keeps the config's.
            image_size: side, or (height, width), of a frame in pixels for the position embeddings. `None` keeps the
                config's.

        Raises:
            ValueError: if a value breaks a rule of the config, or the weights are offloaded or sharded.
        """
        config = copy.deepcopy(self.config)
        config.num_frames = config.num_frames if num_frames is None else num_frames
        config.image_size = config.image_size if image_size is None else image_size
        config.check_values()
        embeddings = self.base_model.embeddings
        old_size = (self.config.num_frames, *self.config.grid_size)
        new_size = (config.num_frames, *config.grid_size)
        if new_size[1:] != old_size[1:] or (new_size != old_size and not embeddings.scheme.frames_apart):
            table = embeddings.position_embeddings
            if table.is_meta or hasattr(table, "device_mesh"):  # a DTensor
                raise ValueError(
                    "The embeddings are offloaded or sharded and can't be resized. First load the model on one device "
                    "with the new num_frames or image_size and save it; then load the saved model."
                )
            embeddings.resize(config.num_frames, config.grid_size)
            logger.warning(
                f"Resized the embeddings ({config.interpolation_mode}) from {old_size[0]} frames of {old_size[1]} x "
                f"{old_size[2]} patches to {new_size[0]} frames of {new_size[1]} x {new_size[2]}."
            )
        self.config.num_frames, self.config.image_size = config.num_frames, config.image_size

    @classmethod
    def from_image_vit(
        cls,
        vit: nn.Module | str | os.PathLike[str] | Mapping[str, torch.Tensor],
        attention_type: str = "divided_space_time",
        num_frames: int = 8,
        **settings: Any,
    ) -> Self:
        """
        Make a TimeSformer that starts from an image ViT (paper, Section 4).

        With divided and space-only attention, a clip of identical frames gives the class feature of the ViT. The other
        schemes start near it: they limit the ViT's attention, or weigh CLS against more patches.

        Args:
            vit: the image model, in one of these forms:

                - a ViT model of transformers
                - the folder, file or Hub name of a ViT of transformers or timm
                - a state dict
            attention_type: name of an attention scheme in [`~timesformer_hf.ATTENTION_SCHEMES`].
            num_frames: number of frames for the time embeddings, which start at zero.
            settings: fields of the config, for example `num_labels` or `id2label`. With `image_size`, the position
                embeddings are resized. `num_attention_heads` is only needed if `vit` has no config; the default is one
                head for every 64 channels. The head of the ViT is kept if the number of classes is the same.

        Raises:
            ValueError: if the weights are not those of a plain ViT. The message names the keys in question.

        Example:

        ```python
        >>> model = TimesformerForVideoClassification.from_image_vit("google/vit-base-patch16-224-in21k", num_labels=10)
        ```"""
        try:  # the code in the folder of a saved model doesn't contain the converters
            from timesformer_hf.checkpoints.image_vit import start_from_image_vit
        except ImportError as error:
            raise ImportError("from_image_vit needs the package timesformer_hf: pip install timesformer_hf") from error
        return start_from_image_vit(cls, vit, attention_type, num_frames, **settings)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model as [`~transformers.PreTrainedModel.from_pretrained`] does, with two differences.

        If `num_frames` or `image_size`, as keywords or in `config`, differ from the checkpoint's, its position and time
        embeddings are resized (see [`~TimesformerPreTrainedModel.resize_embeddings`]) instead of rejected. And weights
        that contradict the config are an error, unless the caller changed the config on purpose.

        Raises:
            WeightsMismatchError: a `ValueError`. Either weights have other shapes than the config asks for;
                `ignore_mismatched_sizes=True` initialises those anew. Or the checkpoint's own config asks for
                attentions or layers that its weights don't contain, or the other way round.
        """
        config = _as_own_config(cls, config)
        stored = stored_config_values(pretrained_model_name_or_path, kwargs)
        wanted = {name: kwargs.pop(name) for name in SIZES if name in kwargs}
        if stored and isinstance(config, PreTrainedConfig):  # the caller may have changed the sizes in it
            wanted = {name: getattr(config, name) for name in SIZES} | wanted
            config = copy.deepcopy(config)
            for name in SIZES:
                setattr(config, name, stored.get(name, getattr(cls.config_class, name)))
        ignore_mismatched_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        if stored and not ignore_mismatched_sizes:
            cls._check_before_building(pretrained_model_name_or_path, stored, config, kwargs)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # checked below, with a better message
            **kwargs,
        )
        if not ignore_mismatched_sizes:
            check_shapes(pretrained_model_name_or_path, info)
        if stored and has_same_structure(stored, model.config):
            check_no_attention_left_over_or_missing(pretrained_model_name_or_path, model.config, info)
        model.resize_embeddings(**wanted)
        return (model, info) if output_loading_info else model

    @classmethod
    def _check_before_building(cls, checkpoint, stored: dict, config, arguments: dict) -> None:
        """
        Check the shapes of the weights in a checkpoint before a model is built, which takes long if it is large.

        It looks only at safetensors files, and only if the caller doesn't change the structure of the model.

        Args:
            stored: the values in the checkpoint's config.json.
            config: the config of the caller, if it is an object.
            arguments: the other arguments of `from_pretrained`.

        Raises:
            WeightsMismatchError: see `from_pretrained`.
        """
        if stored.keys() & {"quantization_config"} or arguments.keys() & _OTHER_WEIGHTS:
            return
        if not isinstance(config, PreTrainedConfig):
            names = {*cls.config_class.__annotations__, "num_labels", "id2label", "label2id"}
            fields = {name: value for name, value in arguments.items() if name in names}
            config = cls.config_class.from_dict(stored | fields)
        shapes = stored_shapes(checkpoint, {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments})
        if shapes is None or not has_same_structure(stored, config):
            return
        config = copy.deepcopy(config)
        num_layers, config.num_hidden_layers = config.num_hidden_layers, 1
        with torch.device("meta"):
            info = compare_shapes(shapes, cls(config), num_layers)
        config.num_hidden_layers = num_layers
        check_shapes(checkpoint, info)
        check_no_attention_left_over_or_missing(checkpoint, config, info)


# Arguments of `from_pretrained` that take the weights from other files than usual
_OTHER_WEIGHTS = {"state_dict", "variant", "gguf_file", "use_safetensors", "quantization_config"}


def _as_own_config(model_class: type, config):
    """Return a config of the model built into transformers as the model's own. Anything else is returned as it is."""
    if not isinstance(config, PreTrainedConfig) or isinstance(config, model_class.config_class):
        return config
    return model_class.config_class.from_dict(config.to_dict())


def _records_inner_states(
    config: TimesformerConfig, output_attentions: bool | None, output_hidden_states: bool | None
) -> bool:
    """Whether a call with these arguments returns hidden states or attention maps of the blocks."""
    wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
    return any(getattr(config, name) if value is None else value for name, value in wanted.items())


def _warn_of_eager_attention(config: TimesformerConfig) -> None:
    """Warn once that eager attention replaces a backend that returns no attention maps."""
    if config._attn_implementation != "eager" and not torch.compiler.is_compiling():
        logger.warning_once(
            f"`{config._attn_implementation}` attention returns no attention maps: using eager attention for this "
            'call. To silence this warning, load the model with attn_implementation="eager".'
        )


class TimesformerModel(TimesformerPreTrainedModel):
    """The TimeSformer without a head: it turns pixels into normalised tokens."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        self.scheme: AttentionScheme = ATTENTION_SCHEMES[config.attention_type]
        self.embeddings: TimesformerEmbeddings = TimesformerEmbeddings(config)
        self.encoder: TimesformerEncoder = TimesformerEncoder(config)
        self.layernorm: nn.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerModelOutput | tuple[Any, ...]:
        """
        Compute the normalised tokens of clips.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, frames, channels, height, width)`):
                Normalised frames. Their number is free, and height and width are multiples of the patch size.
            output_attentions, output_hidden_states, return_dict (`bool`, *optional*):
                Flags as in every model of transformers; see [`TimesformerModelOutput`]. The defaults are in the config.
            cls_only (`bool`, *optional*):
                Whether the caller needs only CLS. The last block then leaves out what only the other tokens need, and
                `last_hidden_state` may end after CLS.

        Raises:
            TypeError: if `pixel_values` is not a floating-point tensor.
            ValueError: if its shape doesn't fit. The message gives the shape and the expected one.
        """
        if kwargs.pop("attention_mask", None) is not None:  # PEFT passes `None`
            raise ValueError("TimeSformer takes no attention_mask, because it attends to every patch; leave it out")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions:
            _warn_of_eager_attention(self.config)
        outputs = self.encode(pixel_values, output_attentions, output_hidden_states, cls_only, **kwargs)
        hidden_states = outputs[0]
        if self.scheme.frames_apart:
            hidden_states = hidden_states.unflatten(0, pixel_values.shape[:2]).mean(dim=1)
        outputs = TimesformerModelOutput(last_hidden_state=self.layernorm(hidden_states), **_inner_states(outputs))
        return outputs if _wants_dict(self.config, return_dict) else outputs.to_tuple()

    def encode(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerModelOutput:
        """
        Embed clips and run the encoder on their tokens. Arguments are those of `forward`.

        The calls are those of the model built into transformers wherever they can be, so that the modules may be
        replaced by others that are made for it. Only a clip of another size than the config's needs a `grid`, and only
        modules of this file get `cls_only`.
        """
        hidden_states = self.embeddings(pixel_values)
        grid_of = getattr(self.embeddings, "grid_of", None)
        grid = None if grid_of is None else grid_of(pixel_values)
        configured = (1 if self.scheme.frames_apart else self.config.num_frames, *self.config.grid_size)
        if grid is not None and (torch.compiler.is_compiling() or grid != configured):
            kwargs["grid"] = grid  # a graph serves every size, so it doesn't compare sizes
        if cls_only:
            kwargs["cls_only"] = True
        return self.encoder(
            hidden_states,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )

    def clip_features(self, pixel_values: torch.Tensor, level: str = "clip") -> torch.Tensor:
        """
        Return features of clips (batch, frames, channels, height, width).

        Args:
            level: which features to return:

                - `"clip"`: the normalised CLS, (batch, hidden_size)
                - `"frame"`: the mean of the normalised patches of each frame, (batch, frames, hidden_size)
                - `"patch"`: each normalised patch, (batch, frames, rows, columns, hidden_size)

                All levels work with `space_only` too, although its `last_hidden_state` is a mean over frames.

        Raises:
            TypeError, ValueError: if the level is unknown, or the pixels don't fit. The message lists what is allowed.
        """
        check_level(level)
        cls_only = level == "clip" and computes_cls_alone(self)
        tokens = self.encode(pixel_values, cls_only=cls_only).last_hidden_state
        grid = self.embeddings.grid_of(pixel_values)
        if self.scheme.frames_apart:
            grid = (pixel_values.shape[1], *grid[1:])
            tokens = frames_to_tokens(tokens, grid)  # averages only CLS, before the norm as in the forward pass
        return FEATURE_LEVELS[level](self.layernorm(tokens), grid)


def _inner_states(outputs: TimesformerModelOutput) -> dict:
    """Return the hidden states and attention maps of an output, by name. The encoder may be somebody else's."""
    names = ("hidden_states", *(step.maps for step in ATTENTION_STEPS))
    return {name: outputs.get(name) for name in names}


# Classes that act on each token alone, and packages all of whose modules do so in place of a linear layer or norm
_TOKENWISE = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.Sequential, nn.ModuleList, *DETERMINISTIC)
_TOKENWISE_FORWARDS = frozenset(kind.forward for kind in _TOKENWISE)
_TOKENWISE_PACKAGES = (__name__.partition(".")[0], "peft", "torchao", "bitsandbytes")
_LIBRARIES = ("torch.distributed", "accelerate", "deepspeed")  # their hooks move weights and don't look at tokens


def _acts_on_single_tokens(module: nn.Module) -> bool:
    forward = type(module).forward
    return forward in _TOKENWISE_FORWARDS or str(forward.__module__).partition(".")[0] in _TOKENWISE_PACKAGES


def computes_cls_alone(model: TimesformerModel) -> bool:
    """
    Whether the last block may compute CLS alone, because nobody sees the difference.

    Somebody would, if there is a hook, or a module of another kind than this package's, in the last block or after it.
    Such a module may mix tokens.
    """
    last = [module for layer in model.encoder.layer[-1:] for module in layer.modules()]
    seen = (model, model.encoder, *model.layernorm.modules(), *last)
    return all(
        _acts_on_single_tokens(module) and all(str(hook.__module__).startswith(_LIBRARIES) for hook in hooks_on(module))
        for module in seen
    )


def _wants_dict(config: TimesformerConfig, return_dict: bool | None) -> bool:
    """Whether a call with this argument returns an output with names, and not a tuple."""
    return config.return_dict if return_dict is None else return_dict


class TimesformerForVideoClassification(TimesformerPreTrainedModel):
    """The TimeSformer with a linear layer on the normalised CLS token (paper, equation 10)."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        self.num_labels: int = config.num_labels
        self.timesformer: TimesformerModel = TimesformerModel(config)
        self.classifier: nn.Module = (
            nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        )
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerClassifierOutput | tuple[Any, ...]:
        """
        Compute the logits of clips, and the loss if there are labels.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, frames, channels, height, width)`):
                Normalised frames. Their number is free, and height and width are multiples of the patch size.
            labels (`torch.Tensor`, *optional*):
                Labels of one of three kinds, which `config.problem_type` names:

                - single-label: class indices (batch,) of any integer type. -100 ignores a clip.
                - multi-label: 0 or 1 for each class, (batch, num_labels) of any type
                - regression: target values, (batch,) or (batch, num_labels)

                If `config.problem_type` is `None`, a `num_labels` of 1 means regression. Otherwise, labels that are
                (batch, num_labels) or floating-point mean multi-label, and all others mean single-label.

        Raises:
            TypeError, ValueError: if pixels or labels don't fit. The message says what came and what is expected.
        """
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if not _records_inner_states(self.config, **flags) and computes_cls_alone(self.timesformer):
            kwargs["cls_only"] = True
        outputs = self.timesformer(pixel_values, **flags, return_dict=True, **kwargs)
        logits = self.classifier(outputs[0][:, 0])
        outputs = TimesformerClassifierOutput(
            loss=None if labels is None else self.compute_loss(logits, labels),
            logits=logits,
            **_inner_states(outputs),
        )
        return outputs if _wants_dict(self.config, return_dict) else outputs.to_tuple()

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Return transformers' loss for the kind of problem: cross entropy, binary cross entropy or mean squared error.

        transformers' function writes the problem type that it infers into the config, where it would affect the next
        batch. So this method passes it a stand-in for the config.
        """
        inferred = infer_problem_type(labels, self.num_labels)
        problem_type = self.config.problem_type or inferred
        check_labels(labels, logits, problem_type)
        if problem_type == "single_label_classification":
            labels = labels.to(torch.long)
        else:
            labels = labels.to(logits.dtype).reshape(logits.shape)
        problem = Problem(self.num_labels, problem_type)
        return self.loss_function(labels=labels, pooled_logits=logits, config=problem)


__all__ = ["TimesformerForVideoClassification", "TimesformerModel", "TimesformerPreTrainedModel"]

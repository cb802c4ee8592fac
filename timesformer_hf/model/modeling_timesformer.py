"""
TimeSformer: embeddings -> blocks of attention steps and an MLP -> final norm -> head (paper, Section 3, Figure 2).

One token layout runs through the model: (batch, 1 + patches * frames, dim), CLS first, then the patches with the frame
index running fastest. `attention_schemes` holds what an attention step regroups. With `space_only`, every frame is a
sequence of its own: (batch * frames, 1 + patches, dim).
"""

import copy
import math
from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace

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
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .activation_recompute import made_again
from .attention_backends import has_short_group_kernel, padding_mask, short_group_attention_forward
from .attention_schemes import ATTENTION_SCHEMES, ATTENTION_STEPS, AttentionStep, Grid, frames_to_tokens
from .classification_labels import check_labels, infer_problem_type
from .configuration_timesformer import TimesformerConfig, as_pair, stored_config_values
from .embedding_tables import resize_position_table, resize_time_table
from .loading_checks import SIZES, check_no_attention_left_over_or_missing, check_shapes, describes
from .model_outputs import FEATURE_LEVELS, TimesformerClassifierOutput, TimesformerModelOutput, check_level


logger = logging.get_logger(__name__)


class TimesformerPatchEmbeddings(nn.Module):
    """Linear embedding of non-overlapping patches, frame by frame (paper, equation 1)."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.num_channels = config.num_channels
        self.patch_size = as_pair(config.patch_size)
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels, height, width) -> (batch, frames, hidden_size, rows, columns)"""
        self.check_pixel_values(pixel_values)
        batch, frames = pixel_values.shape[:2]
        patches = self.projection(pixel_values.flatten(0, 1).to(self.projection.weight.dtype))
        return patches.unflatten(0, (batch, frames))

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        expected = "(batch, frames, channels, height, width)"
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            got = getattr(pixel_values, "dtype", type(pixel_values).__name__)
            raise TypeError(
                f"pixel_values must be a floating-point tensor {expected}, got {got}. A video processor makes it: "
                "it scales and normalises the frames."
            )
        shape = tuple(pixel_values.shape)
        if pixel_values.ndim != 5:
            raise ValueError(f"pixel_values must have 5 dimensions {expected}, got {len(shape)}: {shape}")
        batch, frames, channels, height, width = shape
        if channels != self.num_channels:
            hint = " Dimensions 1 and 2 look swapped: try transpose(1, 2)." if frames == self.num_channels else ""
            raise ValueError(
                f"pixel_values must have {self.num_channels} channels in dimension 2 of {expected}, got {channels}: "
                f"{shape}.{hint}"
            )
        for dimension, (name, size) in enumerate((("clip", batch), ("frame", frames))):
            if size == 0:
                raise ValueError(
                    f"pixel_values must hold at least one {name} in dimension {dimension} of {expected}, got {shape}"
                )
        for name, size, patch in zip(("height", "width"), (height, width), self.patch_size, strict=True):
            if size == 0 or size % patch:
                raise ValueError(
                    f"{name}={size} of pixel_values {shape} must be a positive multiple of the patch {name}, {patch}"
                )


class TimesformerEmbeddings(nn.Module):
    """Patches, CLS and their position and time embeddings, as the tokens of the first block."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.scheme = ATTENTION_SCHEMES[config.attention_type]
        self.grid_size = config.grid_size
        self.interpolation_mode = config.interpolation_mode
        rows, columns = self.grid_size
        self.patch_embeddings = TimesformerPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))
        self.pos_drop = nn.Dropout(config.hidden_dropout_prob)
        if not self.scheme.frames_apart:
            self.time_embeddings = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
            self.time_drop = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        """
        (batch, frames, channels, height, width) -> tokens (batch, 1 + patches * frames, hidden_size) and their grid.
        With a scheme that keeps frames apart, the tokens are (batch * frames, 1 + patches, hidden_size).
        """
        patches = self.patch_embeddings(pixel_values)
        if self.scheme.frames_apart:
            patches = patches.flatten(0, 1).unsqueeze(1)  # every frame a clip of one frame
        _, frames, _, rows, columns = patches.shape
        positions = resize_position_table(
            self.position_embeddings, self.grid_size, (rows, columns), self.interpolation_mode
        )
        cls_token = self.cls_token + positions[:, :1]
        # (batch, frames, dim, rows, columns) -> (batch, patches, frames, dim), then the frame index fastest
        patches = patches.flatten(3).permute(0, 3, 1, 2) + positions[:, 1:].unsqueeze(2)
        patches = self.pos_drop(patches)
        if not self.scheme.frames_apart:
            times = resize_time_table(self.time_embeddings, frames, self.interpolation_mode)
            patches = self.time_drop(patches + times.unsqueeze(1))
        cls_token = self.pos_drop(cls_token.expand(patches.shape[0], -1, -1))
        return torch.cat((cls_token, patches.flatten(1, 2)), dim=1), (frames, rows, columns)

    @torch.no_grad()
    def resize(self, num_frames: int, grid_size: tuple[int, int]) -> None:
        """Resize the tables themselves, to what the forward pass would make of them; contiguous, as FSDP wants them."""
        positions = resize_position_table(self.position_embeddings, self.grid_size, grid_size, self.interpolation_mode)
        self.position_embeddings = nn.Parameter(positions.contiguous(), self.position_embeddings.requires_grad)
        self.grid_size = grid_size
        if not self.scheme.frames_apart:
            times = resize_time_table(self.time_embeddings, num_frames, self.interpolation_mode)
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
    Softmax attention written out (paper, equations 5 to 7): the twin of every faster backend, and the only one that
    returns its probabilities. (groups, heads, length, head_dim) -> (groups, length, heads, head_dim)
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    context = torch.matmul(probabilities, value)
    return context.transpose(1, 2).contiguous(), probabilities


class TimesformerSelfAttention(nn.Module):
    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, config.hidden_size * 3, bias=config.qkv_bias)

    def forward(
        self,
        groups: torch.Tensor,
        real_tokens: torch.Tensor | None = None,
        output_attentions: bool = False,
        first_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        (groups, length, hidden_size) -> the same, and the probabilities (groups, heads, length, length). `real_tokens`
        (groups, length) is False where a group is padded. With `first_only`, the first token alone of each group.
        """
        qkv = self.qkv(groups).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (groups, heads, length, head_dim)
        query = query[:, :, :1] if first_only else query
        context, probabilities = self.attend(query, key, value, real_tokens, output_attentions, **kwargs)
        return context.flatten(2), probabilities

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        real_tokens: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Each (groups, heads, length, head_dim) -> (groups, length, heads, head_dim), and the probabilities."""
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        if implementation == "sdpa" and real_tokens is None and not dropout and has_short_group_kernel(query, key):
            attention_interface = short_group_attention_forward
        return attention_interface(
            self,
            query,
            key,
            value,
            None if real_tokens is None else padding_mask(real_tokens, implementation, query.dtype),
            dropout=dropout,
            scaling=self.scaling,
            **kwargs,
        )


class TimesformerSelfOutput(nn.Module):
    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class TimeSformerAttention(nn.Module):
    """Multi-head self-attention inside groups of tokens, and its output projection."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.attention = TimesformerSelfAttention(config)
        self.output = TimesformerSelfOutput(config)

    def forward(
        self, groups: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, probabilities = self.attention(groups, **kwargs)
        return self.output(context), probabilities


class TimesformerIntermediate(nn.Module):
    """The first layer of the MLP and what follows it, which [`TimesformerLayer.mlp`] calls one by one."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]


class TimesformerOutput(nn.Module):
    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class TimesformerDropPath(nn.Module):
    """
    Stochastic depth: while training, drops the residual of an entry of the first dimension with probability
    `drop_prob` and scales the kept ones up. That entry is a tube in the time step, a frame in the space step and a
    clip in the MLP, as in the original.
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
    """A block: the attention steps of the scheme, then the MLP, each a residual of a pre-norm branch."""

    def __init__(self, config: TimesformerConfig, layer_index: int):
        super().__init__()
        self.steps = ATTENTION_SCHEMES[config.attention_type].steps
        for step in self.steps:
            self.add_module(step.norm, nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
            self.add_module(step.attention, TimeSformerAttention(config))
            if step.dense is not None:
                dense = nn.Linear(config.hidden_size, config.hidden_size)
                dense.starts_at_zero = True  # a step added to an image model starts as the identity, in every block
                self.add_module(step.dense, dense)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = TimesformerIntermediate(config)
        self.output = TimesformerOutput(config)
        self.drop_path = TimesformerDropPath(config.drop_path_rate * layer_index / max(config.num_hidden_layers - 1, 1))

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        (batch, 1 + patches * frames, hidden_size) -> the same; with `cls_only` CLS alone, (batch, 1, hidden_size),
        where no group of the last step can be padded.
        """
        for step in self.steps[:-1]:
            hidden_states = hidden_states + self.attend(step, hidden_states, grid, **kwargs)
        if cls_only and not self.steps[-1].halved:
            hidden_states = hidden_states[:, :1] + self.attend_with_cls(hidden_states, grid, **kwargs)
        else:
            hidden_states = hidden_states + self.attend(self.steps[-1], hidden_states, grid, **kwargs)
        return hidden_states + self.drop_path(self.mlp(hidden_states))

    def attend(
        self, step: AttentionStep, hidden_states: torch.Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """The residual of one attention step."""
        real_tokens = step.real_tokens(hidden_states, grid)
        with made_again(lambda: step.regroup(getattr(self, step.norm)(hidden_states), grid)) as groups:
            residual, _ = getattr(self, step.attention)(groups, real_tokens=real_tokens, **kwargs)
        residual = self.drop_path(residual)
        if step.dense is not None:
            residual = getattr(self, step.dense)(residual)
        return step.restore(residual, grid)

    def attend_with_cls(
        self, hidden_states: torch.Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """What the last attention step brings to CLS: (batch, 1, hidden_size), the mean of its copies."""
        step = self.steps[-1]
        with made_again(lambda: step.regroup(getattr(self, step.norm)(hidden_states), grid)) as groups:
            residual, _ = getattr(self, step.attention)(groups, first_only=True, **kwargs)
        return self.drop_path(residual).unflatten(0, (hidden_states.shape[0], -1)).mean(dim=1)

    def mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The residual of the MLP."""
        with made_again(lambda: self.layernorm_after(hidden_states)) as normed:
            wide = self.intermediate.dense(normed)
        with made_again(lambda: self.intermediate.intermediate_act_fn(wide)) as activated:
            return self.output(self.intermediate.dropout(activated))


class TimesformerEncoder(nn.Module):
    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.layer = nn.ModuleList([TimesformerLayer(config, index) for index in range(config.num_hidden_layers)])

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        last = len(self.layer) - 1
        for number, layer in enumerate(self.layer):
            hidden_states = layer(hidden_states, grid, cls_only=cls_only and number == last, **kwargs)
        return hidden_states


class TimesformerPreTrainedModel(PreTrainedModel):
    """Initial values, loading with resized tables, and what transformers needs to know of every TimeSformer."""

    config: TimesformerConfig
    base_model_prefix = "timesformer"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    # Trainer divides the loss by the accumulation steps itself: the loss is a mean over the batch.
    accepts_loss_kwargs = False
    # The Conv2d is for accelerate: with FSDP2 it shards the input embeddings by themselves, wherever they are, and that
    # fails where a module around them has been sharded before them.
    _no_split_modules = ["Conv2d", "TimesformerEmbeddings", "TimesformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": TimesformerLayer,
    } | {
        step.maps: OutputRecorder(TimeSformerAttention, index=1, layer_name=step.attention) for step in ATTENTION_STEPS
    }

    def __init__(self, config: TimesformerConfig, *args, **kwargs):
        if not isinstance(config, TimesformerConfig):
            raise TypeError(
                f"{type(self).__name__} needs a config of {TimesformerConfig.__module__}, got one of "
                f"{type(config).__module__}; TimesformerConfig.from_dict(config.to_dict()) converts it"
            )
        config.check_values()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The original's initial values. `init` leaves every parameter alone that a checkpoint has filled."""
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
        Resize the position and time embeddings in place, as the forward pass does for a clip of that size, and set
        the config to it.

        Args:
            num_frames: frames that the time embeddings are made for; the config's where `None`.
            image_size: side or (height, width) in pixels that the position embeddings are made for.

        Raises:
            ValueError: where a value is out of the config's rules, or the weights are offloaded or sharded.
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
                    "The embeddings are offloaded or sharded and can't be resized. Load the model on one device, with "
                    "the new num_frames or image_size, save it, and load that."
                )
            embeddings.resize(config.num_frames, config.grid_size)
            logger.warning(
                f"Resized the embeddings ({config.interpolation_mode}) from {old_size[0]} frames of {old_size[1]} x "
                f"{old_size[2]} patches to {new_size[0]} frames of {new_size[1]} x {new_size[2]}."
            )
        self.config.num_frames, self.config.image_size = config.num_frames, config.image_size

    @classmethod
    def from_image_vit(cls, vit, attention_type: str = "divided_space_time", num_frames: int = 8, **settings):
        """
        A TimeSformer that starts from an image ViT (paper, Section 4). On a clip of identical frames it gives the
        ViT's own class feature, with divided and space-only attention; the other schemes limit the ViT's attention or
        weigh CLS against more patches, and so start near it.

        Args:
            vit: a ViT of transformers, the folder, file or Hub name of one of transformers or timm, or a state dict.
            attention_type: a name in the table of attention schemes.
            num_frames: frames that the time embeddings, zero at first, are made for.
            settings: `image_size`, to resize the position embeddings to; `num_attention_heads`, where `vit` has no
                config (by default one for every 64 channels); any other field of the config, such as `num_labels` or
                `id2label`. The ViT's own head is kept where the number of classes is the same.

        Raises:
            ValueError: for weights that are no plain ViT; the message names the keys in question.

        Example:

        ```python
        >>> model = TimesformerForVideoClassification.from_image_vit("google/vit-base-patch16-224-in21k", num_labels=10)
        ```"""
        try:  # a saved model's own code doesn't carry the converters
            from timesformer_hf.checkpoints.image_vit import start_from_image_vit
        except ImportError as error:
            raise ImportError("from_image_vit needs the package: pip install timesformer_hf") from error
        return start_from_image_vit(cls, vit, attention_type, num_frames, **settings)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *model_args, config=None, output_loading_info: bool = False, **kwargs
    ):
        """
        As [`~transformers.PreTrainedModel.from_pretrained`], with two differences. Where `num_frames` or `image_size`,
        as keywords or in `config`, differ from the checkpoint's, its position and time embeddings are resized (see
        [`~TimesformerPreTrainedModel.resize_embeddings`]) instead of refused. And weights that contradict the
        config are an error that names them, unless the caller changed the config on purpose.

        Raises:
            WeightsMismatchError: a `ValueError`, where weights have other shapes than the config asks for (pass
                `ignore_mismatched_sizes=True` to start those anew), or where the checkpoint's own config asks for
                attentions or layers that its weights don't hold, or the other way round.
        """
        if isinstance(config, PreTrainedConfig) and not isinstance(config, cls.config_class):
            config = cls.config_class.from_dict(config.to_dict())  # of the model built into transformers
        stored = stored_config_values(pretrained_model_name_or_path, kwargs)
        wanted = {name: kwargs.pop(name) for name in SIZES if name in kwargs}
        if stored and isinstance(config, PreTrainedConfig):  # the sizes may have been changed in it
            wanted = {name: getattr(config, name) for name in SIZES} | wanted
            config = copy.deepcopy(config)
            for name in SIZES:
                setattr(config, name, stored.get(name, getattr(cls.config_class, name)))
        ignore_mismatched_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # an error below, which can then say what doesn't fit
            **kwargs,
        )
        if not ignore_mismatched_sizes:
            check_shapes(pretrained_model_name_or_path, info)
        if stored and describes(stored, model.config):
            check_no_attention_left_over_or_missing(pretrained_model_name_or_path, model.config, info)
        model.resize_embeddings(**wanted)
        return (model, info) if output_loading_info else model


def records_inner_states(
    config: TimesformerConfig,
    output_hidden_states: bool | None = None,
    output_attentions: bool | None = None,
    **kwargs: Unpack[TransformersKwargs],
) -> bool:
    """Whether a call with these arguments returns hidden states or attention maps of the blocks."""
    wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
    return any(getattr(config, name) if value is None else value for name, value in wanted.items())


def _record_every_attention(forward: Callable) -> Callable:
    """
    Let `output_attentions`, an argument or in the config, ask for the maps of every attention step (`capture_outputs`
    knows one flag a record), and say so where a backend that returns no maps gives way to eager attention.
    """

    @wraps(forward)
    def wrapper(self, *args, output_attentions: bool | None = None, **kwargs):
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager" and not torch.compiler.is_compiling():
            logger.warning_once(
                f"`{self.config._attn_implementation}` attention returns no attention maps: using eager attention for "
                'this call. To silence this warning, load the model with attn_implementation="eager".'
            )
        for step in ATTENTION_STEPS:
            kwargs[f"output_{step.maps}"] = output_attentions and step in self.scheme.steps
        kwargs["output_attentions"] = output_attentions
        return forward(self, *args, **kwargs)

    return wrapper


class TimesformerModel(TimesformerPreTrainedModel):
    """The TimeSformer without a head: pixels to normalised tokens."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        self.scheme = ATTENTION_SCHEMES[config.attention_type]
        self.embeddings = TimesformerEmbeddings(config)
        self.encoder = TimesformerEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection

    @_record_every_attention
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> TimesformerModelOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, frames, channels, height, width)`):
                Normalised frames: any number of them, any height and width that are multiples of the patch.
            cls_only (`bool`, *optional*):
                Whether the tokens after CLS are of no use: what they alone need of the last block is then left out,
                and `last_hidden_state` may end after CLS.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*):
                As everywhere in transformers; see [`TimesformerModelOutput`]. The config's values by default.

        Raises:
            TypeError: where `pixel_values` is no floating-point tensor.
            ValueError: where its shape doesn't fit; the message names the shape.
        """
        for step in ATTENTION_STEPS:  # for `capture_outputs`, no business of an attention backend
            if step.maps != "attentions":
                kwargs.pop(f"output_{step.maps}", None)
        if kwargs.pop("attention_mask", None) is not None:  # PEFT passes one of `None`
            raise ValueError("TimeSformer takes no attention_mask: it attends to every patch of every frame")
        hidden_states, grid = self.embeddings(pixel_values)
        hidden_states = self.encoder(hidden_states, grid, cls_only=cls_only, **kwargs)
        if self.scheme.frames_apart:
            hidden_states = hidden_states.unflatten(0, pixel_values.shape[:2]).mean(dim=1)
        return TimesformerModelOutput(last_hidden_state=self.layernorm(hidden_states))

    def clip_features(self, pixel_values: torch.Tensor, level: str = "clip") -> torch.Tensor:
        """
        Features of clips (batch, frames, channels, height, width).

        Args:
            level: `"clip"`, the normalised CLS (batch, hidden_size); `"frame"`, the mean of the normalised patches of
                each frame (batch, frames, hidden_size); or `"patch"`, each of them (batch, frames, rows, columns,
                hidden_size). With `space_only` too, where `last_hidden_state` is already a mean over frames.

        Raises:
            TypeError, ValueError: for another level, or pixels that don't fit; the message lists what does.
        """
        check_level(level)
        tokens, grid = self.embeddings(pixel_values)
        tokens = self.encoder(tokens, grid, cls_only=level == "clip")
        if self.scheme.frames_apart:
            grid = (pixel_values.shape[1], *grid[1:])
            tokens = frames_to_tokens(tokens, grid)  # averages CLS alone; before the norm, as the forward pass
        return FEATURE_LEVELS[level](self.layernorm(tokens), grid)


class TimesformerForVideoClassification(TimesformerPreTrainedModel):
    """The TimeSformer with a linear layer on the normalised CLS token (paper, equation 11)."""

    def __init__(self, config: TimesformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.timesformer = TimesformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerClassifierOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, frames, channels, height, width)`):
                Normalised frames: any number of them, any height and width that are multiples of the patch.
            labels (`torch.Tensor`, *optional*):
                Class indices (batch,) of any integer type, -100 for a clip to ignore; or several labels a clip as
                0/1 (batch, num_labels) of any type; or values to regress (batch,) or (batch, num_labels).
                `config.problem_type` decides; where it is `None`, num_labels of 1 is regression, a (batch, num_labels)
                or floating-point target is multi-label, and anything else single-label.

        Raises:
            TypeError, ValueError: where pixels or labels don't fit; the message names what came and what is expected.
        """
        cls_only = not records_inner_states(self.config, **kwargs)
        outputs = self.timesformer(pixel_values, return_dict=True, cls_only=cls_only, **kwargs)
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else self.compute_loss(logits, labels)
        return TimesformerClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            temporal_attentions=outputs.temporal_attentions,
            local_attentions=outputs.local_attentions,
            width_attentions=outputs.width_attentions,
        )

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        The loss of transformers for the problem at hand: cross entropy, binary cross entropy or mean square.

        The library's function writes the problem type that it infers into the config, where the next batch finds it;
        it gets a stand-in for the config.
        """
        inferred = infer_problem_type(labels, self.num_labels)
        problem_type = self.config.problem_type or inferred
        check_labels(labels, logits, problem_type)
        if problem_type == "single_label_classification":
            labels = labels.to(torch.long)
        else:
            labels = labels.to(logits.dtype).reshape(logits.shape)
        problem = SimpleNamespace(num_labels=self.num_labels, problem_type=problem_type)
        return self.loss_function(labels=labels, pooled_logits=logits, config=problem)


__all__ = ["TimesformerForVideoClassification", "TimesformerModel", "TimesformerPreTrainedModel"]

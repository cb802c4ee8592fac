"""
TimeSformer: embeddings -> blocks of attention steps and an MLP -> final norm -> head (paper, Section 3, Figure 2).

One token layout runs through the model: (batch, 1 + patches * frames, dim), CLS first, then the patches with the frame
index running fastest. `attention_schemes` defines how each attention step regroups these tokens. With `space_only`,
every frame is a separate sequence: (batch * frames, 1 + patches, dim).
"""

import copy
import math
from collections.abc import Callable
from functools import wraps

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

from .activation_recompute import recomputed
from .attention_backends import faster_than_sdpa, padding_mask
from .attention_schemes import ATTENTION_SCHEMES, ATTENTION_STEPS, AttentionStep, Grid, frames_to_tokens
from .classification_labels import Problem, check_labels, infer_problem_type
from .configuration_timesformer import TimesformerConfig, as_pair, stored_config_values
from .embedding_tables import resize_position_table, resize_time_table
from .loading_checks import SIZES, check_no_attention_left_over_or_missing, check_shapes, has_same_structure
from .model_outputs import FEATURE_LEVELS, TimesformerClassifierOutput, TimesformerModelOutput, check_level


logger = logging.get_logger(__name__)


class TimesformerPatchEmbeddings(nn.Module):
    """The linear embedding of non-overlapping patches of each frame (paper, equation 1)."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.num_channels = config.num_channels
        self.patch_size = as_pair(config.patch_size)
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed patches: (batch, frames, channels, height, width) -> (batch, frames, hidden_size, rows, columns)."""
        self.check_pixel_values(pixel_values)
        batch, frames = pixel_values.shape[:2]
        patches = self.projection(pixel_values.flatten(0, 1).to(self.projection.weight.dtype))
        return patches.unflatten(0, (batch, frames))

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """
        Check that `pixel_values` is a tensor of clips that the model accepts.

        Raises:
            TypeError: if it is not a floating-point tensor.
            ValueError: if its shape doesn't fit. The message gives the shape and the expected one.
        """
        expected = "(batch, frames, channels, height, width)"
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            got = getattr(pixel_values, "dtype", type(pixel_values).__name__)
            raise TypeError(
                f"pixel_values must be a floating-point tensor {expected}, got {got}. Use a video processor: it "
                "scales and normalises the frames."
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
                    f"pixel_values must contain at least one {name} in dimension {dimension} of {expected}, got {shape}"
                )
        for name, size, patch in zip(("height", "width"), (height, width), self.patch_size, strict=True):
            if size == 0 or size % patch:
                raise ValueError(
                    f"{name}={size} of pixel_values {shape} must be a positive multiple of the patch {name}, {patch}"
                )


class TimesformerEmbeddings(nn.Module):
    """The tokens of the first block: embedded patches and CLS, with their position and time embeddings."""

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
        Embed clips (batch, frames, channels, height, width) and return the tokens and their grid.

        The tokens are (batch, 1 + patches * frames, hidden_size), or (batch * frames, 1 + patches, hidden_size) with a
        scheme that keeps frames apart.
        """
        patches = self.patch_embeddings(pixel_values)
        if self.scheme.frames_apart:
            patches = patches.flatten(0, 1).unsqueeze(1)  # each frame becomes a clip of one frame
        _, frames, _, rows, columns = patches.shape
        positions = resize_position_table(
            self.position_embeddings, self.grid_size, (rows, columns), self.interpolation_mode
        )
        cls_token = self.cls_token + positions[:, :1]
        # (batch, frames, dim, rows, columns) -> (batch, patches, frames, dim)
        patches = patches.flatten(3).permute(0, 3, 1, 2) + positions[:, 1:].unsqueeze(2)
        patches = self.pos_drop(patches)
        if not self.scheme.frames_apart:
            times = resize_time_table(self.time_embeddings, frames, self.interpolation_mode)
            patches = self.time_drop(patches + times.unsqueeze(1))
        cls_token = self.pos_drop(cls_token.expand(patches.shape[0], -1, -1))
        return torch.cat((cls_token, patches.flatten(1, 2)), dim=1), (frames, rows, columns)

    @torch.no_grad()
    def resize(self, num_frames: int, grid_size: tuple[int, int]) -> None:
        """Resize the parameters as the forward pass would. They stay contiguous, because FSDP requires it."""
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
    Compute softmax attention (paper, equations 5 to 7), and return its probabilities too.

    (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). This is the slow twin of every faster
    backend.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = F.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    context = torch.matmul(probabilities, value)
    return context.transpose(1, 2).contiguous(), probabilities


class TimesformerSelfAttention(nn.Module):
    """Queries, keys and values of the tokens, and attention inside each group."""

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
        Attend inside each group (groups, length, hidden_size), and return the same shape and the probabilities.

        The probabilities are (groups, heads, length, length). `real_tokens` (groups, length) is False for padding. With
        `first_only`, only the first token of each group is a query, so the first result is (groups, 1, hidden_size).
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
        """
        Attend with the backend of the config, and return the context and, if the backend has them, the probabilities.

        (groups, heads, length, head_dim) -> (groups, length, heads, head_dim)
        """
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        if implementation == "sdpa" and real_tokens is None and not dropout:
            attention_interface = faster_than_sdpa(query, key) or attention_interface
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
    """The output projection of an attention."""

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
    """The first linear layer of the MLP, its activation and its dropout. [`TimesformerLayer.mlp`] calls them itself."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]


class TimesformerOutput(nn.Module):
    """The second linear layer of the MLP."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


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
        self.steps = ATTENTION_SCHEMES[config.attention_type].steps
        for step in self.steps:
            self.add_module(step.norm, nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
            self.add_module(step.attention, TimeSformerAttention(config))
            if step.dense is not None:
                dense = nn.Linear(config.hidden_size, config.hidden_size)
                dense.starts_at_zero = True  # so an added step starts as the identity, in every block
                self.add_module(step.dense, dense)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = TimesformerIntermediate(config)
        self.output = TimesformerOutput(config)
        self.drop_path = TimesformerDropPath(config.drop_path_rate * layer_index / max(config.num_hidden_layers - 1, 1))

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Run the block on tokens (batch, 1 + patches * frames, hidden_size), and return the same shape.

        With `cls_only`, return CLS alone, (batch, 1, hidden_size), if the last step never pads groups.
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
        """Return the residual of one attention step, in the shape of the tokens."""
        real_tokens = step.real_tokens(hidden_states, grid)
        with recomputed(lambda: step.regroup(getattr(self, step.norm)(hidden_states), grid)) as groups:
            residual, _ = getattr(self, step.attention)(groups, real_tokens=real_tokens, **kwargs)
        residual = self.drop_path(residual)
        if step.dense is not None:
            residual = getattr(self, step.dense)(residual)
        return step.restore(residual, grid)

    def attend_with_cls(
        self, hidden_states: torch.Tensor, grid: Grid, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Return the residual of the last attention step for CLS, (batch, 1, hidden_size): the mean of its copies."""
        step = self.steps[-1]
        with recomputed(lambda: step.regroup(getattr(self, step.norm)(hidden_states), grid)) as groups:
            residual, _ = getattr(self, step.attention)(groups, first_only=True, **kwargs)
        return self.drop_path(residual).unflatten(0, (hidden_states.shape[0], -1)).mean(dim=1)

    def mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the residual of the MLP, in the shape of the tokens."""
        with recomputed(lambda: self.layernorm_after(hidden_states)) as normed:
            wide = self.intermediate.dense(normed)
        with recomputed(lambda: self.intermediate.intermediate_act_fn(wide)) as activated:
            return self.output(self.intermediate.dropout(activated))


class TimesformerEncoder(nn.Module):
    """All blocks, one after the other."""

    def __init__(self, config: TimesformerConfig):
        super().__init__()
        self.layer = nn.ModuleList([TimesformerLayer(config, index) for index in range(config.num_hidden_layers)])

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Run all blocks on tokens. With `cls_only`, the last block may return CLS alone."""
        last = len(self.layer) - 1
        for number, layer in enumerate(self.layer):
            hidden_states = layer(hidden_states, grid, cls_only=cls_only and number == last, **kwargs)
        return hidden_states


class TimesformerPreTrainedModel(PreTrainedModel):
    """The base class of the models: initial weights, loading with resized embeddings, and flags for transformers."""

    config: TimesformerConfig
    base_model_prefix = "timesformer"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
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
    _can_record_outputs = {
        "hidden_states": TimesformerLayer,
    } | {
        step.maps: OutputRecorder(TimeSformerAttention, index=1, layer_name=step.attention) for step in ATTENTION_STEPS
    }

    def __init__(self, config: TimesformerConfig, *args, **kwargs):
        if not isinstance(config, TimesformerConfig):
            raise TypeError(
                f"{type(self).__name__} needs a config of {TimesformerConfig.__module__}, got one of "
                f"{type(config).__module__}; convert it by TimesformerConfig.from_dict(config.to_dict())"
            )
        config.check_values()
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
    def from_image_vit(cls, vit, attention_type: str = "divided_space_time", num_frames: int = 8, **settings):
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
        cls, pretrained_model_name_or_path, *model_args, config=None, output_loading_info: bool = False, **kwargs
    ):
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
        if isinstance(config, PreTrainedConfig) and not isinstance(config, cls.config_class):
            config = cls.config_class.from_dict(config.to_dict())  # a config of the model built into transformers
        stored = stored_config_values(pretrained_model_name_or_path, kwargs)
        wanted = {name: kwargs.pop(name) for name in SIZES if name in kwargs}
        if stored and isinstance(config, PreTrainedConfig):  # the caller may have changed the sizes in it
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
            ignore_mismatched_sizes=True,  # checked below, with a better message
            **kwargs,
        )
        if not ignore_mismatched_sizes:
            check_shapes(pretrained_model_name_or_path, info)
        if stored and has_same_structure(stored, model.config):
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
    Make `output_attentions`, an argument or a field of the config, return the maps of every attention step.

    `capture_outputs` needs a separate flag for each kind of map. The wrapper also warns if eager attention replaces a
    backend that returns no maps.
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
    """The TimeSformer without a head: it turns pixels into normalised tokens."""

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
        Compute the normalised tokens of clips.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, frames, channels, height, width)`):
                Normalised frames. Their number is free, and height and width are multiples of the patch size.
            cls_only (`bool`, *optional*):
                Whether the caller needs only CLS. The last block then leaves out what only the other tokens need, and
                `last_hidden_state` may end after CLS.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*):
                Flags as in every model of transformers; see [`TimesformerModelOutput`]. The defaults are in the config.

        Raises:
            TypeError: if `pixel_values` is not a floating-point tensor.
            ValueError: if its shape doesn't fit. The message gives the shape and the expected one.
        """
        for step in ATTENTION_STEPS:  # these flags are for `capture_outputs` only
            if step.maps != "attentions":
                kwargs.pop(f"output_{step.maps}", None)
        if kwargs.pop("attention_mask", None) is not None:  # PEFT passes `None`
            raise ValueError("TimeSformer takes no attention_mask, because it attends to every patch; leave it out")
        hidden_states, grid = self.embeddings(pixel_values)
        hidden_states = self.encoder(hidden_states, grid, cls_only=cls_only, **kwargs)
        if self.scheme.frames_apart:
            hidden_states = hidden_states.unflatten(0, pixel_values.shape[:2]).mean(dim=1)
        return TimesformerModelOutput(last_hidden_state=self.layernorm(hidden_states))

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
        tokens, grid = self.embeddings(pixel_values)
        tokens = self.encoder(tokens, grid, cls_only=level == "clip")
        if self.scheme.frames_apart:
            grid = (pixel_values.shape[1], *grid[1:])
            tokens = frames_to_tokens(tokens, grid)  # averages only CLS, before the norm as in the forward pass
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

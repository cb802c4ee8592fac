"""
The encoder of `optimize_for_inference`. It runs the blocks of the ordinary encoder with fewer passes over memory.

Tokens keep one layout from the first block to the last: (batch, places, frames, hidden_size). A place is CLS or the
position of a patch in the frame. So CLS has one copy for each frame, and all copies are equal between the blocks.
Attention reads its groups from this layout as strided views and returns its result in the same layout. The result of
each step is added to the tokens in place, so no token is ever moved.

The price: CLS goes through each linear layer once a frame instead of once a clip. That is one token more for every
`patches` tokens. A scheme without steps along time is treated as a clip of one frame, in which every patch of the clip
is a place of its own.

Where a CPU has no instructions for 16-bit numbers, torch emulates 16-bit matmuls, which is slow. There the tokens are
float32 from the first block to the last, and the weights are converted to float32 when they are used.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import GELUActivation
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..model.attention_schemes import ALL_TOKENS, SPACE, TIME, AttentionScheme, AttentionStep, Grid
from ..model.configuration_timesformer import TimesformerConfig
from ..model.model_outputs import TimesformerModelOutput
from ..model.modeling_timesformer import TimesformerEncoder, TimesformerLayer, configured_grid


class _ForInference(nn.Module):
    """A module of an optimized model, which can't be trained."""

    def train(self, mode: bool = True):
        """Set evaluation mode, with `mode=False`. Training mode is an error."""
        if mode:
            raise ValueError(
                "A model of optimize_for_inference can't be trained: its weights are folded. Train the model that it "
                "was made from, and optimize it again"
            )
        return super().train(mode)


class _RearrangedWeights(_ForInference):
    """
    A linear layer with its weights in another order than a checkpoint. It saves the checkpoint's order and refuses to
    load.
    """

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        errors.append(f"{prefix[:-1]}: a model of optimize_for_inference can't load weights; load first, then optimize")


class FoldedLinear(_RearrangedWeights):
    """
    A placeholder for a linear layer that was folded into the one before it. It computes nothing and is saved as the
    identity.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        self.register_buffer("like", linear.weight.new_empty(()), persistent=False)  # keeps dtype and device

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the input unchanged."""
        return hidden_states

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.eye(self.in_features, dtype=self.like.dtype, device=self.like.device)
        destination[f"{prefix}bias"] = self.like.new_zeros(self.out_features)


class HeadMajorLinear(_RearrangedWeights, nn.Linear):
    """
    The projection to queries, keys and values, with rows sorted by head first: query, key and value of head 0, then
    those of head 1. With this order attention can treat frames and heads as one dimension without a copy. `forward`
    returns the order of the ordinary layer.
    """

    def __init__(self, linear: nn.Linear, head_dim: int):
        super().__init__(linear)
        self.head_dim = head_dim
        for name, parameter in linear.named_parameters():
            by_head = parameter.detach().unflatten(0, (3, -1, head_dim)).transpose(0, 1).flatten(0, 2)
            self.register_parameter(name, nn.Parameter(by_head.contiguous(), requires_grad=False))
        if linear.bias is None:
            self.register_parameter("bias", None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return (..., 3 * dim) in the order of the ordinary layer: all queries, then all keys, then all values."""
        by_head = super().forward(hidden_states).unflatten(-1, (-1, 3, self.head_dim))
        return by_head.transpose(-3, -2).flatten(-3)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for name, parameter in self.named_parameters():
            by_part = parameter.detach().unflatten(0, (-1, 3, self.head_dim)).transpose(0, 1)
            destination[prefix + name] = by_part.flatten(0, 2).contiguous()


def _along_frames(qkv: torch.Tensor) -> torch.Tensor:
    """
    View (batch, places, frames, heads, 3, head_dim) as (3, batch * places, heads, frames, head_dim), without a copy.
    """
    return qkv.flatten(0, 1).permute(3, 0, 2, 1, 4)


def _along_places(qkv: torch.Tensor) -> torch.Tensor:
    """
    View (batch, places, frames, heads, 3, head_dim) as (3, batch, frames * heads, places, head_dim), without a copy.
    """
    return qkv.flatten(2, 3).permute(3, 0, 2, 1, 4)


# In bytes. glibc's allocator doesn't reuse larger blocks: it gets their pages from the system each time, which is slow
# (M_MMAP_THRESHOLD in mallopt(3)).
LARGEST_REUSED_MEMORY = 2**25

# dtype -> names in torch.cpu.get_capabilities() of the instructions for its matmuls
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}

# step -> the view of its groups. A scheme with any other step keeps the ordinary encoder.
_GROUPS: dict[AttentionStep, Callable[[torch.Tensor], torch.Tensor]] = {
    TIME: _along_frames,
    SPACE: _along_places,
    ALL_TOKENS: _along_places,
}


def has_grid_layout(scheme: AttentionScheme) -> bool:
    """Return whether the blocks of a scheme can use the token layout of this module."""
    return all(step in _GROUPS for step in scheme.steps)


def _tokens_to_places(tokens: torch.Tensor, frames: int) -> torch.Tensor:
    """
    Copy (batch, 1 + patches * frames, dim) into a new tensor (batch, 1 + patches, frames, dim), with CLS for each
    frame.
    """
    cls_copies = tokens[:, :1].unsqueeze(2).expand(-1, -1, frames, -1)
    return torch.cat((cls_copies, tokens[:, 1:].unflatten(1, (-1, frames))), dim=1)


def _places_to_tokens(places: torch.Tensor) -> torch.Tensor:
    """
    Copy (batch, 1 + patches, frames, dim) to (batch, 1 + patches * frames, dim), with the first of the CLS copies.
    """
    return torch.cat((places[:, 0, :1], places[:, 1:].flatten(1, 2)), dim=1)


def emulated_dtypes() -> tuple[torch.dtype, ...]:
    """Return the 16-bit dtypes that this CPU has no matmul instructions for, so that torch emulates them."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(dtype for dtype, names in _INSTRUCTIONS.items() if not any(map(capabilities.get, names)))


def is_quantized(linear: nn.Linear) -> bool:
    """Return whether the weight is a quantized tensor, which needs its own matmul."""
    return type(linear.weight) is not nn.Parameter


def _can_write_in_place(linear: nn.Linear) -> bool:
    """
    Return whether the layer's matmul can write to a given tensor. A quantized weight can't, and torch.compile plans
    memory itself.
    """
    return not is_quantized(linear) and not torch.compiler.is_compiling()


def _weight_and_bias(layer: nn.Linear | nn.LayerNorm, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Return the layer's weight and bias in the dtype of the tokens.

    Raises:
        ValueError: for a layer of another class, for example an adapter, which does more than multiply by its weight.
    """
    if type(layer) not in (nn.Linear, HeadMajorLinear, nn.LayerNorm):
        raise ValueError(
            f"A {type(layer).__name__} was put into a model of optimize_for_inference, whose layers differ from the "
            "checkpoint's. Put it into the ordinary model, merge it, then optimize"
        )
    if layer.weight.dtype is tokens.dtype:
        return layer.weight, layer.bias
    return layer.weight.to(tokens.dtype), None if layer.bias is None else layer.bias.to(tokens.dtype)


def _normalize(tokens: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(tokens, norm.normalized_shape, *_weight_and_bias(norm, tokens), norm.eps)


def linear_into_buffer(tokens: torch.Tensor, linear: nn.Linear, buffer: torch.Tensor) -> torch.Tensor:
    """
    Return the linear layer's output (tokens, out_features) for tokens (..., in_features).

    Where the layer allows it, the result is written into `buffer`, a preallocated 1-D tensor that each step overwrites.
    """
    tokens = tokens.flatten(0, -2)
    weight, bias = _weight_and_bias(linear, tokens)
    if bias is None or not _can_write_in_place(linear):
        return F.linear(tokens, weight, bias)
    out = buffer[: len(tokens) * linear.out_features].view(len(tokens), -1)
    return torch.addmm(bias, tokens, weight.t(), out=out)


def _add_product(places: torch.Tensor, tokens: torch.Tensor, linear: nn.Linear) -> None:
    """Add the linear layer's output for tokens (..., in_features) to the places, in place."""
    weight, bias = _weight_and_bias(linear, tokens)
    if not _can_write_in_place(linear):
        places += F.linear(tokens, weight, bias).view_as(places)
        return
    flat = places.view(-1, places.shape[-1])
    flat.addmm_(tokens.view(len(flat), -1), weight.t())
    flat += bias


def project(
    layer: TimesformerLayer, step: AttentionStep, places: torch.Tensor, buffer: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values of an attention step in its groups, each (groups, heads, length, head_dim)."""
    attention = getattr(layer, step.attention).attention
    qkv = linear_into_buffer(_normalize(places, getattr(layer, step.norm)), attention.qkv, buffer)
    return _GROUPS[step](qkv.view(*places.shape[:3], -1, 3, attention.head_dim)).unbind(0)


def attend(
    layer: TimesformerLayer,
    step: AttentionStep,
    places: torch.Tensor,
    buffer: torch.Tensor,
    **kwargs: Unpack[TransformersKwargs],
) -> None:
    """Add the residual of one attention step to the places, in place."""
    attention = getattr(layer, step.attention)
    context, _ = attention.attention.attend(*project(layer, step, places, buffer), **kwargs)
    cls_copies = places[:, 0].clone()
    _add_product(places, context.reshape(places.shape), attention.output.dense)
    # CLS takes no part in an added step; in the last step it gets the mean over its copies
    places[:, 0] = cls_copies if step.dense is not None else places[:, 0].mean(dim=1, keepdim=True)


def _add_mlp(layer: TimesformerLayer, places: torch.Tensor, buffer: torch.Tensor) -> None:
    """Add the residual of the MLP to the places, in place."""
    hidden = linear_into_buffer(_normalize(places, layer.layernorm_after), layer.intermediate.dense, buffer)
    activation = layer.intermediate.intermediate_act_fn
    hidden = torch.ops.aten.gelu_(hidden) if isinstance(activation, GELUActivation) else activation(hidden)
    _add_product(places, hidden, layer.output.dense)


class InferenceEncoder(_ForInference, TimesformerEncoder):
    """
    An encoder that shares the blocks of the ordinary encoder and keeps tokens in the layout of this module.

    Gradients, inner states (attentions, hidden states), autocast and export are not possible in this layout. For them
    it runs the blocks as the ordinary encoder does.
    """

    def __init__(self, encoder: TimesformerEncoder, config: TimesformerConfig):
        nn.Module.__init__(self)
        self.layer, self.config = encoder.layer, config
        self.emulated_dtypes = emulated_dtypes()
        self.train(encoder.training)

    def forward(
        self,
        hidden_states: torch.Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        grid: Grid | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TimesformerModelOutput | tuple:
        """Encode tokens. Arguments and result are those of the ordinary encoder."""
        if output_attentions or output_hidden_states or self.needs_ordinary_path(hidden_states):
            flags = (output_attentions, output_hidden_states, return_dict)
            return super().forward(hidden_states, *flags, grid=grid, cls_only=cls_only, **kwargs)
        grid = configured_grid(self.config, hidden_states) if grid is None else grid
        parts = hidden_states.split(self.clips_at_once(hidden_states))
        tokens = [self.run(part, grid, cls_only, **kwargs) for part in parts]
        tokens = torch.cat(tokens) if len(tokens) > 1 else tokens[0]
        return TimesformerModelOutput(last_hidden_state=tokens) if return_dict else (tokens,)

    def run(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Run the blocks on tokens (batch, 1 + patches * frames, hidden_size) in the layout of this module, and return the
        same shape; with `cls_only` return CLS (batch, 1, hidden_size).
        """
        frames = grid[0] if TIME in self.layer[0].steps else 1
        places = _tokens_to_places(hidden_states.to(self.inner_dtype(hidden_states)), frames)
        buffer = places.new_empty(places.numel() * max(3, -(-self.config.intermediate_size // places.shape[-1])))
        for layer in self.layer[: -1 if cls_only else None]:
            for step in layer.steps:
                attend(layer, step, places, buffer, **kwargs)
            _add_mlp(layer, places, buffer)
        tokens = self.cls_of_last_block(places, buffer, **kwargs) if cls_only else _places_to_tokens(places)
        return tokens.to(hidden_states.dtype)

    def inner_dtype(self, hidden_states: torch.Tensor) -> torch.dtype:
        """
        Return the dtype of tokens inside the encoder: float32 where this CPU would emulate 16-bit matmuls, otherwise
        the input's.
        """
        emulated = hidden_states.device.type == "cpu" and hidden_states.dtype in self.emulated_dtypes
        return torch.float32 if emulated and not is_quantized(self.layer[0].intermediate.dense) else hidden_states.dtype

    def clips_at_once(self, hidden_states: torch.Tensor) -> int:
        """
        Return how many clips to run together. On a CPU, larger buffers than `LARGEST_REUSED_MEMORY` would be slow.
        """
        batch, length, _ = hidden_states.shape
        if hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
            return batch
        bytes_of_clip = length * self.config.intermediate_size * self.inner_dtype(hidden_states).itemsize
        return max(1, LARGEST_REUSED_MEMORY // bytes_of_clip)

    def needs_ordinary_path(self, hidden_states: torch.Tensor) -> bool:
        """Return whether this call needs something that only the ordinary encoder can do, for example gradients."""
        return (
            self.training
            or torch.compiler.is_exporting()
            or torch.is_autocast_enabled(hidden_states.device.type)
            or (torch.is_grad_enabled() and any(x.requires_grad for x in (hidden_states, *self.parameters())))
        )

    def cls_of_last_block(
        self, places: torch.Tensor, buffer: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Run the last block on places (batch, 1 + patches, frames, hidden_size). Return its CLS (batch, 1, hidden_size).
        """
        layer = self.layer[-1]
        for step in layer.steps[:-1]:
            attend(layer, step, places, buffer, **kwargs)
        step = layer.steps[-1]
        attention = getattr(layer, step.attention)
        query, key, value = project(layer, step, places, buffer)
        context, _ = attention.attention.attend(query[:, :, :1], key, value, **kwargs)
        cls_copies = places[:, 0].contiguous()
        _add_product(cls_copies, context.reshape(cls_copies.shape), attention.output.dense)
        cls_token = cls_copies.mean(dim=1, keepdim=True)
        _add_mlp(layer, cls_token, buffer)
        return cls_token

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
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..model.attention_schemes import ALL_TOKENS, SPACE, TIME, AttentionScheme, AttentionStep, Grid
from ..model.backends import LARGEST_REUSED_MEMORY, emulated_dtypes, size_of_part
from ..model.configuration_timesformer import TimesformerConfig
from ..model.model_outputs import TimesformerModelOutput
from ..model.modeling_timesformer import TimesformerEncoder, TimesformerLayer, configured_grid
from .int8_linear import Int8Linear
from .linear_kernels import ForInference, InferenceLinear, is_quantized


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


def _own(layer: nn.Module) -> InferenceLinear | Int8Linear:
    """
    Return a linear layer of an optimized model.

    Raises:
        ValueError: for a layer of another class, for example an adapter, which does more than multiply by its weight.
    """
    if type(layer) not in (InferenceLinear, Int8Linear):
        raise ValueError(
            f"A {type(layer).__name__} was put into a model of optimize_for_inference, whose layers differ from the "
            "checkpoint's. Put it into the ordinary model, merge it, then optimize"
        )
    return layer


def _normalize(tokens: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    weight, bias = norm.weight.to(tokens.dtype), norm.bias.to(tokens.dtype)
    return F.layer_norm(tokens, norm.normalized_shape, weight, bias, norm.eps)


def _is_large(tokens: torch.Tensor, features: int) -> bool:
    """Return whether so many features for each token take more memory than a CPU's allocator reuses."""
    size = len(tokens) * features * tokens.itemsize
    return size > LARGEST_REUSED_MEMORY and tokens.device.type == "cpu" and not torch.compiler.is_compiling()


def _rows_at_once(tokens: torch.Tensor, features: int) -> int:
    """
    Return how many tokens (rows, dim) to compute at once, where that gives so many features each: few enough that the
    allocator reuses the memory.
    """
    if not _is_large(tokens, features):
        return len(tokens)
    return size_of_part(len(tokens), max(1, LARGEST_REUSED_MEMORY // (2 * features * tokens.itemsize)))


def _add_in_parts(places: torch.Tensor, rows: int, add: Callable[..., torch.Tensor], *others: torch.Tensor):
    """
    Return `add(tokens, *others)` in the shape of the places, computed for so many tokens at a time. The places may be
    changed in place.
    """
    tokens = places.flatten(0, -2)
    if rows >= len(tokens):
        return add(tokens, *others).view_as(places)
    for some, *parts in zip(*(tensor.split(rows) for tensor in (tokens, *others)), strict=True):
        some.copy_(add(some, *parts))
    return places


def project(
    layer: TimesformerLayer, step: AttentionStep, places: torch.Tensor, buffer: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values of an attention step in its groups, each (groups, heads, length, head_dim)."""
    attention, norm, tokens = getattr(layer, step.attention).attention, getattr(layer, step.norm), places.flatten(0, -2)
    projection = _own(attention.qkv)
    rows = _rows_at_once(tokens, projection.out_features)
    if rows >= len(tokens):
        qkv = projection.product(_normalize(tokens, norm), buffer)
    else:
        dtype = getattr(projection, "output_dtype", tokens.dtype)
        qkv = buffer.view(dtype)[: len(tokens) * projection.out_features].view(len(tokens), -1)
        for part, some in zip(qkv.split(rows), tokens.split(rows), strict=True):
            part.copy_(projection.product(_normalize(some, norm), part.flatten()))
    return _GROUPS[step](qkv.view(*places.shape[:3], -1, 3, attention.head_dim)).unbind(0)


def _context_of_cls(normed: torch.Tensor, qkv: InferenceLinear, scaling: float) -> torch.Tensor:
    """
    Attend from CLS alone, without keys and values of the other tokens.

    The score of a token x is query . (K x) = (K^T query) . x. The context is the sum of p (V x) = V (sum of p x). So K
    and V multiply a vector for each head instead of every token. The bias of the keys adds the same to all scores,
    which changes no probability.

    Args:
        normed: (batch, places, frames, dim).
        qkv: the projection, with `head_dim` and a plain weight.
        scaling: of the scores.

    Returns:
        the context of the CLS copies, (batch, frames, heads * head_dim).
    """
    weight, bias = qkv.by_head(normed.dtype)  # (heads, 3, head_dim, dim) and (heads, 3, head_dim)
    query_weight, key_weight, value_weight = weight.unbind(1)
    tokens = normed.transpose(1, 2)  # (batch, frames, places, dim)
    query = torch.einsum("bfd,hed->bfhe", tokens[:, :, 0], query_weight)
    if bias is not None:
        query = query + bias[:, 0]
    scores = torch.einsum("bfhe,hed->bfhd", query * scaling, key_weight) @ tokens.transpose(-1, -2)
    context = torch.einsum("bfhd,hed->bfhe", scores.softmax(dim=-1) @ tokens, value_weight)
    return (context if bias is None else context + bias[:, 2]).flatten(2)


def attend(
    layer: TimesformerLayer,
    step: AttentionStep,
    places: torch.Tensor,
    buffer: torch.Tensor,
    **kwargs: Unpack[TransformersKwargs],
) -> torch.Tensor:
    """Return the places plus the residual of one attention step. They may be changed in place."""
    attention = getattr(layer, step.attention)
    query, key, value = project(layer, step, places, buffer)
    if _is_large(places.flatten(0, -2), places.shape[-1]):  # the buffer has room behind queries, keys and values
        kwargs["out"] = buffer.view(query.dtype)[3 * query.numel() :][: query.numel()].view(query.transpose(1, 2).shape)
    context, _ = attention.attention.attend(query, key, value, **kwargs)
    cls_copies, projection = places[:, 0].clone(), _own(attention.output.dense)
    context = context.reshape(-1, projection.in_features)
    places = _add_in_parts(places, _rows_at_once(context, projection.out_features), projection.add_product, context)
    # CLS takes no part in an added step; in the last step it gets the mean over its copies
    places[:, 0] = cls_copies if step.dense is not None else places[:, 0].mean(dim=1, keepdim=True)
    return places


def _add_mlp(layer: TimesformerLayer, places: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Return the places plus the residual of the MLP. They may be changed in place."""
    first, second = _own(layer.intermediate.dense), _own(layer.output.dense)

    def add(tokens: torch.Tensor) -> torch.Tensor:
        normed = _normalize(tokens, layer.layernorm_after)
        return second.add_product(
            tokens, first.activated_product(normed, layer.intermediate.intermediate_act_fn, buffer)
        )

    rows = first.rows_at_once or _rows_at_once(places.flatten(0, -2), first.out_features)
    return _add_in_parts(places, rows, add)


class InferenceEncoder(ForInference, TimesformerEncoder):
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
        buffer = places.new_empty(places.numel() * max(4, -(-self.config.intermediate_size // places.shape[-1])))
        for layer in self.layer[: -1 if cls_only else None]:
            for step in layer.steps:
                places = attend(layer, step, places, buffer, **kwargs)
            places = _add_mlp(layer, places, buffer)
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
        Return how many clips to run together. On a CPU, larger buffers than `LARGEST_REUSED_MEMORY` would be slow. In
        int8, the tokens of a clip have scales of their own.
        """
        batch, length, _ = hidden_states.shape
        if isinstance(self.layer[0].intermediate.dense, Int8Linear):
            return 1
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
            places = attend(layer, step, places, buffer, **kwargs)
        step = layer.steps[-1]
        attention = getattr(layer, step.attention)
        if _own(attention.attention.qkv).of_cls and not is_quantized(attention.attention.qkv):
            normed = _normalize(places, getattr(layer, step.norm))
            context = _context_of_cls(normed, attention.attention.qkv, attention.attention.scale)
        else:
            query, key, value = project(layer, step, places, buffer)
            context, _ = attention.attention.attend(query[:, :, :1], key, value, **kwargs)
        cls_copies = _own(attention.output.dense).add_product(places[:, 0].contiguous(), context)
        return _add_mlp(layer, cls_copies.mean(dim=1, keepdim=True), buffer)

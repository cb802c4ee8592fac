"""
The encoder of `optimize_for_inference`: the same blocks with fewer passes over memory.

Tokens keep one layout from the first block to the last, (batch, places, frames, hidden_size), where a place is CLS or
a patch. CLS so has a copy for every frame, all alike between the blocks. Attention takes its groups from that layout by
strides, its result is in that layout, and what a step brings is added in place: no token is moved. The price, CLS
multiplied with every weight once a frame instead of once, is one in `patches` tokens. A scheme without steps along
time is the case of one frame, with every patch of the clip a place.

On a processor without instructions for 16-bit numbers, where torch emulates products of them, tokens are float32
between the first block and the last, and weights are widened as they are used.
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
from ..model.modeling_timesformer import TimesformerEncoder, TimesformerLayer, records_inner_states


class _RearrangedWeights(nn.Module):
    """A linear layer that doesn't hold its weights as a checkpoint does. It saves them so; it loads none."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        errors.append(f"{prefix[:-1]}: a model of optimize_for_inference loads no weights; optimize one that has them")


class FoldedLinear(_RearrangedWeights):
    """In place of a linear layer that was folded into the one before: saved as the identity, and left out."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        self.register_buffer("like", linear.weight.new_empty(()), persistent=False)  # keeps dtype and device

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.eye(self.in_features, dtype=self.like.dtype, device=self.like.device)
        destination[f"{prefix}bias"] = self.like.new_zeros(self.out_features)


class HeadMajorLinear(_RearrangedWeights, nn.Linear):
    """
    The projection to queries, keys and values with each head's three side by side, so that frames and heads together
    are one dimension of attention without being moved. Called, it returns what the ordinary one does.
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
        by_head = super().forward(hidden_states).unflatten(-1, (-1, 3, self.head_dim))
        return by_head.transpose(-3, -2).flatten(-3)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for name, parameter in self.named_parameters():
            by_part = parameter.detach().unflatten(0, (-1, 3, self.head_dim)).transpose(0, 1)
            destination[prefix + name] = by_part.flatten(0, 2).contiguous()


def _along_frames(qkv: torch.Tensor) -> torch.Tensor:
    """(batch, places, frames, heads, 3, head_dim) -> (3, batch * places, heads, frames, head_dim), no copy"""
    return qkv.flatten(0, 1).permute(3, 0, 2, 1, 4)


def _along_places(qkv: torch.Tensor) -> torch.Tensor:
    """(batch, places, frames, heads, 3, head_dim) -> (3, batch, frames * heads, places, head_dim), no copy"""
    return qkv.flatten(2, 3).permute(3, 0, 2, 1, 4)


# bytes; glibc's allocator gets larger pieces from the system each time, page by page (M_MMAP_THRESHOLD in mallopt(3))
LARGEST_REUSED_MEMORY = 2**25

# dtype -> what torch.cpu calls the instructions for products of it
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}

# step -> how it takes its groups. A scheme with any other step keeps the ordinary encoder.
_GROUPS: dict[AttentionStep, Callable[[torch.Tensor], torch.Tensor]] = {
    TIME: _along_frames,
    SPACE: _along_places,
    ALL_TOKENS: _along_places,
}


def has_grid_layout(scheme: AttentionScheme) -> bool:
    """Whether the blocks of a scheme can keep the layout of this module."""
    return all(step in _GROUPS for step in scheme.steps)


def _tokens_to_places(tokens: torch.Tensor, frames: int) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, 1 + patches, frames, dim), in memory of its own"""
    cls_copies = tokens[:, :1].unsqueeze(2).expand(-1, -1, frames, -1)
    return torch.cat((cls_copies, tokens[:, 1:].unflatten(1, (-1, frames))), dim=1)


def _places_to_tokens(places: torch.Tensor) -> torch.Tensor:
    """(batch, 1 + patches, frames, dim) -> (batch, 1 + patches * frames, dim), with the first of the CLS copies"""
    return torch.cat((places[:, 0, :1], places[:, 1:].flatten(1, 2)), dim=1)


def emulated_dtypes() -> tuple[torch.dtype, ...]:
    """Those that this machine's processor has no instructions for."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(dtype for dtype, names in _INSTRUCTIONS.items() if not any(map(capabilities.get, names)))


def is_quantized(linear: nn.Linear) -> bool:
    """Its weight then has products of its own."""
    return type(linear.weight) is not nn.Parameter


def _writes_into_memory(linear: nn.Linear) -> bool:
    """Not in a compiler, which plans memory itself."""
    return not is_quantized(linear) and not torch.compiler.is_compiling()


def _weight_and_bias(layer: nn.Linear | nn.LayerNorm, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    In the dtype of the tokens.

    Raises:
        ValueError: for a layer that others have put in its place, which does more than multiply by its weight.
    """
    if type(layer) not in (nn.Linear, HeadMajorLinear, nn.LayerNorm):
        raise ValueError(
            f"A {type(layer).__name__} was put into a model of optimize_for_inference, whose layers aren't the "
            "checkpoint's; put it into the ordinary model, merge it, then optimize"
        )
    if layer.weight.dtype is tokens.dtype:
        return layer.weight, layer.bias
    return layer.weight.to(tokens.dtype), None if layer.bias is None else layer.bias.to(tokens.dtype)


def _normalize(tokens: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(tokens, norm.normalized_shape, *_weight_and_bias(norm, tokens), norm.eps)


def multiply(tokens: torch.Tensor, linear: nn.Linear, memory: torch.Tensor) -> torch.Tensor:
    """What the layer's own weights make of (..., in_features), in memory that is there, where they are plain ones."""
    tokens = tokens.flatten(0, -2)
    weight, bias = _weight_and_bias(linear, tokens)
    if bias is None or not _writes_into_memory(linear):
        return F.linear(tokens, weight, bias)
    out = memory[: len(tokens) * linear.out_features].view(len(tokens), -1)
    return torch.addmm(bias, tokens, weight.t(), out=out)


def _add_product(places: torch.Tensor, tokens: torch.Tensor, linear: nn.Linear) -> None:
    """Add to the places, in memory of their own, what the layer makes of (..., in_features)."""
    weight, bias = _weight_and_bias(linear, tokens)
    if not _writes_into_memory(linear):
        places += F.linear(tokens, weight, bias).view_as(places)
        return
    flat = places.view(-1, places.shape[-1])
    flat.addmm_(tokens.view(len(flat), -1), weight.t())
    flat += bias


def project(
    layer: TimesformerLayer, step: AttentionStep, places: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of a step, in its groups: each (groups, heads, length, head_dim)"""
    attention = getattr(layer, step.attention).attention
    qkv = multiply(_normalize(places, getattr(layer, step.norm)), attention.qkv, memory)
    return _GROUPS[step](qkv.view(*places.shape[:3], -1, 3, attention.head_dim)).unbind(0)


def attend(
    layer: TimesformerLayer,
    step: AttentionStep,
    places: torch.Tensor,
    memory: torch.Tensor,
    **kwargs: Unpack[TransformersKwargs],
) -> None:
    """Add to the places what one attention step brings."""
    attention = getattr(layer, step.attention)
    context, _ = attention.attention.attend(*project(layer, step, places, memory), **kwargs)
    cls_copies = places[:, 0].clone()
    _add_product(places, context.reshape(places.shape), attention.output.dense)
    # in an added step CLS takes no part; in the last one it takes the mean of what its copies got
    places[:, 0] = cls_copies if step.dense is not None else places[:, 0].mean(dim=1, keepdim=True)


def _add_mlp(layer: TimesformerLayer, places: torch.Tensor, memory: torch.Tensor) -> None:
    """Add to the places what the MLP brings."""
    hidden = multiply(_normalize(places, layer.layernorm_after), layer.intermediate.dense, memory)
    activation = layer.intermediate.intermediate_act_fn
    hidden = torch.ops.aten.gelu_(hidden) if isinstance(activation, GELUActivation) else activation(hidden)
    _add_product(places, hidden, layer.output.dense)


class InferenceEncoder(TimesformerEncoder):
    """
    The blocks of another encoder, which it shares. What the layout can't serve, gradients, inner states or an export,
    takes the ordinary way through the same blocks.
    """

    def __init__(self, encoder: TimesformerEncoder, config: TimesformerConfig):
        nn.Module.__init__(self)
        self.layer, self.config = encoder.layer, config
        self.emulated_dtypes = emulated_dtypes()
        self.train(encoder.training)

    def forward(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        if self.needs_blocks(hidden_states, **kwargs):
            return super().forward(hidden_states, grid, cls_only=cls_only, **kwargs)
        clips = self.clips_at_once(hidden_states)
        if len(hidden_states) > clips:
            parts = hidden_states.split(clips)
            return torch.cat([self.run(part, grid, cls_only, **kwargs) for part in parts])
        return self.run(hidden_states, grid, cls_only, **kwargs)

    def run(
        self, hidden_states: torch.Tensor, grid: Grid, cls_only: bool, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """The blocks, in the layout of this module."""
        frames = grid[0] if TIME in self.layer[0].steps else 1
        places = _tokens_to_places(hidden_states.to(self.inner_dtype(hidden_states)), frames)
        memory = places.new_empty(places.numel() * max(3, -(-self.config.intermediate_size // places.shape[-1])))
        for layer in self.layer[: -1 if cls_only else None]:
            for step in layer.steps:
                attend(layer, step, places, memory, **kwargs)
            _add_mlp(layer, places, memory)
        tokens = self.cls_of_last_block(places, memory, **kwargs) if cls_only else _places_to_tokens(places)
        return tokens.to(hidden_states.dtype)

    def inner_dtype(self, hidden_states: torch.Tensor) -> torch.dtype:
        """Of the tokens between the blocks."""
        emulated = hidden_states.device.type == "cpu" and hidden_states.dtype in self.emulated_dtypes
        return torch.float32 if emulated and not is_quantized(self.layer[0].intermediate.dense) else hidden_states.dtype

    def clips_at_once(self, hidden_states: torch.Tensor) -> int:
        """How many go through the blocks together: on a CPU no more than its memory is quick for."""
        batch, length, _ = hidden_states.shape
        if hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
            return batch
        bytes_of_clip = length * self.config.intermediate_size * self.inner_dtype(hidden_states).itemsize
        return max(1, LARGEST_REUSED_MEMORY // bytes_of_clip)

    def needs_blocks(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> bool:
        """Whether only the blocks themselves can do what is asked for."""
        return (
            self.training
            or torch.compiler.is_exporting()
            or torch.is_autocast_enabled(hidden_states.device.type)
            or (torch.is_grad_enabled() and any(x.requires_grad for x in (hidden_states, *self.parameters())))
            or records_inner_states(self.config, **kwargs)
        )

    def cls_of_last_block(
        self, places: torch.Tensor, memory: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """(batch, 1 + patches, frames, hidden_size) -> CLS after the last block (batch, 1, hidden_size)"""
        layer = self.layer[-1]
        for step in layer.steps[:-1]:
            attend(layer, step, places, memory, **kwargs)
        step = layer.steps[-1]
        attention = getattr(layer, step.attention)
        query, key, value = project(layer, step, places, memory)
        context, _ = attention.attention.attend(query[:, :, :1], key, value, **kwargs)
        cls_copies = places[:, 0].contiguous()
        _add_product(cls_copies, context.reshape(cls_copies.shape), attention.output.dense)
        cls_token = cls_copies.mean(dim=1, keepdim=True)
        _add_mlp(layer, cls_token, memory)
        return cls_token

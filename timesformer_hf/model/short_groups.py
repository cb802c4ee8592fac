"""
Attention inside many short groups of tokens, for example the frames of each location, as one Triton kernel per pass.

Flash kernels work through a group in tiles of 64 or 128 tokens. A group of 8 frames leaves such a tile almost empty.
Here one tile holds as many groups as fit, and a mask keeps them apart. A group always fits whole into its tile. So the
forward pass needs no running maximum, and the backward pass recomputes the probabilities from queries and keys. The
slow twin that defines the result is `eager_attention_forward` in modeling_timesformer.
"""

from importlib import import_module

import torch


# Imported by a function, because transformers refuses to load a saved model's code if an `import` in it would fail.
triton, tl = import_module("triton"), import_module("triton.language")

# The longest groups for which the kernels were faster than scaled_dot_product_attention, forward and backward together.
# Measured once on an H100 with torch 2.11, 12 heads of 64 channels. The gain is larger with fewer frames. With 96
# frames, the flash kernel was faster.
LONGEST_GROUP = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}
LARGEST_HEAD = 64


@triton.jit
def _group_of_rows(length, groups, groups_per_tile, block: tl.constexpr):
    """Return, for each row of this program's tile, its group, its token in the group, and whether it exists."""
    rows = tl.arange(0, block)
    group = tl.program_id(0).to(tl.int64) * groups_per_tile + rows // length
    return group, rows % length, (rows < groups_per_tile * length) & (group < groups)


@triton.jit
def _offsets_of(group, token, group_stride, head_stride, token_stride, head: tl.constexpr):
    """Return the offsets (block, head) at which a tensor with these strides stores the numbers of the tile."""
    rows = group * group_stride + tl.program_id(1) * head_stride + token * token_stride
    return rows[:, None] + tl.arange(0, head)[None, :]


@triton.jit
def _probabilities_of(query, key, group, real, scaling):
    """Return the softmax over the keys of each query's own group: (block, block), float32."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scaling * 1.4426950408889634)  # log2(e)
    together = (group[:, None] == group[None, :]) & real[None, :] & real[:, None]
    scores = tl.where(together, scores, -1.0e30)  # not infinity: a row without a group would give infinity - infinity
    weights = tl.where(together, tl.exp2(scores - tl.max(scores, 1)[:, None]), 0.0)
    return weights / tl.maximum(tl.sum(weights, 1), 1.0e-30)[:, None]


@triton.jit
def _forward_kernel(
    query,
    key,
    value,
    context,
    group_stride,
    head_stride,
    token_stride,
    scaling,
    groups,
    heads,
    length,
    groups_per_tile,
    head_dim,
    block: tl.constexpr,
    head: tl.constexpr,
):
    group, token, real = _group_of_rows(length, groups, groups_per_tile, block)
    here = real[:, None] & (tl.arange(0, head) < head_dim)[None, :]
    offsets = _offsets_of(group, token, group_stride, head_stride, token_stride, head)
    queries = tl.load(query + offsets, here, 0.0)
    keys = tl.load(key + offsets, here, 0.0)
    values = tl.load(value + offsets, here, 0.0)
    probabilities = _probabilities_of(queries, keys, group, real, scaling)
    result = tl.dot(probabilities.to(values.dtype), values, input_precision="ieee")
    offsets = _offsets_of(group, token, length * heads * head_dim, head_dim, heads * head_dim, head)
    tl.store(context + offsets, result.to(context.dtype.element_ty), here)


@triton.jit
def _backward_kernel(
    query,
    key,
    value,
    grad_context,
    grad_query,
    grad_key,
    grad_value,
    group_stride,
    head_stride,
    token_stride,
    scaling,
    groups,
    heads,
    length,
    groups_per_tile,
    head_dim,
    block: tl.constexpr,
    head: tl.constexpr,
):
    group, token, real = _group_of_rows(length, groups, groups_per_tile, block)
    here = real[:, None] & (tl.arange(0, head) < head_dim)[None, :]
    offsets = _offsets_of(group, token, group_stride, head_stride, token_stride, head)
    queries = tl.load(query + offsets, here, 0.0)
    keys = tl.load(key + offsets, here, 0.0)
    values = tl.load(value + offsets, here, 0.0)
    offsets = _offsets_of(group, token, length * heads * head_dim, head_dim, heads * head_dim, head)
    grads = tl.load(grad_context + offsets, here, 0.0)
    probabilities = _probabilities_of(queries, keys, group, real, scaling)
    grad_probabilities = tl.dot(grads, tl.trans(values), input_precision="ieee")
    mean = tl.sum(probabilities * grad_probabilities, 1)[:, None]
    grad_scores = (probabilities * (grad_probabilities - mean) * scaling).to(queries.dtype)
    for_queries = tl.dot(grad_scores, keys, input_precision="ieee")
    for_keys = tl.dot(tl.trans(grad_scores), queries, input_precision="ieee")
    for_values = tl.dot(tl.trans(probabilities.to(grads.dtype)), grads, input_precision="ieee")
    # (groups, length, 3, heads, head_dim): the layout in which the projection makes queries, keys and values
    offsets = _offsets_of(group, token, 3 * length * heads * head_dim, head_dim, 3 * heads * head_dim, head)
    tl.store(grad_query + offsets, for_queries.to(grad_query.dtype.element_ty), here)
    tl.store(grad_key + offsets, for_keys.to(grad_key.dtype.element_ty), here)
    tl.store(grad_value + offsets, for_values.to(grad_value.dtype.element_ty), here)


def launch(kernel, *tensors: torch.Tensor, scaling: float) -> None:
    """Run a kernel over all groups and heads. The first tensors are queries, keys and values, with equal strides."""
    groups, heads, length, head_dim = tensors[0].shape
    block = 32 if length <= 32 else 64  # compared, not computed: the length may be symbolic
    groups_per_tile = block // length
    kernel[(-(-groups // groups_per_tile), heads)](
        *tensors,
        *tensors[0].stride()[:3],
        scaling,
        groups,
        heads,
        length,
        groups_per_tile,
        head_dim,
        block=block,
        head=max(16, triton.next_power_of_2(head_dim)),
        num_warps=4,
    )


def _with_equal_strides(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the tensors, copied if the kernels can't read all of them with one set of strides."""
    if all(x.stride() == tensors[0].stride() and x.stride(-1) == 1 for x in tensors):
        return tensors
    return tuple(x.contiguous() for x in tensors)


class _ShortGroupAttention(torch.autograd.Function):
    """
    Attention inside groups as an autograd function.

    Queries, keys and values (groups, heads, length, head_dim), and the scale of the scores
    -> (groups, length, heads, head_dim)
    """

    @staticmethod
    def forward(ctx, query, key, value, scaling):
        query, key, value = _with_equal_strides((query, key, value))
        groups, heads, length, head_dim = query.shape
        context = query.new_empty(groups, length, heads, head_dim)
        launch(_forward_kernel, query, key, value, context, scaling=scaling)
        ctx.save_for_backward(query, key, value)
        ctx.scaling = scaling
        return context

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_context):
        query, key, value = ctx.saved_tensors
        groups, heads, length, head_dim = query.shape
        grads = query.new_empty(groups, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        launch(_backward_kernel, query, key, value, grad_context.contiguous(), *grads, scaling=ctx.scaling)
        return *grads, None


def attend_in_short_groups(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """
    Compute softmax attention inside groups, with gradients.

    Args:
        query, key, value: (groups, heads, length, head_dim), on a CUDA device, all of one dtype in `LONGEST_GROUP`.
            That table limits the length, and `LARGEST_HEAD` limits head_dim.
        scaling: factor of the scores.

    Returns:
        (groups, length, heads, head_dim)
    """
    return _ShortGroupAttention.apply(query, key, value, scaling)

"""
Attention inside many short groups of tokens, such as the frames of each place, as one Triton kernel a pass.

Flash kernels work through a group in tiles of 64 or 128 tokens, which a group of 8 frames leaves almost empty. Here one
tile holds as many groups as fit, and a mask keeps them apart. A group fits into its tile as a whole, so that no running
maximum is needed and the backward pass computes the probabilities again from queries and keys. The twin that defines
the result is `eager_attention_forward` in attention_backends.
"""

from importlib import import_module

import torch


# By import_module: transformers refuses to load a saved model's code where a package that it imports is missing.
triton, tl = import_module("triton"), import_module("triton.language")

# Up to where the kernels were faster than scaled_dot_product_attention, forward and backward together: tried once on an
# H100 with torch 2.11, 12 heads of 64. The fewer frames, the larger the gain; with 96 the flash kernel was faster.
LONGEST_GROUP = {torch.float32: 32, torch.float16: 64, torch.bfloat16: 64}
LARGEST_HEAD = 64


@triton.jit
def _group_of_rows(length, groups, groups_per_tile, block: tl.constexpr):
    """The group of each row of this program's tile, its token in the group, and whether there is one."""
    rows = tl.arange(0, block)
    group = tl.program_id(0).to(tl.int64) * groups_per_tile + rows // length
    return group, rows % length, (rows < groups_per_tile * length) & (group < groups)


@triton.jit
def _offsets_of(group, token, group_stride, head_stride, token_stride, head: tl.constexpr):
    """(block, head): where a tensor of those strides holds the numbers of the tile."""
    rows = group * group_stride + tl.program_id(1) * head_stride + token * token_stride
    return rows[:, None] + tl.arange(0, head)[None, :]


@triton.jit
def _probabilities_of(query, key, group, real, scaling):
    """(block, block), float32: softmax over the keys of a query's own group."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * (scaling * 1.4426950408889634)  # log2(e)
    together = (group[:, None] == group[None, :]) & real[None, :] & real[:, None]
    scores = tl.where(together, scores, -1.0e30)  # not infinity: a row without a group would be infinity - infinity
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
    # (groups, length, 3, heads, head_dim): as the projection makes queries, keys and values, side by side
    offsets = _offsets_of(group, token, 3 * length * heads * head_dim, head_dim, 3 * heads * head_dim, head)
    tl.store(grad_query + offsets, for_queries.to(grad_query.dtype.element_ty), here)
    tl.store(grad_key + offsets, for_keys.to(grad_key.dtype.element_ty), here)
    tl.store(grad_value + offsets, for_values.to(grad_value.dtype.element_ty), here)


def launch(kernel, *tensors: torch.Tensor, scaling: float) -> None:
    """Run a kernel over all groups and heads; the first tensors are queries, keys and values, of equal strides."""
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
    """The same tensors, copied where the kernels can't read them with one set of strides."""
    if all(x.stride() == tensors[0].stride() and x.stride(-1) == 1 for x in tensors):
        return tensors
    return tuple(x.contiguous() for x in tensors)


class _ShortGroupAttention(torch.autograd.Function):
    """Three times (groups, heads, length, head_dim), and the scale of scores -> (groups, length, heads, head_dim)"""

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
    Softmax attention inside groups, with gradients.

    Args:
        query, key, value: (groups, heads, length, head_dim), on a CUDA device, of one dtype of `LONGEST_GROUP`; length
            and head_dim up to that and `LARGEST_HEAD`.
        scaling: of the scores.

    Returns:
        (groups, length, heads, head_dim)
    """
    return _ShortGroupAttention.apply(query, key, value, scaling)

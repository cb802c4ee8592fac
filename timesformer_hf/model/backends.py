"""
Where the model doesn't take the kernels that torch or transformers would: attention in short groups, and float32 linear
layers on an AMD CPU. Also padding masks in the form that each attention backend expects.
"""

import itertools
import math
import os
import platform
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .activation_recompute import is_untouched


# AMD's GPUs use another build of Triton, with which the kernel was not tested.
_HAS_TRITON = find_spec("triton") is not None and torch.version.hip is None
_AMPERE = 8  # major compute capability of the first GPUs with bfloat16

# In bytes. glibc's allocator doesn't reuse larger blocks: it gets their pages from the system each time, which is slow
# (M_MMAP_THRESHOLD in mallopt(3)).
LARGEST_REUSED_MEMORY = 2**25

# The longest groups that a CPU computes by two products where gradients are needed. The probabilities of all pairs of
# tokens are then kept in memory, and longer groups would have too many of them. In float32, torch's own kernel is slow
# in short groups only.
_LONGEST_WITH_GRADIENT = {torch.bfloat16: 256, torch.float32: 32}
# The longest groups in float32 that a CPU with a slow MKL computes by oneDNN, which arranges the keys for each part
_LONGEST_BY_CONVOLUTION = 4096
# Bytes of an attention that are computed at once: few enough for a processor's caches, many enough for its cores
_MEMORY_AT_ONCE = 2**23

# The smallest float32 products for which oneDNN is faster although it packs the weight each time: rows, and numbers in
# the weight
_LEAST_ROWS, _LEAST_WEIGHT = 1024, 2**17

# dtype -> names in torch.cpu.get_capabilities() of the instructions for its matmuls
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


_SIZE_OF_VECTOR = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32  # in bytes


def emulated_dtypes() -> tuple[torch.dtype, ...]:
    """Return the 16-bit dtypes that this CPU has no matmul instructions for, so that torch emulates them."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(dtype for dtype, names in _INSTRUCTIONS.items() if not any(map(capabilities.get, names)))


def _has_slow_mkl() -> bool:
    """Whether this CPU is AMD's, and torch has both MKL and what is needed of oneDNN."""
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_convolution_pointwise")
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    with cpuinfo.open() if cpuinfo.exists() else open(os.devnull) as file:
        vendor = next((line for line in file if line.startswith("vendor_id")), platform.processor())
    return "AuthenticAMD" in vendor and all(hasattr(torch.ops.mkldnn, name) for name in operators)


# torch.compile can't ask for them
_EMULATED = emulated_dtypes()
_HAS_SLOW_MKL = _has_slow_mkl()


def faster_than_sdpa(query: torch.Tensor, key: torch.Tensor) -> Callable | None:
    """
    Return an attention function that is faster than `scaled_dot_product_attention` for these queries and keys, each
    (groups, heads, length, head_dim), or `None` if there is none.
    """
    if has_short_group_kernel(query, key):
        return _short_group_attention_forward
    return product_attention_forward if _prefers_products(query, key) else None


def _prefers_products(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether a CPU attends faster by products than by torch's own kernel."""
    if query.device.type != "cpu" or query.dtype not in _LONGEST_WITH_GRADIENT or query.dtype in _EMULATED:
        return False
    if torch.compiler.is_exporting() or hasattr(query, "device_mesh"):
        return False
    is_short = key.shape[2] <= _LONGEST_WITH_GRADIENT[query.dtype]
    if is_short or not _can_go_in_parts(query, key):
        return is_short
    return query.dtype is torch.bfloat16 or (_HAS_SLOW_MKL and key.shape[2] <= _LONGEST_BY_CONVOLUTION)


def _can_go_in_parts(*tensors: torch.Tensor) -> bool:
    """Whether nothing but the result of an attention is wanted: no gradient, and no record of its products."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return torch.compiler.is_compiling() or not _is_watched(*tensors)


def product_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    out: torch.Tensor | None = None,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, None]:
    """
    Attend by two products, called through transformers' attention interface.

    (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). It returns no probabilities. The result may
    be written to `out`.
    """
    if not _can_go_in_parts(query, key, value):
        context = _attend_by_matmul(*(part.flatten(0, 1) for part in (query, key, value)), scaling)
        return context.unflatten(0, query.shape[:2]).transpose(1, 2).contiguous(), None
    if torch.compiler.is_compiling():
        return _attend_in_parts_operator(query, key, value, scaling), None
    return _attend_in_parts(query, key, value, scaling, out), None


def _attend_in_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Attend without gradients, (groups, heads, length, head_dim) -> (groups, length, heads, head_dim)."""
    is_short = key.shape[2] <= _LONGEST_WITH_GRADIENT[torch.float32]
    by_convolution = query.dtype is torch.float32 and _HAS_SLOW_MKL and not is_short
    attend = _attend_by_convolution if by_convolution else _attend_by_matmul
    context = query.new_empty(query.transpose(1, 2).shape) if out is None else out
    for groups, heads, rows in _parts(query, key):
        part = (query[groups, heads, rows], key[groups, heads], value[groups, heads])
        result = attend(*(tensor.flatten(0, 1) for tensor in part), scaling)
        context[groups, rows, heads] = result.unflatten(0, part[0].shape[:2]).transpose(1, 2)
    return context


# torch.compile would write loops for the parts, which are slower.
@torch.library.custom_op("timesformer_hf::attend_in_parts", mutates_args=())
def _attend_in_parts_operator(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    return _attend_in_parts(query, key, value, scaling)


@_attend_in_parts_operator.register_fake
def _(query, key, value, scaling):
    return query.new_empty(query.transpose(1, 2).shape)


def _parts(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """
    Yield the groups, heads and queries of each part of an attention. A part takes about `_MEMORY_AT_ONCE`, but has at
    least one head for each core. Queries are split if it would take more than half of `LARGEST_REUSED_MEMORY`.
    """
    groups, heads, length, head_dim = query.shape
    size_of_row = (key.shape[2] + 4 * head_dim) * key.itemsize  # scores; query, key, value and result
    most = max(torch.get_num_threads(), _MEMORY_AT_ONCE // (length * size_of_row))
    sizes = [size_of_part(groups, max(1, most // heads)), size_of_part(heads, most)]
    sizes.append(size_of_part(length, max(1, LARGEST_REUSED_MEMORY // (2 * math.prod(sizes) * size_of_row))))
    starts = (range(0, whole, size) for whole, size in zip((groups, heads, length), sizes, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))


def size_of_part(whole: int, most: int) -> int:
    """Return the size of equal parts that have at most so many elements each."""
    return -(-whole // -(-whole // most))


def _attend_by_matmul(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attend by batched matmuls on contiguous heads, (groups, length, head_dim) -> (groups, length, head_dim)."""
    query, key, value = (part.contiguous() for part in (query, key, value))
    unused = query.new_empty(()).expand(len(query), query.shape[1], key.shape[1])
    scores = torch.baddbmm(unused, query, key.transpose(1, 2), beta=0, alpha=scaling)
    return torch.bmm(_softmax(scores), value)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """
    Return the softmax along the last dimension. A row that is shorter than the processor's vectors is computed number
    by number in torch's softmax, which is slow; so it is put together from functions of single numbers.
    """
    is_short = scores.shape[-1] * scores.itemsize < _SIZE_OF_VECTOR
    if not is_short or (torch.is_grad_enabled() and scores.requires_grad) or torch.compiler.is_compiling():
        return scores.softmax(dim=-1)
    in_float32 = scores.to(torch.promote_types(scores.dtype, torch.float32))
    exponentials = (in_float32 - in_float32.amax(dim=-1, keepdim=True)).exp()
    return (exponentials / exponentials.sum(dim=-1, keepdim=True)).to(scores.dtype)


def _attend_by_convolution(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """
    Attend as [`_attend_by_matmul`] does, by oneDNN. Torch has its batched matmuls only for 16 bits. But a convolution
    with filters of one pixel is a product, and its groups make a batch of it.
    """
    scores = _grouped_product(query.transpose(0, 1) * scaling, key)
    return _grouped_product(scores.softmax(dim=-1), value.transpose(1, 2)).transpose(0, 1)


def _grouped_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """
    Return the product of each group: (rows, groups, inner) times the transposed (groups, columns, inner) is (rows,
    groups, columns).
    """
    rows, groups, inner = left.shape
    pixels = left.reshape(1, 1, rows, groups * inner).permute(0, 3, 1, 2)
    filters = right.reshape(-1, inner, 1, 1)
    settings = (None, [0, 0], [1, 1], [1, 1], groups, "none", [], "")  # bias, padding, stride, dilation, ...
    product = torch.ops.mkldnn._convolution_pointwise(pixels, filters, *settings)
    return product.permute(0, 2, 3, 1).reshape(rows, groups, -1)


def has_short_group_kernel(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether `attend_in_short_groups` supports these queries and keys, each (groups, heads, length, head_dim)."""
    if query.device.type != "cuda" or not _HAS_TRITON or torch.cuda.get_device_properties(query.device).major < _AMPERE:
        return False
    if torch.compiler.is_exporting() or hasattr(query, "device_mesh") or not query.numel():
        return False
    from .short_groups import LARGEST_HEAD, LONGEST_GROUP

    length, head_dim = query.shape[2:]
    return length == key.shape[2] and length <= LONGEST_GROUP.get(query.dtype, 0) and head_dim <= LARGEST_HEAD


def _short_group_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, None]:
    """
    Attend inside short groups with the Triton kernel, called through transformers' attention interface.

    (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). It returns no probabilities.
    """
    from .short_groups import attend_in_short_groups

    return attend_in_short_groups(query, key, value, scaling), None


def apply_linear(linear: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """
    Return the output of a linear layer for tokens (..., in_features), by the faster one of torch's libraries.

    In float32, torch's matmuls on an x86 CPU are those of MKL. On AMD's CPUs they are slower than oneDNN's, forward and
    backward. A layer of another class, or with a hook, is called as it is.
    """
    if (
        torch.compiler.is_compiling()
        or not is_untouched(linear, nn.Linear)
        or not _prefers_onednn(tokens, linear.weight)
    ):
        return linear(tokens)
    product = _OneDnnProduct.apply(tokens.flatten(0, -2), linear.weight, linear.bias)
    return product.unflatten(0, tokens.shape[:-1])


def _prefers_onednn(tokens: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN computes these products faster than torch's own matmul, and nothing else has to see them."""
    return (
        tokens.device.type == weight.device.type == "cpu"
        and tokens.dtype is weight.dtype is torch.float32
        and tokens.numel() >= _LEAST_ROWS * weight.shape[1]
        and weight.numel() >= _LEAST_WEIGHT
        and _HAS_SLOW_MKL
        and not _is_watched(tokens, weight)
    )


def _is_watched(*tensors: torch.Tensor) -> bool:
    """Whether something other than autograd has to see what is computed with these tensors."""
    return (
        torch.jit.is_tracing()
        or torch.is_autocast_enabled("cpu")
        or bool(_len_torch_dispatch_stack())
        or any(map(_is_special, tensors))
    )


def _is_special(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of a subclass (a DTensor), in a transform of `torch.func`, or in forward-mode autograd."""
    return (
        type(tensor) not in (torch.Tensor, nn.Parameter)
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or unpack_dual(tensor).tangent is not None
    )


class _OneDnnProduct(torch.autograd.Function):
    """
    tokens @ weight.T + bias, for tokens (rows, in_features), a weight (out_features, in_features) and a bias or `None`.

    The gradients are such products again.
    """

    @staticmethod
    def forward(ctx, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(tokens, weight)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), len(tokens))
        return torch.ops.mkldnn._linear_pointwise(tokens.contiguous(), packed, bias, "none", [], "none")

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, weight = ctx.saved_tensors
        of_tokens, of_weight, of_bias = ctx.needs_input_grad
        return (
            _OneDnnProduct.apply(gradient, weight.t(), None) if of_tokens else None,
            _OneDnnProduct.apply(gradient.t(), tokens.t(), None) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def padding_mask(real_tokens: torch.Tensor, implementation: str, dtype: torch.dtype):
    """
    Return a mask that hides padding from an attention backend, in the form that the backend expects.

    Args:
        real_tokens: (groups, length), False for padding.
        implementation: name of the attention backend.
        dtype: dtype of the scores.

    Returns:
        - for a flash kernel, `real_tokens` itself
        - for flex_attention, a block mask
        - for any other backend, a tensor to add to the scores, (groups, 1, length, length)
    """
    groups, length = real_tokens.shape
    if "flash" in implementation:
        return real_tokens
    if implementation == "flex_attention":  # adding to the scores crashed on the CPU (torch 2.15)
        from torch.nn.attention.flex_attention import create_block_mask

        def is_real(group, head, query, key):
            return real_tokens[group, key]

        return create_block_mask(is_real, groups, None, length, length, device=real_tokens.device)
    scores = torch.zeros_like(real_tokens, dtype=dtype).masked_fill(~real_tokens, torch.finfo(dtype).min)
    return scores[:, None, None].expand(-1, 1, length, -1)

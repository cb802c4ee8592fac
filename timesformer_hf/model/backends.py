"""
Where the model doesn't take the kernels that torch or transformers would: attention in short groups, and float32 linear
layers on an AMD CPU. Also padding masks in the form that each attention backend expects.
"""

import functools
import os
import platform
from collections.abc import Callable
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

# The longest groups that a CPU computes by plain matmuls. The probabilities of all pairs of tokens are then in memory,
# and longer groups would have too many of them.
_LONGEST_PRODUCT = 256

# The smallest float32 products for which oneDNN is faster although it packs the weight each time: rows, and numbers in
# the weight
_LEAST_ROWS, _LEAST_WEIGHT = 1024, 2**17

# dtype -> names in torch.cpu.get_capabilities() of the instructions for its matmuls
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


def emulated_dtypes() -> tuple[torch.dtype, ...]:
    """Return the 16-bit dtypes that this CPU has no matmul instructions for, so that torch emulates them."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(dtype for dtype, names in _INSTRUCTIONS.items() if not any(map(capabilities.get, names)))


_EMULATED = emulated_dtypes()  # torch.compile can't ask for it


def faster_than_sdpa(query: torch.Tensor, key: torch.Tensor) -> Callable | None:
    """
    Return an attention function that is faster than `scaled_dot_product_attention` for these queries and keys, each
    (groups, heads, length, head_dim), or `None` if there is none.
    """
    if has_short_group_kernel(query, key):
        return _short_group_attention_forward
    # torch's CPU kernel for 16 bits works in tiles, and its backward pass is slow. In float32 it is fast.
    if query.device.type == "cpu" and query.dtype is torch.bfloat16 and key.shape[2] <= _LONGEST_PRODUCT:
        exporting = torch.compiler.is_exporting() or hasattr(query, "device_mesh")
        return None if exporting or query.dtype in _EMULATED else product_attention_forward
    return None


def product_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, None]:
    """
    Attend by two matmuls on contiguous heads, called through transformers' attention interface.

    (groups, heads, length, head_dim) -> (groups, length, heads, head_dim). It returns no probabilities.
    """
    groups, heads, length, _ = query.shape
    query, key, value = (part.flatten(0, 1).contiguous() for part in (query, key, value))
    unused = query.new_empty(()).expand(len(query), length, key.shape[1])
    scores = torch.baddbmm(unused, query, key.transpose(1, 2), beta=0, alpha=scaling)
    context = torch.bmm(scores.softmax(dim=-1), value)
    return context.unflatten(0, (groups, heads)).transpose(1, 2).contiguous(), None


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
        and _has_slow_mkl()
        and not (torch.jit.is_tracing() or torch.is_autocast_enabled("cpu") or _len_torch_dispatch_stack())
        and not any(map(_is_special, (tokens, weight)))
    )


@functools.cache
def _has_slow_mkl() -> bool:
    """Whether this CPU is AMD's, and torch has both MKL and what is needed of oneDNN."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    with cpuinfo.open() if cpuinfo.exists() else open(os.devnull) as file:
        vendor = next((line for line in file if line.startswith("vendor_id")), platform.processor())
    return "AuthenticAMD" in vendor and all(hasattr(torch.ops.mkldnn, name) for name in operators)


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

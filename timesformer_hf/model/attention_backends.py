"""
What the attention backends need beyond transformers' interface: a faster way for short groups, and which tokens of a
group are padding, in the form that each of them takes.
"""

from importlib.util import find_spec

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs


# AMD's GPUs have a Triton of their own, which was not tried.
_HAS_TRITON = find_spec("triton") is not None and torch.version.hip is None
_AMPERE = 8  # major compute capability; the first GPUs with bfloat16


def has_short_group_kernel(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether `attend_in_short_groups` takes these (groups, heads, length, head_dim), each attending to its group."""
    if query.device.type != "cuda" or not _HAS_TRITON or torch.cuda.get_device_properties(query.device).major < _AMPERE:
        return False
    if torch.compiler.is_exporting() or hasattr(query, "device_mesh") or not query.numel():
        return False
    from .short_groups import LARGEST_HEAD, LONGEST_GROUP

    length, head_dim = query.shape[2:]
    return length == key.shape[2] and length <= LONGEST_GROUP.get(query.dtype, 0) and head_dim <= LARGEST_HEAD


def short_group_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, None]:
    """The kernel for short groups, in the form of transformers' attention interface."""
    from .short_groups import attend_in_short_groups

    return attend_in_short_groups(query, key, value, scaling), None


def padding_mask(real_tokens: torch.Tensor, implementation: str, dtype: torch.dtype):
    """
    Args:
        real_tokens: (groups, length), False where a group is padded.
        implementation: name of the attention backend.
        dtype: that of the scores.

    Returns:
        For the flash kernels `real_tokens` itself, for flex_attention a block mask, for others what they add to the
        scores (groups, 1, length, length).
    """
    groups, length = real_tokens.shape
    if "flash" in implementation:
        return real_tokens
    if implementation == "flex_attention":  # (adding to scores there has crashed on the CPU, torch 2.15)
        from torch.nn.attention.flex_attention import create_block_mask

        def is_real(group, head, query, key):
            return real_tokens[group, key]

        return create_block_mask(is_real, groups, None, length, length, device=real_tokens.device)
    scores = torch.zeros_like(real_tokens, dtype=dtype).masked_fill(~real_tokens, torch.finfo(dtype).min)
    return scores[:, None, None].expand(-1, 1, length, -1)

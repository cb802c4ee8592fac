"""Which tokens of a group are no padding, in the form that each attention backend takes."""

import torch


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

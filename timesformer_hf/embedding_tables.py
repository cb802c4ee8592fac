"""Position and time embeddings of one size, resized to another: pure functions of tensors."""

import torch
from torch.nn import functional as F


def resize_position_table(
    table: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], mode: str
) -> torch.Tensor:
    """
    Resize position embeddings (1, 1 + rows * columns, dim) from one grid of patches (rows, columns) to another.

    CLS keeps its own. `mode` is a [`TimesformerConfig`] `interpolation_mode`.
    """
    # Compiled and exported graphs always resize (exact at the same size), so that one graph serves every size.
    if old_grid == tuple(new_grid) and not torch.compiler.is_compiling():
        return table
    cls_position, positions = table[:, :1], table[:, 1:]
    positions = positions.unflatten(1, old_grid).permute(0, 3, 1, 2)
    # Bicubic kernels exist for float32 and float64 on every device; nearest only copies.
    working = positions.float() if positions.dtype in (torch.float16, torch.bfloat16) else positions
    align_corners = {"nearest": None, "bicubic": False}[mode]
    working = F.interpolate(working, size=tuple(new_grid), mode=mode, align_corners=align_corners)
    positions = working.to(table.dtype).flatten(2).transpose(1, 2)
    return torch.cat((cls_position, positions), dim=1)


def resize_time_table(table: torch.Tensor, num_frames: int, mode: str) -> torch.Tensor:
    """Resize time embeddings (1, frames, dim) to `num_frames`: nearest, or linear where `mode` is `"bicubic"`."""
    if table.shape[1] == num_frames and not torch.compiler.is_compiling():
        return table
    working = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    time_mode, align_corners = {"nearest": ("nearest", None), "bicubic": ("linear", False)}[mode]
    working = F.interpolate(working.transpose(1, 2), size=num_frames, mode=time_mode, align_corners=align_corners)
    return working.transpose(1, 2).to(table.dtype)

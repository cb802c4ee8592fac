"""Pure functions that resize position and time embeddings."""

import math

import torch
from torch.nn import functional as F


def table_grid(positions: int, configured: tuple[int, int]) -> tuple[int, int]:
    """
    Return the grid (rows, columns) of this number of position embeddings: the configured one, or a square.

    Raises:
        ValueError: if the number fits neither.
    """
    side = math.isqrt(positions)
    if positions == configured[0] * configured[1]:
        return configured
    if positions != side * side:
        raise ValueError(
            f"{positions} position embeddings of patches are neither the config's grid of {configured[0]} x "
            f"{configured[1]} nor a square; set image_size in the config to the size that they are for"
        )
    return side, side


def resize_position_table(
    table: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], mode: str
) -> torch.Tensor:
    """
    Resize position embeddings (1, 1 + rows * columns, dim) from one grid of patches (rows, columns) to another.

    The embedding of CLS stays unchanged. `mode` is the `interpolation_mode` of a [`TimesformerConfig`].
    """
    # Compiled and exported graphs always resize, which is exact at the same size, so that one graph serves every size.
    # They don't compare the sizes first, because a comparison would fix the size in an exported graph.
    if not torch.compiler.is_compiling() and old_grid == tuple(new_grid):
        return table
    cls_position, positions = table[:, :1], table[:, 1:]
    positions = positions.unflatten(1, old_grid).permute(0, 3, 1, 2)
    # Bicubic kernels exist for float32 and float64 on every device; nearest only copies.
    working = positions.float() if positions.dtype in (torch.float16, torch.bfloat16) else positions
    working = interpolate(working, tuple(new_grid), mode)
    positions = working.to(table.dtype).flatten(2).transpose(1, 2)
    return torch.cat((cls_position, positions), dim=1)


def resize_time_table(table: torch.Tensor, num_frames: int, mode: str) -> torch.Tensor:
    """Resize time embeddings (1, frames, dim) to `num_frames`: nearest, or linearly if `mode` is `"bicubic"`."""
    if not torch.compiler.is_compiling() and table.shape[1] == num_frames:
        return table
    working = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    time_mode = {"nearest": "nearest", "bicubic": "linear"}[mode]
    working = interpolate(working.transpose(1, 2), (num_frames,), time_mode)
    return working.transpose(1, 2).to(table.dtype)


def interpolate(table: torch.Tensor, size: tuple[int, ...], mode: str) -> torch.Tensor:
    """
    Resize a table (batch, dim, *old size) to (batch, dim, *size), as torch interpolates.

    In an exported graph, `"nearest"` becomes a selection by index, because the operator of onnxruntime rounds
    differently at some sizes, for example from 14 patches to 16.
    """
    if mode != "nearest" or not torch.compiler.is_exporting():
        align_corners = None if mode == "nearest" else False
        return F.interpolate(table, size=size, mode=mode, align_corners=align_corners)
    for dimension, length in enumerate(size, start=2):
        indices = nearest_indices(table.shape[dimension], length, table.device)
        table = table.index_select(dimension, indices)
    return table


def nearest_indices(old: int, new: int, device: torch.device) -> torch.Tensor:
    """Return the nearest of `old` entries for each of `new` entries, as indices (new,). The arithmetic is torch's."""
    float32 = {"dtype": torch.float32, "device": device}
    scale = torch.full((), old, **float32) / torch.full((), new, **float32)
    indices = (torch.arange(new, **float32) * scale).floor().long()
    return indices.clamp(max=old - 1)

"""What a feature of a clip is made of: pure arithmetic on the model's normalised tokens."""

import torch

from .attention_schemes import Grid, patch_grid


def cls_feature(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, dim)"""
    return tokens[:, 0]


def frame_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, frames, dim): the mean of a frame's patches, without CLS."""
    return patch_grid(tokens, grid).mean(dim=(1, 2))


def patch_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, frames, rows, columns, dim), without CLS."""
    return patch_grid(tokens, grid).permute(0, 3, 1, 2, 4)


FEATURE_LEVELS = {"clip": cls_feature, "frame": frame_features, "patch": patch_features}


def check_level(level: str) -> None:
    """
    Raises:
        ValueError: for a level that there isn't; the message lists those there are.
    """
    if level not in FEATURE_LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(map(repr, FEATURE_LEVELS))}")

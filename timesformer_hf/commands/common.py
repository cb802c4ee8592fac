"""Types of arguments and other things that several commands share."""

import argparse


def positive(text: str) -> int:
    """The type of an argument that is an integer from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def frame_size(text: str) -> int | tuple[int, ...]:
    """224 -> 224, 256x448 -> (256, 448)"""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text} must be a side, 224, or a height and a width, 256x448")
    return int(sides[0]) if len(sides) == 1 else tuple(int(side) for side in sides)


def default_device(device: str | None) -> str:
    """The device that the user asked for, or an accelerator where there is one, or else the CPU."""
    import torch

    if device is not None:
        return device
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def optimized(model):
    """
    The model, made faster by `optimize_for_inference` for a command that only needs its outputs. A model that this
    function refuses (quantized, with an adapter, of another class) stays as it is.
    """
    from ..inference.folding import optimize_for_inference

    try:
        return optimize_for_inference(model)
    except (TypeError, ValueError):
        return model

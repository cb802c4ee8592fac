"""
Training recipes by name, each a set of defaults for the options of `timesformer-hf finetune`, and the arithmetic that
they need: groups of parameters and learning rates.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class _Recipe:
    """
    A named set of defaults.

    Attributes:
        about: what the recipe is for, and why its values are what they are.
        defaults: values of the options of `timesformer-hf finetune`, by their names.
    """

    about: str
    defaults: dict[str, Any]


_PAPER = {
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=true",
    "base_learning_rate": 0.005,
    "base_batch_size": 64,
    "lr_scaling": "linear",
    "lr_drops": [11 / 15, 14 / 15],
    "warmup_steps": 0,
    "weight_decay": 1e-4,
    "decay_everything": True,
    "max_grad_norm": 0.0,
    "num_train_epochs": 15,
    "drop_path_rate": 0.1,
    "jitter": [256 / 224, 320 / 224],
    "flip": 0.5,
    "bf16": False,
}

RECIPES = {
    "paper-kinetics": _Recipe(
        "The authors' training on Kinetics, from an image ViT: SGD with Nesterov momentum, a tenth of the learning "
        "rate after epochs 11 and 14 of 15, weight decay on everything, no warm-up, a short side of 256 to 320 pixels, "
        "a crop, a flip. To reproduce their numbers, and for large sets; on a small one SGD's rate needs a search.",
        _PAPER,
    ),
    "paper-ssv2": _Recipe(
        "The same for Something-Something, where left and right are labels: no flip, and a random frame of each of "
        "equal segments of the video in place of a clip at a fixed rate.",
        _PAPER | {"flip": 0.0, "frame_sampling": "segments"},
    ),
    "modern": _Recipe(
        "To fine-tune a trained model on a set of your own, from some hundred videos. AdamW tolerates a rate that is "
        "somewhat too high or too low; SGD doesn't. A lower rate for the lower blocks (each 0.75 of the next above it) "
        "keeps what they have learnt. RandAugment, mixup, cutmix and label smoothing reduce overfitting. Warm-up and a "
        "cosine need no tuning when the number of epochs changes.",
        {
            "optim": "adamw_torch_fused",
            "base_learning_rate": 5e-4,
            "base_batch_size": 256,
            "lr_scaling": "sqrt",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "weight_decay": 0.05,
            "layer_decay": 0.75,
            "num_train_epochs": 20,
            "drop_path_rate": 0.1,
            "label_smoothing_factor": 0.1,
            "jitter": [1.0, 320 / 224],
            "flip": 0.5,
            "rand_augment": 2,
            "magnitude": 9,
            "mixup": 0.8,
            "cutmix": 1.0,
        },
    ),
    "scratch": _Recipe(
        "For a small model that starts from scratch, on tasks of motion. A higher rate, the same for all blocks, and "
        "many epochs. Initial values from which motion can be learnt (motion_start): with the original's, which suit "
        "a start from an image ViT, training stays at the accuracy of chance for a long time. No flip and no mixing, "
        "because they change the motion.",
        {
            "optim": "adamw_torch_fused",
            "base_learning_rate": 1e-3,
            "base_batch_size": 64,
            "lr_scaling": "sqrt",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "weight_decay": 0.05,
            "num_train_epochs": 100,
            "motion_start": True,
            "jitter": [1.0, 320 / 224],
            "flip": 0.0,
        },
    ),
}
"""The recipes of `timesformer-hf finetune --recipe` by name: a description, and a default for each setting."""


def find_recipe(name: str) -> _Recipe:
    """
    The recipe of that name.

    Raises:
        ValueError: for another name than those of `RECIPES`.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} must be one of {', '.join(map(repr, RECIPES))}")
    return RECIPES[name]


_LR_SCALING: dict[str, Callable[[float], float]] = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": lambda ratio: ratio**0.5,
}
"""The factor on the learning rate for a batch that is larger by a ratio: in proportion for SGD (Goyal et al. 2017), its
square root for Adam (Malladi et al. 2022)."""


def scaled_learning_rate(base: float, base_batch_size: int, batch_size: int, scaling: str = "linear") -> float:
    """
    The learning rate for a batch of `batch_size` clips, where `base` is the rate for `base_batch_size` clips.

    Raises:
        ValueError: for a scaling that isn't in `_LR_SCALING`.
    """
    if scaling not in _LR_SCALING:
        raise ValueError(f"lr_scaling={scaling!r} must be one of {', '.join(map(repr, _LR_SCALING))}")
    return base * _LR_SCALING[scaling](batch_size / base_batch_size)


def drop_factor(step: int, num_training_steps: int, drops: Sequence[float], num_warmup_steps: int = 0) -> float:
    """
    The factor on the learning rate at a step. It rises from 0 to 1 in the warm-up, and becomes a tenth at each of
    `drops`, which are shares of the training.
    """
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return 0.1 ** sum(step >= round(drop * num_training_steps) for drop in drops)


def layer_depth(name: str, num_layers: int) -> int:
    """The depth of a parameter: 0 in the embeddings, i + 1 in block i, `num_layers` + 1 after the blocks."""
    if block := re.search(r"encoder\.layer\.(\d+)\.", name):
        return int(block.group(1)) + 1
    return 0 if "embeddings." in name else num_layers + 1


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay suits a parameter. It suits matrices, but not biases, norms and embedding tables."""
    return parameter.ndim > 1 and not name.endswith(("cls_token", "position_embeddings", "time_embeddings"))


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    decay_everything: bool = False,
) -> list[dict[str, Any]]:
    """
    The trainable parameters of a model as groups for an optimizer, those with the highest rate first.

    Args:
        learning_rate: the rate of the head.
        layer_decay: the rate of a block divided by that of the block above it (Clark et al. 2020).
        decay_everything: decay biases, norms and tables too, as the authors do.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    num_layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = layer_depth(name, num_layers) if layer_decay != 1 else num_layers + 1
            groups.setdefault((depth, decay_everything or _decays(name, parameter)), []).append(parameter)
    return [
        {
            "params": groups[depth, decayed],
            "lr": learning_rate * layer_decay ** (num_layers + 1 - depth),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for depth, decayed in sorted(groups, reverse=True)
    ]

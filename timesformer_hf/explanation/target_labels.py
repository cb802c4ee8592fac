"""Which class of a classifier is explained: by number, by name, or the predicted one."""

from collections.abc import Mapping, Sequence

import torch

from ..data.label_matching import find_label


Target = int | str | Sequence[int | str] | torch.Tensor | None


def target_classes(target: Target, logits: torch.Tensor, id2label: Mapping[int, str]) -> torch.Tensor:
    """
    Return the class to explain of each clip, (batch,).

    Args:
        target: a number or name for all clips, one for each clip, or `None` for the class with the highest logit.
        logits: (batch, labels).
        id2label: the names of the labels.

    Raises:
        TypeError: if a class is neither a number nor a name.
        ValueError: if the model doesn't have the class, or there isn't one for each clip.
    """
    if target is None:
        return logits.argmax(dim=1)
    if isinstance(target, torch.Tensor):
        target = target.tolist()
    targets = [target] * len(logits) if isinstance(target, (int, str)) else list(target)
    if len(targets) != len(logits):
        raise ValueError(f"target has {len(targets)} classes for {len(logits)} clips; give one, or one for each clip")
    return torch.tensor([_class_number(one, id2label) for one in targets], device=logits.device)


def _class_number(target: int | str, id2label: Mapping[int, str]) -> int:
    if isinstance(target, str):
        return find_label(target, id2label)
    if isinstance(target, bool) or not isinstance(target, int):
        raise TypeError(f"target={target!r} must be the number or the name of a label")
    if not 0 <= target < len(id2label):
        raise ValueError(f"target={target} must be from 0 to {len(id2label) - 1}, the numbers of the model's labels")
    return target

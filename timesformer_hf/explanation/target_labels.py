"""Which class of a classifier is explained: by number, by name, or the predicted one."""

import difflib
from collections.abc import Mapping, Sequence

import torch

from ..data.label_matching import match_names, normalized_name


Target = int | str | Sequence[int | str] | torch.Tensor | None

_MAX_NEAREST = 3


def find_label(name: str, id2label: Mapping[int, str]) -> int:
    """
    Return the number of the label with this name. Case, white space and underscores don't matter, unless two labels
    then are the same.

    Raises:
        ValueError: if the model has no such label. The message has the names that are most like it.
    """
    found = match_names([name], id2label)
    if name not in found:
        nearest = ", ".join(map(repr, _nearest_labels(name, list(id2label.values()))))
        raise ValueError(f"The model has no label {name!r}. The nearest of its {len(id2label)} labels: {nearest}")
    return found[name]


def _nearest_labels(name: str, labels: Sequence[str]) -> list[str]:
    """Return the three labels that are most like a name, the nearest first. A label that contains it comes first."""

    def similarity(label: str) -> tuple[bool, float]:
        one, other = normalized_name(name), normalized_name(label)
        return bool(one) and one in other, difflib.SequenceMatcher(None, one, other).ratio()

    return sorted(labels, key=similarity, reverse=True)[:_MAX_NEAREST]


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

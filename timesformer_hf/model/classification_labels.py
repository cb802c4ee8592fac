"""Which kind of problem labels belong to, and whether they fit the logits."""

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """
    The fields of a config that transformers' loss reads.

    It is a class that torch.compile can trace, and no field of it can be written to.
    """

    num_labels: int
    problem_type: str


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> str:
    """
    Return the `problem_type` that the shape and dtype of the labels imply.

    Raises:
        TypeError: if `labels` is not a tensor.
    """
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if num_labels == 1:
        return "regression"
    if labels.is_floating_point() or labels.ndim == 2:
        return "multi_label_classification"
    return "single_label_classification"


def check_labels(labels: torch.Tensor, logits: torch.Tensor, problem_type: str) -> None:
    """
    Check that labels fit the logits (batch, num_labels).

    Raises:
        ValueError: if their shape, their dtype or a value doesn't fit the logits and the problem type.
    """
    batch, num_labels = logits.shape
    single = problem_type == "single_label_classification"
    legal_shapes = [(batch,)] if single else [(batch, num_labels)]
    if num_labels == 1 or single:
        legal_shapes = [(batch,), (batch, 1)]
    if tuple(labels.shape) not in legal_shapes:
        raise ValueError(
            f"labels for {problem_type} with {num_labels} labels and a batch of {batch} must have shape "
            f"{' or '.join(map(str, legal_shapes))}, got {tuple(labels.shape)}"
        )
    if single and labels.is_floating_point():
        raise ValueError(f"labels for {problem_type} must be integers, got {labels.dtype}")
    # A compiled graph and `torch.func.vmap` can't look at values. On a GPU this check waits for the device once a step.
    # That costs next to nothing in a video model, and avoids a device-side assertion, after which the process can't use
    # the GPU any more.
    has_values = not (torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(labels))
    if problem_type != "regression" and has_values:
        _check_label_values(labels, num_labels, single)


def _check_label_values(labels: torch.Tensor, num_labels: int, single: bool) -> None:
    """
    Check that the classes exist, or that the targets of several labels lie in [0, 1].

    Raises:
        ValueError: if one doesn't. The message lists the first wrong values.
    """
    if single:
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= num_labels))]
        rule = f"0..{num_labels - 1} (or be -100, to ignore a clip)"
    else:
        wrong = labels[(labels < 0) | (labels > 1)]
        rule = "[0, 1], a target for each label"
    if wrong.numel():
        raise ValueError(
            f"labels must lie in {rule}, got {wrong.flatten()[:5].tolist()}; set num_labels or id2label to the classes "
            "of your data"
        )

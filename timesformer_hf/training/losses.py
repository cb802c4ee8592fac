"""The loss of clips whose labels are classes, shares of mixed clips, or several at once, and the weights of classes."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.nn import functional as F

from ..data.clip_dataset import readable_clips


class ClipLoss:
    """
    The mean (binary) cross entropy of the clips of a batch, for the `compute_loss_func` of transformers' Trainer.

    Labels are classes (batch,); or shares (batch, num_labels), which mixing makes; or, with `multi_label`, the shares
    of independent yes-no questions. A clip whose labels are -100 is left out of the mean, so the gradient is that of
    the batch without it. With gradient accumulation and several processes, the mean is over the clips of all of them.

    Args:
        multi_label: use the binary cross entropy of every label instead of one cross entropy.
        class_weights: (num_labels,), see [`balanced_class_weights`]; with `multi_label` the weights of a yes.
        label_smoothing: the share of a label that is spread over all labels, in training only and not with
            `multi_label`.
    """

    def __init__(
        self, multi_label: bool = False, class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0
    ):
        self.multi_label: bool = multi_label
        self.class_weights: torch.Tensor | None = class_weights
        self.label_smoothing: float = label_smoothing
        self.training: bool = True

    def __call__(
        self,
        outputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """
        The loss, a scalar.

        Args:
            outputs: the outputs of a model, with `logits` (batch, num_labels).
            labels: see above.
            num_items_in_batch: the number of entries of `labels` other than -100, in all batches of the step and all
                processes; by default in this batch.
        """
        logits = outputs["logits"].float()
        readable = readable_clips(labels)
        smoothing = self.label_smoothing if self.training else 0.0
        if self.multi_label:
            loss = self.binary(logits[readable], labels[readable])
        else:
            loss = self.categorical(logits[readable], labels[readable], smoothing)
        if num_items_in_batch is None:
            num_items_in_batch = readable.sum() * labels[0].numel()
        clips = num_items_in_batch / labels[0].numel()
        return loss / (clips.clamp(min=1) if isinstance(clips, torch.Tensor) else max(clips, 1))

    def categorical(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
        """The sum of the cross entropies of clips."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        labels = labels.to(logits.dtype) if labels.ndim == 2 else labels
        return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")

    def binary(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum over clips of the mean binary cross entropy of their labels."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        targets = labels.to(logits.dtype)
        return (
            F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum") / logits.shape[1]
        )


def balanced_class_weights(
    labels: Iterable[Sequence[str]], label_names: Sequence[str], multi_label: bool = False
) -> torch.Tensor:
    """
    Weights that make each class count the same in the loss, however few videos it has. They are inverse to the number
    of videos, and their mean over the videos is 1. With `multi_label`, the weight of a yes is the number of videos
    without the label for each video with it.

    Args:
        labels: the labels of each video.
        label_names: all labels, in order.

    Returns:
        float32 (labels,). A class without videos has the weight 1.
    """
    labels = list(labels)
    counts = torch.tensor([sum(name in video for video in labels) for name in label_names], dtype=torch.float32)
    occurring = counts > 0
    weights = torch.ones(len(label_names))
    if multi_label:
        weights[occurring] = (len(labels) - counts[occurring]).clamp(min=1) / counts[occurring]
    else:
        weights[occurring] = len(labels) / (occurring.sum() * counts[occurring])
    return weights

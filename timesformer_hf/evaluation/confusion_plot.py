"""Drawing which labels a classifier confuses, from counts and names."""

import os
from collections.abc import Sequence

import numpy as np

from ..output.figures import check_can_plot, new_figure, save_figure


_MAX_NUMBERED = 25  # classes, beyond which numbers in the cells can't be read
MAX_NAMED = 60  # classes, beyond which names can't


def plot_confusion_matrix(path: str | os.PathLike, counts: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """
    Draw a confusion matrix and write it to a file. The colour of a cell is its share of the row, so that classes with
    few videos are as visible as those with many. The number in a cell is the count. For more than 60 classes the names
    are left out, and for more than 25 the numbers.

    Args:
        path: the file, whose name ends in .png or .svg.
        counts: (labels, labels), a row for each label and a column for each prediction.
        names: the names of the labels.

    Raises:
        ValueError: where names and counts don't fit, or the name of the file has another ending.
        ImportError: where matplotlib is missing.
    """
    check_can_plot(path)
    counts = np.asarray(counts)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"counts must have shape ({len(names)}, {len(names)}), as there are names, got {counts.shape}")
    side = min(4 + 0.35 * len(names), 16)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shares = _row_shares(counts)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's videos", fraction=0.046)
    _label_axes(axes, names, title)
    if len(names) <= _MAX_NUMBERED:
        _write_counts(axes, counts, shares)
    save_figure(figure, path, dpi=120, bbox_inches="tight")


def _row_shares(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum. A row of zeros stays zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _label_axes(axes, names: Sequence[str], title: str) -> None:
    named = len(names) <= MAX_NAMED
    axes.set_xticks(range(len(names)) if named else [], names if named else [], rotation=90)
    axes.set_yticks(range(len(names)) if named else [], names if named else [])
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_title(title)


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Write the counts that aren't zero, in white where the cell is dark."""
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)

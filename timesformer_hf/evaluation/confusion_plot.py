"""Drawing which labels a classifier confuses, from counts and names."""

import os
import textwrap
import unicodedata
from collections.abc import Sequence

import numpy as np

from ..output.figures import check_can_plot, fonts_for, new_figure, save_figure


_MAX_NUMBERED = 25  # classes, beyond which numbers in the cells can't be read
_LINE, _LINES, _LONGEST = 28, 4, 40  # letters in a line, lines of a name, letters of a name in one line
MAX_NAMED = 60  # classes, beyond which names can't


def plot_confusion_matrix(
    path: str | os.PathLike[str], counts: np.ndarray, names: Sequence[str], title: str = ""
) -> None:
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
    with fonts_for([*names, title]):
        _draw(path, counts, [_wrapped(name, len(names)) for name in names], title)


def _draw(path: str | os.PathLike[str], counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw the matrix and write the file."""
    side = min(4 + 0.35 * len(names), 16)
    margin = 0.08 * max(map(_width, names)) if len(names) <= MAX_NAMED else 0  # inches, for the names
    figure = new_figure(side + 1 + margin, side + margin)
    axes = figure.subplots()
    shares = _row_shares(counts)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's videos", fraction=0.046)
    _label_axes(axes, names, title)
    if len(names) <= _MAX_NUMBERED:
        _write_counts(axes, counts, shares)
    if len(names) <= MAX_NAMED:
        _turn_names_that_do_not_fit(figure, axes)
    save_figure(figure, path, dpi=120, bbox_inches="tight")


def _wrapped(name: str, num_names: int) -> str:
    """Return a name in lines of at most 28 letters, or where there are many names, in one line of at most 40."""
    if num_names > _MAX_NUMBERED:
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"
    return "\n".join(textwrap.wrap(name, _LINE)[:_LINES]) or name


def _width(name: str) -> int:
    """Return the width of the longest line of a name in Latin letters. Chinese and Japanese ones are twice as wide."""
    lines = name.splitlines() or [""]
    return max(sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line) for line in lines)


def _turn_names_that_do_not_fit(figure, axes) -> None:
    """Turn the names of the predictions upright if one of them is wider than its column."""
    figure.draw_without_rendering()
    labels = axes.get_xticklabels()
    column = axes.get_window_extent().width / max(len(labels), 1)
    if any(label.get_window_extent().width > 0.95 * column for label in labels):
        axes.tick_params(axis="x", labelrotation=90)


def _row_shares(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum. A row of zeros stays zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _label_axes(axes, names: Sequence[str], title: str) -> None:
    named = len(names) <= MAX_NAMED
    axes.set_xticks(range(len(names)) if named else [], names if named else [])
    axes.set_yticks(range(len(names)) if named else [], names if named else [])
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.set_title(title)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
        text.set_parse_math(False)  # a $ in a name is no formula


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray) -> None:
    """Write the counts that aren't zero, in white where the cell is dark."""
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)

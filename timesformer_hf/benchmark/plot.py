"""Draws how many times as fast as its fastest peer this package is: a bar for each case, in words."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..output.figures import COLOURS, check_can_plot, new_figure, save_figure
from .results import Spread


_ROW_HEIGHT = 0.62  # inches


@dataclass(frozen=True)
class PlottedRow:
    """
    A bar of the chart.

    Attributes:
        label: what is done, in words.
        peer: the fastest peer, in words.
        ratio: how many times as fast as the peer our path is.
    """

    label: str
    peer: str
    ratio: Spread


def plot_ratios(path: str | os.PathLike, rows: Sequence[PlottedRow]) -> None:
    """
    Draw `rows` from top to bottom as bars, with their quartiles, and write them to `path`. The same numbers give the
    same bytes, with the same matplotlib and settings.

    Args:
        path: a file name that ends in .svg or .png.
        rows: at least one.

    Raises:
        ValueError: where there are no rows, or where `path` has another ending.
        ImportError: where matplotlib is missing.
    """
    check_can_plot(path)
    if not rows:
        raise ValueError("There is nothing to draw: in no case were both one of our paths and a peer measured")
    figure = new_figure(9, 0.8 + _ROW_HEIGHT * len(rows))
    _draw_rows(figure.subplots(), rows)
    save_figure(figure, path, dpi=150)


def _draw_rows(axes, rows: Sequence[PlottedRow]) -> None:
    """Draw a bar for each row from 0 on, with the ratio and the peer in words beside it, and a line at 1."""
    for height, row in enumerate(rows):
        ratio = row.ratio
        error = [[ratio.median - ratio.lower], [ratio.upper - ratio.median]]
        axes.barh(height, ratio.median, height=0.6, color=COLOURS[0], xerr=error, error_kw={"elinewidth": 1})
        text = f"  {ratio.median:.1f} times as fast as {row.peer}"
        axes.annotate(text, (ratio.upper, height), va="center", fontsize=9)
    axes.axvline(1, color="#000000", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.9 * max(row.ratio.upper for row in rows))  # room for the words beside the bars
    axes.set_xticks([1], ["as fast"])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)

"""Draws how many times as fast as its peers this package is: a row for each case, a mark for each peer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..output.figures import COLOURS, MARKERS, check_can_plot, new_figure, save_figure
from .results import Spread


_ROW_HEIGHT = 0.45  # inches


@dataclass(frozen=True)
class PlottedRow:
    """
    A row of the chart.

    Attributes:
        label: the name of the case.
        ratios: name of a peer -> how many times as fast as the peer our path is.
    """

    label: str
    ratios: dict[str, Spread]


def plot_ratios(path: str | os.PathLike, rows: Sequence[PlottedRow]) -> None:
    """
    Draw `rows` from top to bottom, as medians with quartiles, and write them to `path`. The same numbers give the same
    bytes, with the same matplotlib and settings.

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
    figure = new_figure(9, 1.6 + _ROW_HEIGHT * len(rows))
    axes = figure.subplots()
    _draw_rows(axes, rows)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # so that each peer is listed once
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path, dpi=150)


def look(number: int) -> tuple[str, str]:
    """Return a colour and a marker for a number. The first 25 numbers have different pairs."""
    turn, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def _draw_rows(axes, rows: Sequence[PlottedRow]) -> None:
    """Draw the rows on a logarithmic axis, where twice as fast and half as fast are equally far from the line at 1."""
    from matplotlib.ticker import LogLocator, NullFormatter

    peers = list(dict.fromkeys(peer for row in rows for peer in row.ratios))
    looks = {peer: look(number) for number, peer in enumerate(peers)}
    for height, row in enumerate(rows):
        for peer, spread in row.ratios.items():
            colour, marker = looks[peer]
            error = [[spread.median - spread.lower], [spread.upper - spread.median]]
            axes.errorbar(
                spread.median, height, xerr=error, label=peer, color=colour, marker=marker, markersize=6, linestyle=""
            )
    axes.axvline(1, color="#000000", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times as fast as the peer (beyond 1, ours is faster)")
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)

"""Drawing how many times as fast ours is: a row for each case, a mark for each peer. Knows numbers and names only."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..output.figures import COLOURS, MARKERS, check_can_plot, new_figure, save_figure
from .results import Spread


_ROW_HEIGHT = 0.45  # inches


@dataclass(frozen=True)
class PlottedRow:
    """
    Attributes:
        label: of the case.
        ratios: peer -> how many times as fast as it ours is.
    """

    label: str
    ratios: dict[str, Spread]


def plot_ratios(path: str | os.PathLike, rows: Sequence[PlottedRow]) -> None:
    """
    Draw `rows` from top to bottom, medians with their quartiles, and write them to `path`, a name in .svg or .png. The
    same numbers give the same bytes, as long as matplotlib and its settings are the same.

    Raises:
        ValueError: where there is nothing to draw, or the name ends in no format that can be drawn.
        ImportError: where matplotlib is missing.
    """
    check_can_plot(path)
    if not rows:
        raise ValueError("There is nothing to draw: no case has both a path of ours and a peer that were measured")
    figure = new_figure(9, 1.6 + _ROW_HEIGHT * len(rows))
    axes = figure.subplots()
    _draw_rows(axes, rows)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # a peer once
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path, dpi=150)


def look(number: int) -> tuple[str, str]:
    """Colour and marker: each number up to the square of how many there are has a pair of its own."""
    turn, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def _draw_rows(axes, rows: Sequence[PlottedRow]) -> None:
    """A logarithmic axis: twice as fast is as far from the line at 1 as half as fast."""
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

"""Draws costs like the paper's Figure 3: one panel for each quantity that grows. It imports no model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .figures import COLOURS, MARKERS, check_can_plot, new_figure, save_figure


@dataclass(frozen=True)
class Panel:
    """
    One panel of the figure: the cost of several models against one quantity.

    Attributes:
        label: the text below the horizontal axis, with its unit.
        values: the positions on the horizontal axis.
        lines: name -> one cost for each of the values.
    """

    label: str
    values: Sequence[int]
    lines: dict[str, Sequence[float]]


def plot_costs(path: str | os.PathLike, panels: Sequence[Panel], label: str) -> None:
    """
    Draw `panels` side by side and write them to `path`. The same numbers give the same bytes, with the same matplotlib
    and settings.

    Args:
        path: a file name that ends in .svg or .png.
        label: the text beside the vertical axis, with its unit. The panels share this axis.

    Raises:
        ValueError: if a panel has more lines than there are colours.
        ValueError, ImportError: see [`check_can_plot`].
    """
    check_can_plot(path)
    lines, colours = max(len(panel.lines) for panel in panels), len(COLOURS)
    if lines > colours:
        raise ValueError(f"A panel has {lines} lines, but there are {colours} colours; add some in output/figures.py")
    figure = new_figure(9, 4.2)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        draw_panel(axes, panel)
    all_axes[0].set_ylabel(label)
    figure.legend(
        *all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False
    )
    save_figure(figure, path, dpi=150)


def draw_panel(axes, panel: Panel) -> None:
    """
    Draw one panel with two logarithmic axes. There a cost that grows as a power is a straight line, whose slope is the
    power.
    """
    from matplotlib.ticker import LogLocator

    for (name, costs), colour, marker in zip(panel.lines.items(), COLOURS, MARKERS, strict=False):
        axes.plot(panel.values, costs, label=name, color=colour, marker=marker, markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(panel.values, [str(value) for value in panel.values])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(panel.label)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)

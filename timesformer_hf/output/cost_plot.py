"""Drawing costs like the paper's Figure 3: a panel for each thing that grows. Knows numbers and names, no model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .figures import COLOURS, MARKERS, check_can_plot, new_figure, save_figure


@dataclass(frozen=True)
class Panel:
    """
    One half of the figure.

    Attributes:
        label: of the horizontal axis, with its unit.
        values: on the horizontal axis.
        lines: name -> a cost for each of the values.
    """

    label: str
    values: Sequence[int]
    lines: dict[str, Sequence[float]]


def plot_costs(path: str | os.PathLike, panels: Sequence[Panel], label: str) -> None:
    """
    Draw `panels` side by side and write them to `path`, a name in .svg or .png. The same numbers give the same bytes,
    as long as matplotlib and its settings are the same.

    Args:
        label: of the vertical axis, which the panels share, with its unit.

    Raises:
        ValueError, ImportError: as `check_can_plot`.
    """
    check_can_plot(path)
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
    """Both axes are logarithmic: a cost that grows as a power is a straight line, and its slope is the power."""
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

"""Drawing loss, accuracy and learning rate over the steps of a training, from the log of a Trainer."""

import os
from collections.abc import Sequence
from typing import Any

from ..output.figures import COLOURS, check_can_plot, new_figure, save_figure


_PANELS = {
    # label of the vertical axis: what of the log is drawn in it
    "loss": ("loss", "eval_loss"),
    "accuracy": ("eval_accuracy", "eval_mean_class_accuracy", "eval_mean_average_precision", "eval_label_accuracy"),
    "learning rate": ("learning_rate",),
}
NAMES = {
    "loss": "training",
    "eval_loss": "validation",
    "eval_accuracy": "top-1",
    "eval_mean_class_accuracy": "mean of classes",
    "eval_mean_average_precision": "mean average precision",
    "eval_label_accuracy": "labels, yes or no",
    "learning_rate": "highest",
}


def read_curves(log: Sequence[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """
    The steps and values of each quantity in a log that [`plot_training_curves`] draws.

    Args:
        log: `trainer.state.log_history`.
    """
    curves = {}
    for name in NAMES:
        entries = [(entry["step"], entry[name]) for entry in log if name in entry and "step" in entry]
        if entries:
            curves[name] = tuple(map(list, zip(*entries, strict=True)))
    return curves


def plot_training_curves(path: str | os.PathLike[str], log: Sequence[dict[str, Any]]) -> None:
    """
    Draw loss, accuracy and learning rate, a panel each, and write them to a file. A panel is left out where the log has
    no values for it.

    Args:
        path: the file, whose name ends in .png or .svg.
        log: `trainer.state.log_history`.

    Raises:
        ValueError: where the log has no values at all, or the name of the file has another ending.
        ImportError: where matplotlib is missing.
    """
    check_can_plot(path)
    curves = read_curves(log)
    panels = [label for label, names in _PANELS.items() if curves.keys() & set(names)]
    if not panels:
        raise ValueError("There is nothing to draw: the log holds no loss, accuracy or learning rate")
    figure = new_figure(4.2 * len(panels), 3.6)
    for axes, label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_panel(axes, label, {name: curves[name] for name in _PANELS[label] if name in curves})
    save_figure(figure, path, dpi=120)


def draw_panel(axes, label: str, curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """Draw curves over the same steps, from step 0 on."""
    from matplotlib.ticker import MaxNLocator

    for (name, (steps, values)), colour, line in zip(curves.items(), COLOURS, ("-", "--", ":"), strict=False):
        marker = "o" if len(steps) < 30 else None  # a line alone would hide a single value
        axes.plot(steps, values, line, label=NAMES[name], color=colour, marker=marker, markersize=4)
    axes.set_xlim(0, 1.05 * max(max(steps) for steps, _ in curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    if label == "accuracy":
        axes.set_ylim(0, 1.02)
    elif all(len(values) == 1 for _, values in curves.values()):  # of one epoch: around one value there is no scale
        axes.set_ylim(0, 1.25 * max(values[0] for _, values in curves.values()) or 1)
    if len(curves) > 1:
        axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)

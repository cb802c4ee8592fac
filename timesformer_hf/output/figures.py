"""Shared by all figures: file formats, colours, markers, a canvas without a window, reproducible files."""

import os
from pathlib import Path

from .extras import missing_package


FORMATS = (".svg", ".png")
# The palette of Okabe and Ito, whose colours colour-blind readers can tell apart. Markers serve print without colours.
COLOURS = ("#0072B2", "#D55E00", "#000000", "#CC79A7", "#009E73")
MARKERS = "osD^v"


def check_can_plot(path: str | os.PathLike) -> None:
    """
    Check that a figure of that name can be drawn. Call it before long work, so that the work is not lost.

    Raises:
        ValueError: where the file name does not end in one of `FORMATS`.
        ImportError: where matplotlib is missing.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the file name of a plot must end in {' or '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_package("a plot", "matplotlib", "viz") from error


def new_figure(width: float, height: float):
    """Return an empty matplotlib figure of that size in inches. It never opens a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path: str | os.PathLike, dpi: int, **settings) -> None:
    """Write a figure to a file in one of `FORMATS`. The same figure gives the same bytes."""
    from matplotlib import rc_context

    is_svg = Path(path).suffix.lower() == ".svg"
    with rc_context({"svg.hashsalt": "timesformer_hf"}):  # without it the ids in the file are random
        figure.savefig(path, dpi=dpi, metadata={"Date": None} if is_svg else None, **settings)

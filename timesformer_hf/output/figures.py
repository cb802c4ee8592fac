"""What all figures share: file formats, colours, markers, a canvas without a window, reproducible files."""

import os
from pathlib import Path

from .extras import missing_package


FORMATS = (".svg", ".png")
# Okabe and Ito's palette, which the colour-blind can tell apart; a marker each, for print without colours.
COLOURS = ("#0072B2", "#D55E00", "#000000", "#CC79A7", "#009E73")
MARKERS = "osD^v"


def check_can_plot(path: str | os.PathLike) -> None:
    """
    Check that a figure of that name can be drawn. To be called before long work.

    Raises:
        ValueError: where the name of the file ends in no format that can be drawn.
        ImportError: where matplotlib is missing.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the name of a plot must end in {' or '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_package("a plot", "matplotlib", "viz") from error


def new_figure(width: float, height: float):
    """A matplotlib figure of that size in inches, which opens no window whatever the user's settings say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path: str | os.PathLike, dpi: int, **settings) -> None:
    """Write a figure to a name in one of `FORMATS`. The same figure gives the same bytes."""
    from matplotlib import rc_context

    is_svg = Path(path).suffix.lower() == ".svg"
    with rc_context({"svg.hashsalt": "timesformer_hf"}):  # without it the names in the file are random
        figure.savefig(path, dpi=dpi, metadata={"Date": None} if is_svg else None, **settings)

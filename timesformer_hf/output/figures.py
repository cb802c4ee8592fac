"""Shared by all figures: file formats, colours, markers, a canvas without a window, reproducible files."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
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


class FigureWarning(UserWarning):
    """Warns that a figure is drawn, but not as it was meant. The message says why."""


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """
    In the block, matplotlib draws `texts` with its usual font, and letters that it lacks with other installed fonts.

    Warns where no installed font has a letter, which is then drawn as a box.
    """
    from matplotlib import rc_context
    from matplotlib.font_manager import fontManager

    families, missing = ["DejaVu Sans"], {ord(letter) for text in texts for letter in text if not letter.isspace()}
    missing -= _letters_of(_usual_font())
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)) if missing else ():
        found = missing & _letters_of(font.fname)
        if found and not font.name.startswith("Last Resort"):  # which has a box for every letter
            families.append(font.name)
            missing -= found
    if missing:
        letters = "".join(map(chr, sorted(missing)))
        warnings.warn(
            f"No installed font has the letters {letters[:20]}{'...' if len(letters) > 20 else ''}, so a figure shows "
            "boxes in their place. Install a font that has them, for example Noto Sans CJK (Debian: fonts-noto-cjk)",
            FigureWarning,
            stacklevel=3,
        )
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # said above, once for all letters
        yield


def _usual_font() -> str:
    from matplotlib.font_manager import findfont

    return findfont("DejaVu Sans")


def _letters_of(font: str) -> set[int]:
    """Return the code points that a font file has, none for a file that can't be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return set(FT2Font(font).get_charmap())
    except (OSError, RuntimeError):
        return set()


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

"""Pictures and films of an explanation. They need matplotlib, which is imported only when something is drawn."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain

import numpy as np
import PIL.Image
import PIL.ImageColor
import torch
from torch.nn import functional as F

from ..output.figures import check_can_plot, fonts_for, new_figure, save_figure
from ..video.printable import printable
from .video_explanation import Region, VideoExplanation


_COLOUR_MAP = "viridis"
_BAR_COLOUR, _CURSOR_COLOUR = "#0072B2", (213, 94, 0)  # of Okabe and Ito
_MIX = 0.45  # the share of the grey frame below a heat map
_MAX_SHEET_FRAMES = 16
_MAX_GIF_FRAMES = 32
_GIF_SECONDS = 0.4  # for each frame
_FILM_SECONDS = 4  # the shortest film; a shorter clip is shown slower
_DPI = 100
_UNIT = "relevance (1 = all patches alike)"


def relative_relevance(explanation: VideoExplanation) -> np.ndarray:
    """Return the relevance as a multiple of the mean, (frames, rows, columns), which does not depend on the grid."""
    return explanation.relevance * explanation.relevance.size


def overlay_frames(frames: np.ndarray, relevance: np.ndarray, region: Region, highest: float) -> np.ndarray:
    """
    Draw heat maps over frames.

    The frames become grey, so that the colours are those of the map alone. What the model does not see is dark.

    Args:
        frames: uint8 RGB (frames, height, width, 3).
        relevance: (frames, rows, columns).
        region: the part of a frame that the map covers, see [`VideoExplanation`].
        highest: the relevance with the brightest colour.

    Returns:
        uint8 RGB, in the shape of the frames.
    """
    from matplotlib import colormaps

    height, width = frames.shape[1:3]
    top, left, bottom, right = _in_pixels(region, height, width)
    maps = torch.from_numpy(np.asarray(relevance, dtype=np.float32) / max(highest, 1e-12)).unsqueeze(1)
    maps = F.interpolate(maps, size=(bottom - top, right - left), mode="bilinear", align_corners=False)[:, 0].numpy()
    seen = np.s_[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    maps = maps[:, max(-top, 0) : height - top, max(-left, 0) : width - left]
    colours = colormaps[_COLOUR_MAP](maps.clip(0, 1))[..., :3] * 255
    grey = (frames @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, axis=-1)
    drawn = 0.35 * grey
    drawn[seen] = _MIX * grey[seen] + (1 - _MIX) * colours
    return drawn.round().astype(np.uint8)


def _in_pixels(region: Region, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the top, left, bottom and right of a region in whole pixels, at least one in each direction."""
    top, left = round(region[0] * height), round(region[1] * width)
    return top, left, max(round(region[2] * height), top + 1), max(round(region[3] * width), left + 1)


def draw_sheet(path: str | os.PathLike[str], explanation: VideoExplanation) -> None:
    """
    Draw the frames that the model gets, and below each the same frame with its heat map, to a .png or .svg file.

    Of more than 16 frames, so many are taken at equal distances.

    Raises:
        ValueError, ImportError: see [`check_can_plot`].
    """
    check_can_plot(path)
    chosen = _evenly(len(explanation.frames), _MAX_SHEET_FRAMES)
    relevance = relative_relevance(explanation)
    overlays = overlay_frames(explanation.frames[chosen], relevance[chosen], explanation.region, relevance.max())
    columns = min(len(chosen), 8)
    blocks = -(-len(chosen) // columns)
    height, width = explanation.frames.shape[1:3]
    cell_width = max(1.9 * min(width / height, 1) ** 0.5, 1.0)  # inches
    cell_height = cell_width * height / width
    with fonts_for([explanation.label, explanation.video]):
        figure = new_figure(max(columns * cell_width + 1.2, 6.5), blocks * (2 * cell_height + 0.35) + 0.9)
        axes = figure.subplots(2 * blocks, columns, squeeze=False)
        for one in axes.flat:
            one.set_axis_off()
        for number, index in enumerate(chosen):
            block, column = divmod(number, columns)
            axes[2 * block, column].imshow(explanation.frames[index], aspect="equal")
            share = explanation.frame_relevance[index]
            axes[2 * block, column].set_title(
                f"{_moment(explanation, index)}\n{share:.0%} of the relevance", fontsize=7
            )
            axes[2 * block + 1, column].imshow(overlays[number], aspect="equal")
        _add_legend(figure, relevance.max(), ax=axes, fraction=0.03, pad=0.01)
        figure.suptitle(_title(explanation, round(figure.get_figwidth() * _DPI / 9)), fontsize=11, parse_math=False)
        save_figure(figure, path, dpi=130)


def draw_times(path: str | os.PathLike[str], explanation: VideoExplanation) -> None:
    """
    Draw the share of the relevance that each frame has, as bars over time, to a .png or .svg file.

    Raises:
        ValueError, ImportError: see [`check_can_plot`].
    """
    check_can_plot(path)
    from matplotlib.ticker import PercentFormatter

    with fonts_for([explanation.label, explanation.video]):
        figure = new_figure(8, 3.6)
        axes = figure.subplots()
        _draw_bars(axes, explanation)
        labelled = range(0, len(explanation.frames), -(-len(explanation.frames) // 8))
        axes.set_xticks(labelled, [_moment(explanation, index).replace(", ", "\n") for index in labelled], fontsize=8)
        axes.axhline(1 / len(explanation.frames), color="black", linestyle="--", linewidth=1)
        axes.annotate(
            "all frames\nalike",
            (1, 1 / len(explanation.frames)),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        axes.set_ylabel("share of the relevance")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_title(_title(explanation, 85), fontsize=10, parse_math=False)
        save_figure(figure, path, dpi=130)


def write_film(
    path: str | os.PathLike[str], explanation: VideoExplanation, frames: np.ndarray, indices: Sequence[int]
) -> None:
    """
    Write an .mp4 film of frames of the video with their heat maps.

    It has the video's speed. A clip of less than 4 seconds is shown slower, so that it lasts 4 seconds; the film says
    how much slower. Between the frames that the model gets, the heat map changes linearly.

    Args:
        frames, indices: the frames of the film and their numbers in the video, from [`read_span`].
    """
    import av

    span = (max(indices) - min(indices) + 1) / (explanation.fps or 25)
    rate = len(frames) / max(span, _FILM_SECONDS)
    speed = span / max(span, _FILM_SECONDS)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    pictures = film_pictures(explanation, frames, indices, "" if speed == 1 else f"{speed:.2g} x speed")
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "20"}
        else:
            stream.codec_context.qmax = 4
        first = next(pictures)
        stream.height, stream.width = first.shape[:2]
        for picture in chain((first,), pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: str | os.PathLike[str], explanation: VideoExplanation) -> None:
    """Write a .gif of the frames that the model gets, at most 32, each with its heat map and held for 0.4 seconds."""
    chosen = _evenly(len(explanation.frames), _MAX_GIF_FRAMES)
    indices = [explanation.frame_indices[index] for index in chosen]
    pictures = [
        PIL.Image.fromarray(picture)
        for picture in film_pictures(explanation, explanation.frames[chosen], indices, "", chosen)
    ]
    palette = _gif_palette()
    first, *others = [picture.quantize(palette=palette) for picture in pictures]
    first.save(path, save_all=True, append_images=others, duration=round(1000 * _GIF_SECONDS), loop=0)


def _gif_palette() -> PIL.Image.Image:
    """Return an image with the 256 colours of a .gif: those of heat maps over greys, the legend, the text, the bars."""
    from matplotlib import colormaps

    grey = np.linspace(0, 255, 13)[:, None, None] * np.ones(3)
    heat = colormaps[_COLOUR_MAP](np.linspace(0, 1, 16))[None, :, :3] * 255
    over = _MIX * grey + (1 - _MIX) * heat
    legend = colormaps[_COLOUR_MAP](np.linspace(0, 1, 24))[:, :3] * 255
    greys = np.linspace(0, 255, 22)[:, None] * np.ones(3)
    bars = [PIL.ImageColor.getrgb(_BAR_COLOUR), _CURSOR_COLOUR]
    colours = np.concatenate((over.reshape(-1, 3), legend, greys, bars)).round().astype(np.uint8)
    image = PIL.Image.new("P", (1, 1))
    image.putpalette(colours.tobytes())
    return image


def film_pictures(
    explanation: VideoExplanation,
    frames: np.ndarray,
    indices: Sequence[int],
    note: str = "",
    clip_places: Sequence[int] | None = None,
) -> Iterator[np.ndarray]:
    """
    Yield the pictures of a film: frames with heat maps, label and score, a legend, and a mark on the bars of time.

    Args:
        frames: uint8 (frames, height, width, 3).
        indices: their numbers in the video.
        note: a text at the end of the second line.
        clip_places: which frame of the clip each one is. `None` means frames of the video, with relevance in between.

    Yields:
        uint8 (height, width, 3), with even sides.
    """
    relevance = relative_relevance(explanation)
    highest = relevance.max()
    shown = relevance[list(clip_places)] if clip_places else explanation.relevance_at(indices) * relevance.size
    page = _FilmPage(explanation, highest, *frames.shape[1:3], note)
    for number, (frame, index) in enumerate(zip(frames, indices, strict=True)):
        (overlay,) = overlay_frames(frame[None], shown[number : number + 1], explanation.region, highest)
        place = clip_places[number] if clip_places else np.interp(index, *_increasing(explanation.frame_indices))
        yield page.picture(overlay, place)


class _FilmPage:
    """The parts of a film that stay the same, drawn once, and where the changing ones go."""

    def __init__(self, explanation: VideoExplanation, highest: float, height: int, width: int, note: str):
        scale = 480 / min(max(height, width), 640) if max(height, width) < 480 else 1
        self.size = (round(width * scale), round(height * scale))
        total = max(self.size[0], 480) // 2 * 2, (self.size[1] + 150) // 2 * 2
        self.corner = (56, (total[0] - self.size[0]) // 2)
        with fonts_for([explanation.label, explanation.video]):
            figure = new_figure(total[0] / _DPI, total[1] / _DPI)
            figure.set_layout_engine("none")
            letters = total[0] // 8
            title, details = _title(explanation, letters).split("\n")
            figure.text(8 / total[0], 1 - 20 / total[1], title, fontsize=11, va="center", parse_math=False)
            figure.text(8 / total[0], 1 - 42 / total[1], details, fontsize=8, va="center", parse_math=False)
            figure.text(1 - 8 / total[0], 1 - 42 / total[1], note, fontsize=8, va="center", ha="right")
            bars = figure.add_axes((40 / total[0], 24 / total[1], 0.5 - 40 / total[0], 50 / total[1]))
            _draw_bars(bars, explanation)
            bars.set_xticks([])
            bars.set_yticks([])
            bars.set_xlabel("relevance of each frame", fontsize=8, labelpad=3)
            legend = figure.add_axes((0.56, 46 / total[1], 0.4, 12 / total[1]))
            _add_legend(figure, highest, cax=legend, orientation="horizontal")
            figure.canvas.draw()
            self.background = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
            self.background = self.background[: total[1], : total[0]]
            to_pixels = bars.transData.transform
            self.column_of = lambda place: round(to_pixels((place, 0))[0])
            self.rows = (total[1] - 24 - 50, total[1] - 24)

    def picture(self, overlay: np.ndarray, place: float) -> np.ndarray:
        """Return the page with a frame on it, and a mark at a place between the first (0) and last bar."""
        page = self.background.copy()
        frame = np.asarray(PIL.Image.fromarray(overlay).resize(self.size, PIL.Image.Resampling.BILINEAR))
        top, left = self.corner
        page[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        column = self.column_of(place)
        page[self.rows[0] : self.rows[1], column - 1 : column + 2] = _CURSOR_COLOUR
        return page


def _draw_bars(axes, explanation: VideoExplanation) -> None:
    count = len(explanation.frames)
    axes.bar(range(count), explanation.frame_relevance, color=_BAR_COLOUR, width=0.8)
    axes.set_xlim(-0.6, count - 0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure, highest: float, **place) -> None:
    """Add the colours of the heat maps with their values."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, highest), _COLOUR_MAP), **place)
    bar.set_label(_UNIT, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _title(explanation: VideoExplanation, letters: int) -> str:
    """Return two lines: label and score; video and method. Each has at most that many letters."""
    score = f"{explanation.score:.1%}"
    first = f"{_shortened(printable(explanation.label), letters - len(score) - 2)}  {score}"
    about = f"{explanation.method}, "
    return f"{first}\n{about}{_shortened(os.path.basename(printable(explanation.video)), letters - len(about))}"


def _shortened(text: str, letters: int) -> str:
    """Return text of at most that many Latin letters. Chinese and Japanese ones count as two."""
    widths = np.cumsum([2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text])
    return text if len(text) == 0 or widths[-1] <= letters else f"{text[: int((widths < letters).sum())]}…"


def _moment(explanation: VideoExplanation, place: int) -> str:
    """Return when a frame of the clip is shown, as text."""
    index = explanation.frame_indices[place]
    return f"frame {index}, {index / explanation.fps:.2f} s" if explanation.fps else f"frame {index}"


def _evenly(count: int, most: int) -> list[int]:
    """Return at most `most` places of 0 to `count` - 1, at equal distances."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _increasing(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different frame numbers of a clip in order, and the first place of each in the clip."""
    return np.unique(indices, return_index=True)

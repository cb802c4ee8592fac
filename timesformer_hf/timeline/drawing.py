"""A picture of the labels over time, which can be read for a film of two hours too."""

import math
import os
from pathlib import Path

from ..output.figures import COLOURS, fonts_for, new_figure, save_figure
from ..output.terminal import counted
from .segments import Segment
from .video_timeline import Timeline


_ROW_SECONDS = 1800.0  # a longer video is drawn in several strips, one below the other
_MOST_LABELS = 15
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200)  # seconds between two marks of the time axis
_MOST_LETTERS = 32


def draw_timeline(path: str | os.PathLike, timeline: Timeline) -> None:
    """
    Draw the segments of a timeline: a row for each label, and the colour stronger for a higher score.

    A video of more than half an hour is drawn in strips of equal length, one below the other. Of more than 15 labels,
    those with the longest total time are drawn, and the title says how many are left out.

    Args:
        path: the file, whose name ends in .png or .svg.

    Raises:
        ImportError: if matplotlib is missing.
    """
    labels, left_out = _choose_labels(timeline)
    strips = max(1, math.ceil(timeline.duration / _ROW_SECONDS - 1e-9))
    span = timeline.duration / strips
    title = f"{Path(timeline.video).name}: {counted(len(timeline.segments), 'segment')}"
    title += f"; left out: {counted(left_out, 'label')} with less time" if left_out else ""
    with fonts_for([title, *labels]):
        figure = new_figure(14, 0.9 + strips * (0.55 + 0.3 * max(len(labels), 1)))
        axes = figure.subplots(strips, squeeze=False)[:, 0]
        for number, strip in enumerate(axes):
            _draw_strip(strip, timeline.segments, labels, number * span, (number + 1) * span)
        figure.suptitle(title.replace("$", r"\$"))
        axes[-1].set_xlabel("time (h:mm:ss); a stronger colour is a higher score")
        save_figure(figure, path, dpi=110)


def _choose_labels(timeline: Timeline) -> tuple[list[str], int]:
    """Return the labels to draw, in the order of the model, and how many are left out."""
    seconds: dict[str, float] = {}
    for segment in timeline.segments:
        seconds[segment.label] = seconds.get(segment.label, 0.0) + segment.end - segment.start
    longest = set(sorted(seconds, key=lambda label: -seconds[label])[:_MOST_LABELS])
    return [label for label in dict.fromkeys(timeline.labels) if label in longest], len(seconds) - len(longest)


def _draw_strip(axes, segments: tuple[Segment, ...], labels: list[str], start: float, end: float) -> None:
    """Draw the segments between two times. Even a very short one is as wide as a thin line."""
    for segment in segments:
        if segment.label in labels and segment.start < end and segment.end > start:
            row = labels.index(segment.label)
            left, right = max(segment.start, start), min(segment.end, end)
            colour, alpha = COLOURS[row % len(COLOURS)], 0.3 + 0.7 * min(max(segment.score, 0.0), 1.0)
            axes.barh(row, right - left, 0.75, left, color=colour, alpha=alpha, edgecolor=colour, linewidth=1)
    axes.set_yticks(range(len(labels)), [_shortened(label).replace("$", r"\$") for label in labels])
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_xlim(start, end)
    step = next((step for step in _STEPS if (end - start) / step <= 16), _STEPS[-1])
    marks = [step * i for i in range(math.ceil(start / step), math.floor(end / step) + 1)]
    axes.set_xticks(marks, [f"{mark // 3600}:{mark // 60 % 60:02}:{mark % 60:02}" for mark in marks])
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    if not labels:
        axes.text(0.5, 0.5, "no segment reaches the threshold", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + "…"

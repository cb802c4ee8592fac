"""
Segments: from the scores of windows to stretches of time with a label.

The scores of a window are first smoothed by the mean with its neighbours. A segment begins where the smoothed score of
a label reaches the threshold. It ends where it falls below 0.7 times the threshold (hysteresis), so that a score near
the threshold doesn't cut a segment into pieces. Segments never reach across a cut.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


HYSTERESIS = 0.7


@dataclass(frozen=True)
class Window:
    """
    A stretch of the video that the model has classified.

    Attributes:
        start, end: seconds.
        scores: the score of every label (labels,).
        part: number of the part between two cuts, counted from 0.
    """

    start: float
    end: float
    scores: np.ndarray = field(repr=False)
    part: int = 0

    @property
    def middle(self) -> float:
        """The time in the middle, in seconds."""
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Segment:
    """
    A stretch of time with one label.

    Attributes:
        start, end: seconds.
        label: the name of the label.
        score: mean score of the label in the windows of the segment.
    """

    start: float
    end: float
    label: str
    score: float


@dataclass
class _OpenSegment:
    start: float
    scores: list[float]  # sum and number, so that an endless segment takes no memory

    def add(self, score: float) -> None:
        self.scores[0] += score
        self.scores[1] += 1


class SegmentBuilder:
    """
    Makes segments from windows that come one at a time, in order.

    A window stands for the time from the middle between it and the one before, to the middle between it and the next
    one. The first and the last window of a part also stand for the time up to the part's ends.

    Args:
        labels: the name of each score.
        allowed: indices of the labels that may become segments.
        threshold: a segment begins at this smoothed score.
        several: whether labels can hold at the same time, as in a multi-label model. Otherwise the best one holds.
        smoothing: odd number of neighbouring windows whose scores are averaged.
    """

    def __init__(self, labels: Sequence[str], allowed: Sequence[int], threshold: float, several: bool, smoothing: int):
        self.labels, self.allowed, self.several = labels, np.asarray(allowed), several
        self.threshold, self.lower = threshold, threshold * (HYSTERESIS if threshold > 0 else 1 / HYSTERESIS)
        self.reach = smoothing // 2
        self._recent: deque[Window] = deque()  # windows that smoothing still needs
        self._next = 0  # index in `_recent` of the next window to decide on
        self._open: dict[int, _OpenSegment] = {}
        self._begin = 0.0  # where the time of the next window begins

    def add(self, window: Window) -> list[Segment]:
        """Take the next window. Return the segments that have ended."""
        ended = self.end_part() if self._recent and window.part != self._recent[-1].part else []
        if not self._recent:
            self._begin = window.start
        self._recent.append(window)
        while len(self._recent) - 1 - self._next >= max(self.reach, 1):  # the next one tells where this one ends
            ended += self._decide()
        return ended

    def end_part(self) -> list[Segment]:
        """End the part, for example at a cut or at the end of the video. Return the segments that have ended."""
        ended, end = [], self._recent[-1].end if self._recent else self._begin
        while self._next < len(self._recent):
            ended += self._decide()
        ended += self._close(list(self._open), end)
        self._recent.clear()
        self._next = 0
        return sorted(ended, key=_in_order)

    def _decide(self) -> list[Segment]:
        """Smooth the scores of the next window, and begin and end segments at its beginning."""
        low, high = max(self._next - self.reach, 0), self._next + self.reach + 1
        neighbours = list(self._recent)[low:high]
        window = self._recent[self._next]
        smoothed = np.mean([near.scores for near in neighbours], axis=0, dtype=np.float64)
        holding = self._choose(smoothed)
        ended = self._close([label for label in self._open if label not in holding], self._begin)
        for label in holding:
            self._open.setdefault(label, _OpenSegment(self._begin, [0.0, 0])).add(float(window.scores[label]))
        if self._next + 1 < len(self._recent):
            self._begin = (window.middle + self._recent[self._next + 1].middle) / 2
        self._next += 1
        while self._next > self.reach:
            self._recent.popleft()
            self._next -= 1
        return sorted(ended, key=_in_order)

    def _choose(self, scores: np.ndarray) -> list[int]:
        """Return the labels that hold at these scores."""
        if self.several:
            return [
                i for i in self.allowed.tolist() if scores[i] >= (self.lower if i in self._open else self.threshold)
            ]
        best = int(self.allowed[scores[self.allowed].argmax()])
        if scores[best] >= self.threshold:
            return [best]
        return [label for label in self._open if scores[label] >= self.lower]

    def _close(self, labels: Sequence[int], end: float) -> list[Segment]:
        ended = []
        for label in labels:
            segment = self._open.pop(label)
            total, number = segment.scores
            ended.append(Segment(segment.start, end, self.labels[label], total / number))
        return ended


def _in_order(segment: Segment) -> tuple[float, float, str]:
    return segment.start, segment.end, segment.label

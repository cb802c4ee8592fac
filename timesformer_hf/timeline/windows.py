"""
Windows over frames that come one at a time.

Frames are put on a regular grid of the video's frame rate. A missing frame repeats the one before it, and a frame that
comes too early for the grid is left out. In a video with a constant frame rate, the grid is its frames. A part is a run
of frames without a cut. Windows of `length` frames start every `stride` frames in each part, and the last window ends
with the part. A part that is shorter than a window is one window.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


Pixels = np.ndarray | Callable[[], np.ndarray]
Prepare = Callable[[np.ndarray], torch.Tensor]  # a frame in its full size -> what is kept of it in memory
ChooseFrames = Callable[[int], Sequence[int]]  # number of frames of a window -> indices of those that the model sees


class MissingFrameError(LookupError):
    """Raised if a part ended earlier than promised, so that a frame of its last window was not kept."""


@dataclass(frozen=True)
class Clip:
    """
    A window before it has scores.

    Attributes:
        first: index of its first frame on the grid.
        length: number of its frames on the grid.
        part: number of its part, counted from 0.
        is_last: whether it ends with its part.
        frames: the prepared frames that the model sees.
    """

    first: int
    length: int
    part: int
    is_last: bool
    frames: list[torch.Tensor] = field(repr=False)


class _Picture:
    """A frame that is prepared when it is first needed."""

    def __init__(self, pixels: Pixels, prepare: Prepare):
        self._pixels, self._prepare, self._prepared = pixels, prepare, None

    def read(self) -> torch.Tensor:
        """Return the prepared frame, and forget the full one."""
        if self._prepared is None:
            self._prepared = self._prepare(self._pixels() if callable(self._pixels) else self._pixels)
            self._pixels = None
        return self._prepared


class Windows:
    """
    Cuts windows out of frames that come one at a time.

    Args:
        length, stride: frames of the grid in a window, and from one window to the next.
        choose: function from the number of frames of a window to the indices of those that the model sees.
        prepare: function from a frame to what is kept of it, for example a smaller picture.
        keep_all_from: index on the grid from which every frame is kept, because a part may end at any of them. Before
            it, only frames that a whole window needs are kept, and a part must not end.
        skipped: so many windows need no frames, because their scores are known.
    """

    def __init__(
        self,
        length: int,
        stride: int,
        choose: ChooseFrames,
        prepare: Prepare,
        keep_all_from: int = 0,
        skipped: int = 0,
    ):
        self.length, self.stride, self.choose, self.prepare = length, stride, choose, prepare
        self.keep_all_from, self.skipped = keep_all_from, skipped
        self.picks = list(choose(length))
        self.end = 0  # index of the next frame on the grid
        self._part, self._first, self._made = 0, 0, 0  # number and first frame of this part; number of all windows
        self._kept: deque[torch.Tensor | None] = deque(maxlen=length)
        self._last: _Picture | None = None

    def add(self, index: int, pixels: Pixels) -> list[Clip]:
        """
        Take the frame at `index` on the grid. Return the windows that are complete now.

        After a gap that is longer than a window, a new part begins.
        """
        if index < self.end:
            return []
        clips = []
        if index - self.end > self.length:
            clips += self.cut()
            self._first = self.end = index
        elif self._last is None:
            self._first = self.end = index
        while self._last is not None and self.end < index:
            clips += self._append(self._last)
        self._last = _Picture(pixels, self.prepare)
        return clips + self._append(self._last)

    def cut(self) -> list[Clip]:
        """End the part. Return its last window, if it is not complete yet."""
        frames, clips = self.end - self._first, []
        if frames and (frames < self.length or (frames - self.length) % self.stride):
            clips = [self._make(min(frames, self.length), is_last=True)]
        if frames:
            self._part += 1
        self._kept.clear()
        self._first, self._last = self.end, None
        return clips

    def _append(self, picture: _Picture) -> list[Clip]:
        position = self.end - self._first
        self._kept.append(picture.read() if self._is_needed(position) else None)
        self.end += 1
        frames = position + 1
        if frames < self.length or (frames - self.length) % self.stride:
            return []
        return [self._make(self.length, is_last=False)]

    def _is_needed(self, position: int) -> bool:
        """Whether a window may need the frame at this position in its part."""
        # the number of the last window that can contain the frame, the part's last window included
        if self._made + self.length // self.stride + 2 < self.skipped:
            return False
        if self.end >= self.keep_all_from:
            return True
        return any(position >= pick and (position - pick) % self.stride == 0 for pick in self.picks)

    def _make(self, length: int, is_last: bool) -> Clip:
        self._made += 1
        start = len(self._kept) - length
        frames = [] if self._made <= self.skipped else [self._kept[start + pick] for pick in self.choose(length)]
        if any(frame is None for frame in frames):
            raise MissingFrameError(f"a frame before frame {self.end} was not kept")
        return Clip(self.end - length, length, self._part, is_last, frames)

"""A check of what comes out of a decoder against what the packets promised."""

from collections.abc import Iterator

from .decoding_plan import Stretch


class ContradictionError(Exception):
    """Raised if the decoded frames contradict what the packets promised."""


class DecoderOutput:
    """
    Checks the frames that a decoder gives for a stretch.

    They must leave in rising order, each timestamp at most once, and each promised frame must come. Only frames that
    are shown before the key frame may be missing: some of them refer to pictures before it.
    """

    def __init__(self, stretch: Stretch, promised: frozenset[int], codec: str):
        self.stretch, self.promised, self.codec = stretch, promised, codec
        self.last: int | None = None
        self.missing: set[int] = set()

    def expect(self, pts: int | None) -> None:
        """Note that the decoder got the packet of a frame, which must come out later."""
        if pts in self.promised and pts >= self.stretch.key:
            self.missing.add(pts)

    def check(self, decoded: list) -> Iterator:
        """
        Yield the targets among decoded frames.

        Raises:
            ContradictionError: if a frame is damaged, comes too early or too often, or depends on where the decoder
                started.
        """
        for frame in decoded:
            pts = frame.pts
            keyless = pts == self.stretch.key and not frame.key_frame
            late = pts is None or (self.last is not None and pts <= self.last)
            # For interlaced MPEG-4, FFmpeg derives distances in time from the first B-frame that it decodes.
            if frame.is_corrupt or keyless or late or (self.codec == "mpeg4" and frame.interlaced_frame):
                raise ContradictionError
            self.last = pts
            self.missing.discard(pts)
            if pts in self.stretch.targets:
                yield frame

    def finish(self) -> None:
        """
        Check that everything came.

        Raises:
            ContradictionError: if a promised frame is missing.
        """
        if self.missing:
            raise ContradictionError

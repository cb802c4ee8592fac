"""What of a video is accepted: limits against files that take all memory, and what happens to damaged ones."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class VideoOptions:
    """
    Limits and choices for reading a video. A file that exceeds a limit raises `VideoReadError`.

    A processor never takes them from a file, because that file may come from a stranger. `decode_frames` takes them as
    arguments, and a processor as the argument or attribute `video_options`.

    Attributes:
        strict: refuse a video with a damaged packet, or with frames that change size. Otherwise damaged packets are
            left out, as ffmpeg does, and frames are scaled to the size of the first one. A warning says so.
        allow_playlists: open playlists too (HLS, DASH, ffconcat). A playlist makes the decoder open other files and
            URLs, whatever its author names.
        max_frame_pixels: the most pixels (width times height) of a frame.
        max_clip_pixels: the most pixels of all chosen frames together. A pixel takes 3 bytes.
        max_index_frames: the most frames that the index of a file may promise.
        max_bytes: the most bytes of a download, a pipe, or an open file that can't seek. They are kept in memory.
        max_seconds: the longest time for a download.
        deadline: the value of `time.monotonic()` after which reading the file is an error. It is checked at each
            packet.
    """

    strict: bool = False
    allow_playlists: bool = False
    max_frame_pixels: int = 2**26  # 8192 x 8192
    max_clip_pixels: int = 2**30  # 517 frames of 1920 x 1080
    max_index_frames: int = 2**23  # 38 hours at 60 frames a second
    max_bytes: int = 2**30
    max_seconds: float = 600.0
    deadline: float = math.inf

    def for_frames(self, frames: int) -> "VideoOptions":
        """Return the options for decoding this many frames, which together stay below the limit of a clip."""
        return replace(self, max_frame_pixels=min(self.max_frame_pixels, self.max_clip_pixels // frames))

"""Frames that change size half-way, as where two recordings were joined."""

import warnings

import numpy as np
import PIL.Image

from .safe_opening import check_clip_size
from .video_errors import VideoReadError, VideoWarning
from .video_options import VideoOptions


def equalize_sizes(frames: list[np.ndarray], name: str, options: VideoOptions) -> list[np.ndarray]:
    """
    Return frames (height, width, 3) in the size of the first one, and warn if others had to be scaled.

    Raises:
        VideoReadError: if sizes differ and `options.strict` is set, or if the result would exceed a limit.
    """
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) == 1:
        return frames
    listing = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
    about = f"{name}: the frames change size half-way, {listing} (height x width)"
    if options.strict:
        raise VideoReadError(f"{about}; re-encode it")
    height, width = frames[0].shape[:2]
    check_clip_size(len(frames), width, height, name, options)
    warnings.warn(
        f"{about}; all are scaled to {height}x{width}. strict=True refuses such a video", VideoWarning, stacklevel=3
    )
    return [scale_frame(frame, height, width) for frame in frames]


def scale_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame in this size. The method is ffmpeg's own choice, bicubic."""
    if frame.shape[:2] == (height, width):
        return frame
    image = PIL.Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.BICUBIC))

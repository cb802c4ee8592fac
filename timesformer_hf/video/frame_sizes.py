"""Frames that change size half-way, as where two recordings were joined."""

import warnings

import numpy as np
import PIL.Image

from .safe_opening import check_clip_size
from .video_errors import VideoReadError, VideoWarning
from .video_options import VideoOptions


def equalize_sizes(frames: list[np.ndarray], name: str, options: VideoOptions) -> np.ndarray:
    """
    Return frames (height, width, 3) of several sizes as one array, in the size of the first one, with a warning.

    Raises:
        VideoReadError: if `options.strict` is set, or the result would exceed a limit.
    """
    sizes = {frame.shape[:2] for frame in frames}
    listing = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
    about = f"{name}: the frames change size half-way, {listing} (height x width)"
    if options.strict:
        raise VideoReadError(f"{about}; re-encode it")
    height, width = frames[0].shape[:2]
    check_clip_size(len(frames), width, height, name, options)
    warnings.warn(
        f"{about}; all are scaled to {height}x{width}. strict=True refuses such a video", VideoWarning, stacklevel=3
    )
    return np.stack([scale_frame(frame, height, width) for frame in frames])


def scale_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame in this size. The method is ffmpeg's own choice, bicubic."""
    if frame.shape[:2] == (height, width):
        return frame
    image = PIL.Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.BICUBIC))

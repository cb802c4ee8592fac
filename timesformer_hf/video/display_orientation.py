"""
Turning and mirroring decoded frames as the file's display matrix says.

The rules are those by which ffmpeg's command turns videos (`-autorotate`).
"""

import math
import struct

import numpy as np


def turn_upright(picture: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """
    Return a picture (height, width, channels) turned and mirrored as a display matrix says.

    The matrix has nine numbers of 32 bits, row by row. All eight orientations are handled. Other angles, and a matrix
    of zeros, leave the picture as it is.
    """
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    angle = _clockwise_angle(a, b, c, d)
    if angle == 90:
        return picture.swapaxes(0, 1) if c > 0 else np.rot90(picture, -1)
    if angle == 270:
        return np.rot90(picture, 2).swapaxes(0, 1) if c < 0 else np.rot90(picture)
    if angle == 180:
        return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return picture[::-1] if angle == 0 and d < 0 else picture


def _clockwise_angle(a: int, b: int, c: int, d: int) -> int | None:
    """Return the angle by which to turn the first axis, in whole degrees from 0 to 359. Zeros have none."""
    if not (a or c) or not (b or d):
        return None
    return round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360

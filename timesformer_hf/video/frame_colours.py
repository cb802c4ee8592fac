"""Decoded frames whose colours swscale, the converter of FFmpeg, gets wrong or doesn't convert at all."""

import numpy as np


_BT601, _BT2020 = 5, 9  # numbers of colour matrices that swscale has a table for, as in ITU-T H.273
# The numbers from 11 to 17 and 8 (YCgCo, chroma-derived, ICtCp, ...) have no table. ffmpeg uses that of BT.601 for
# them, and for 10 (BT.2020 constant luminance) that of BT.2020.
_REPLACED = {8: _BT601, 10: _BT2020, **dict.fromkeys(range(11, 64), _BT601)}
# swscale of FFmpeg 8 reads these as if their bytes were in the other order.
_SWAPPED = {f"{order}{bits}be": f"{order}{bits}le" for order in ("rgb", "bgr") for bits in ("565", "555")}


def convertible(frame):
    """
    Return a frame that swscale converts as the ffmpeg program does.

    It is the frame itself, with the number of another colour matrix if there is no table for its own. A frame of 16-bit
    pixels with the high byte first is copied, with its bytes swapped.
    """
    frame.colorspace = _REPLACED.get(int(frame.colorspace), frame.colorspace)
    return _swap_bytes(frame) if frame.format.name in _SWAPPED else frame


def _swap_bytes(frame):
    """Return a copy of a frame whose pixels are 16-bit numbers, with the low byte first."""
    swapped = type(frame)(frame.width, frame.height, _SWAPPED[frame.format.name])
    for old, new in zip(frame.planes, swapped.planes, strict=True):
        rows = np.frombuffer(old, np.uint8).reshape(-1, old.line_size)[: frame.height, : 2 * frame.width]
        target = np.zeros((frame.height, new.line_size), np.uint8)
        target[:, : 2 * frame.width] = rows.reshape(frame.height, -1, 2)[:, :, ::-1].reshape(frame.height, -1)
        new.update(target.tobytes())
    return swapped

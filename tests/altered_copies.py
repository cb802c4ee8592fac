"""A clip of a real film, and what others make of it: another encoding, size, brightness, and a later start."""

from pathlib import Path

import numpy as np
import PIL.Image
from clips import decode_all, write_video
from repository import FILM, SAMPLE


def write_altered_copies(folder: Path, number: int = 24) -> dict[str, Path]:
    """The film's first frames and altered copies of them, and another clip, by names."""
    frames = decode_all(FILM)[:number]
    height, width = frames[0].shape[:2]
    smaller = [np.asarray(PIL.Image.fromarray(frame).resize((width // 4 * 2, height // 4 * 2))) for frame in frames]
    brighter = [np.clip(frame * 1.2 + 10, 0, 255).astype(np.uint8) for frame in frames]
    return {
        "original": write_video(folder / "original.mp4", frames),
        "encoded again": write_video(folder / "encoded.mkv", frames, options={"crf": "35"}),
        "half the size": write_video(folder / "smaller.mp4", smaller),
        "brighter": write_video(folder / "brighter.mp4", brighter),
        "a later start": write_video(folder / "later.mp4", frames[3:]),
        "another": write_video(folder / "other.mp4", decode_all(SAMPLE)[:number]),
    }

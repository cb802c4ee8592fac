"""Small videos for the tests, encoded on the spot; every frame differs from every other."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


av = pytest.importorskip("av", reason="making and decoding videos needs PyAV")

X264, X265, SVT = "libx264", "libx265", "libsvtav1"


def moving_pattern(num_frames: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames (height, width, 3) of a picture that drifts and brightens, with some noise for the codec to chew on."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    frames = []
    for i in range(num_frames):
        waves = [np.sin((rows + i) / 5 + channel) + np.cos((columns - 2 * i) / 7) for channel in range(3)]
        frames.append(
            (80 + i % 60 + 25 * np.stack(waves, -1) + np.roll(noise, i, axis=1)).clip(0, 255).astype(np.uint8)
        )
    return frames


def write_video(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    rotation: int | None = None,
    pix_fmt: str = "yuv420p",
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames, at 25 a second or at `times` in milliseconds; the container goes by the file's name."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.options = options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Half a second of silence, and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 22050), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame, by the plainest loop there is: the twin of sparse decoding."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def x264(**params) -> dict[str, str]:
    return {"x264-params": ":".join(f"{name.replace('_', '-')}={value}" for name, value in params.items())}


def x265(**params) -> dict[str, str]:
    listed = {"log-level": "none", "keyint": 12, "min-keyint": 4} | params
    return {"x265-params": ":".join(f"{name.replace('_', '-')}={value}" for name, value in listed.items())}

"""
Random frames to train on: of every policy in `video_sampling`, the draw whose one outcome is what is tested on.

Pure index arithmetic, as there. `rng` is a numpy Generator, the only source of chance.
"""

from collections.abc import Callable

import numpy as np

from .video_sampling import (
    FRAME_SAMPLING,
    default_sampling,
    original_clip_length,
    original_indices,
    sample_frame_indices,
    segment_ends,
)


def _random_phase(*, total_num_frames: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """
    Spread over the whole video with a common random offset, so that the distance between frames, and with it the speed
    of what is seen, stays that of `uniform` (an offset of 0).

    total_num_frames=16, num_frames=4: ..x...x...x...x. -> [2, 6, 10, 14]
    """
    if total_num_frames < num_frames:
        return [min(i, total_num_frames - 1) for i in range(num_frames)]
    offset = int(rng.integers(total_num_frames))  # in steps of 1 / num_frames of a frame
    return [(i * total_num_frames + offset) // num_frames for i in range(num_frames)]


def _random_start(
    *, total_num_frames: int, num_frames: int, frame_sampling_rate: int, rng: np.random.Generator
) -> list[int]:
    """
    A frame every `frame_sampling_rate` from a random first one (paper, Section 4). A clip that is longer than the
    video starts at its first frame and repeats the last.

    total_num_frames=16, num_frames=4, frame_sampling_rate=2: .......x.x.x.x.. -> [7, 9, 11, 13]
    """
    span = (num_frames - 1) * frame_sampling_rate + 1
    start = int(rng.integers(max(total_num_frames - span, 0) + 1))
    return [min(start + i * frame_sampling_rate, total_num_frames - 1) for i in range(num_frames)]


def _random_original(
    *, total_num_frames: int, num_frames: int, frame_sampling_rate: int, fps: float | None, rng: np.random.Generator
) -> list[int]:
    """What the authors' code trains on with Kinetics: the clip of `original` from a random real-valued start."""
    clip_length = original_clip_length(num_frames, frame_sampling_rate, fps)
    start = rng.uniform(0, max(total_num_frames - clip_length, 0))
    return original_indices(start, clip_length, num_frames, total_num_frames)


def _random_in_segments(*, total_num_frames: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """
    A random frame of each of `num_frames` segments, both of whose ends count, as the authors' code trains on
    Something-Something.

    total_num_frames=16, num_frames=4: ..x.x....x....x. -> [2, 4, 9, 14]
    """
    return [int(rng.integers(first, last + 1)) for first, last in segment_ends(total_num_frames, num_frames)]


RANDOM_SAMPLING: dict[str, Callable[..., list[int]]] = {
    "uniform": _random_phase,
    "center": _random_start,
    "original": _random_original,
    "segments": _random_in_segments,
}


def random_frame_indices(
    *,
    total_num_frames: int,
    num_frames: int,
    rng: np.random.Generator,
    frame_sampling: str | None = None,
    frame_sampling_rate: int | None = None,
    fps: float | None = None,
) -> list[int]:
    """
    A draw of `num_frames` indices, in order, by the policy that [`sample_frame_indices`] tests with.

    Raises:
        TypeError, ValueError: as there.
    """
    given = {"frame_sampling_rate": frame_sampling_rate, "fps": fps}
    counts = {"total_num_frames": total_num_frames, "num_frames": num_frames}
    sample_frame_indices(**counts, frame_sampling=frame_sampling, **given)  # checks them all
    if frame_sampling is None:
        frame_sampling = default_sampling(frame_sampling_rate)
    _, needs = FRAME_SAMPLING[frame_sampling]
    return RANDOM_SAMPLING[frame_sampling](**counts, rng=rng, **{name: given[name] for name in needs})

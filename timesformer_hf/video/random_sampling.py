"""
Random frames for training. Every policy in `video_sampling` has a random draw; its own frames are one of the results.

This is pure index arithmetic, as in `video_sampling`. All randomness comes from `rng`, a numpy Generator.
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
    Return frames spread over the whole video, with one random offset for all of them.

    So the distance between frames stays that of `uniform`, which is an offset of 0. With it, the speed of the visible
    motion stays the same.

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
    Return every `frame_sampling_rate`-th frame from a random first one (paper, Section 4).

    A clip that is longer than the video starts at its first frame and repeats the last.

    total_num_frames=16, num_frames=4, frame_sampling_rate=2: .......x.x.x.x.. -> [7, 9, 11, 13]
    """
    span = (num_frames - 1) * frame_sampling_rate + 1
    start = int(rng.integers(max(total_num_frames - span, 0) + 1))
    return [min(start + i * frame_sampling_rate, total_num_frames - 1) for i in range(num_frames)]


def _random_original(
    *, total_num_frames: int, num_frames: int, frame_sampling_rate: int, fps: float | None, rng: np.random.Generator
) -> list[int]:
    """Return the clip of `original` from a random real-valued start, as in the authors' training on Kinetics."""
    clip_length = original_clip_length(num_frames, frame_sampling_rate, fps)
    start = rng.uniform(0, max(total_num_frames - clip_length, 0))
    return original_indices(start, clip_length, num_frames, total_num_frames)


def _random_in_segments(*, total_num_frames: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """
    Return a random frame of each of `num_frames` segments, as in the authors' training on Something-Something.

    Both ends of a segment belong to it.

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
    Draw `num_frames` indices, in order, by the random version of a policy of [`sample_frame_indices`].

    The arguments and errors are those of [`sample_frame_indices`]. `rng` is the source of randomness.

    Raises:
        TypeError: if a number of frames or a rate is not an integer.
        ValueError: if one is below 1, the policy is unknown, or the policy needs a rate and there is none.
    """
    given = {"frame_sampling_rate": frame_sampling_rate, "fps": fps}
    counts = {"total_num_frames": total_num_frames, "num_frames": num_frames}
    sample_frame_indices(**counts, frame_sampling=frame_sampling, **given)  # checks them all
    if frame_sampling is None:
        frame_sampling = default_sampling(frame_sampling_rate)
    _, needs = FRAME_SAMPLING[frame_sampling]
    return RANDOM_SAMPLING[frame_sampling](**counts, rng=rng, **{name: given[name] for name in needs})

"""
Which frames of a video a clip consists of: pure index arithmetic, no video in sight.

Every policy takes the number of frames in the video and returns `num_frames` indices in order. In the examples a
video of 16 frames is `................` and a chosen frame is `x`.

Of several clips of a video each policy gives the one with the number `clip` out of `num_clips`; the only one of one is
clip 0, and where no clip is named.
"""

import numbers
from collections.abc import Callable
from itertools import pairwise

import torch


def uniform(*, total_num_frames: int, num_frames: int, clip: int = 0, num_clips: int = 1) -> list[int]:
    """
    Spread over the whole video, as transformers' own default: the first frame of each of `num_frames` equal parts.
    A video of fewer frames gives each of them once and then repeats the last. Several clips are interleaved: together
    they are the first frames of `num_clips` * `num_frames` parts.

    total_num_frames=16, num_frames=4: x...x...x...x... -> [0, 4, 8, 12]
    the second of two clips:           ..x...x...x...x. -> [2, 6, 10, 14]
    """
    if total_num_frames < num_frames:
        return [min(i, total_num_frames - 1) for i in range(num_frames)]
    return [(i * num_clips + clip) * total_num_frames // (num_frames * num_clips) for i in range(num_frames)]


def center(
    *, total_num_frames: int, num_frames: int, frame_sampling_rate: int, clip: int = 0, num_clips: int = 1
) -> list[int]:
    """
    The clip around the middle of the video with a frame every `frame_sampling_rate`: what the paper tests on
    (Section 4, "a single temporal clip in the middle"). A clip that is longer than the video starts at its first
    frame and repeats the last. Several clips start in the middle of as many equal parts of where they can start.

    total_num_frames=16, num_frames=4, frame_sampling_rate=2: ....x.x.x.x..... -> [4, 6, 8, 10]
    the first of two clips:                                   ..x.x.x.x....... -> [2, 4, 6, 8]
    """
    span = (num_frames - 1) * frame_sampling_rate + 1
    start = max(total_num_frames - span, 0) * (2 * clip + 1) // (2 * num_clips)
    return [min(start + i * frame_sampling_rate, total_num_frames - 1) for i in range(num_frames)]


def original(
    *,
    total_num_frames: int,
    num_frames: int,
    frame_sampling_rate: int,
    fps: float | None,
    clip: int = 0,
    num_clips: int = 1,
) -> list[int]:
    """
    The indices of the authors' code on Kinetics, its length scaled by `fps` / 30, both ends included, in float32 and
    truncated as there. `fps` of `None` counts as 30. Of `num_clips` the first starts with the video, and none ends
    with it.

    total_num_frames=300, num_frames=8, frame_sampling_rate=32, fps=30 -> [0, 36, 72, 109, 145, 182, 218, 255]
    """
    clip_length = original_clip_length(num_frames, frame_sampling_rate, fps)
    start = max(total_num_frames - clip_length, 0) * clip / num_clips
    return original_indices(start, clip_length, num_frames, total_num_frames)


def original_clip_length(num_frames: int, frame_sampling_rate: int, fps: float | None) -> float:
    """In frames of the video; no whole number."""
    return frame_sampling_rate * num_frames / 30 * (30 if fps is None else fps)


def original_indices(start: float, clip_length: float, num_frames: int, total_num_frames: int) -> list[int]:
    """The frames of a clip from a real-valued start, in float32 and truncated as in the authors' code."""
    indices = torch.linspace(start, start + clip_length - 1, num_frames).clamp(0, total_num_frames - 1)
    return indices.long().tolist()


def segments(*, total_num_frames: int, num_frames: int, clip: int = 0, num_clips: int = 1) -> list[int]:
    """
    The middle of each of `num_frames` segments, as the authors' code tests on Something-Something. Several clips take
    the middles of as many equal parts of each segment.

    total_num_frames=40, num_frames=8 -> [2, 7, 12, 17, 22, 26, 31, 36]
    """
    ends = segment_ends(total_num_frames, num_frames)
    return [first + (last - first) * (2 * clip + 1) // (2 * num_clips) for first, last in ends]


def segment_ends(total_num_frames: int, num_frames: int) -> list[tuple[int, int]]:
    """The first and last frame of each of `num_frames` segments, which neighbours share."""
    length = (total_num_frames - 1) / num_frames
    return list(pairwise(round(i * length) for i in range(num_frames + 1)))  # halves to even, as the original


FRAME_SAMPLING: dict[str, tuple[Callable[..., list[int]], tuple[str, ...]]] = {
    # name: function, what it needs beyond the two numbers of frames
    "uniform": (uniform, ()),
    "center": (center, ("frame_sampling_rate",)),
    "original": (original, ("frame_sampling_rate", "fps")),
    "segments": (segments, ()),
}


def sample_frame_indices(
    *,
    total_num_frames: int,
    num_frames: int,
    frame_sampling: str | None = None,
    frame_sampling_rate: int | None = None,
    fps: float | None = None,
    num_clips: int = 1,
) -> list[int]:
    """
    Indices of a clip, or of several, clip after clip, by the name of a policy in `FRAME_SAMPLING`.

    Args:
        total_num_frames: frames in the video.
        num_frames: frames in the clip.
        frame_sampling: a policy; where `None`, `"uniform"`, or `"center"` if there is a `frame_sampling_rate`.
        frame_sampling_rate: frames of the video from one frame of the clip to the next.
        fps: frames per second of the video, if known.
        num_clips: clips of `num_frames`, spread over the video as the policy says.

    Raises:
        TypeError: for a number of frames or clips or a rate that is no integer.
        ValueError: for one below 1, an unknown policy, or a policy without the rate that it needs.
    """
    if frame_sampling is None:
        frame_sampling = default_sampling(frame_sampling_rate)
    if frame_sampling not in FRAME_SAMPLING:
        raise ValueError(f"frame_sampling={frame_sampling!r} must be one of {', '.join(map(repr, FRAME_SAMPLING))}")
    policy, needs = FRAME_SAMPLING[frame_sampling]
    if "frame_sampling_rate" in needs and frame_sampling_rate is None:
        raise ValueError(
            f"frame_sampling={frame_sampling!r} needs a frame_sampling_rate (the paper's models: 32 for 8 frames, 16 "
            "for 16 frames of 448 pixels, 4 for 96 frames)"
        )
    counts = {"total_num_frames": total_num_frames, "num_frames": num_frames, "num_clips": num_clips}
    rate = {} if frame_sampling_rate is None else {"frame_sampling_rate": frame_sampling_rate}
    for name, value in (counts | rate).items():
        check_count(name, value)
    given = {"frame_sampling_rate": frame_sampling_rate, "fps": fps}
    settings = counts | {name: given[name] for name in needs}
    return [index for clip in range(num_clips) for index in policy(clip=clip, **settings)]


def default_sampling(frame_sampling_rate: int | None) -> str:
    """The policy where none is named."""
    return "uniform" if frame_sampling_rate is None else "center"


def check_count(name: str, value: int) -> None:
    """
    Raises:
        TypeError: for a value that is no integer.
        ValueError: for one below 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} must be an integer")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")

"""
Which frames of a video a clip consists of. This is pure index arithmetic without any video.

Every policy takes the number of frames in the video and returns `num_frames` indices in order. In the examples a
video of 16 frames is `................` and a chosen frame is `x`.

A video may have several clips, `num_clips`. Each policy returns the frames of the clip with the number `clip`, counted
from 0. The default is a single clip.
"""

import numbers
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch


def uniform(*, total_num_frames: int, num_frames: int, clip: int = 0, num_clips: int = 1) -> list[int]:
    """
    Return the first frame of each of `num_frames` equal parts of the video, as transformers does by default.

    A video with fewer frames gives each frame once, and then repeats the last. Several clips are interleaved: together
    they are the first frames of `num_clips` * `num_frames` parts.

    total_num_frames=16, num_frames=4: x...x...x...x... -> [0, 4, 8, 12]
    the second of two clips:           ..x...x...x...x. -> [2, 6, 10, 14]
    """
    if total_num_frames < num_frames:
        return [min(i, total_num_frames - 1) for i in range(num_frames)]
    return [(i * num_clips + clip) * total_num_frames // (num_frames * num_clips) for i in range(num_frames)]


def uniform_in_time(*, frame_times: Sequence[float], duration: float, num_frames: int, num_clips: int = 1) -> list[int]:
    """
    Return the frames that are shown at the start of `num_frames` equal parts of the time. It is [`uniform`] by time.

    Args:
        frame_times: when each frame is shown, in seconds after the first one.
        duration: the time of the whole video in seconds.
        num_frames: number of frames in a clip.
        num_clips: number of clips, which are interleaved.

    Returns:
        the indices of the clips, one clip after the other.
    """
    parts = num_frames * num_clips
    starts = [part * duration / parts for clip in range(num_clips) for part in range(clip, parts, num_clips)]
    return [bisect_right(frame_times, start + 1e-6) - 1 for start in starts]  # a start may be rounded down


def has_variable_rate(frame_times: Sequence[float]) -> bool:
    """
    Whether frames are not evenly spaced in time.

    They are if each is at its place up to a tenth of a step and a millisecond, because containers round timestamps.
    """
    step = frame_times[-1] / max(len(frame_times) - 1, 1)
    allowed = 0.1 * step + 0.001
    return any(abs(time - number * step) > allowed for number, time in enumerate(frame_times))


def center(
    *, total_num_frames: int, num_frames: int, frame_sampling_rate: int, clip: int = 0, num_clips: int = 1
) -> list[int]:
    """
    Return every `frame_sampling_rate`-th frame around the middle of the video.

    The paper tests on this clip (Section 4, "a single temporal clip in the middle"). A clip that is longer than the
    video starts at its first frame and repeats the last. With several clips, the range of possible starts is divided
    into `num_clips` equal parts, and a clip starts in the middle of each.

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
    Return the indices that the authors' code chooses on Kinetics.

    The clip is `num_frames` * `frame_sampling_rate` frames long at 30 frames per second. Its length is scaled by `fps`
    / 30, and `None` counts as 30. Both ends of the clip are included. The indices are computed in float32 and
    truncated, as in the authors' code. With several clips, the first starts with the video, and the last doesn't reach
    its end.

    total_num_frames=300, num_frames=8, frame_sampling_rate=32, fps=30 -> [0, 36, 72, 109, 145, 182, 218, 255]
    """
    clip_length = original_clip_length(num_frames, frame_sampling_rate, fps)
    start = max(total_num_frames - clip_length, 0) * clip / num_clips
    return original_indices(start, clip_length, num_frames, total_num_frames)


def original_clip_length(num_frames: int, frame_sampling_rate: int, fps: float | None) -> float:
    """Return the length of a clip of `original` in frames of the video. It need not be a whole number."""
    return frame_sampling_rate * num_frames / 30 * (30 if fps is None else fps)


def original_indices(start: float, clip_length: float, num_frames: int, total_num_frames: int) -> list[int]:
    """Return the frames of a clip of `original` with a real-valued start, in float32 and truncated as there."""
    indices = torch.linspace(start, start + clip_length - 1, num_frames).clamp(0, total_num_frames - 1)
    return indices.long().tolist()


def segments(*, total_num_frames: int, num_frames: int, clip: int = 0, num_clips: int = 1) -> list[int]:
    """
    Return the middle frame of each of `num_frames` segments, as in the authors' tests on Something-Something.

    With several clips, each segment is divided into `num_clips` equal parts, and a clip takes the middle of its part.

    total_num_frames=40, num_frames=8 -> [2, 7, 12, 17, 22, 26, 31, 36]
    """
    ends = segment_ends(total_num_frames, num_frames)
    return [first + (last - first) * (2 * clip + 1) // (2 * num_clips) for first, last in ends]


def segment_ends(total_num_frames: int, num_frames: int) -> list[tuple[int, int]]:
    """Return the first and the last frame of each of `num_frames` segments. Neighbouring segments share a frame."""
    length = (total_num_frames - 1) / num_frames
    # round() rounds halves to even, as the authors' code does
    return list(pairwise(round(i * length) for i in range(num_frames + 1)))


FRAME_SAMPLING: dict[str, tuple[Callable[..., list[int]], tuple[str, ...]]] = {
    # name: function, further arguments that it needs
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
    Return the frame indices of a clip, or of several clips one after the other, by the name of a policy.

    Args:
        total_num_frames: number of frames in the video.
        num_frames: number of frames in a clip.
        frame_sampling: name of a policy in `FRAME_SAMPLING`. `None` means `"center"` if there is a
            `frame_sampling_rate`, and otherwise `"uniform"`.
        frame_sampling_rate: distance from one frame of the clip to the next, in frames of the video.
        fps: frames per second of the video, if known.
        num_clips: number of clips of `num_frames` each. The policy spreads them over the video.

    Raises:
        TypeError: if a number of frames, the number of clips or the rate is not an integer.
        ValueError: if one of them is below 1, the policy is unknown, or the policy needs a rate and there is none.
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
    """Return the name of the policy that is used if none is named."""
    return "uniform" if frame_sampling_rate is None else "center"


def check_count(name: str, value: int) -> None:
    """
    Check that a value is an integer of at least 1.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} must be an integer")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")

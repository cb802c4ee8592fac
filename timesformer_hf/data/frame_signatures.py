"""
Frame signatures: small grey frames of a video, by which copies of it are found without a model.

The signature of a video is four frames, spread over it, in grey and of 16 x 16 pixels, less their mean. So the cosine
of two signatures is the correlation of their pixels. Another codec, size, brightness or contrast changes it little, and
another scene changes it much.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from ..video.decoding_plan import count_cores
from ..video.video_decoding import decode_frames
from ..video.video_sources import VideoSource
from .labelled_videos import LabelledVideo


_FRAMES, _SIDE = 4, 16
_LEAST_CONTRAST = 1.0  # grey levels of 255; a codec's noise is as large
_AHEAD = 16  # videos


def frame_signature(video: VideoSource) -> np.ndarray:
    """
    Return the signature of a video: float32 (4, 16, 16), in grey levels of 255.

    Raises:
        VideoReadError, OSError: if the video is unreadable.
        ValueError: if its frames have no contrast, as black ones.
    """
    frames, _ = decode_frames(video, lambda about: _spread(about.total_num_frames))
    grey = torch.from_numpy(frames).float().mean(dim=-1)
    small = torch.nn.functional.adaptive_avg_pool2d(grey, _SIDE).numpy()
    signature = small - small.mean()
    if signature.std() < _LEAST_CONTRAST:
        raise ValueError("its frames are of one colour, so they can't be told from others")
    return signature


def _spread(total: int) -> list[int]:
    """Return the frames in the middle of each quarter."""
    return [(2 * place + 1) * total // (2 * _FRAMES) for place in range(_FRAMES)]


def frame_signatures(
    videos: Iterable[LabelledVideo], num_workers: int | None = None
) -> Iterator[np.ndarray | Exception]:
    """
    Yield the signature of each video, or the error that reading it raised. Threads read the next videos meanwhile.

    To stop early, close the iterator.

    Args:
        num_workers: number of threads (default: one for each core).

    Raises:
        ImportError: if no decoder is installed.
    """
    pool, begun = ThreadPoolExecutor(num_workers or count_cores()), deque()
    try:
        for video in videos:
            begun.append(pool.submit(lambda video: frame_signature(video.source), video))
            if len(begun) > _AHEAD:
                yield _outcome(begun.popleft())
        while begun:
            yield _outcome(begun.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future) -> np.ndarray | Exception:
    """Return the result of a future, or its error. An error that every video would have is raised."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ImportError) or not isinstance(error, Exception):
        raise error
    return error

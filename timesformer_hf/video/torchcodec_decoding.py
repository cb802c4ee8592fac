"""Decoding by torchcodec: of a file, or by a decoder that the caller has opened."""

import io
from collections.abc import Callable

import numpy as np
from transformers.video_utils import VideoMetadata

from .video_errors import VideoReadError, describe_error


def read_with_torchcodec(
    file: str | io.IOBase, name: str, choose: Callable[[VideoMetadata], list[int]], device: str, stream: int
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decode with torchcodec.

    Args:
        device: `"cuda"` decodes on the GPU by NVDEC, and copies the frames to the CPU.
        stream: the index of the stream among the streams of all kinds.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # torchcodec or FFmpeg's libraries are not installed
        raise ImportError(
            'decoder="torchcodec" needs torchcodec (pip install "timesformer_hf[torchcodec]") and FFmpeg\'s shared '
            f"libraries: {error}"
        ) from error
    if not isinstance(file, str):
        file.seek(0)
    try:
        decoder = VideoDecoder(file, stream_index=stream, seek_mode="exact", dimension_order="NHWC", device=device)
    except (RuntimeError, ValueError) as error:
        raise VideoReadError(f"{name}: can't be decoded by torchcodec ({describe_error(error)})") from error
    return read_decoder(decoder, choose)


def read_decoder(decoder, choose: Callable[[VideoMetadata], list[int]]) -> tuple[np.ndarray, VideoMetadata]:
    """Take frames from a `VideoDecoder` of torchcodec. It may give the channels first or last."""
    about = decoder.metadata
    metadata = VideoMetadata(
        total_num_frames=len(decoder),
        fps=about.average_fps,
        width=about.width,
        height=about.height,
        duration=about.duration_seconds,
        video_backend="torchcodec",
    )
    metadata.frames_indices = choose(metadata)
    frames = decoder.get_frames_at(metadata.frames_indices).data.cpu().numpy()
    if frames.shape[1] == 3 and frames.shape[1:] != (about.height, about.width, 3):
        frames = frames.transpose(0, 2, 3, 1)
    return frames, metadata

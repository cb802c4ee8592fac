"""Cases that decode some frames of a generated video."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..output.atomic import output_file
from ..video.video_decoding import decode_frames
from ..video.video_sampling import uniform
from .cases import Case, Clip
from .measuring import CodePath, Environment, Prepared, UnavailableError, Workload


_FPS = 25
_VERY_FAST = {"preset": "veryfast"}
# name -> encoder, its options, container. Option g is the distance of key frames (default: the encoder's own).
ENCODINGS = {
    "H.264": ("libx264", _VERY_FAST, "mp4"),
    "H.264, one group": ("libx264", _VERY_FAST | {"g": "9999", "sc_threshold": "0"}, "mp4"),
    "H.264, short groups": ("libx264", _VERY_FAST | {"g": "12"}, "mp4"),
    "H.264, transport stream": ("libx264", _VERY_FAST | {"g": "50"}, "ts"),
    "H.264, AVI": ("libx264", _VERY_FAST | {"g": "50", "bf": "0"}, "avi"),
    "H.264, Matroska": ("libx264", _VERY_FAST, "mkv"),
    "HEVC": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}, "mp4"),
    "VP9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "webm"),
    "AV1": ("libsvtav1", {"preset": "12"}, "mkv"),
    "MPEG-4": ("mpeg4", {"bf": "2", "b": "2M"}, "mp4"),
    "MPEG-2": ("mpeg2video", {"bf": "2", "b": "4M"}, "ts"),
}
_TILE, _PAN = 8, (2, 6)  # pixels of a tile; rows and columns that the camera moves each frame, so that all differ
_NOISE = 18  # grey levels
_CHOSEN = 8  # number of frames, which are spread over the video
# Largest allowed mean difference in grey levels. Our decoder and plain PyAV use the same libraries, so their frames are
# equal bit for bit. torchcodec can round otherwise when it converts YUV to RGB. Neighbouring frames differ by about 10.
_SAME, OTHER_CONVERSION = 0.0, 3.0
DecodeFrames = Callable[[Path, Sequence[int]], np.ndarray]
Task = tuple[Path, Sequence[int]]  # a file, and the indices of the wanted frames


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Return the workload of a case: decode some frames.

    Raises:
        UnavailableError: where the video can't be encoded here.
    """
    total = num_frames(case.clip)
    used = case.last_seconds * _FPS or total
    indices = [total - used + index for index in uniform(total_num_frames=used, num_frames=_CHOSEN)]
    task = (generated_clip(case.clip, environment), indices)
    return Workload(
        prepare={name: partial(PATHS[name].prepare, task) for name in case.paths},
        reference=lambda: decode_sequentially(*task),
        difference=_frame_difference,
        tolerance=lambda path: OTHER_CONVERSION if path.startswith("torchcodec") else _SAME,
    )


def num_frames(clip: Clip) -> int:
    """Return the number of frames of a clip."""
    return clip.seconds * _FPS


def generated_clip(clip: Clip, environment: Environment) -> Path:
    """
    Return the file of a clip, which is encoded at the first call.

    Raises:
        UnavailableError: where PyAV is missing, or was built without the encoder.
    """
    kind = "".join(letter for letter in clip.encoding if letter.isalnum())
    name = f"clip-{clip.width}x{clip.height}-{clip.seconds}s-{kind}-{environment.seed}.{ENCODINGS[clip.encoding][2]}"
    path = environment.folder / name
    if not path.exists():
        with output_file(path) as temporary:
            _write_clip(temporary, clip, environment.seed)
    return path


def _write_clip(path: Path, clip: Clip, seed: int) -> None:
    """Encode a video of a camera with some noise that moves over tiles of random colours: about 6 Mbit/s at 1080p."""
    encoder, options, _ = ENCODINGS[clip.encoding]
    try:
        import av

        codec = av.codec.Codec(encoder, "w")
    except (ImportError, ValueError) as error:  # av's UnknownCodecError is a ValueError
        raise UnavailableError(f"a clip can't be generated: {error}; install PyAV with {encoder}") from error
    random = np.random.default_rng(seed)
    picture, noise = _random_picture(clip, random), _random_noise(clip, random)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec.name, rate=_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for frame in range(num_frames(clip)):
            position = (frame * _PAN[0] % clip.height, frame * _PAN[1] % clip.width)
            pixels = window(picture, clip, *position) + window(noise, clip, *random.integers((clip.height, clip.width)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def window(picture: np.ndarray, clip: Clip, row: int, column: int) -> np.ndarray:
    """Return the part that the camera sees of a picture, which is twice as high and wide as the part."""
    return picture[row : row + clip.height, column : column + clip.width]


def _random_picture(clip: Clip, random: np.random.Generator) -> np.ndarray:
    """Return tiles of random colours, uint8 (2 * height, 2 * width, 3)."""
    rows, columns = 2 * clip.height, 2 * clip.width
    tones = random.integers(20, 220, (-(-rows // _TILE), -(-columns // _TILE), 3), dtype=np.uint8)
    return tones.repeat(_TILE, axis=0).repeat(_TILE, axis=1)[:rows, :columns]


def _random_noise(clip: Clip, random: np.random.Generator) -> np.ndarray:
    """Return random grey noise, uint8 (2 * height, 2 * width, 1)."""
    return random.integers(0, _NOISE, (2 * clip.height, 2 * clip.width, 1), dtype=np.uint8)


def decode_sequentially(file: Path, indices: Sequence[int]) -> np.ndarray:
    """
    Decode every frame up to the last of `indices` in a plain loop. Return those as uint8 (frames, height, width, 3).
    """
    import av

    frames = {}
    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in indices:
                frames[index] = frame.to_ndarray(format="rgb24")
            if index == max(indices):
                break
    return np.stack([frames[index] for index in indices])


def decode_ours(file: Path, indices: Sequence[int]) -> np.ndarray:
    """Decode the frames with this package. Return uint8 (frames, height, width, 3)."""
    return decode_frames(str(file), lambda about: indices)[0]


def decode_with_torchcodec(file: Path, indices: Sequence[int], threads: int = 1) -> np.ndarray:
    """
    Decode the frames with torchcodec. Return uint8 (frames, height, width, 3).

    Args:
        threads: number of FFmpeg's threads. torchcodec's own default is 1; with 0 FFmpeg decides.
    """
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(file), dimension_order="NHWC", num_ffmpeg_threads=threads)
    return decoder.get_frames_at(list(indices)).data.numpy()


def decode_all(file: Path) -> None:
    """Decode the whole file with PyAV, without converting or keeping frames. This is the time of the codec itself."""
    import av

    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass


def check_torchcodec() -> None:
    """
    Check that torchcodec works here.

    Raises:
        UnavailableError: where it is not installed or finds no FFmpeg.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UnavailableError(f"torchcodec doesn't work here ({reason}): pip install torchcodec and FFmpeg") from error


def _frame_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """
    Return the mean difference in grey levels of the frame that differs most.

    Raises:
        ValueError: where the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"the frames are {got.shape}, the reference's {expected.shape}")
    return max(float(np.abs(one.astype(np.int16) - other).mean()) for one, other in zip(got, expected, strict=True))


def _prepare_decoding(decode: DecodeFrames, task: Task) -> Prepared:
    if decode is not decode_ours and decode is not decode_sequentially:
        check_torchcodec()
    return Prepared(lambda: decode(*task))


def _prepare_decode_all(task: Task) -> Prepared:
    return Prepared(lambda: decode_all(task[0]))


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, only what is needed", partial(_prepare_decoding, decode_ours)),
    "pyav-sequential": CodePath(
        "peer", "PyAV, every frame up to the last one", partial(_prepare_decoding, decode_sequentially)
    ),
    "torchcodec": CodePath(
        "peer", "torchcodec with its default of one thread", partial(_prepare_decoding, decode_with_torchcodec)
    ),
    "torchcodec-threads": CodePath(
        "peer",
        "torchcodec, FFmpeg's own number of threads",
        partial(_prepare_decoding, partial(decode_with_torchcodec, threads=0)),
    ),
    "full-decode": CodePath("limit", "the codec alone, the whole file", _prepare_decode_all),
}

"""
Sparse decoding of many encodings against the plainest loop, frame by frame: by one thread, and with the work shared out
among decoders and threads as if it were much.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from clips import SVT, X264, X265, av, decode_all, moving_pattern, write_video, x264, x265

from timesformer_hf.video import video_decoding
from timesformer_hf.video.video_decoding import decode_frames


NUM_FRAMES = 60


PYRAMID = {"keyint": 16, "bframes": 4, "b_adapt": 0, "b_pyramid": "normal", "ref": 5}
ENCODINGS = {
    # name: file, codec, options, further arguments of write_video
    "h264 closed groups": ("a.mp4", X264, x264(keyint=12, bframes=3), {}),
    "h264 open groups": ("a.mp4", X264, x264(**PYRAMID, open_gop=1), {}),
    "h264 open groups, Matroska": ("a.mkv", X264, x264(**PYRAMID, open_gop=1), {}),
    "h264 open groups, transport stream": ("a.ts", X264, x264(**PYRAMID, open_gop=1), {}),
    "h264 pyramid": ("a.mkv", X264, x264(**PYRAMID), {}),
    "h264 strict pyramid": ("a.mov", X264, x264(**(PYRAMID | {"b_pyramid": "strict"})), {}),
    "h264 CAVLC": ("a.mp4", X264, x264(keyint=12, cabac=0, bframes=2), {}),
    "h264 interlaced": ("a.mp4", X264, x264(keyint=12, tff=1, bframes=3), {}),
    "h264 interlaced, open groups, transport stream": ("a.ts", X264, x264(**PYRAMID, bff=1, open_gop=1), {}),
    "h264 intra refresh": ("a.mp4", X264, x264(keyint=12, intra_refresh=1, bframes=2), {}),
    "h264 intra refresh, transport stream": ("a.ts", X264, x264(keyint=12, intra_refresh=1), {}),
    "h264 slices, parameters repeated": ("a.mkv", X264, x264(keyint=12, slices=3, repeat_headers=1, aud=1), {}),
    "h264 all intra": ("a.mp4", X264, x264(keyint=1), {}),
    "h264 groups of three": ("a.mp4", X264, x264(keyint=3, min_keyint=3, bframes=2, b_adapt=0), {}),
    "h264 baseline": ("a.mp4", X264, {"profile": "baseline", "g": "15"}, {}),
    "h264 one group": ("a.mp4", X264, x264(keyint=1000, scenecut=0, bframes=5, ref=8), {}),
    "h264 ten bits": ("a.mp4", X264, x264(keyint=12), {"pix_fmt": "yuv420p10le"}),
    "h264 4:4:4": ("a.mkv", X264, x264(keyint=12), {"pix_fmt": "yuv444p"}),
    "h264 fragments": ("a.mp4", X264, x264(keyint=12), {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "h264 variable rate": ("a.mkv", X264, x264(**PYRAMID), {"times": "varying"}),
    "h264 variable rate, MP4": ("a.mp4", X264, x264(**PYRAMID, open_gop=1), {"times": "varying"}),
    "h264 late start": ("a.mp4", X264, x264(**PYRAMID), {"times": "late"}),
    "h264 late start, transport stream": ("a.ts", X264, x264(**PYRAMID), {"times": "late"}),
    "h264 AVI": ("a.avi", X264, x264(keyint=12, bframes=0), {}),
    "h264 AVI, B-frames": ("a.avi", X264, x264(keyint=12, bframes=2), {}),
    "h264 Flash": ("a.flv", X264, x264(keyint=12, bframes=2), {}),
    "hevc closed groups": ("a.mp4", X265, x265(open_gop=0, bframes=4), {}),
    "hevc open groups with RASL": ("a.mp4", X265, x265(open_gop=1, bframes=4, b_adapt=0), {}),
    "hevc open groups, Matroska": ("a.mkv", X265, x265(open_gop=1, bframes=5, b_pyramid=1), {}),
    "hevc open groups, transport stream": ("a.ts", X265, x265(open_gop=1, bframes=4), {}),
    "hevc RADL": ("a.mp4", X265, x265(open_gop=0, radl=2, bframes=4, b_adapt=0), {}),
    "hevc temporal layers": ("a.mp4", X265, x265(temporal_layers=3, bframes=4, b_adapt=0), {}),
    "hevc without pyramid": ("a.mp4", X265, x265(b_pyramid=0, bframes=3, ref=5), {}),
    "hevc intra refresh": ("a.mkv", X265, x265(intra_refresh=1, bframes=0), {}),
    "vp9 hidden frames": ("a.webm", "libvpx-vp9", {"g": "16", "auto-alt-ref": "1", "lag-in-frames": "16"}, {}),
    "vp9 hidden frames, MP4": ("a.mp4", "libvpx-vp9", {"g": "16", "auto-alt-ref": "1", "lag-in-frames": "16"}, {}),
    "vp9 realtime": ("a.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}, {}),
    "vp9 resilient": ("a.webm", "libvpx-vp9", {"g": "12", "error-resilient": "1", "cpu-used": "8"}, {}),
    "vp8": ("a.webm", "libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}, {}),
    "av1": ("a.mkv", SVT, {"g": "16", "preset": "12"}, {}),
    "av1 open groups": ("a.mkv", SVT, {"preset": "10", "svtav1-params": "keyint=16:irefresh-type=1"}, {}),
    "av1 layers": ("a.mp4", SVT, {"g": "32", "preset": "10", "svtav1-params": "hierarchical-levels=4"}, {}),
    "av1 low delay": ("a.mp4", SVT, {"g": "16", "preset": "12", "svtav1-params": "pred-struct=1"}, {}),
    "mpeg4 B-frames": ("a.mp4", "mpeg4", {"g": "12", "bf": "2", "qmax": "2"}, {}),
    "mpeg4 B-frames, Matroska": ("a.mkv", "mpeg4", {"g": "12", "bf": "3", "qmax": "2", "flags": "+qpel+mv4"}, {}),
    "mpeg4 AVI": ("a.avi", "mpeg4", {"g": "12", "bf": "2", "qmax": "2"}, {}),
    "mpeg4 AVI, some B-frames": ("a.avi", "mpeg4", {"g": "20", "bf": "3", "qmax": "2", "b_strategy": "1"}, {}),
    "mpeg4 AVI, no B-frames": ("a.avi", "mpeg4", {"g": "12"}, {}),
    "mpeg4 interlaced": ("a.mp4", "mpeg4", {"g": "12", "bf": "2", "qmax": "2", "flags": "+ildct+ilme"}, {}),
    "mpeg2": ("a.ts", "mpeg2video", {"g": "12", "bf": "2"}, {}),
    "mpeg2 interlaced": ("a.ts", "mpeg2video", {"g": "12", "bf": "2", "flags": "+ildct+ilme"}, {}),
    "mpeg2 closed groups, Matroska": (
        "a.mkv",
        "mpeg2video",
        {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
        {},
    ),
    "mpeg2 MP4": ("a.mp4", "mpeg2video", {"g": "12", "bf": "2"}, {}),
    "mpeg1": ("a.mpg", "mpeg1video", {"g": "12", "bf": "2"}, {}),
    "mjpeg": ("a.mov", "mjpeg", {}, {"pix_fmt": "yuvj420p"}),
    "prores": ("a.mov", "prores_ks", {}, {"pix_fmt": "yuv422p10le"}),
}
TIMES = {
    "varying": np.cumsum(np.random.default_rng(1).integers(5, 300, NUM_FRAMES)).tolist(),
    "late": [5000 + 40 * i for i in range(NUM_FRAMES)],
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """From the name of an encoding to its file and all its frames, (frames, height, width, 3)."""

    @cache
    def write(encoding: str) -> tuple[Path, np.ndarray]:
        name, codec, options, arguments = ENCODINGS[encoding]
        if codec not in av.codecs_available:
            pytest.skip(f"this build of PyAV has no {codec}")
        arguments = arguments | ({"times": TIMES[arguments["times"]]} if "times" in arguments else {})
        frames = moving_pattern(NUM_FRAMES, 64, 96)
        path = write_video(tmp_path_factory.mktemp("encoded") / name, frames, codec, options, **arguments)
        return path, np.stack(decode_all(path))

    return write


def subsets(seed: int, repetitions: int) -> list[list[int]]:
    """The ends, every frame backwards, and random ones."""
    random = np.random.default_rng(seed)
    chosen = [random.integers(0, NUM_FRAMES, random.integers(1, 9)).tolist() for _ in range(repetitions)]
    return [[0], [NUM_FRAMES - 1], list(range(NUM_FRAMES))[::-1], *chosen]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equals_the_plain_loop(encoding, shared_out, encoded):
    path, expected = encoded(encoding)
    assert len(expected) == NUM_FRAMES
    for indices in subsets(seed=len(encoding), repetitions=4):
        got, about = decode_frames(path, lambda about, indices=indices: indices)
        assert about.total_num_frames == NUM_FRAMES
        np.testing.assert_array_equal(got, expected[indices], err_msg=f"{indices}")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_frame_alone_and_many_subsets(encoding, shared_out, encoded):
    path, expected = encoded(encoding)
    for indices in [[index] for index in range(NUM_FRAMES)] + subsets(seed=1, repetitions=60):
        got = decode_frames(path, lambda about, indices=indices: indices)[0]
        np.testing.assert_array_equal(got, expected[indices], err_msg=f"{indices}")


# What stays with decoding in order: containers that don't say of every packet when it is shown; frames that depend on
# where the decoder started.
IN_ORDER = ("h264 AVI, B-frames", "h264 Flash", "mpeg1", "mpeg4 interlaced")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_is_sparse_where_it_can_be(encoding, encoded, monkeypatch):
    """Exactness alone would hold if everything were decoded in order."""
    (path, _), passes, original = encoded(encoding), [], video_decoding.decode_in_order
    monkeypatch.setattr(video_decoding, "decode_in_order", lambda *args: passes.append(1) or original(*args))
    decode_frames(path, lambda about: [0, 25, 59])
    assert bool(passes) == (encoding in IN_ORDER)


EMPTY_PICTURE = b"\0\0\1\xb6\x51\x5f"  # MPEG-4: vop_coded 0


def write_changed_packets(path: Path, codec: str, options: dict[str, str], change: Callable[[list], list]) -> None:
    """Encode, and put other packets into the file: `change` takes and gives (bytes, pts, dts, is_keyframe) of each."""
    frames = moving_pattern(NUM_FRAMES, 64, 96)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        packets = [stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")) for frame in frames]
        packets = [packet for some in (*packets, stream.encode()) for packet in some]
        for data, *times, key in change([(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]):
            packet = av.Packet(data)
            (packet.pts, packet.dts), packet.is_keyframe = times, key
            packet.time_base, packet.stream = packets[0].time_base, stream
            container.mux(packet)


def left_empty(packets: list) -> list:
    """Some pictures say that there is none."""
    return [(EMPTY_PICTURE if place in (20, 33) else data, *rest) for place, (data, *rest) in enumerate(packets)]


def packed(packets: list) -> list:
    """As DivX: a B-frame is in the packet before it, and an empty picture where it was."""
    (first, *rest), changed = packets[0], []
    packets[0] = (first.replace(b"\0\0\1\xb6", b"\0\0\1\xb2DivX503b1393p\0\0\1\xb6", 1), *rest)
    for data, pts, dts, key in packets:
        if changed and pts < changed[-1][1]:
            changed[-1] = (changed[-1][0] + data, *changed[-1][1:])
            data = EMPTY_PICTURE
        changed.append((data, pts, dts, key))
    return changed


def hidden(packets: list) -> list:
    """VP8: some pictures are there only to be referred to (show_frame 0)."""
    return [
        (bytes([data[0] & ~16]) + data[1:] if place in (20, 33) else data, *rest)
        for place, (data, *rest) in enumerate(packets)
    ]


@pytest.mark.parametrize(
    ("name", "codec", "options", "change"),
    [
        ("a.mp4", "mpeg4", {"g": "12"}, left_empty),
        ("a.mkv", "mpeg4", {"g": "12", "bf": "2"}, left_empty),
        ("a.avi", "mpeg4", {"g": "12", "bf": "2"}, left_empty),
        ("a.avi", "mpeg4", {"g": "12", "bf": "1"}, packed),
        ("a.mp4", "mpeg4", {"g": "12", "bf": "1"}, packed),
        ("a.webm", "libvpx", {"g": "12", "cpu-used": "8"}, hidden),
    ],
)
def test_packets_of_no_frame_or_of_two(name, codec, options, change, tmp_path):
    path = tmp_path / name
    write_changed_packets(path, codec, options, change)
    expected = np.stack(decode_all(path))
    assert (len(expected) == NUM_FRAMES) == (change is packed)
    indices = [0, 19, 20, 21, 32, 33, 34, len(expected) - 1]
    np.testing.assert_array_equal(decode_frames(path, lambda about: indices)[0], expected[indices])
    got, about = decode_frames(path, lambda about: [about.total_num_frames - 1, 30])
    assert about.total_num_frames == len(expected)
    np.testing.assert_array_equal(got, expected[[-1, 30]])


@pytest.mark.parametrize("encoding", ["h264 open groups", "h264 open groups, transport stream"])
def test_bytes_and_open_files(encoding, shared_out, encoded):
    """Decoders that read at the same time, where each has a position of its own; an open file has one."""
    path, expected = encoded(encoding)
    indices = [50, 3, 20, 21, 59]
    with path.open("rb") as file:
        for source in (path.read_bytes(), file):
            np.testing.assert_array_equal(decode_frames(source, lambda about: indices)[0], expected[indices])


@pytest.mark.parametrize("kept", [0, 2**20])
def test_transport_stream_that_is_kept_or_read_again(kept, shared_out, encoded, monkeypatch):
    monkeypatch.setattr(video_decoding, "KEPT_BYTES", kept)
    path, expected = encoded("h264 open groups, transport stream")
    for indices in subsets(seed=3, repetitions=6):
        np.testing.assert_array_equal(decode_frames(path, lambda about, indices=indices: indices)[0], expected[indices])

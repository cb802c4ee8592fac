"""
Files in which packets and decoder disagree, or nearly so: the frames and their number are those of the plainest loop.

Small videos of every codec are cut, joined, remuxed and changed without encoding them again.
"""

import importlib.util
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import remuxing
from clips import SVT, X264, X265, av, decode_all, moving_pattern, write_video, x264, x265
from remuxing import FRAME, Coded, read_packets, write_packets

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.video import video_decoding
from timesformer_hf.video.av1_units import count_shown_av1, split_av1
from timesformer_hf.video.coded_headers import BitReader, H264Sequence
from timesformer_hf.video.nal_units import units_of_header
from timesformer_hf.video.video_decoding import decode_frames
from timesformer_hf.video.video_stream import frame_rate


Disposition, PictureType = av.stream.Disposition, av.video.frame.PictureType
NUM_FRAMES = 48
OPEN = {"keyint": 12, "min_keyint": 12, "bframes": 3, "b_adapt": 0, "scenecut": 0, "open_gop": 1}
CODECS = {
    # name: encoder, options, containers
    "h264": (X264, x264(**OPEN, b_pyramid="normal"), ("ts", "mkv", "mp4")),
    "h264 closed": (X264, x264(**(OPEN | {"open_gop": 0})), ("ts", "mkv", "mp4")),
    "h264 intra refresh": (X264, x264(keyint=12, intra_refresh=1, bframes=2), ("ts", "mkv", "mp4")),
    "h264 interlaced": (X264, x264(**OPEN, tff=1), ("ts", "mp4")),
    "hevc RASL": (X265, x265(open_gop=1, bframes=4, b_adapt=0, scenecut=0), ("ts", "mkv", "mp4")),
    "hevc RADL": (X265, x265(open_gop=0, radl=2, bframes=4, b_adapt=0, scenecut=0), ("ts", "mkv", "mp4")),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}, ("ts", "mkv", "mp4")),
    "mpeg1": ("mpeg1video", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}, ("ts", "mkv")),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2", "qmax": "2"}, ("avi", "mkv", "mp4")),
    "vp8": ("libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}, ("webm",)),
    "vp9": ("libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}, ("webm", "mp4")),
    "av1": (SVT, {"preset": "12", "g": "12"}, ("mkv", "mp4")),
    "mjpeg": ("mjpeg", {}, ("mov", "mkv", "avi")),
    "prores": ("prores_ks", {}, ("mov",)),
    "flv1": ("flv", {"g": "12"}, ("flv", "avi")),
    "msmpeg4": ("msmpeg4", {"g": "12"}, ("mkv", "avi")),
    "wmv2": ("wmv2", {"g": "12"}, ("avi",)),
    "ffv1": ("ffv1", {}, ("mkv",)),
    "huffyuv": ("huffyuv", {}, ("avi",)),
    "snow": ("snow", {"g": "12"}, ("mkv",)),
}
FORMATS = {"mjpeg": "yuvj420p", "prores": "yuv422p10le", "snow": "yuv410p", "huffyuv": "yuv422p"}
ENCODED = [(codec, container) for codec, (_, _, containers) in CODECS.items() for container in containers]


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """A function from the name of a codec and a container to a file, encoded once."""

    @cache
    def write(codec: str, container: str) -> Path:
        encoder, options, _ = CODECS[codec]
        if encoder not in av.codecs_available:
            pytest.skip(f"this build of PyAV has no {encoder}")
        path = tmp_path_factory.mktemp("encoded") / f"a.{container}"
        frames = moving_pattern(NUM_FRAMES, 64, 96)
        return write_video(path, frames, encoder, options, pix_fmt=FORMATS.get(codec, "yuv420p"))

    return write


def assert_exact(path: Path, number_of_singles: int = 6) -> list[np.ndarray]:
    """Compare single frames, some at once, all, and the total with the plain loop. Return all frames."""
    expected = decode_all(path)
    total, random = len(expected), np.random.default_rng(0)
    singles = random.permutation(total)[:number_of_singles].tolist()
    for indices in ([total - 1], list(range(total)), [total // 4, total // 2], *([index] for index in singles)):
        got, about = decode_frames(path, lambda about, indices=indices: indices)
        assert about.total_num_frames == total
        assert about.frames_indices == indices
        for index, frame in zip(indices, got, strict=True):
            np.testing.assert_array_equal(frame, expected[index], err_msg=f"frame {index} of {indices}")
    return expected


def is_sparse(path: Path, monkeypatch) -> bool:
    """Whether frames of a file are decoded without a pass from its start."""
    passes, original = [], video_decoding.decode_in_order
    with monkeypatch.context() as patch:
        patch.setattr(video_decoding, "decode_in_order", lambda *args: passes.append(1) or original(*args))
        decode_frames(path, lambda about: [0, about.total_num_frames - 1])
    return not passes


CHANGES = {
    "cut": remuxing.from_second_key,
    "cut, start hidden": remuxing.from_second_key_on_screen,
    "times of decoding": remuxing.shown_as_decoded,
    "one time wrong": remuxing.one_time_wrong,
    "jump inside a group": remuxing.jump_inside_a_group,
    "clock goes back": remuxing.clock_goes_back,
}
# What the containers' writers refuse, or repair by times of their own.
IMPOSSIBLE = {"avi": set(CHANGES) - {"cut"}}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("codec", "container"), ENCODED)
def test_changed_copies(codec, container, change, encode, tmp_path):
    if change in IMPOSSIBLE.get(container, ()):
        pytest.skip(f"{container} has no such times")
    whole = encode(codec, container)
    assert_exact(write_packets(tmp_path / f"changed.{container}", whole, CHANGES[change](read_packets(whole))))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("codec", "container"), ENCODED)
def test_every_frame_alone(codec, container, change, encode, shared_out, tmp_path):
    """With one decoder and with several, as if the frames were large."""
    if change in IMPOSSIBLE.get(container, ()):
        pytest.skip(f"{container} has no such times")
    whole = encode(codec, container)
    path = write_packets(tmp_path / f"changed.{container}", whole, CHANGES[change](read_packets(whole)))
    assert_exact(path, NUM_FRAMES)


JOINED = [codec for codec, (_, _, containers) in CODECS.items() if "ts" in containers]


@pytest.mark.parametrize("clock", ["overlaps", "goes on", "goes back"])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("codec", JOINED)
def test_joined_transport_streams(codec, cut, clock, encode, tmp_path):
    """As `cat a.ts b.ts`. The second may start at an open group."""
    whole = encode(codec, "ts")
    packets = read_packets(whole)
    first = packets[: remuxing.keys(packets)[2]]
    second = packets[remuxing.keys(packets)[1] :] if cut else packets
    end = {"overlaps": first[-1].pts - 8 * FRAME, "goes on": first[-1].pts + 4 * FRAME, "goes back": packets[0].pts}
    second = [packet.later(end[clock] - second[0].pts + FRAME / 3) for packet in second]
    parts = [write_packets(tmp_path / f"{i}.ts", whole, part).read_bytes() for i, part in enumerate((first, second))]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    assert len(assert_exact(path)) > 40


@pytest.mark.parametrize(
    ("codec", "container"), [(codec, container) for codec, container in ENCODED if container in ("mkv", "mp4", "webm")]
)
def test_joined_copies(codec, container, encode, tmp_path):
    """Two groups, and then the same video from its second group on, which may be an open one."""
    whole = encode(codec, container)
    packets = read_packets(whole)
    first, second = packets[: remuxing.keys(packets)[2]], packets[remuxing.keys(packets)[1] :]
    assert_exact(write_packets(tmp_path / f"joined.{container}", whole, remuxing.joined(first, second)))


CHANGED_PARAMETERS = {
    # codec: encoder, options of the first part, and of the second
    "h264 other references": (X264, x264(**OPEN), x264(**(OPEN | {"ref": 5, "bframes": 1, "cabac": 0}))),
    "h264 other picture parameters": (X264, x264(**OPEN), x264(**OPEN, weightp=0, chroma_qp_offset=5)),
    "h264 colour range": (X264, x264(**OPEN), x264(**OPEN, fullrange="on")),
    "hevc other references": (X265, x265(bframes=4, b_adapt=0), x265(bframes=2, b_adapt=0, ref=5, ctu=16)),
    "hevc other picture parameters": (X265, x265(bframes=4, b_adapt=0), x265(bframes=4, b_adapt=0, cbqpoffs=6)),
    "hevc colour range": (X265, x265(bframes=4, b_adapt=0), x265(bframes=4, b_adapt=0, range="full")),
}


def encode_two(folder: Path, case: str) -> tuple[Path, Path, Path]:
    """Two parts, and the second one with the parameter sets in its first packet."""
    encoder, *both = CHANGED_PARAMETERS[case]
    name = "x264-params" if encoder == X264 else "x265-params"
    paths = []
    for i, options in enumerate([*both, {name: both[1][name] + ":repeat-headers=1"}]):
        frames = moving_pattern(24 if i == 0 else NUM_FRAMES, 64, 96)
        paths.append(write_video(folder / f"{i}.mp4", frames, encoder, options))
    assert header(paths[0]) != header(paths[1])
    return tuple(paths)


def header(path: Path) -> bytes:
    """The parameter sets in the header of a file, without the message that names the encoder's options."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        units = units_of_header(context.codec.canonical_name, context.extradata)
    return b"".join(unit for unit in units if unit[0] != 0x4E)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("in_every_key", [False, True])
@pytest.mark.parametrize("case", CHANGED_PARAMETERS)
def test_parameter_sets_that_change(case, in_every_key, container, tmp_path):
    """Two encodings joined by copying packets. The second one's parameter sets are in its first key frame, or each."""
    first, _, second = encode_two(tmp_path, case)
    packets = read_packets(second)
    if not in_every_key:
        kinds = (7, 8) if case.startswith("h264") else (32, 33, 34)
        kind = (lambda unit: unit[0] & 31) if case.startswith("h264") else (lambda unit: unit[0] >> 1 & 63)
        packets = remuxing.change_units(
            packets, lambda i, units: [unit for unit in units if i == 0 or kind(unit) not in kinds]
        )
    path = tmp_path / f"joined.{container}"
    write_packets(path, first, remuxing.joined(read_packets(first), packets))
    assert_exact(path)


@pytest.mark.parametrize("case", CHANGED_PARAMETERS)
def test_two_sample_descriptions(case, tmp_path):
    """An MP4 with two headers, each for a part of the packets."""
    first, second, _ = encode_two(tmp_path, case)
    packets = read_packets(first)
    path = write_packets(tmp_path / "joined.mp4", first, remuxing.joined(packets, read_packets(second)))
    remuxing.add_sample_description(path, second, len(packets))
    with av.open(str(path)) as container:
        assert sum(packet.has_sidedata("new_extradata") for packet in container.demux(video=0)) == 1
    assert_exact(path)


@pytest.mark.parametrize("kinds", [{0xDB}, {0xC4}, {0xDB, 0xC4}])
@pytest.mark.parametrize("container", ["avi", "mkv", "mov"])
def test_jpeg_tables_in_the_first_frame_alone(kinds, container, tmp_path):
    frames = moving_pattern(24, 64, 96)
    options = {"huffman": "default", "qmin": "9", "qmax": "9"}
    whole = write_video(tmp_path / f"a.{container}", frames, "mjpeg", options, pix_fmt="yuvj420p")
    packets = read_packets(whole)
    stripped = [
        packet._replace(data=remuxing.without_segments(packet.data, kinds)) if i else packet
        for i, packet in enumerate(packets)
    ]
    path = write_packets(tmp_path / f"b.{container}", whole, stripped)
    for before, after in zip(decode_all(whole), assert_exact(path), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_film_grain_that_lasts(codec, encode, tmp_path):
    whole = encode({"h264": "h264 closed", "hevc": "hevc RADL"}[codec], "mp4")
    packets = remuxing.change_units(
        read_packets(whole), lambda i, units: [remuxing.film_grain(codec), *units] if i == 0 else units
    )
    path = write_packets(tmp_path / "grainy.mp4", whole, packets)
    frames = assert_exact(path)
    if codec == "hevc":  # FFmpeg applies H.264's to its own picture alone
        assert all((frame != plain).any() for frame, plain in zip(frames, decode_all(whole), strict=True))


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("first_b_frame", [0, 90])
def test_h264_that_does_not_say_how_long_to_wait(first_b_frame, container, tmp_path):
    """
    As some cameras write it. When FFmpeg opens a Matroska file or a transport stream, it looks at the first pictures.
    If the first B-frame comes later, it drops a frame there.
    """
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w") as output:
        stream = output.add_stream(X264, rate=25, options=x264(keyint=300, bframes=3, b_adapt=0, b_pyramid="normal"))
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i, picture in enumerate(moving_pattern(first_b_frame + 40, 64, 96)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pict_type = PictureType.P if i < first_b_frame else PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    remuxing.remove_usability(whole)
    path = write_packets(tmp_path / f"a.{container}", whole, read_packets(whole))
    dropped = int(first_b_frame > 0 and container != "mp4")
    assert len(assert_exact(path)) == first_b_frame + 40 - dropped


def dropping_bit(codec: str, parameters: list[bytes], unit: bytes) -> int:
    """Where the bit `no_output_of_prior_pics_flag` is in the slice of an IDR picture."""
    if codec == "hevc":
        return 17  # behind the unit's header and one bit
    (sequence,) = [H264Sequence.read(unit) for unit in parameters if unit[0] & 31 == 7]
    bits = BitReader(unit[1:])
    bits.skip_ue(3)
    bits.take(sequence.frame_num_bits)
    bits.skip_ue(1)
    bits.take(sequence.order_bits)
    return 8 * len(unit) - bits.left


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_that_are_never_output(codec, encode, tmp_path):
    """`no_output_of_prior_pics_flag`: FFmpeg drops frames before an IDR picture of HEVC, and of H.264 none."""
    whole = encode({"h264": "h264 closed", "hevc": "hevc RADL"}[codec], "mp4")
    with av.open(str(whole)) as container:
        parameters = units_of_header(codec, container.streams.video[0].codec_context.extradata)

    def change(number: int, units: list[bytes]) -> list[bytes]:
        changed = []
        for unit in units:
            is_idr = unit[0] & 31 == 5 if codec == "h264" else unit[0] >> 1 & 63 in (19, 20)
            if is_idr and number > 0:
                place = dropping_bit(codec, parameters, unit)
                head = bytearray(unit)
                head[place // 8] |= 128 >> place % 8
                unit = bytes(head)
            changed.append(unit)
        return changed

    path = write_packets(tmp_path / "dropping.mp4", whole, remuxing.change_units(read_packets(whole), change))
    assert (len(assert_exact(path)) < NUM_FRAMES) == (codec == "hevc")


def two_in_one(packets: list[Coded]) -> list[Coded]:
    """Pairs of VP9 packets as one packet that shows two frames."""
    changed = list(packets)
    for i in (20, 30):
        data, following = packets[i].data, packets[i + 1].data
        if (data[-1] & 0xE0) == 0xC0 or (following[-1] & 0xE0) == 0xC0:
            continue
        marker = bytes([0xC0 | 1 << 3 | 1])
        sizes = b"".join(len(part).to_bytes(2, "little") for part in (data, following))
        changed[i] = packets[i]._replace(data=data + following + marker + sizes + marker)
        changed[i + 1] = None
    return [packet for packet in changed if packet]


@pytest.mark.parametrize("container", ["webm", "mp4"])
def test_two_shown_frames_in_a_packet(container, tmp_path):
    options = {"g": "12", "auto-alt-ref": "0", "lag-in-frames": "0", "cpu-used": "8"}
    whole = write_video(tmp_path / f"a.{container}", moving_pattern(NUM_FRAMES, 64, 96), "libvpx-vp9", options)
    packets = two_in_one(read_packets(whole))
    assert len(packets) == NUM_FRAMES - 2
    assert len(assert_exact(write_packets(tmp_path / f"b.{container}", whole, packets))) == NUM_FRAMES


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_two_shown_frames_of_av1_in_a_packet(container, encode, tmp_path):
    """The specification forbids it, and the decoder shows both."""
    whole = encode("av1", container)
    packets = read_packets(whole)
    for i in (20, 30):
        packets[i] = packets[i]._replace(data=packets[i].data + packets[i + 1].data)
    del packets[31], packets[21]
    assert len(assert_exact(write_packets(tmp_path / f"b.{container}", whole, packets))) == NUM_FRAMES


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_packet_of_av1_that_shows_no_frame(container, encode, tmp_path):
    """Frames that others refer to, in a packet of their own."""
    whole = encode("av1", container)
    packets, i = read_packets(whole), 0
    while len(list(split_av1(memoryview(packets[i].data)))) < 3 or packets[i].key:
        i += 1
    *_, (_, _, shown) = split_av1(memoryview(packets[i].data))
    place = packets[i].data.rindex(bytes(shown)) - (2 if len(shown) < 128 else 3)  # its header and size
    hidden, shown = packets[i].data[:place], packets[i].data[place:]
    time = packets[i].dts - FRAME / 2
    packets[i : i + 1] = [Coded(hidden, time, time, False), packets[i]._replace(data=shown)]
    path = write_packets(tmp_path / f"b.{container}", whole, packets)
    assert [count_shown_av1(memoryview(part)) for part in (hidden, shown)] == [0, 1]
    assert len(assert_exact(path)) == NUM_FRAMES


def test_units_of_av1():
    frame, last = b"\x32\x01\x10", b"\x30\x10\0"  # of one byte, and without a size
    layers = b"\x36\x00\x01\x10" + b"\x36\x08\x01\x10"
    packets = (b"", frame, frame * 2, frame + last, layers)
    assert [count_shown_av1(memoryview(packet)) for packet in packets] == [0, 1, 2, 2, 1]
    assert [layer for _, layer, _ in split_av1(memoryview(layers))] == [0, 1]
    assert count_shown_av1(memoryview(b"\x1a\x01\x80\x32\x01\x00\x32")) == 1  # shows an existing frame; a cut end


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
def test_fields_in_packets_of_their_own(container, tmp_path):
    """Field pictures of H.264 (PAFF): two packets are one frame."""
    raw = tmp_path / "a.h264"
    raw.write_bytes(b"".join(packet.data for packet in remuxing.field_packets(10)))
    path = write_packets(tmp_path / f"a.{container}", raw, remuxing.field_packets(10))
    with av.open(str(path)) as opened:
        assert sum(packet.size > 0 for packet in opened.demux(video=0)) == 20
    assert len(assert_exact(path)) == 10


@pytest.mark.parametrize(
    ("name", "encoder", "options", "pix_fmt"),
    [
        ("a.mp4", X264, x264(sar="2/1"), "yuv420p"),  # wide pixels
        ("a.mp4", X264, x264(tff=1), "yuv420p"),  # interlaced
        ("a.mp4", X265, x265(colorprim="bt2020", transfer="smpte2084", colormatrix="bt2020nc"), "yuv420p10le"),  # HDR
        ("a.mov", "prores_ks", {"profile": "4444"}, "yuva444p10le"),  # transparent
        ("a.mov", "qtrle", {}, "argb"),
    ],
)
def test_what_is_left_as_it_is(name, encoder, options, pix_fmt, tmp_path):
    """Frames have the stored size and are those of FFmpeg's conversion to RGB, not scaled, deinterlaced or blended."""
    if encoder not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {encoder}")
    path = write_video(tmp_path / name, moving_pattern(8, 64, 96), encoder, options, pix_fmt=pix_fmt)
    assert {frame.shape for frame in assert_exact(path)} == {(64, 96, 3)}


def decoders() -> list[str]:
    return ["pyav", *(["torchcodec"] if importlib.util.find_spec("torchcodec") else [])]


class TestFrameRate:
    def test_variable_rate(self, tmp_path):
        """1.6 s with 25 frames a second, then a frame every 0.28 s."""
        times = [40 * i + 240 * max(0, i - 40) for i in range(100)]
        options = {"deadline": "realtime", "cpu-used": "8"}
        for name, codec in (("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.mp4", "libx264")):
            settings = options if codec == "libvpx-vp9" else {}
            path = write_video(tmp_path / name, moving_pattern(100), codec, settings, times=times)
            about = decode_frames(path, lambda about: [0])[1]
            assert about.fps == pytest.approx(99 / 18.12, rel=0.001)

            def shown(fps: float) -> list[int]:
                """The frames that are shown at 36 equal parts of all 18 seconds."""
                parts = [part * 100 / fps / 36 for part in range(36)]
                return [max(i for i in range(100) if times[i] / 1000 <= part) for part in parts]

            processor = TimesformerVideoProcessor(size=32, crop_size=32)
            for decoder in decoders():
                for source in (path, path.read_bytes()):
                    (got,) = processor(source, fps=2, return_metadata=True, decoder=decoder)["video_metadata"]
                    assert got.frames_indices == shown(got.fps)  # of torchcodec, the last frame takes no time
                    assert not hasattr(got, "find_frame_times")
            indices = processor(path, fps=2, return_metadata=True, num_clips=2)["video_metadata"][0].frames_indices
            assert indices[:36] == shown(about.fps)
            assert sorted(indices[36:]) == indices[36:] != indices[:36]

    @pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.flv"])
    @pytest.mark.parametrize("rate", [25, 30, 50])
    def test_constant_rate_as_before(self, name, rate, tmp_path):
        """Matroska and FLV round timestamps to milliseconds."""
        times = [round(1000 * i / rate) for i in range(90)]
        path = write_video(tmp_path / name, moving_pattern(90), times=times)
        batch = TimesformerVideoProcessor(size=32, crop_size=32)(path, fps=7, return_metadata=True)
        count = int(90 / rate * 7)
        assert batch["video_metadata"][0].frames_indices == [i * 90 // count for i in range(count)]

    def test_start_hidden_by_an_edit_list(self, encode, tmp_path):
        whole = encode("h264", "mp4")
        packets = remuxing.from_second_key_on_screen(read_packets(whole))
        path = write_packets(tmp_path / "trimmed.mp4", whole, [packet.later(-5 * FRAME) for packet in packets])
        about = decode_frames(path, lambda about: [0])[1]
        assert about.total_num_frames == len(decode_all(path)) == NUM_FRAMES - 12 - 5
        assert about.fps == pytest.approx(25)
        assert about.duration == pytest.approx(about.total_num_frames / 25)

    def test_raw_dv(self, tmp_path):
        frames = [np.full((480, 720, 3), 8 * i, np.uint8) for i in range(30)]
        with av.open(str(tmp_path / "tape.dv"), "w") as container:
            stream = container.add_stream("dvvideo", rate=Fraction(30000, 1001))
            stream.width, stream.height, stream.pix_fmt = 720, 480, "yuv411p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        about = decode_frames(tmp_path / "tape.dv", lambda about: [0])[1]
        assert about.fps == pytest.approx(30000 / 1001)

    @pytest.mark.parametrize(
        ("in_header", "steps", "seconds", "expected"),
        [
            (Fraction(25), 99, 3.96, 25),
            (Fraction(30000, 1001), 299, 9.977, 30000 / 1001),  # timestamps rounded to milliseconds
            (Fraction(25), 99, 18.12, 99 / 18.12),
            (Fraction(25), 0, 0.0, 25),
            (None, 99, 3.96, 25),
            (None, 0, 0.0, None),
        ],
    )
    def test_header_against_timestamps(self, in_header, steps, seconds, expected):
        assert frame_rate(in_header, steps, seconds) == pytest.approx(expected)


def test_choice_is_asked_again(encode, tmp_path):
    """The metadata at the last call has the true number of frames, and so has the result."""
    whole, totals = encode("mpeg2", "ts"), []

    def choose(about) -> list[int]:
        totals.append(about.total_num_frames)
        return [about.total_num_frames - 1]

    path = write_packets(tmp_path / "cut.ts", whole, remuxing.from_second_key(read_packets(whole)))
    frames, about = decode_frames(path, choose)
    expected = decode_all(path)
    assert totals == [len(expected) + 2, len(expected)]
    assert (about.total_num_frames, about.frames_indices) == (len(expected), [len(expected) - 1])
    np.testing.assert_array_equal(frames[0], expected[-1])


def test_stays_sparse(encode, tmp_path, monkeypatch):
    """What contradicts nothing is decoded no further than needed: gaps in time, hidden starts, repeated headers."""
    for codec, container in (("h264", "mp4"), ("h264", "ts"), ("hevc RASL", "mkv"), ("mpeg2", "ts"), ("mpeg4", "mp4")):
        whole = encode(codec, container)
        assert is_sparse(whole, monkeypatch)
    packets = read_packets(encode("h264", "mp4"))
    hidden = write_packets(tmp_path / "hidden.mp4", encode("h264", "mp4"), remuxing.from_second_key_on_screen(packets))
    assert is_sparse(hidden, monkeypatch)

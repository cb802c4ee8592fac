"""What packets tell, against what FFmpeg's own decoder makes of them; and the plan of what to decode."""

import multiprocessing
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from clips import av, moving_pattern, write_video

from timesformer_hf.video import decoding_plan
from timesformer_hf.video.av1_units import sequence_headers
from timesformer_hf.video.coded_headers import BitReader, H264Sequence, UnclearError
from timesformer_hf.video.decoding_plan import (
    Stretch,
    cores_for_decoding,
    find_stretches,
    join_close,
    make_plan,
    share_out,
)
from timesformer_hf.video.nal_units import units_of_header
from timesformer_hf.video.picture_order import make_order
from timesformer_hf.video.video_packets import PacketInspector, PacketScan, scan_packets


AVCC = b"\1" + bytes(3) + b"\xff" + bytes(20)  # lengths of four bytes
HVCC = b"\1" + bytes(20) + b"\x0f" + bytes(4)  # the same, one temporal layer
HVCC_LAYERS = HVCC[:21] + b"\x1f" + HVCC[22:]
IDR, REFERENCE, NON_REFERENCE = b"\x65\x88", b"\x41\x9a", b"\x01\x9a"  # nal_ref_idc 3, 2, 0
SPS, PPS = b"\x67\x64", b"\x68\xee"
EXACT, INEXACT, LATER = b"\x06\x06\x01\xc4", b"\x06\x06\x01\x84", b"\x06\x06\x01\x50"  # recovery points
AFTER_ANOTHER = b"\x06\x05\x04\0\0\x03\0\0\x06\x01\xc4\x80"  # four bytes of user data, with one that keeps a code out
LONG_FIRST = b"\x06\x05\xff\x01" + b"x" * 256 + b"\x06\x01\xc4\x80"


def nal(kind: int, layer: int = 0) -> bytes:
    """An HEVC unit's header and a byte."""
    return bytes([kind << 1, layer + 1, 0x80])


def packet(units: list[bytes], lengths: bool = True):
    starts = [len(unit).to_bytes(4, "big") if lengths else b"\0\0\0\1" for unit in units]
    return av.Packet(b"".join(start + unit for start, unit in zip(starts, units, strict=True)))


def inspector(codec: str, extradata: bytes | None) -> PacketInspector:
    context = SimpleNamespace(codec=SimpleNamespace(canonical_name=codec), extradata=extradata)
    return PacketInspector(SimpleNamespace(codec_context=context))


@pytest.mark.parametrize(
    ("units", "clean"),
    [
        ([IDR], True),
        ([b"\x09\xf0", SPS, PPS, IDR, IDR], True),
        ([REFERENCE], False),
        ([EXACT, REFERENCE], True),
        ([INEXACT, REFERENCE], False),
        ([LATER, REFERENCE], False),
        ([AFTER_ANOTHER, REFERENCE], True),
        ([LONG_FIRST, REFERENCE], True),
        ([b"\x06\x05\x02ab\x80", REFERENCE], False),
        ([b"\x06\xff\xff", REFERENCE], False),  # a message cut off
        ([], False),
    ],
)
def test_h264_starts_cleanly_at_idr_and_recovery_points(units, clean):
    assert inspector("h264", AVCC).is_clean_start(packet(units)) == clean
    # where no header holds the parameters, they must be there
    assert not inspector("h264", None).is_clean_start(packet(units, lengths=False)) or {SPS, PPS} <= set(units)
    assert inspector("h264", b"\0\0\0\1").is_clean_start(packet([SPS, PPS, *units], lengths=False)) == clean


@pytest.mark.parametrize(
    ("units", "unreferenced"),
    [
        ([NON_REFERENCE], True),
        ([b"\x09\xf0", b"\x06\x05\x01a\x80", NON_REFERENCE, NON_REFERENCE], True),
        ([NON_REFERENCE, REFERENCE], False),  # the second field, or slice
        ([PPS, NON_REFERENCE], False),
        ([b"\x0e\x00", NON_REFERENCE], False),  # a scalable stream
        ([REFERENCE], False),
        ([IDR], False),
        ([b"\x09\xf0"], False),
        ([], False),
    ],
)
def test_h264_without_followers(units, unreferenced):
    assert inspector("h264", AVCC).is_non_reference(packet(units)) == unreferenced
    assert inspector("h264", None).is_non_reference(packet(units, lengths=False)) == unreferenced


def test_lengths_of_two_bytes_are_read():
    of_two = inspector("h264", AVCC[:4] + b"\xfd" + AVCC[5:])
    assert of_two.is_clean_start(av.Packet(b"\0\2" + IDR))
    assert list(map(bytes, of_two.nal_units(av.Packet(b"\0\2" + SPS + b"\0\0" + b"\0\2" + IDR)))) == [SPS, IDR]


@pytest.mark.parametrize(("kind", "clean"), [(1, False), (16, True), (19, True), (20, True), (21, True), (8, False)])
def test_hevc_starts_cleanly_by_kind(kind, clean):
    assert inspector("hevc", HVCC).is_clean_start(packet([nal(39), nal(kind)])) == clean
    parameters = [nal(32), nal(33), nal(34)]
    assert inspector("hevc", None).is_clean_start(packet([*parameters, nal(kind)], lengths=False)) == clean
    assert not inspector("hevc", None).is_clean_start(packet([*parameters[:2], nal(kind)], lengths=False))


@pytest.mark.parametrize(
    ("extradata", "units", "unreferenced"),
    [
        (HVCC, [nal(0)], True),
        (HVCC, [nal(39), nal(8), nal(8)], True),
        (HVCC, [nal(1)], False),
        (HVCC, [nal(0), nal(1)], False),
        (HVCC, [nal(0, layer=1)], False),
        (HVCC, [nal(34), nal(0)], False),
        (HVCC_LAYERS, [nal(0)], False),  # a higher layer may refer to it
    ],
)
def test_hevc_without_followers(extradata, units, unreferenced):
    assert inspector("hevc", extradata).is_non_reference(packet(units)) == unreferenced


def test_other_codecs_are_trusted_by_their_marks():
    """Containers' marks are trusted where they are known to mean a start; nothing is left out."""
    assert inspector("vp9", None).is_clean_start(av.Packet(b"key"))
    assert not inspector("wmv3", None).is_clean_start(av.Packet(b"key"))
    assert not inspector("vp9", None).is_non_reference(av.Packet(b"\x01\x9a"))
    assert inspector("mpeg2video", None).is_clean_start(av.Packet(b"\0\0\1\xb3...\0\0\1\0"))
    assert not inspector("mpeg2video", None).is_clean_start(av.Packet(b"\0\0\1\0"))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "keyint=16:bframes=4:b-adapt=0:b-pyramid=normal:ref=5:open-gop=1"}),
        ("libx264", {"x264-params": "keyint=16:bframes=3:b-adapt=0:tff=1:slices=2"}),
        ("libx265", {"x265-params": "log-level=none:keyint=16:bframes=4:b-adapt=0"}),
    ],
)
def test_leaves_out_what_the_decoder_would(codec, options, name, tmp_path):
    """FFmpeg's decoder, told to leave out what no frame refers to, against the packets that we don't give it."""
    path = write_video(tmp_path / name, moving_pattern(40, 64, 96), codec, options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        told = PacketInspector(stream)
        unreferenced = {packet.pts for packet in container.demux(stream) if told.is_non_reference(packet)}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        every = {packet.pts for packet in container.demux(stream) if packet.size}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        left_out = every - {frame.pts for frame in container.decode(video=0)}
    if (codec, name) == ("libx265", "a.ts"):  # nothing tells of its layers
        assert not unreferenced
    else:
        assert unreferenced == left_out
        assert len(left_out) >= 17


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("bframes", [0, 3])
@pytest.mark.parametrize("profile", ["main", "high", "high10", "high422", "high444"])
def test_places_of_pictures(codec, profile, bframes, tmp_path):
    """The order of display from the pictures alone equals that of the timestamps, in MP4 and in a transport stream."""
    formats = {"high10": "yuv420p10le", "high422": "yuv422p", "high444": "yuv444p"}
    arguments = {"pix_fmt": formats.get(profile, "yuv420p")}
    parameters = f"bframes={bframes}:b-adapt=0:keyint=9"
    options = {"profile": profile, "x264-params": parameters}
    if codec == "libx265":
        options = {"x265-params": f"{parameters}:log-level=none"}
    for name in ("a.mp4", "a.ts"):
        path = write_video(tmp_path / name, moving_pattern(24), codec, options, **arguments)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            order = make_order(stream.codec_context, PacketInspector(stream).nal_units)
            placed = [(packet.pts, order.place(packet)[0]) for packet in container.demux(stream) if packet.size]
        assert [pts for pts, _ in sorted(placed)] == [pts for pts, _ in sorted(placed, key=lambda pair: pair[1])]
        assert (sorted(placed) == placed) == (bframes == 0)


def test_h264_scaling_matrices(tmp_path):
    """They lie before the numbers that are needed."""
    options = {"profile": "high", "x264-params": "cqm=jvt:bframes=2"}
    path = write_video(tmp_path / "a.mp4", moving_pattern(24), "libx264", options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        (sps, _) = units_of_header("h264", stream.codec_context.extradata)
        assert H264Sequence.read(sps).only_frames
        assert scan_packets(container.demux(stream), stream).is_exact


@pytest.mark.parametrize("sps", [b"\x67\x42\0\x1e", b"\x67\x64\0\x1e\0\0\0", b"\x67"])
def test_h264_parameters_cut_off(sps):
    with pytest.raises(UnclearError):
        H264Sequence.read(sps)


def test_numbers():
    """The codes of H.264, 9.1: 1 010 011 00100 as ue(v) and se(v)."""
    bits = BitReader(bytes([0b10100110, 0b01000000]))
    assert [bits.take_ue() for _ in range(4)] == [0, 1, 2, 3]
    bits = BitReader(bytes([0b10100110, 0b01000000]))
    assert [bits.take_se() for _ in range(4)] == [0, 1, -1, 2]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x82I", 1),
        (b"\x80I", 0),
        (b"\x88", 1),  # show_existing_frame
        (b"\xb1\0", 1),  # profile 3: show_frame is one bit later
        (b"\x80ab\x82cd\xc1\x03\x03\xc1", 1),  # hidden and shown
        (b"\x82ab\x82cd\xc1\x03\x03\xc1", None),
    ],
)
def test_vp9_frames_in_a_packet(data, shown):
    assert inspector("vp9", None).count_shown(av.Packet(data)) == shown


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "a.mp4", {"x264-params": "bframes=2:keyint=9:repeat-headers=1"}),
        ("libx264", "a.ts", {"x264-params": "bframes=2:keyint=9"}),
        ("libx265", "a.mp4", {"x265-params": "log-level=none:keyint=9:repeat-headers=1"}),
        ("libx265", "a.ts", {"x265-params": "log-level=none:keyint=9"}),
        ("mpeg2video", "a.ts", {"bf": "2", "g": "9"}),
        ("mpeg4", "a.avi", {"bf": "2", "g": "9"}),
        ("libvpx-vp9", "a.webm", {"g": "9", "cpu-used": "8"}),
        ("libsvtav1", "a.mkv", {"g": "9", "preset": "12"}),
        ("mjpeg", "a.avi", {}),
    ],
)
def test_damaged_packets_are_unclear_at_worst(codec, name, options, tmp_path):
    """Packets cut off, with other bytes, or with the bytes of another codec: no other error than `UnclearError`."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    formats = {"mjpeg": "yuvj420p"}
    frames = moving_pattern(20, 64, 96)
    path = write_video(tmp_path / name, frames, codec, options, pix_fmt=formats.get(codec, "yuv420p"))
    random = np.random.default_rng(0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        inspector = PacketInspector(stream)
        for _ in range(30):
            order = make_order(stream.codec_context, inspector.nal_units)
            for packet in packets:
                data = bytearray(bytes(packet)[: random.integers(1, packet.size + 1)])
                for place in random.integers(0, min(len(data), 60), random.integers(0, 4)):
                    data[place] = random.choice([0, 1, 255, random.integers(256)])
                changed = av.Packet(bytes(data))
                changed.is_keyframe = packet.is_keyframe
                inspector.count_shown(changed)
                inspector.is_clean_start(changed)
                inspector.is_non_reference(changed)
                with suppress(UnclearError):
                    order.place(changed)


def test_av1_sequence_headers():
    """Behind a temporal delimiter, in a packet and in the header of a file."""
    sequence = b"\x0a\x03abc"
    assert sequence_headers(memoryview(b"\x12\0" + sequence + b"\x32\x01x")) == {(1,): b"abc"}


def test_a_scan_knows_times_keys_and_order(tmp_path):
    """Two B-frames before each P: shown 0 1 2 3 ..., taken 0 3 1 2 6 4 5 ..."""
    options = {"x264-params": "keyint=12:min-keyint=12:bframes=2:b-adapt=0:scenecut=0:b-pyramid=none"}
    path = write_video(tmp_path / "a.mp4", moving_pattern(24), "libx264", options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        scan = scan_packets(container.demux(stream), stream)
    assert scan.num_frames == 24
    assert scan.pts == sorted(scan.decode_order)
    assert [scan.pts.index(pts) for pts in scan.key_pts] == [0, 12]
    assert [scan.pts.index(pts) for pts in scan.decode_order[:7]] == [0, 3, 1, 2, 6, 4, 5]


def make_scan(keys: list[int], num_frames: int) -> PacketScan:
    """Frames that are taken in the order in which they are shown, at 100, 200, ..."""
    pts = [100 * (i + 1) for i in range(num_frames)]
    return PacketScan(pts, [pts[key] for key in keys], num_frames, pts)


def places(stretches: list[Stretch]) -> list[tuple[int, int]]:
    return [(stretch.first, stretch.last) for stretch in stretches]


class TestPlan:
    def test_stretches_begin_at_key_frames(self):
        scan = make_scan([0, 10, 20, 30], 40)
        stretches = find_stretches(scan, [35, 3, 12, 12, 19])
        assert places(stretches) == [(0, 3), (10, 19), (30, 35)]
        assert [stretch.key for stretch in stretches] == [100, 1100, 3100]
        assert stretches[1].targets == {1300, 2000}

    def test_close_stretches_are_joined(self):
        stretches = find_stretches(make_scan([0, 10, 20, 30], 40), [9, 16, 28, 33])
        assert places(join_close(stretches, most_packets=100)) == [(0, 16), (20, 33)]  # gaps of 0, 3 and 1
        assert places(join_close(stretches, most_packets=12)) == [(0, 9), (10, 16), (20, 28), (30, 33)]

    def test_an_open_group_reaches_past_the_next_key_frame(self):
        """The frame before a key frame comes after it in the file."""
        scan = PacketScan([0, 1, 2, 3, 4], [0, 3], 5, [0, 1, 3, 2, 4])
        assert places(find_stretches(scan, [2, 4])) == [(0, 3), (2, 4)]
        assert places(join_close(find_stretches(scan, [2, 4]), 10)) == [(0, 4)]

    def test_stretches_are_shared_out_evenly(self):
        stretches = find_stretches(make_scan([0, 10, 20, 30], 40), [9, 15, 24, 32])
        assert [places(share) for share in share_out(stretches, 2)] == [[(0, 9), (30, 32)], [(10, 15), (20, 24)]]

    @pytest.mark.parametrize(
        ("keys", "indices", "cores", "shareable", "decoders", "threads"),
        [
            ([0, 100, 200, 300], [90, 190, 290, 390], 1, True, 1, 1),
            ([0, 100, 200, 300], [90, 190, 290, 390], 2, True, 2, 1),
            ([0, 100, 200, 300], [90, 190, 290, 390], 8, True, 4, 4),
            ([0, 100, 200, 300], [90, 190, 290, 390], 2, False, 1, 4),  # one reader, one position
            ([0], [90, 390], 2, True, 1, 4),
            ([0, 100], [95, 101], 2, True, 1, 4),  # the second has next to nothing to do
            ([0], [390], 64, True, 1, 16),
        ],
    )
    def test_large_frames_take_decoders_and_threads_by_cores(self, keys, indices, cores, shareable, decoders, threads):
        plan = make_plan(make_scan(keys, 400), indices, 1920 * 1080, cores, shareable)
        assert (len(plan.shares), plan.threads) == (decoders, threads)
        targets = [pts for share in plan.shares for stretch in share for pts in stretch.targets]
        assert sorted(targets) == [100 * (index + 1) for index in indices]

    def test_codec_that_gains_nothing_from_threads(self):
        plan = make_plan(make_scan([0, 100], 400), [90, 190], 1920 * 1080, 8, shareable=True, threaded=False)
        assert (len(plan.shares), plan.threads) == (2, 1)

    def test_small_frames_take_one_thread(self):
        plan = make_plan(make_scan([0, 100, 200], 300), [90, 190, 290], 320 * 240, cores=16, shareable=True)
        assert (len(plan.shares), plan.threads) == (1, 1)

    def test_random_plans_cover_the_targets(self, monkeypatch):
        monkeypatch.setattr(decoding_plan, "WORTH_THREADS", 0)
        random = np.random.default_rng(0)
        for _ in range(200):
            keys = sorted({0, *random.integers(1, 100, 6).tolist()})
            indices = random.integers(0, 100, 5).tolist()
            cores = int(random.integers(1, 6))
            plan = make_plan(make_scan(keys, 100), indices, 640 * 360, cores, shareable=True)
            assert 1 <= len(plan.shares) <= cores
            stretches = [stretch for share in plan.shares for stretch in share]
            assert {pts for stretch in stretches for pts in stretch.targets} == {100 * (i + 1) for i in indices}
            assert all(stretch.first in keys for stretch in stretches)
            assert all(stretch.key <= min(stretch.targets) for stretch in stretches)


def test_worker_processes_take_one_core(monkeypatch):
    """Data loaders start several of them."""
    assert cores_for_decoding() >= 1
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "the data loader")
    assert cores_for_decoding() == 1

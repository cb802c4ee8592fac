"""What packets tell, against what FFmpeg's own decoder makes of them; and the plan of what to decode."""

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from clips import av, moving_pattern, write_video

from timesformer_hf.video import decoding_plan
from timesformer_hf.video.decoding_plan import (
    Stretch,
    cores_for_decoding,
    find_stretches,
    join_close,
    make_plan,
    share_out,
)
from timesformer_hf.video.video_packets import PacketInspector, PacketScan, is_order_of_decoding, scan_packets


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


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("profile", ["baseline", "main", "high", "high10", "high422", "high444"])
def test_h264_in_order_of_decoding(profile, bframes, tmp_path):
    formats = {"high10": "yuv420p10le", "high422": "yuv422p", "high444": "yuv444p"}
    arguments = {"pix_fmt": formats.get(profile, "yuv420p")}
    options = {"profile": profile, "x264-params": f"bframes={bframes}:b-adapt=0"}
    for name in ("a.mp4", "a.avi"):
        path = write_video(tmp_path / name, moving_pattern(24), "libx264", options, **arguments)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = [packet.pts for packet in container.demux(stream) if packet.size]
            keeps_order = PacketInspector(stream).keeps_order
        if name == "a.mp4":
            expected = times == sorted(times)
            assert expected == (bframes == 0)
    assert keeps_order == expected


@pytest.mark.parametrize("matrices", [0, 1])
def test_h264_scaling_matrices_are_not_read(matrices):
    """What stands behind them isn't looked for."""
    parameters = bytes([0x67, 100, 0, 30, 0b10101100 | matrices, 0b10111111])  # numbers 0 1 0 0, flags, numbers 0 2
    assert is_order_of_decoding(parameters) == (matrices == 0)


@pytest.mark.parametrize("sps", [b"\x67\x42\0\x1e", b"\x67\x64\0\x1e\0\0\0"])
def test_h264_parameters_cut_off_promise_no_order(sps):
    assert not is_order_of_decoding(sps)


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

"""Sparse decoding against a full sequential one, bit for bit; and every kind of file that is no good video."""

import gc
import http.server
import io
import os
import re
import sys
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import av, decode_all, moving_pattern, write_sound, write_video

from timesformer_hf import VideoReadError
from timesformer_hf.video import video_decoding
from timesformer_hf.video.video_decoding import decode_frames
from timesformer_hf.video.video_packets import PacketScan, scan_packets


ENCODINGS = {
    # name: file, codec, options
    "h264": ("a.mp4", "libx264", {"g": "12"}),
    "h264 B-pyramid, open groups": (
        "a.mp4",
        "libx264",
        {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=2"},
    ),
    "h264 one group": ("a.mp4", "libx264", {"g": "1000"}),
    "h264 intra refresh": ("a.mp4", "libx264", {"g": "12", "x264-params": "intra-refresh=1"}),
    "h264 Matroska": ("a.mkv", "libx264", {"g": "12", "bf": "2"}),
    "h264 transport stream": ("a.ts", "libx264", {"g": "12"}),
    "hevc": ("a.mp4", "libx265", {"g": "12", "x265-params": "log-level=none:keyint=12"}),
    "hevc open groups": ("a.mkv", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=4"}),
    "vp9": ("a.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "av1": ("a.mkv", "libsvtav1", {"g": "12", "preset": "12"}),
    "mpeg4 B-frames": ("a.mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4 AVI": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mjpeg": ("a.mov", "mjpeg", {}),
}
TARGETS = {
    "spread": [0, 8, 15, 23, 30, 38, 45, 53],
    "far apart": [5, 58],
    "late": [40, 41, 59],
    "repeated and unordered": [30, 7, 7, 59, 0, 30],
    "one": [37],
}


def decode(path, indices, **settings) -> np.ndarray:
    return decode_frames(path, lambda about: indices, **settings)[0]


@pytest.fixture(scope="module")
def frames():
    return moving_pattern(60)


class TestExactness:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_equals_sequential_decoding(self, encoding, frames, tmp_path):
        name, codec, options = ENCODINGS[encoding]
        if codec not in av.codecs_available:
            pytest.skip(f"this build of PyAV has no {codec}")
        path = write_video(
            tmp_path / name, frames, codec, options, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
        )
        expected = decode_all(path)
        assert len(expected) == 60
        for indices in TARGETS.values():
            got, about = decode_frames(path, lambda about, indices=indices: indices)
            assert about.total_num_frames == 60
            assert about.frames_indices == indices
            np.testing.assert_array_equal(got, np.stack([expected[i] for i in indices]))

    def test_frames_of_a_variable_rate_are_found(self, frames, tmp_path):
        times = np.cumsum(np.random.default_rng(1).integers(5, 300, 60)).tolist()
        path = write_video(tmp_path / "a.mkv", frames, "libx264", {"g": "12"}, times=times)
        expected = decode_all(path)
        got, about = decode_frames(path, lambda about: [3, 30, 59])
        np.testing.assert_array_equal(got, np.stack([expected[i] for i in (3, 30, 59)]))
        # how long the last frame is shown, at most 0.3 s, is not in the file
        assert about.duration == pytest.approx((times[-1] - times[0]) / 1000, abs=0.3)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    def test_frames_are_counted_from_a_start_other_than_zero(self, name, frames, tmp_path):
        path = write_video(tmp_path / name, frames, "libx264", {"g": "12"}, times=[5000 + 40 * i for i in range(60)])
        expected = decode_all(path)
        got = decode(path, [0, 20, 59])
        np.testing.assert_array_equal(got, np.stack([expected[i] for i in (0, 20, 59)]))

    @pytest.mark.parametrize("gop", ["10", "30"])
    @pytest.mark.parametrize("shift", [10, 15, 35])
    def test_frames_that_an_edit_list_hides_do_not_count(self, gop, shift, frames, tmp_path):
        """An MP4 cut without re-encoding may start inside a group: those frames are decoded, never shown."""
        whole = write_video(tmp_path / "whole.mp4", frames, "libx264", {"g": gop, "bf": "2"})
        cut = tmp_path / "cut.mp4"
        with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            offset = round(shift / 25 / stream.time_base)
            for packet in source.demux(stream):
                if packet.pts is not None:
                    packet.pts -= offset
                    packet.dts -= offset
                    packet.stream = copy
                    target.mux(packet)
        expected = decode_all(cut)
        assert len(expected) == 60 - shift
        got, about = decode_frames(cut, lambda about: [0, 12, about.total_num_frames - 1])
        assert about.total_num_frames == len(expected)
        np.testing.assert_array_equal(got, np.stack([expected[0], expected[12], expected[-1]]))

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    @pytest.mark.parametrize("bframes", ["0", "2"])
    def test_frames_before_the_first_key_frame_do_not_count(self, name, bframes, frames, tmp_path):
        """Cut from a stream at any packet: the first frames can't be decoded, and don't count."""
        whole = write_video(tmp_path / f"whole{name}", frames, "libx264", {"g": "20", "bf": bframes})
        cut = tmp_path / name
        with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for i, packet in enumerate(source.demux(video=0)):
                if packet.pts is not None and i >= 12:
                    packet.stream = copy
                    target.mux(packet)
        expected = decode_all(cut)
        for indices in ([0, 20, 30], [7, 20], [39]):
            got, about = decode_frames(cut, lambda about, indices=indices: indices)
            assert about.total_num_frames == len(expected)
            np.testing.assert_array_equal(got, np.stack([expected[i] for i in indices]))

    def test_frames_are_counted_without_a_count_in_the_header(self, frames, tmp_path):
        path = write_video(tmp_path / "a.mp4", frames, container_options={"movflags": "frag_keyframe+empty_moov"})
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        got, about = decode_frames(path, lambda about: [about.total_num_frames - 1])
        assert about.total_num_frames == 60
        np.testing.assert_array_equal(got[0], decode_all(path)[-1])

    def test_a_raw_stream_is_decoded_without_timestamps(self, frames, tmp_path):
        path = write_video(tmp_path / "a.h264", frames, "libx264", {"g": "12"})
        expected = decode_all(path)
        got, about = decode_frames(path, lambda about: [0, about.total_num_frames - 1])
        assert about.total_num_frames == len(expected) == 60
        np.testing.assert_array_equal(got, np.stack([expected[0], expected[-1]]))

    def test_timestamps_that_the_decoder_contradicts(self, frames, tmp_path, monkeypatch):
        """Whatever the packets say, the frames come out right: by counting, where timestamps don't match."""
        path = write_video(tmp_path / "a.mp4", frames, "libx264", {"g": "12"})

        def shifted(packets, stream) -> PacketScan:
            scan = scan_packets(packets, stream)
            later = [[pts + 1 for pts in timestamps] for timestamps in (scan.pts, scan.key_pts, scan.decode_order)]
            return PacketScan(later[0], later[1], scan.num_frames, later[2])

        monkeypatch.setattr("timesformer_hf.video.video_decoding.scan_packets", shifted)
        np.testing.assert_array_equal(decode(path, [7, 50])[1], decode_all(path)[50])

    @pytest.mark.parametrize("fault", ["error", "corrupt", "no key frame", "lost"])
    def test_decoder_that_fails_half_way(self, fault, frames, tmp_path, monkeypatch):
        """Decoding in order, which doesn't come by here, has the last word."""
        path = write_video(tmp_path / "a.mp4", frames, "libx264", {"g": "12", "bf": "0"})
        original, fed = video_decoding.decode_packet, []

        def decode_packet(context, packet):
            fed.append(packet)
            decoded = original(context, packet)
            if fault == "error" and len(fed) == 3:
                raise av.error.InvalidDataError(1, "broken")
            if fault == "lost":
                return []
            wrong = {"corrupt": {"is_corrupt": True}, "no key frame": {"key_frame": False}}.get(fault, {})
            return [Proxy(frame, wrong) for frame in decoded]

        monkeypatch.setattr(video_decoding, "decode_packet", decode_packet)
        np.testing.assert_array_equal(decode(path, [14, 50]), np.stack(decode_all(path))[[14, 50]])
        assert fed

    @pytest.mark.parametrize(("rotation", "bright"), [(None, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
    @pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
    def test_rotated_phone_video_is_upright(self, rotation, bright, backend, tmp_path):
        """
        A frame that is bright in its first row and column. ffmpeg's command turns them as expected here: a display
        matrix of 90 degrees is a quarter turn counter-clockwise.
        """
        if backend == "torchcodec":
            need_torchcodec()
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:24, :32] = 255
        path = write_video(tmp_path / "a.mp4", [frame] * 3, rotation=rotation)
        (got,), about = decode_frames(path, lambda about: [1], backend=backend)
        assert (about.height, about.width) == got.shape[:2]
        assert got.shape == ((64, 48, 3) if rotation in (90, -90) else (48, 64, 3))
        corners = got[:: got.shape[0] - 1, :: got.shape[1] - 1, 0]  # (2, 2)
        assert tuple(np.argwhere(corners > 128)[0]) == bright
        assert (corners > 128).sum() == 1


class Proxy:
    """An object, some of whose attributes are others."""

    def __init__(self, target, other):
        self.target, self.other = target, other

    def __getattr__(self, name):
        return self.other[name] if name in self.other else getattr(self.target, name)


def need_torchcodec() -> None:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs torchcodec and FFmpeg's shared libraries: {str(error).splitlines()[0]}")


class TestSparseness:
    @pytest.fixture
    def fed(self, monkeypatch):
        """The timestamps of the packets that reach the decoder."""
        fed, original = [], video_decoding.decode_packet

        def decode_packet(context, packet):
            if packet is not None:
                fed.append(packet.pts)
            return original(context, packet)

        monkeypatch.setattr(video_decoding, "decode_packet", decode_packet)
        return fed

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    @pytest.mark.parametrize(
        ("indices", "expected"),
        # stretches without a gap between them are one
        [
            ([0], 1),
            ([11], 12),
            ([12], 1),
            ([58], 11),
            ([0, 58], 12),
            ([0, 1, 2], 3),
            ([5, 8, 30], 9 + 7),
            ([11, 12], 13),
        ],
    )
    def test_decodes_from_the_key_frame_before(self, name, indices, expected, frames, tmp_path, fed):
        path = write_video(tmp_path / name, frames, "libx264", {"g": "12", "bf": "0"})  # key frames 0, 12, ... 48
        got = decode(path, indices)
        assert len(fed) == expected
        np.testing.assert_array_equal(got, np.stack(decode_all(path))[indices])

    @pytest.mark.parametrize(
        ("codec", "options"),
        [
            ("libx264", {"g": "60", "bf": "1", "sc_threshold": "0", "x264-params": "b-adapt=0"}),
            ("libx265", {"x265-params": "log-level=none:keyint=60:bframes=1:b-adapt=0:scenecut=0"}),
        ],
    )
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    def test_leaves_out_what_no_frame_refers_to(self, name, codec, options, frames, tmp_path, fed):
        """Every other frame is a B-frame without followers: half of the packets, besides the first."""
        path = write_video(tmp_path / name, frames, codec, options)
        np.testing.assert_array_equal(decode(path, [40])[0], decode_all(path)[40])
        # without the record of a header nothing says that HEVC has one temporal layer
        assert len(fed) == (40 if (codec, name) == ("libx265", "a.ts") else 21)

    def test_one_pass_up_to_the_last_target_without_timestamps(self, frames, tmp_path, monkeypatch):
        decoded, original = [], video_decoding.decode_in_order
        monkeypatch.setattr(
            video_decoding, "decode_in_order", lambda *args: decoded.append(original(*args)) or decoded[-1]
        )
        decode(write_video(tmp_path / "a.avi", frames, "libx264", {"g": "12", "bf": "2"}), [0, 40])
        assert [count for _, count in decoded] == [41]


@pytest.mark.parametrize("name", ["a.mp4", "a.flv"])
@pytest.mark.parametrize("indices", [[], [-1], [0, 20], [2.5]])
def test_frames_that_there_are_not_are_told(name, indices, tmp_path):
    """The same error whether a file is decoded sparsely or in order."""
    path = write_video(tmp_path / name, moving_pattern(20), "libx264")
    message = rf"{name}: frames {re.escape(str(indices))} were asked for; choose at least one of 0 to 19"
    with pytest.raises(ValueError, match=message):
        decode_frames(path, lambda about: indices)


class TestSources:
    @pytest.fixture
    def path(self, frames, tmp_path):
        return write_video(tmp_path / "clip.mp4", frames[:10])

    def test_every_kind_of_source_gives_the_same(self, path):
        expected = decode(path, [2, 9])
        with path.open("rb") as file:
            file.seek(100)
            opened = decode(file, [2, 9])
        sources = (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Pipe(path.read_bytes()))
        for got in (opened, *(decode(source, [2, 9]) for source in sources)):
            np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("name", ["12:30.mp4", "http:x.mp4", "-i.mp4", "ein Bär.MP4", "100%[1].mp4"])
    def test_odd_names_are_file_names(self, name, path, monkeypatch):
        monkeypatch.chdir(path.parent)
        path.rename(name)
        assert decode(name, [2]).shape == (1, 48, 64, 3)

    def test_a_url_is_read(self, path):
        handler = partial(QuietHandler, directory=path.parent)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            np.testing.assert_array_equal(decode(f"{address}/clip.mp4", [2]), decode(path, [2]))
            path.with_name("ein Bär.mp4").write_bytes(path.read_bytes())
            np.testing.assert_array_equal(decode(f"{address}/ein Bär.mp4", [2]), decode(path, [2]))
            path.with_name("void.mp4").touch()
            with pytest.raises(VideoReadError, match=r"http://.*/void\.mp4 is empty"):
                decode(f"{address}/void.mp4", [0])
            with pytest.raises(VideoReadError, match=r"http://.*/none\.mp4: can't be downloaded .*404"):
                decode(f"{address}/none.mp4", [0])
            server.shutdown()

    def test_an_unknown_backend_is_refused(self, path):
        with pytest.raises(
            ValueError,
            match="Unknown decoder backend 'opencv'; it must be one of 'pyav', 'torchcodec', 'torchcodec-cuda'",
        ):
            decode(path, [0], backend="opencv")

    def test_torchcodec_gives_the_same(self, path):
        need_torchcodec()
        got, about = decode_frames(path, lambda about: [2, 9], backend="torchcodec")
        assert (about.total_num_frames, about.frames_indices) == (10, [2, 9])
        every = decode_frames(path, lambda about: range(10))[0].astype(int)
        differences = [np.abs(got[0] - frame).mean() for frame in every]
        assert np.argmin(differences) == 2  # the right frame
        assert differences[2] < 2  # grey levels: torchcodec converts from YUV in its own way

    @pytest.mark.parametrize(("backend", "device"), [("torchcodec", "cpu"), ("torchcodec-cuda", "cuda")])
    def test_torchcodec_is_given_its_device(self, backend, device, path, monkeypatch):
        """A decoder that notes its device and gives the frames' numbers as pixels."""
        devices = []

        class VideoDecoder:
            metadata = SimpleNamespace(average_fps=25.0, width=2, height=2, duration_seconds=0.4)

            def __init__(self, file, **settings):
                devices.append(settings["device"])

            def __len__(self):
                return 10

            def get_frames_at(self, indices):
                numbers = torch.tensor(indices, dtype=torch.uint8)
                return SimpleNamespace(data=numbers[:, None, None, None].expand(-1, 2, 2, 3))

        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=VideoDecoder))
        assert decode(path, [2, 9], backend=backend)[:, 0, 0, 0].tolist() == [2, 9]
        assert devices == [device]

    def test_a_missing_pyav_is_told(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match="pip install av"):
            decode(path, [0])


class Pipe(io.RawIOBase):
    """A binary file that can't seek."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, size=-1):
        return self.data.read(size)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class TestBadFiles:
    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
            decode(tmp_path / "none.mp4", [0])

    def test_an_empty_path_is_told(self):
        with pytest.raises(FileNotFoundError, match="path of the video is empty"):
            decode("", [0])

    def test_a_folder_is_told(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder; give the video files"):
            decode(tmp_path, [0])

    def test_a_file_without_permission_is_told(self, frames, tmp_path):
        path = write_video(tmp_path / "secret.mp4", frames[:2])
        path.chmod(0)
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
        root = os.geteuid() == 0
        try:
            if root:  # who may read everything
                os.seteuid(65534)
            with pytest.raises(PermissionError, match=r"secret\.mp4"):
                decode(path, [0])
        finally:
            if root:
                os.seteuid(0)

    @pytest.mark.parametrize("source", [b"", io.BytesIO(b"")])
    def test_an_empty_file_is_told(self, source, tmp_path):
        with pytest.raises(VideoReadError, match="is empty"):
            decode(source, [0])
        (tmp_path / "empty.mp4").touch()
        with pytest.raises(VideoReadError, match=r"empty\.mp4 is empty"):
            decode(tmp_path / "empty.mp4", [0])

    def test_a_text_is_told(self, tmp_path):
        path = tmp_path / "text.mp4"
        path.write_text("This is no video.\n" * 200)
        with pytest.raises(VideoReadError, match=r"text\.mp4: can't be decoded \(Invalid data found"):
            decode(path, [0])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, r"can't be decoded \((Invalid data found|End of file)"),
            ({"movflags": "+faststart"}, "truncated; its index reaches to"),
        ],
    )
    @pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
    def test_a_truncated_file_is_told(self, options, message, share, frames, tmp_path):
        """With the index at the end it is lost; with the index in front, frames are missing."""
        data = write_video(tmp_path / "a.mp4", frames, container_options=options).read_bytes()
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoReadError, match=rf"cut\.mp4: {message}"):
            decode(path, [0])

    def test_damaged_pictures_are_told(self, frames, tmp_path):
        """Every byte of the pictures overwritten: no frame comes out, or the decoder says so."""
        path = write_video(tmp_path / "a.mp4", frames, container_options={"movflags": "+faststart"})
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        data[start:] = bytes(len(data) - start)
        path.write_bytes(data)
        with pytest.raises(VideoReadError, match=r"a\.mp4"):
            decode(path, [0])

    def test_a_file_of_sound_is_told(self, tmp_path):
        with pytest.raises(VideoReadError, match=r"a\.m4a: has no video stream \(streams in it: audio\)"):
            decode(write_sound(tmp_path / "a.m4a"), [0])

    def test_a_size_that_changes_half_way_is_told(self, frames, tmp_path):
        first = write_video(tmp_path / "first.ts", frames[:10])
        second = write_video(tmp_path / "second.ts", moving_pattern(10, 96, 64))
        path = tmp_path / "joined.ts"
        path.write_bytes(first.read_bytes() + second.read_bytes())
        assert len({frame.shape for frame in decode_all(path)}) == 2
        with pytest.raises(VideoReadError, match=r"joined\.ts: the frames change size half-way, 48x64 and 96x64"):
            decode(path, [0, 18], strict=True)

    def test_error_of_the_caller_stays_as_it_is(self, frames, tmp_path):
        def choose(about):
            raise ValueError("the caller's own")

        with pytest.raises(ValueError, match="the caller's own"):
            decode_frames(write_video(tmp_path / "a.mp4", frames[:3]), choose)


def test_decoded_frames_are_freed_at_once(frames, tmp_path):
    """Without waiting for Python's garbage collection, which may come late: a frame can take 100 MB."""
    path = write_video(tmp_path / "a.mp4", frames)
    gc.collect()
    gc.disable()
    try:
        decode_frames(path, lambda about: list(range(0, about.total_num_frames, 2)))
        assert not [item for item in gc.get_objects() if type(item) is av.VideoFrame]
    finally:
        gc.enable()

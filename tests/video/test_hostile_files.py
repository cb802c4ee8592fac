"""Videos that are damaged, odd or made to do harm: the right frames, or `VideoReadError`, and nothing else."""

import http.server
import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from clips import SVT, av, decode_all, moving_pattern, write_sound, write_video
from mutations import mutations

from timesformer_hf import VideoReadError
from timesformer_hf.video.frame_colours import convertible
from timesformer_hf.video.index_size import count_promised_frames
from timesformer_hf.video.safe_opening import FORMATS, demux
from timesformer_hf.video.video_decoding import decode_frames


@pytest.fixture(scope="module")
def frames():
    return moving_pattern(20)


@pytest.fixture(scope="module")
def path(frames, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, options={"g": "10"})


def decode(source, *indices, **settings) -> np.ndarray:
    return decode_frames(source, lambda about: indices or [0, 5], **settings)[0]


def every(about) -> list[int]:
    return list(range(about.total_num_frames))


def remux(source, target, bitstream_filter: str | None = None, **options) -> None:
    """Copy the video packets of a file, which a bitstream filter of FFmpeg may change."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        change = av.bitstream.BitStreamFilterContext(bitstream_filter or "null", stream)
        for packet in read.demux(stream):
            for changed in change.filter(packet if packet.size else None):
                changed.stream = copy
                written.mux(changed)


def set_box(data: bytes, kind: bytes, *numbers: int, start: int = 4) -> bytes:
    """Return MP4 bytes with other 32-bit numbers in the first box of a kind, from a position in its content."""
    changed = bytearray(data)
    struct.pack_into(f">{len(numbers)}I", changed, changed.index(kind) + 4 + start, *numbers)
    return bytes(changed)


class TestPlaylists:
    """A list of files makes FFmpeg open others. So no list is opened, whatever its name and however it is given."""

    def lists(self, target: str) -> dict[str, bytes]:
        segments = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
        manifest = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
            f'bandwidth="9"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
        )
        session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        texts = {
            "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
            "hls": segments,
            "dash": manifest,
            "sdp": f"{session}a=rtpmap:96 H264/90000\n",
        }
        return {name: text.encode() for name, text in texts.items()}

    @pytest.mark.parametrize("kind", ["ffconcat", "hls", "dash", "sdp"])
    @pytest.mark.parametrize("given", ["path", "bytes", "file"])
    @pytest.mark.parametrize(
        "target", ["clip.mp4", "file://{folder}/clip.mp4", "{folder}/clip.mp4", "{address}/clip.mp4"]
    )
    def test_is_not_opened(self, kind, given, target, path, tmp_path):
        requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                self.send_error(404)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            (tmp_path / "clip.mp4").write_bytes(path.read_bytes())
            content = self.lists(target.format(folder=tmp_path, address=address))[kind]
            file = tmp_path / f"list.{ {'hls': 'm3u8', 'dash': 'mpd'}.get(kind, kind) }"
            file.write_bytes(content)
            start = time.monotonic()
            with file.open("rb") as opened, pytest.raises(VideoReadError, match=r"allow_playlists=True|Invalid data"):
                decode({"path": file, "bytes": content, "file": opened}[given])
            assert time.monotonic() - start < 10
            server.shutdown()
        assert not requests

    def test_list_of_itself_and_long_list(self, tmp_path):
        for content in ("file 'a.mp4'\n", "file '/dev/zero'\n" * 20_000):
            (tmp_path / "a.mp4").write_text(f"ffconcat version 1.0\n{content}")
            start = time.monotonic()
            with pytest.raises(VideoReadError, match="allow_playlists"):
                decode(tmp_path / "a.mp4")
            assert time.monotonic() - start < 5

    def test_name_that_is_a_pattern(self, tmp_path):
        """FFmpeg would take it for a list of numbered pictures."""
        import PIL.Image

        PIL.Image.new("RGB", (32, 32)).save(tmp_path / "secret1.jpg")
        (tmp_path / "secret%d.jpg").write_bytes((tmp_path / "secret1.jpg").read_bytes())
        with pytest.raises(VideoReadError, match="not in a format that is read"):
            decode(tmp_path / "secret%d.jpg", 0)

    @pytest.mark.parametrize("kind", ["ffconcat", "hls"])
    def test_option(self, kind, path, tmp_path):
        suffix = {"ffconcat": "mp4", "hls": "ts"}[kind]
        remux(path, tmp_path / f"clip.{suffix}")
        (tmp_path / "list.m3u8").write_bytes(self.lists(f"clip.{suffix}")[kind])
        expected = np.stack(decode_all(tmp_path / f"clip.{suffix}"))[[0, 5]]
        np.testing.assert_array_equal(decode(tmp_path / "list.m3u8", allow_playlists=True), expected)

    def test_no_list_is_among_the_formats(self):
        lists = {
            "concat",
            "hls",
            "applehttp",
            "dash",
            "imf",
            "image2",
            "image2pipe",
            "mlv",
            "avs",
            "avisynth",
            "vapoursynth",
        }
        connections = {"rtsp", "sdp", "rtp", "sap", "lavfi", "fbdev", "x11grab", "alsa", "webm_dash_manifest"}
        assert not (lists | connections) & set(FORMATS)


class TestLimits:
    def test_pixels_of_a_frame(self, path):
        """A GIF of 200 bytes can have frames of 4 billion pixels."""
        image = zlib.decompress(zlib.compress(b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + bytes(6)))
        image += b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\2\x44\1\0;"
        with pytest.raises(VideoReadError, match="more pixels than the limit max_frame_pixels=67,108,864"):
            decode(image, 0)
        with pytest.raises(VideoReadError, match="64 x 48 pixels, more than the limit max_frame_pixels=3,071"):
            decode(path, max_frame_pixels=3071)
        assert len(decode(path, max_frame_pixels=3072)) == 2

    def test_frames_larger_than_the_header_says(self, frames, tmp_path):
        """The second half of a stream has 100 times as many pixels as the first."""
        first = write_video(tmp_path / "first.ts", frames[:10])
        second = write_video(tmp_path / "second.ts", moving_pattern(2, 480, 640))
        data = first.read_bytes() + second.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert decode(data, 0, 9, max_frame_pixels=3072).shape == (2, 48, 64, 3)
            with pytest.raises(VideoReadError, match=r"can't be decoded|change size"):
                decode(data, 0, 11, max_frame_pixels=3072, strict=True)

    def test_pixels_of_a_clip(self, path):
        with pytest.raises(VideoReadError, match=r"2 frames of 64 x 48 pixels .* max_clip_pixels=6,143"):
            decode(path, max_clip_pixels=6143)
        assert len(decode(path, max_clip_pixels=6144)) == 2

    @pytest.mark.parametrize("kind", ["samples", "fragments", "edits", "compressed"])
    def test_index(self, kind, frames, path, tmp_path):
        """A small file promises more frames than fit into memory."""
        data = path.read_bytes()
        if kind == "samples":
            data = set_box(data, b"stsz", 1, 2**31, start=4)
        elif kind == "fragments":
            options = {"movflags": "frag_keyframe+empty_moov"}
            fragments = write_video(tmp_path / "a.mp4", frames, container_options=options).read_bytes()
            data = set_box(fragments, b"trun", 0, 2**31, start=0)
        elif kind == "edits":
            data = set_box(data, b"elst", 2**31, start=4)
        else:
            content = zlib.compress(set_box(data, b"stsz", 1, 2**31, start=4)[data.index(b"moov") - 4 :])
            boxes = struct.pack(">I4s4sI4sI", 12, b"dcom", b"zlib", len(content) + 12, b"cmvd", 9999) + content
            moov = struct.pack(">I4sI4s", len(boxes) + 16, b"moov", len(boxes) + 8, b"cmov") + boxes
            data = data[: data.index(b"moov") - 4] + moov
        start = time.monotonic()
        with pytest.raises(VideoReadError, match=r"its index promises .* max_index_frames=8,388,608; raise it"):
            decode(data)
        assert time.monotonic() - start < 2

    def test_index_of_honest_files(self, path, tmp_path):
        assert 20 <= count_promised_frames(io.BytesIO(path.read_bytes()), 10**6) < 60
        sound = write_sound(tmp_path / "a.m4a").read_bytes()
        assert count_promised_frames(io.BytesIO(sound), 10**6) < 100
        for other in (b"", b"\x1aE\xdf\xa3", b"RIFF" * 100, bytes(1000), b"GIF89a"):
            assert count_promised_frames(io.BytesIO(other), 10**6) < 10

    def test_uncompressed_sound_has_few_entries(self, tmp_path):
        """An hour of it has 170 million samples, but FFmpeg makes an entry for a thousand."""
        target = tmp_path / "a.mov"
        with av.open(str(target), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=48_000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 96_000), np.int16), format="s16", layout="stereo")
            frame.sample_rate = 48_000
            container.mux(stream.encode(frame))
        assert count_promised_frames(io.BytesIO(target.read_bytes()), 10**6) < 1000


class TestDamage:
    @pytest.fixture
    def damaged(self, frames, tmp_path):
        """Twenty pictures by themselves, the seventh overwritten."""
        source = write_video(tmp_path / "a.avi", frames, "mjpeg", pix_fmt="yuvj420p")
        with av.open(str(source)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        data = source.read_bytes()
        source.write_bytes(data.replace(packets[6], bytes(len(packets[6]))))
        return source

    def test_one_packet(self, damaged, frames, tmp_path):
        whole = write_video(tmp_path / "b.avi", frames, "mjpeg", pix_fmt="yuvj420p")
        expected = np.stack(decode_all(whole))
        with pytest.warns(UserWarning, match=r"a\.avi: 1 damaged packets were left out .*Invalid data"):
            got, about = decode_frames(damaged, every)
        assert about.total_num_frames == 19
        np.testing.assert_array_equal(got, np.delete(expected, 6, axis=0))

    def test_strict(self, damaged):
        with pytest.raises(VideoReadError, match=r"a\.avi: can't be decoded \(Invalid data"):
            decode_frames(damaged, every, strict=True)

    def test_undamaged_gives_no_warning(self, path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decode_frames(path, every)

    def test_size_changes_half_way(self, frames, tmp_path):
        """The frames get the size of the first, by the method that ffmpeg uses."""
        large = [np.full((96, 128, 3), 16 + 10 * i, np.uint8) for i in range(10)]
        data = b"".join(
            write_video(tmp_path / name, part).read_bytes() for name, part in (("a.ts", frames[:10]), ("b.ts", large))
        )
        with pytest.warns(UserWarning, match="change size half-way, 48x64 and 96x128 .*; all are scaled to 48x64"):
            got = decode(data, 0, 15)
        assert got.shape == (2, 48, 64, 3)
        assert abs(int(got[1].mean()) - 66) < 4
        with pytest.warns(UserWarning, match="scaled to 96x128"):
            assert decode(data, 15, 0).shape == (2, 96, 128, 3)
        with pytest.raises(VideoReadError, match=r"the frames change size half-way, 48x64 and 96x128"):
            decode(data, 0, 15, strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(data, 15).shape == (1, 96, 128, 3)


class TestOddVideos:
    """They are fine, and were refused."""

    @pytest.mark.parametrize("matrix", [8, *range(10, 18)])
    def test_colour_matrix_without_a_table(self, matrix, path, tmp_path):
        """ffmpeg takes the table of BT.601 for them, and that of BT.2020 for number 10."""
        replaced = 9 if matrix == 10 else 5
        for number in (matrix, replaced):
            remux(path, tmp_path / f"{number}.mp4", f"h264_metadata=matrix_coefficients={number}")
        expected = np.stack(decode_all(tmp_path / f"{replaced}.mp4"))[[0, 5]]
        np.testing.assert_array_equal(decode(tmp_path / f"{matrix}.mp4"), expected)

    @pytest.mark.parametrize("order", ["rgb", "bgr"])
    @pytest.mark.parametrize("bits", ["565", "555"])
    @pytest.mark.parametrize("width", [62, 64])
    def test_high_byte_first(self, order, bits, width, tmp_path):
        """As the same pixels with the low byte first."""
        picture = av.VideoFrame.from_ndarray(moving_pattern(1, 48, width)[0], format="rgb24")
        little = picture.reformat(format=f"{order}{bits}le")
        big = av.VideoFrame(width, 48, f"{order}{bits}be")
        for source, target in zip(little.planes, big.planes, strict=True):
            target.update(np.frombuffer(source, np.uint8).reshape(-1, 2)[:, ::-1].tobytes())
        expected = little.to_ndarray(format="rgb24")
        np.testing.assert_array_equal(convertible(big).to_ndarray(format="rgb24"), expected)

    def test_metadata_that_is_not_utf8(self, frames, tmp_path):
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = "TITLE"
            stream = container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
            for array in frames[:6]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode())
        expected = np.stack(decode_all(path))[[0, 5]]
        path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xff\xfe\xe4\xf6\xfc"))
        np.testing.assert_array_equal(decode(path), expected)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
    def test_unknown_codec(self, name, frames, tmp_path):
        path = write_video(tmp_path / name, frames[:6], "mpeg4" if name == "a.avi" else "libx264")
        data = path.read_bytes()
        for code, unknown in {b"avc1": b"ZZZZ", b"V_MPEG4/ISO/AVC": b"V_ZZZZZ/ISO/AVC", b"FMP4": b"ZZZZ"}.items():
            data = data.replace(code, unknown)
        path.write_bytes(data)
        with pytest.raises(VideoReadError, match=f"{name}: there is no decoder for the codec of its video"):
            decode(path)

    @pytest.mark.parametrize("name", ["a.h264", "a.avi", "a.ts"])
    def test_empty_nal_units(self, name, frames, tmp_path):
        """A start code that is written twice."""
        raw = write_video(
            tmp_path / "raw.h264", frames, options={"g": "10", "bf": "0", "x264-params": "repeat-headers=1"}
        )
        data = raw.read_bytes()
        for unit in (b"\x65", b"\x41", b"\x67"):
            data = data.replace(b"\0\0\1" + unit, b"\0\0\1\0\0\1" + unit)
        doubled = tmp_path / "doubled.h264"
        doubled.write_bytes(data)
        if name != "a.h264":
            path = tmp_path / name
            with av.open(str(doubled), options={"framerate": "25"}) as read, av.open(str(path), "w") as written:
                copy = written.add_stream_from_template(read.streams.video[0])
                for index, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
                    packet.pts = packet.dts = index
                    packet.time_base, packet.stream = Fraction(1, 25), copy
                    written.mux(packet)
            doubled = path
        got, _ = decode_frames(doubled, every)
        np.testing.assert_array_equal(got, np.stack(decode_all(doubled)))

    def test_stream_that_begins_late(self):
        """PyAV raises IndexError at the end if a stream began after the file was opened."""

        def packets(stream):
            yield "packet"
            yield "flush"
            raise IndexError

        assert list(demux(SimpleNamespace(demux=packets), None)) == ["packet", "flush"]

    def test_video_that_begins_late(self, frames, tmp_path):
        """After more sound than FFmpeg looks at when it opens a file."""
        sound = tmp_path / "sound.flv"
        with av.open(str(sound), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
            for _ in range(40):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 88_200), np.int16), format="s16", layout="stereo")
                frame.sample_rate = 44_100
                container.mux(stream.encode(frame))
        pictures = write_video(tmp_path / "pictures.flv", frames, "flv")
        data = b"FLV\1\4\0\0\0\x09\0\0\0\0" + sound.read_bytes()[13:] + pictures.read_bytes()[13:]
        assert len(sound.read_bytes()) > 5_500_000
        np.testing.assert_array_equal(decode(data), np.stack(decode_all(pictures))[[0, 5]])

    @pytest.mark.parametrize("start", [10**6, 2**31 - 1])
    def test_edit_list_past_the_end(self, start, path, tmp_path):
        """Such a file shows nothing, in ffmpeg too."""
        hidden = tmp_path / "hidden.mp4"
        hidden.write_bytes(set_box(path.read_bytes(), b"elst", start, start=12))
        with pytest.raises(VideoReadError, match=r"hidden\.mp4: its video stream contains no frame"):
            decode(hidden)

    def test_log_level_with_threads(self, tmp_path):
        """FFmpeg's threads that log would wait for Python, while Python waits for them to end."""
        path = write_video(
            tmp_path / "a.flv", moving_pattern(60, 240, 320), options={"preset": "ultrafast", "g": "60", "bf": "0"}
        )
        data = bytearray(path.read_bytes())
        data[20_000::500] = bytes(len(data[20_000::500]))
        path.write_bytes(data)
        code = f"""
import warnings, av
from timesformer_hf.video import decoding_plan
from timesformer_hf.video.video_decoding import decode_frames
warnings.simplefilter("ignore")
av.logging.set_level(av.logging.VERBOSE)
decoding_plan.WORTH_THREADS, decoding_plan.count_cores = 0, lambda: 4
for i in range(60):
    try:
        decode_frames({str(path)!r}, lambda about: [i % 40])
    except ValueError:
        pass
print("done")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240)
        assert done.stdout.endswith(b"done\n"), done.stderr[-500:]


class TestErrorsOfOthers:
    @pytest.mark.parametrize(
        "error", [KeyError("x"), ZeroDivisionError(), UnicodeDecodeError("utf-8", b"x", 0, 1, "x")]
    )
    def test_any_error_of_the_decoder(self, error, path, monkeypatch):
        def fail(*args):
            raise error

        monkeypatch.setattr("timesformer_hf.video.video_decoding.scan_packets", fail)
        with pytest.raises(VideoReadError, match=rf"clip\.mp4: can't be decoded \({type(error).__name__}"):
            decode(path)

    @pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
    def test_these_are_not_about_the_video(self, error, path, monkeypatch):
        def fail(*args):
            raise error

        monkeypatch.setattr("timesformer_hf.video.video_decoding.scan_packets", fail)
        with pytest.raises(error):
            decode(path)

    @pytest.mark.parametrize("error", [KeyError("mine"), VideoReadError("mine"), RuntimeError("mine")])
    def test_of_the_caller(self, error, path):
        def choose(about):
            raise error

        with pytest.raises(type(error), match="mine"):
            decode_frames(path, choose)


FUZZED = {
    # name: codec, options, container's options, pixel format
    "end.mp4": ("libx264", {"g": "6", "bf": "2"}, {}, "yuv420p"),
    "start.mp4": ("libx264", {"g": "6"}, {"movflags": "+faststart"}, "yuv420p"),
    "fragments.mp4": ("libx264", {"g": "4"}, {"movflags": "frag_keyframe+empty_moov"}, "yuv420p"),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:keyint=6"}, {}, "yuv420p"),
    "a.mkv": ("libx264", {"g": "6"}, {}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"g": "6", "deadline": "realtime"}, {}, "yuv420p"),
    "vp8.webm": ("libvpx", {"g": "6", "deadline": "realtime"}, {}, "yuv420p"),
    "av1.mp4": (SVT, {"preset": "12", "g": "6"}, {}, "yuv420p"),
    "a.ts": ("libx264", {"g": "6", "bf": "2"}, {}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "6", "bf": "2"}, {}, "yuv420p"),
    "h264.avi": ("libx264", {"g": "6"}, {}, "yuv420p"),
    "a.flv": ("flv", {"g": "6"}, {}, "yuv420p"),
    "a.mpg": ("mpeg2video", {"g": "6", "bf": "2"}, {}, "yuv420p"),
    "a.wmv": ("wmv2", {"g": "6"}, {}, "yuv420p"),
    "a.mov": ("mjpeg", {}, {}, "yuvj420p"),
    "a.gif": ("gif", {}, {}, "rgb8"),
    "a.h264": ("libx264", {"g": "6"}, {}, "yuv420p"),
    "a.mxf": ("mpeg2video", {"g": "6"}, {}, "yuv420p"),
    "a.nut": ("ffv1", {}, {}, "yuv420p"),
}


class TestFuzz:
    @pytest.fixture(scope="class")
    def originals(self, tmp_path_factory):
        folder, pictures = tmp_path_factory.mktemp("originals"), moving_pattern(12, 32, 32)
        return {
            name: write_video(
                folder / name, pictures, codec, options, pix_fmt=pix_fmt, container_options=container_options
            ).read_bytes()
            for name, (codec, options, container_options, pix_fmt) in FUZZED.items()
            if codec in av.codecs_available
        }

    @pytest.mark.parametrize("number", [200, pytest.param(2000, marks=pytest.mark.slow)])
    def test_frames_or_the_documented_error(self, number, originals):
        read, equal, reasons = 0, 0, []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _, data in mutations(originals, number, seed=number):
                try:
                    got, about = decode_frames(data, lambda about: [i * about.total_num_frames // 4 for i in range(4)])
                except VideoReadError as error:
                    reasons.append(str(error))
                    continue
                assert got.dtype == np.uint8
                assert got.shape[0] == 4
                assert got.shape[3] == 3
                expected = plain_loop(data)
                if expected is not None:
                    read += 1
                    equal += len(expected) == about.total_num_frames and all(
                        np.array_equal(frame, expected[i]) for frame, i in zip(got, about.frames_indices, strict=True)
                    )
        # a reason in words, not the class of an error that nobody expected
        assert not [reason for reason in reasons if "Error:" in reason]
        assert read > number / 4
        # The others have a damaged packet that a sparse decoder doesn't get, or conceals otherwise.
        assert read - equal < 3 + 0.02 * read


def plain_loop(data: bytes) -> list[np.ndarray] | None:
    """Return every frame by the plainest loop, or `None` if a packet can't be decoded."""
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            container.streams.video[0].thread_type = "NONE"
            return [convertible(frame).to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError, AttributeError):
        return None

"""Every kind of source of a video: files of all sorts, pipes, uploads, downloads, entries of data sets, decoders."""

import bz2
import gzip
import http.server
import io
import lzma
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_video

from timesformer_hf import TimesformerVideoProcessor, VideoOptions, VideoReadError
from timesformer_hf.video import video_downloads
from timesformer_hf.video.video_decoding import decode_frames


def decode(source, *indices, **settings) -> np.ndarray:
    return decode_frames(source, lambda about: indices or [2, 9], **settings)[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_pattern(10))


@pytest.fixture(scope="module")
def expected(path):
    return np.stack(decode_all(path))[[2, 9]]


class WithoutSeek:
    """An object that can only be read, as the body of a request."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.data.read(size)


class ReadsAll(WithoutSeek):
    """Its `read` takes no size."""

    def read(self) -> bytes:
        return self.data.read()


class GivesTooMuch(WithoutSeek):
    """Its `read` gives more bytes than it was asked for."""

    def read(self, size: int = -1) -> bytes:
        return self.data.read(max(size, 0) + 4096)

    def seek(self, position: int, whence: int = 0) -> None:
        self.data.seek(position, whence)

    def tell(self) -> int:
        return self.data.tell()


class OtherMode(io.BytesIO):
    """As an upload that was opened for writing; its position is not always returned by `seek`."""

    mode, name = "wb", 7

    def seek(self, position: int, whence: int = 0) -> None:
        super().seek(position, whence)


class TestOpenFiles:
    @pytest.mark.parametrize("size", [1, 2**24])
    def test_spooled_upload(self, size, path, expected):
        """As FastAPI and Flask give it: in memory while it is small, and then on disk."""
        with tempfile.SpooledTemporaryFile(max_size=size) as file:
            file.write(path.read_bytes())
            np.testing.assert_array_equal(decode(file), expected)
            np.testing.assert_array_equal(decode(file), expected)  # again from the start

    def test_temporary_file(self, path, expected):
        with tempfile.NamedTemporaryFile() as file:
            file.write(path.read_bytes())
            np.testing.assert_array_equal(decode(file), expected)

    @pytest.mark.parametrize("library", [gzip, bz2, lzma])
    def test_compressed(self, library, path, expected, tmp_path):
        packed = tmp_path / "clip.packed"
        packed.write_bytes(library.compress(path.read_bytes()))
        with library.open(packed) as file:
            np.testing.assert_array_equal(decode(file), expected)
            np.testing.assert_array_equal(decode(file), expected)

    def test_member_of_a_zip(self, path, expected, tmp_path):
        with zipfile.ZipFile(tmp_path / "clips.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(path, "clip.mp4")
        with zipfile.ZipFile(tmp_path / "clips.zip") as packed, packed.open("clip.mp4") as file:
            np.testing.assert_array_equal(decode(file), expected)

    @pytest.mark.parametrize("kind", [WithoutSeek, ReadsAll, OtherMode, memoryview, bytearray])
    def test_other_objects(self, kind, path, expected):
        np.testing.assert_array_equal(decode(kind(path.read_bytes())), expected)

    def test_read_that_gives_too_much(self, path):
        """PyAV would copy it over the end of its buffer."""
        with pytest.raises(VideoReadError, match="GivesTooMuch"):
            decode(GivesTooMuch(path.read_bytes()))

    def test_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("text")
        for file in ((tmp_path / "a.txt").open(), io.StringIO("text")):
            with file, pytest.raises(VideoReadError, match="open it in binary mode"):
                decode(file)

    @pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("gone"), KeyError("gone")])
    def test_object_that_fails(self, error):
        def fail(size):
            raise error

        with pytest.raises(VideoReadError, match=r"upload\.mp4: can't be read .*gone"):
            decode(SimpleNamespace(read=fail, name="upload.mp4"))

    def test_closed_file(self, path):
        with path.open("rb") as file:
            pass
        with pytest.raises(VideoReadError, match=r"clip\.mp4: can't be read .*closed"):
            decode(file)

    def test_compressed_bomb(self):
        with pytest.raises(VideoReadError, match="more bytes than the limit max_bytes=1,000,000"):
            decode(gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(bytes(2_000_000)))), max_bytes=1_000_000)

    def test_damaged_archive(self, path):
        packed = gzip.compress(path.read_bytes())
        with pytest.raises(VideoReadError, match="can't be read"):
            decode(gzip.GzipFile(fileobj=io.BytesIO(packed[: len(packed) // 2])))


class TestPipes:
    def test_named_pipe(self, path, expected, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True).start()
        np.testing.assert_array_equal(decode(pipe), expected)

    def test_empty_pipe(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=lambda: pipe.write_bytes(b""), daemon=True).start()
        with pytest.raises(VideoReadError, match="pipe is empty"):
            decode(pipe)

    def test_standard_input(self, path):
        code = (
            "from timesformer_hf.video.video_decoding import decode_frames\n"
            "print(decode_frames('/dev/stdin', lambda about: [2])[0].shape)"
        )
        done = subprocess.run([sys.executable, "-c", code], input=path.read_bytes(), capture_output=True, timeout=120)
        assert b"(1, 48, 64, 3)" in done.stdout, done.stderr

    @pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
    def test_endless_device(self):
        with pytest.raises(VideoReadError, match=r"/dev/zero: has more bytes than the limit max_bytes"):
            decode("/dev/zero", max_bytes=10**6)


class TestEntriesOfDataSets:
    def test_bytes_and_path(self, path, expected):
        np.testing.assert_array_equal(decode({"bytes": path.read_bytes(), "path": "clip.mp4"}), expected)
        np.testing.assert_array_equal(decode({"bytes": None, "path": str(path)}), expected)

    def test_error_names_the_path(self):
        with pytest.raises(VideoReadError, match=r"clip\.mp4: can't be decoded"):
            decode({"bytes": b"no video" * 100, "path": "clip.mp4"})
        with pytest.raises(VideoReadError):
            decode({"bytes": None, "path": None})

    def test_processor(self, path):
        entry = {"bytes": path.read_bytes(), "path": None}
        processor = TimesformerVideoProcessor(num_frames=2)
        assert processor(entry, return_tensors="pt").pixel_values.shape == (1, 2, 3, 224, 224)
        assert processor([entry, entry], return_tensors="pt").pixel_values.shape == (2, 2, 3, 224, 224)

    def test_pipeline_over_a_column(self, path):
        from transformers.pipelines.pt_utils import KeyDataset

        from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
        from timesformer_hf.inference.pipeline_timesformer import TimesformerVideoClassificationPipeline

        size = {"image_size": 32, "patch_size": 16, "num_frames": 2, "hidden_size": 8, "num_hidden_layers": 1}
        config = TimesformerConfig(**size, num_attention_heads=2, intermediate_size=8)
        processor = TimesformerVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        pipeline = TimesformerVideoClassificationPipeline(
            model=TimesformerForVideoClassification(config), video_processor=processor
        )
        rows = [{"video": {"bytes": path.read_bytes(), "path": None}}, {"video": Decoder()}, {"video": str(path)}]
        assert [len(labels) for labels in pipeline(KeyDataset(rows, "video"))] == [2, 2, 2]


class Decoder:
    """Has what the `VideoDecoder` of torchcodec has. The frames have their numbers as pixels."""

    metadata = SimpleNamespace(average_fps=25.0, width=64, height=48, duration_seconds=0.4)

    def __init__(self, channels_last: bool = False):
        self.shape = (48, 64, 3) if channels_last else (3, 48, 64)

    def __len__(self) -> int:
        return 10

    def get_frames_at(self, indices):
        numbers = torch.tensor(indices, dtype=torch.uint8)
        return SimpleNamespace(data=numbers[:, None, None, None].expand(-1, *self.shape))


class TestDecoders:
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_frames(self, channels_last):
        frames, about = decode_frames(Decoder(channels_last), lambda about: [2, 9])
        assert frames.shape == (2, 48, 64, 3)
        assert frames[:, 0, 0, 0].tolist() == [2, 9]
        assert (about.total_num_frames, about.frames_indices, about.fps) == (10, [2, 9], 25.0)

    def test_processor(self):
        batch = TimesformerVideoProcessor(num_frames=2)([Decoder(), Decoder()], return_tensors="pt")
        assert batch.pixel_values.shape == (2, 2, 3, 224, 224)

    def test_error(self):
        decoder = Decoder()
        decoder.get_frames_at = lambda indices: 1 / 0
        with pytest.raises(VideoReadError, match=r"<Decoder>: can't be decoded .*division by zero"):
            decode(decoder)


@contextmanager
def serve(answer):
    """A server that gives every request to `answer`, and its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def redirect(place: str):
    def answer(request):
        request.send_response(302)
        request.send_header("Location", place)
        request.end_headers()
        if place.startswith("http"):
            drip(request)

    return answer


def drip(request) -> None:
    """Send a byte from time to time, for ever."""
    try:
        while True:
            request.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        pass


class TestDownloads:
    def test_redirect_to_http(self, path, expected):
        def answer(request):
            if request.path != "/clip.mp4":
                return redirect("/clip.mp4")(request)
            request.send_response(200)
            request.end_headers()
            request.wfile.write(path.read_bytes())

        with serve(answer) as address:
            np.testing.assert_array_equal(decode(f"{address}/start"), expected)

    @pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a.mp4", "data:video/mp4,x"])
    def test_redirect_elsewhere(self, place):
        with serve(redirect(place)) as address, pytest.raises(VideoReadError, match=r"can't be downloaded .*not"):
            decode(f"{address}/start")

    def test_redirect_with_an_endless_body(self):
        with serve(redirect("http://127.0.0.1:9/")) as address, pytest.raises(VideoReadError, match="downloaded"):
            decode(f"{address}/start", max_seconds=20)

    @pytest.mark.parametrize("header", [True, False])
    def test_too_large(self, header):
        def answer(request):
            request.send_response(200)
            if header:
                request.send_header("Content-Length", "2000000")
            request.end_headers()
            request.wfile.write(bytes(2_000_000))

        with serve(answer) as address, pytest.raises(VideoReadError, match=r"limit max_bytes=1,000,000"):
            decode(f"{address}/a.mp4", max_bytes=1_000_000)

    @pytest.mark.parametrize("in_header", [True, False])
    def test_too_slow(self, in_header):
        def answer(request):
            if not in_header:
                request.send_response(200)
                request.end_headers()
            drip(request)

        start = time.monotonic()
        with serve(answer) as address, pytest.raises(VideoReadError, match=r"takes longer than max_seconds=0\.5"):
            decode(f"{address}/a.mp4", max_seconds=0.5)
        assert time.monotonic() - start < 10

    def test_silent_server(self, monkeypatch):
        monkeypatch.setattr(video_downloads, "_SILENCE", 0.2)
        answer = lambda request: time.sleep(2)  # noqa: E731
        with serve(answer) as address, pytest.raises(VideoReadError, match=r"can't be downloaded .*timed out"):
            decode(f"{address}/a.mp4")

    def test_cut_short(self, path):
        def answer(request):
            request.send_response(200)
            request.send_header("Content-Length", str(path.stat().st_size))
            request.end_headers()
            request.wfile.write(path.read_bytes()[:1000])

        with serve(answer) as address, pytest.raises(VideoReadError, match=r"can't be downloaded .*IncompleteRead"):
            decode(f"{address}/a.mp4")

    @pytest.mark.parametrize("scheme", ["ftp", "file", "rtsp", "concat", "data", "pipe", "crypto+http"])
    def test_other_protocols_are_paths(self, scheme, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError):
            decode(f"{scheme}://127.0.0.1/a.mp4")


class TestNames:
    def test_name_that_no_file_can_have(self):
        with pytest.raises((FileNotFoundError, VideoReadError)):
            decode("a\0b.mp4")
        with pytest.raises(VideoReadError):
            decode("a" * 5000 + ".mp4")
        with pytest.raises(VideoReadError):
            decode("\ud800.mp4")

    def test_name_that_is_not_utf8(self, path, expected, tmp_path):
        odd = os.fsencode(tmp_path) + b"/\xff\x1b[31m\n.mp4"
        os.link(path, odd)
        np.testing.assert_array_equal(decode(os.fsdecode(odd)), expected)

    def test_errors_are_escaped(self, tmp_path):
        odd = os.fsencode(tmp_path) + b"/\xff\x1b[31m\n.mp4"
        with open(odd, "wb") as file:
            file.write(b"no video" * 100)
        with pytest.raises(VideoReadError) as caught:
            decode(os.fsdecode(odd))
        assert r"\xff\x1b[31m\n.mp4: can't be decoded" in str(caught.value)
        assert str(caught.value).isprintable()


class TestOptions:
    def test_unknown(self, path):
        with pytest.raises(TypeError, match="max_pixel"):
            decode(path, max_pixel=1)

    def test_of_a_processor(self, path, tmp_path):
        processor = TimesformerVideoProcessor(num_frames=2)
        with pytest.raises(VideoReadError, match="max_frame_pixels=100"):
            processor(str(path), video_options=VideoOptions(max_frame_pixels=100))
        processor.video_options = VideoOptions(max_frame_pixels=100)
        with pytest.raises(VideoReadError, match="max_frame_pixels=100"):
            processor(str(path))
        processor.save_pretrained(tmp_path)
        assert "video_options" not in (tmp_path / "video_preprocessor_config.json").read_text()

    def test_are_never_taken_from_a_file(self, path):
        processor = TimesformerVideoProcessor.from_dict({"num_frames": 2, "video_options": {"allow_playlists": True}})
        assert processor.reading_options() == VideoOptions()
        processor(str(path))

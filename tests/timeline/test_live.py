"""Live streams: the same as a file, reconnecting, dropping, and sources that are silent or broken."""

import io
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_sound, write_video

from timesformer_hf import StreamClassifier, VideoReadError, classify_live, make_timeline
from timesformer_hf.timeline import live
from timesformer_hf.timeline.window_scoring import WindowScorer
from timesformer_hf.video.live_stream import describe_live, open_live_stream


SETTINGS = {"window": 0.4, "stride": 0.12, "threshold": 0.3}


@pytest.fixture(scope="module")
def transport(tmp_path_factory) -> bytes:
    """A transport stream of 120 frames, with a key frame twice a second."""
    path = tmp_path_factory.mktemp("live") / "film.ts"
    return write_video(path, moving_pattern(120), options={"g": "12", "bf": "0"}).read_bytes()


@pytest.fixture
def serve():
    """A function that sends contents over loopback, one connection after the other; returns the URL."""
    sockets = []

    def start(*contents: bytes, pause: float = 0.0, drip: float = 0.0) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def send() -> None:
            try:
                for content in contents:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(content)
                        for _ in range(round(20 * drip)):
                            time.sleep(0.05)
                            connection.sendall(content[-18800:])
                        time.sleep(pause)
                server.close()
            except OSError:
                pass

        threading.Thread(target=send, daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in sockets:
        server.close()


@pytest.fixture
def no_drops(monkeypatch):
    monkeypatch.setattr(live, "_QUEUED", 1000)


def take_all(found, segments: list) -> None:
    """Append one by one, so that those before an error count."""
    for segment in found:
        segments.append(segment)


class TestStreamClassifier:
    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_frames_give_exactly_the_timeline_of_the_file(self, batch_size, model, processor, film):
        expected = make_timeline(model, processor, film, batch_size=batch_size, **SETTINGS)
        windows, segments = [], []
        classifier = StreamClassifier(model, processor, 25, batch_size=batch_size, on_window=windows.append, **SETTINGS)
        for frame in decode_all(film):
            segments += classifier.add(frame)
        segments += classifier.finish()
        assert len(segments) > 2
        assert tuple(segments) == expected.segments
        assert np.array_equal([w.scores for w in windows], [w.scores for w in expected.windows])

    def test_memory_does_not_grow(self, model, processor, monkeypatch):
        monkeypatch.setattr(WindowScorer, "score", lambda self, clips: np.ones((len(clips), 5), np.float32) / 5)
        monkeypatch.setattr(WindowScorer, "prepare", lambda self, frame: torch.from_numpy(frame.copy()))
        classifier = StreamClassifier(model, processor, 25, window=0.4, stride=0.2)
        frame = np.zeros((48, 64, 3), np.uint8)

        def feed(frames: int) -> int:
            for _ in range(frames):
                classifier.add(frame)
            return tracemalloc.get_traced_memory()[0]

        feed(100)
        tracemalloc.start()
        try:
            before = feed(100)
            assert feed(1000) - before < 20_000  # two frames, of a thousand
        finally:
            tracemalloc.stop()


class TestSources:
    def test_a_file_gives_exactly_the_offline_result(self, model, processor, film):
        expected = make_timeline(model, processor, film, batch_size=1, **SETTINGS)
        assert tuple(classify_live(model, processor, film, **SETTINGS)) == expected.segments

    def test_standard_input(self, model, processor, transport, tmp_path, monkeypatch):
        (tmp_path / "film.ts").write_bytes(transport)
        expected = make_timeline(model, processor, str(tmp_path / "film.ts"), batch_size=1, **SETTINGS)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(transport)))
        monkeypatch.setattr(live, "_QUEUED", 2)  # a slow model makes the writer wait
        assert tuple(classify_live(model, processor, "-", **SETTINGS)) == expected.segments

    def test_a_connection_that_breaks_is_tried_again(self, model, processor, transport, serve, no_drops, tmp_path):
        """Each connection is a part of its own, later than the one before."""
        (tmp_path / "film.ts").write_bytes(transport)
        expected = make_timeline(model, processor, str(tmp_path / "film.ts"), batch_size=1, **SETTINGS).segments
        told, segments = [], []
        found = classify_live(model, processor, serve(transport, transport), give_up=1, report=told.append, **SETTINGS)
        with pytest.raises(VideoReadError, match="It was tried again for 1 s"):
            take_all(found, segments)
        assert sum("the stream has ended; trying again" in message for message in told) == 2
        assert [s.label for s in segments] == [s.label for s in expected] * 2
        assert segments[: len(expected)] == list(expected)
        lengths = [s.end - s.start for s in segments]
        assert lengths[len(expected) :] == pytest.approx(lengths[: len(expected)], abs=0.09)
        assert segments[len(expected)].start >= segments[len(expected) - 1].end - 1e-9

    def test_frames_are_dropped_and_counted(self, model, processor, transport, serve, monkeypatch):
        score = WindowScorer.score
        monkeypatch.setattr(WindowScorer, "score", lambda *args: time.sleep(0.05) or score(*args))
        monkeypatch.setattr(live, "_QUEUED", 4)
        told = []
        with pytest.raises(VideoReadError):
            list(classify_live(model, processor, serve(transport), give_up=1, report=told.append, **SETTINGS))
        assert any("of 120 frames were dropped, because the model is slower" in message for message in told)

    def test_a_stream_of_ffmpeg(self, model, processor, film, no_drops):
        if shutil.which("ffmpeg") is None:
            pytest.skip("needs the program ffmpeg, which sends the stream")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"tcp://127.0.0.1:{port}"
        command = ["ffmpeg", "-v", "error", "-i", film, "-c", "copy", "-f", "matroska", f"{url}?listen=1"]
        expected = make_timeline(model, processor, film, batch_size=1, **SETTINGS).segments
        segments = []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as sender:
            try:
                with pytest.raises(VideoReadError):
                    take_all(classify_live(model, processor, url, give_up=1, **SETTINGS), segments)
            finally:
                sender.kill()
        assert tuple(segments) == expected


class TestBadInput:
    def test_a_port_that_nobody_listens_at(self, model, processor):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(VideoReadError, match=rf"tcp://127\.0\.0\.1:{port}: can't be opened \(Connection refused\)"):
            list(classify_live(model, processor, f"tcp://127.0.0.1:{port}", give_up=0.2))

    def test_a_silent_source(self, serve):
        began = time.monotonic()
        with pytest.raises(VideoReadError, match="can't be opened"), open_live_stream(serve(b"", pause=5), seconds=0.5):
            pass
        assert time.monotonic() - began < 4

    def test_a_stream_without_a_key_frame(self, serve, tmp_path):
        """A transport stream from which the packets of the only key frame are cut out."""
        path = write_video(tmp_path / "film.ts", moving_pattern(400), options={"g": "1000", "bf": "0"})
        content = path.read_bytes()
        packets = [content[i : i + 188] for i in range(0, len(content), 188)]
        starts = [i for i, packet in enumerate(packets) if packet[1] & 0x5F == 0x41 and packet[2] == 0]
        without = b"".join(packets[: starts[0]] + packets[starts[1] :])
        began = time.monotonic()
        with (
            pytest.raises(VideoReadError, match=r"no picture could be decoded in 1 s.*may never send a key frame"),
            open_live_stream(serve(without, drip=8), seconds=1) as stream,
        ):
            list(stream.frames)
        assert time.monotonic() - began < 10

    def test_not_a_video(self, serve):
        with pytest.raises(VideoReadError, match="can't be opened"), open_live_stream(serve(b"text" * 9999), seconds=1):
            pass

    def test_a_playlist_opens_no_file(self, film, serve):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{film}\n#EXT-X-ENDLIST\n".encode()
        with pytest.raises(VideoReadError, match="can't be opened"), open_live_stream(serve(playlist), seconds=1):
            pass

    def test_an_index_that_promises_frames_is_not_read(self, serve, tmp_path):
        """MP4, even one that a player could read from a stream."""
        path = write_video(tmp_path / "film.mp4", moving_pattern(20), container_options={"movflags": "faststart"})
        with (
            pytest.raises(VideoReadError, match="can't be opened"),
            open_live_stream(serve(path.read_bytes()), seconds=2),
        ):
            pass

    def test_sound_alone(self, serve, tmp_path):
        sound = write_sound(tmp_path / "sound.ts").read_bytes()
        with pytest.raises(VideoReadError, match="has no video stream"), open_live_stream(serve(sound), seconds=2):
            pass

    def test_cameras_and_other_sources(self, model, processor):
        with pytest.raises(FileNotFoundError, match="camera:77: there is no such camera; this machine has"):
            list(classify_live(model, processor, "camera:77"))
        with pytest.raises(VideoReadError, match="gopher://x: a live source is camera:0, -, or a URL with one of rtsp"):
            list(classify_live(model, processor, "gopher://x"))
        with pytest.raises(FileNotFoundError):
            list(classify_live(model, processor, "missing.mp4"))

    def test_passwords_are_not_shown(self):
        assert describe_live("rtsp://me:secret@camera/1") == "rtsp://camera/1"

    def test_settings(self, model, processor, film):
        with pytest.raises(ValueError, match="no label 'x'"):
            list(classify_live(model, processor, film, labels=["x"]))

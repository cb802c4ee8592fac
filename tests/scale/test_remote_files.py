"""Videos behind URLs of fsspec: fetched or read by ranges, removed, and no secret in a message."""

import os
import time
from pathlib import Path

import pytest
from clips import moving_pattern, write_video

from timesformer_hf import VideoOptions, VideoReadError, decode_frames
from timesformer_hf.scale import remote_files
from timesformer_hf.scale.remote_files import find_remote_videos, is_remote, opened_video, without_secrets


fsspec = pytest.importorskip("fsspec", reason="remote files are read by fsspec")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("clips") / "a.mp4", moving_pattern(12)))


@pytest.fixture
def store(clip):
    """A store in memory, with a video in a folder."""
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/videos/a.mp4", Path(clip).read_bytes())
    system.pipe("/bucket/videos/notes.txt", b"text")
    yield system
    system.rm("/bucket", recursive=True)


class SlowFile:
    """A file whose server answers once, and then never."""

    def __init__(self, *args):
        self.read = lambda size: time.sleep(5) or b""

    def close(self):
        pass


class TestReading:
    @pytest.mark.parametrize("whole", [True, False])
    def test_the_frames_are_those_of_the_file(self, clip, store, monkeypatch, whole):
        monkeypatch.setattr(remote_files, "_FETCHED_BYTES", 2**26 if whole else 1)
        with opened_video("memory://bucket/videos/a.mp4", VideoOptions()) as source:
            assert isinstance(source, str) == whole
            frames, _ = decode_frames(source, lambda about: [0, 7])
        expected, _ = decode_frames(clip, lambda about: [0, 7])
        assert (frames == expected).all()
        assert not (whole and os.path.exists(source))

    def test_paths_and_http_are_left_to_the_decoder(self, clip):
        for name in (clip, "https://host/a.mp4"):
            with opened_video(name, VideoOptions()) as source:
                assert source == name

    def test_an_error_names_the_url_and_not_the_copy(self, store):
        store.pipe("/bucket/bad.mp4", b"no video")
        with (
            pytest.raises(VideoReadError, match=r"^memory://bucket/bad.mp4: can't be decoded"),
            opened_video("memory://bucket/bad.mp4", VideoOptions()) as source,
        ):
            decode_frames(source, lambda about: [0])

    def test_a_missing_file_and_one_that_is_too_large(self, store):
        with (
            pytest.raises(VideoReadError, match=r"memory://bucket/no.mp4: can't be fetched"),
            opened_video("memory://bucket/no.mp4", VideoOptions()),
        ):
            pass
        with (
            pytest.raises(VideoReadError, match=r"a.mp4: has more bytes than the limit max_bytes=10"),
            opened_video("memory://bucket/videos/a.mp4", VideoOptions(max_bytes=10)),
        ):
            pass

    def test_a_folder_is_searched(self, store):
        assert find_remote_videos("memory://bucket/videos/") == ["memory:///bucket/videos/a.mp4"]
        store.rm("/bucket/videos/a.mp4")
        with pytest.raises(ValueError, match="There is no video in memory://bucket/videos/"):
            find_remote_videos("memory://bucket/videos/")

    def test_an_unknown_protocol_is_told(self):
        with pytest.raises(VideoReadError, match=r"nothing://a.mp4: can't be fetched .*Protocol not known"):
            find_remote_videos("nothing://a.mp4")

    def test_a_library_that_is_missing_is_named(self, monkeypatch):
        def missing(url):
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
        with pytest.raises(ImportError, match=r's3:// needs .*Install s3fs.*: pip install "timesformer_hf\[remote\]"'):
            find_remote_videos("s3://bucket/")


class TestSilence:
    @pytest.mark.parametrize("method", ["info", "open"])
    def test_a_server_that_never_answers_is_named(self, store, monkeypatch, method):
        monkeypatch.setattr(remote_files, "SILENCE", 0.2)
        monkeypatch.setattr(type(store), method, lambda *args: time.sleep(5))
        with (
            pytest.raises(
                VideoReadError, match=r"memory://bucket/videos/a.mp4: can't be fetched \(no answer for 0.2 s"
            ),
            opened_video("memory://bucket/videos/a.mp4", VideoOptions()),
        ):
            pass

    def test_one_that_stops_answering(self, store, monkeypatch):
        monkeypatch.setattr(type(store), "open", SlowFile)
        with (
            pytest.raises(VideoReadError, match="it takes longer than is allowed for a file"),
            opened_video("memory://bucket/videos/a.mp4", VideoOptions(deadline=time.monotonic() + 0.2)),
        ):
            pass


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://me:secret@host/a.mp4?X-Amz-Signature=1&b=2: gone", "https://host/a.mp4?... gone"),
            ("s3://key:secret@bucket/a?b", "s3://bucket/a?..."),
            ("what? me@home", "what? me@home"),
            ("/videos/a@b?.mp4", "/videos/a@b?.mp4"),
        ],
    )
    def test_they_are_taken_out(self, text, expected):
        assert without_secrets(text) == expected

    def test_errors_have_none(self, monkeypatch):
        def failing(url):
            raise OSError(f"403 for {url}")

        monkeypatch.setattr(fsspec.core, "url_to_fs", failing)
        with pytest.raises(VideoReadError) as info:
            find_remote_videos("s3://me:secret@bucket/videos/?sig=secret")
        assert "secret" not in str(info.value)

    def test_names(self):
        assert all(map(is_remote, ("S3://a", "hf://datasets/a", "https://a")))
        assert not any(map(is_remote, ("C:/a", "a.mp4", "folder/s3://a")))

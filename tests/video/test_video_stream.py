"""How a stream is chosen, described and turned upright, and the check of what its decoder gives."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import remuxing
from clips import av, write_video

from timesformer_hf import VideoReadError
from timesformer_hf.video.decoder_output import ContradictionError, DecoderOutput
from timesformer_hf.video.decoding_plan import Stretch
from timesformer_hf.video.video_decoding import decode_frames


Disposition, PictureType = av.stream.Disposition, av.video.frame.PictureType


class TestOrientation:
    @pytest.mark.parametrize(
        ("matrix", "corners"),
        # what ffmpeg's command writes (`ffmpeg -i a.mp4 -frames:v 1 a.ppm`): red, green, blue, black
        [
            ((1, 0, 0, 1), "RGBk"),
            ((-1, 0, 0, 1), "GRkB"),  # a front camera
            ((1, 0, 0, -1), "BkRG"),
            ((-1, 0, 0, -1), "kBGR"),
            ((0, 1, 1, 0), "RBGk"),
            ((0, 1, -1, 0), "BRkG"),
            ((0, -1, 1, 0), "GkRB"),
            ((0, -1, -1, 0), "kGBR"),
            ((0, 0, 0, 0), "RGBk"),
            ((1, 0, 0, 0), "RGBk"),
            ((2, 0, 0, 1), "RGBk"),
            ((0.7, 0.7, -0.7, 0.7), "RGBk"),  # ffmpeg turns it by 45 degrees
        ],
    )
    def test_display_matrix(self, matrix, corners, tmp_path):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24, :32, 0] = picture[:24, 32:, 1] = picture[24:, :32, 2] = 255
        path = write_video(tmp_path / "a.mp4", [picture] * 3, options={"qp": "4"})
        remuxing.set_display_matrix(path, *matrix)
        (got,), about = decode_frames(path, lambda about: [1])
        assert (about.height, about.width) == got.shape[:2] == ((64, 48) if matrix[0] == 0 != matrix[1] else (48, 64))
        pixels = [got[y, x] for y in (5, -6) for x in (5, -6)]
        names = ["RGB"[pixel.argmax()] if pixel.max() > 90 else "k" for pixel in pixels]
        assert "".join(names) == corners


def write_streams(path: Path, *sizes: tuple[int, int], default: int | None = None) -> Path:
    """Several video streams. Stream i has the grey level 50 * i + 50."""
    with av.open(str(path), "w") as container:
        streams = []
        for i, (height, width) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.disposition = Disposition.default if i == default else Disposition(0)
            streams.append(stream)
        for i, stream in enumerate(streams):
            for _ in range(5):
                picture = np.full((stream.height, stream.width, 3), 50 * i + 50, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return path


class TestStreams:
    @pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
    @pytest.mark.parametrize(
        ("default", "stream", "expected"), [(None, None, 1), (0, None, 0), (2, None, 2), (0, 1, 1), (None, 2, 2)]
    )
    def test_which_one(self, name, default, stream, expected, tmp_path, monkeypatch):
        """The one asked for, else the default, else the largest; and torchcodec is told the same."""
        if name == "a.ts" and default is not None and stream is None:
            pytest.skip("a transport stream has no default")
        if name == "a.mp4" and default is None and stream is None:
            pytest.skip("the writer makes the first stream the default")
        path = write_streams(tmp_path / name, (48, 64), (96, 128), (48, 64), default=default)
        frames, about = decode_frames(path, lambda about: [2], stream=stream)
        assert abs(int(frames.mean()) - (50 * expected + 50)) < 3
        assert (about.height, about.width) == ((96, 128) if expected == 1 else (48, 64))
        told = []

        def decoder(file, **settings):
            told.append(settings["stream_index"])
            raise RuntimeError("far enough")

        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(VideoDecoder=decoder))
        with pytest.raises(VideoReadError, match="far enough"):
            decode_frames(path, lambda about: [2], backend="torchcodec", stream=stream)
        assert told == [expected]

    def test_unknown_stream(self, tmp_path):
        path = write_streams(tmp_path / "a.mkv", (48, 64), (48, 64))
        for stream in (-1, 2):
            with pytest.raises(ValueError, match=rf"a\.mkv: stream {stream} was asked for; .* are 0 to 1"):
                decode_frames(path, lambda about: [0], stream=stream)


class TestDecoderOutput:
    """Frames that a decoder could give, against a stretch of the frames at 10 to 50, of which 30 is wanted."""

    @pytest.mark.parametrize(
        ("given", "right"),
        [
            ([10, 20, 30], True),
            ([5, 10, 20, 30], True),  # a leading picture
            ([10, 30, 20], False),
            ([10, 20, 20, 30], False),
            ([10, 30], False),
            ([10, 20], False),
            ([10, None, 20, 30], False),
        ],
    )
    def test_order_and_number(self, given, right):
        output = DecoderOutput(Stretch(10, frozenset({30}), 0, 2), frozenset({5, 10, 20, 30, 40, 50}), "h264")
        for pts in (10, 30, 20, 5):
            output.expect(pts)
        frames = [SimpleNamespace(pts=pts, key_frame=pts == 10, is_corrupt=False) for pts in given]
        with nullcontext() if right else pytest.raises(ContradictionError):
            targets = [frame.pts for frame in output.check(frames)]
            output.finish()
            assert targets == [30]

"""The windows of a file: the pipeline's scores, each frame decoded once, and going on after an interruption."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_sound, write_video
from tiny_models import LABELS, make_keen_model, make_video_processor
from transformers import pipeline

from timesformer_hf import StreamClassifier, TimesformerVideoProcessor, VideoReadError, decode_frames, make_timeline
from timesformer_hf.inference.pipeline_timesformer import TimesformerVideoClassificationPipeline
from timesformer_hf.timeline import video_timeline
from timesformer_hf.timeline.window_scoring import WindowScorer
from timesformer_hf.video import frame_stream
from timesformer_hf.video.frame_stream import open_frame_stream


def by_pipeline(model, processor, frames: list[np.ndarray], window, folder: Path) -> list[float]:
    """The scores that the pipeline gives a lossless file of a window's frames, in the order of the labels."""
    classify = pipeline("video-classification", model=model, video_processor=processor)
    assert isinstance(classify, TimesformerVideoClassificationPipeline)
    frames = frames[round(window.start * 25) : round(window.end * 25)]
    alone = write_video(folder / "alone.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    scores = {row["label"]: row["score"] for row in classify(str(alone), top_k=len(LABELS))}
    return [scores[label] for label in LABELS]


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_sampling_rate": 3},
        {"frame_sampling": "uniform"},
        {"frame_sampling": "segments"},
        {"frame_sampling": "original", "frame_sampling_rate": 2},
        {"frame_sampling_rate": 2, "do_flip_channel_order": True, "size": {"shortest_edge": 40}},
    ],
    ids=str,
)
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_scores_are_those_of_the_pipeline(settings, problem_type, film, tmp_path):
    processor, frames = make_video_processor(**settings), decode_all(film)
    twin = make_keen_model(id2label=dict(enumerate(LABELS)), problem_type=problem_type)
    found = make_timeline(twin, processor, film, window=0.8, stride=0.32, batch_size=3)
    starts = [window.start for window in found.windows]
    assert starts == pytest.approx([*np.arange(0, 2.5, 0.32), 3.32 - 0.8])
    for window in found.windows:
        assert window.scores == pytest.approx(by_pipeline(twin, processor, frames, window, tmp_path), abs=1e-5)
    assert max(np.ptp([window.scores for window in found.windows], axis=0)) > 0.05  # so the check means something


def test_defaults_are_the_span_of_the_sampling_and_half_of_it(model, processor, film):
    found = make_timeline(model, processor, film)
    assert (found.window, found.stride) == pytest.approx((10 / 25, 5 / 25))  # (4 - 1) * 3 + 1 frames
    original = make_video_processor(frame_sampling="original", frame_sampling_rate=6)
    found = make_timeline(model, original, film)
    assert (found.window, found.stride) == pytest.approx((20 / 25, 10 / 25))  # 4 * 6 frames of 30 a second
    found = make_timeline(model, make_video_processor(), film)
    assert (found.window, found.stride, len(found.windows)) == (10, 5, 1)
    assert found.is_shorter_than_window
    assert (found.windows[0].start, found.windows[0].end) == pytest.approx((0, 83 / 25))


def test_a_short_video_is_one_window(model, processor, film, tmp_path):
    found = make_timeline(model, processor, film, window=60)
    (window,) = found.windows
    expected = by_pipeline(model, processor, decode_all(film), window, tmp_path)
    assert window.scores == pytest.approx(expected, abs=1e-5)


def test_frames_are_decoded_once_and_few_are_converted(model, processor, film, monkeypatch):
    packets, prepared, prepare = [], [], WindowScorer.prepare
    monkeypatch.setattr(WindowScorer, "prepare", lambda self, frame: prepared.append(1) or prepare(self, frame))
    decode = frame_stream.decode_undamaged

    def counted(source, context, damage):
        for frame in decode(source, context, damage):
            packets.append(frame.pts)
            yield frame

    monkeypatch.setattr(frame_stream, "decode_undamaged", counted)
    monkeypatch.setattr(video_timeline, "_MARGIN", 0.2)
    found = make_timeline(model, processor, film, window=0.4, stride=0.4)
    assert len(packets) == len(set(packets)) == 83
    assert len(prepared) < 60
    prepared.clear()
    monkeypatch.setattr(video_timeline, "_MARGIN", 100)  # every frame is kept
    everything = make_timeline(model, processor, film, window=0.4, stride=0.4)
    assert len(prepared) == 83
    assert [w.scores.tolist() for w in found.windows] == [w.scores.tolist() for w in everything.windows]


def test_a_video_that_ends_early_gives_the_same(model, processor, film, monkeypatch):
    """Its header promises more frames than it has."""
    expected = make_timeline(model, processor, film, window=0.4, stride=0.32)
    monkeypatch.setattr(video_timeline, "_MARGIN", -100.0)
    found = make_timeline(model, processor, film, window=0.4, stride=0.32)
    assert found.segments == expected.segments
    assert [w.scores.tolist() for w in found.windows] == [w.scores.tolist() for w in expected.windows]


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("options", [{}, {"bf": "3", "g": "12"}], ids=str)
@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi", "ts"])
def test_the_stream_has_the_frames_of_sparse_decoding(ending, options, rotation, tmp_path):
    rotation = rotation if ending in ("mkv", "mp4") else None
    path = write_video(tmp_path / f"film.{ending}", moving_pattern(40), options=options, rotation=rotation)
    frames, _ = decode_frames(str(path), lambda about: range(about.total_num_frames))
    with open_frame_stream(str(path)) as stream:
        found = [(time, read()) for time, read in stream.frames]
    assert [time for time, _ in found] == pytest.approx([i / 25 for i in range(40)], abs=0.002)
    assert np.array_equal(np.stack([frame for _, frame in found]), frames)
    assert stream.fps == pytest.approx(25)


def test_a_damaged_video_is_read_on(tmp_path):
    """The packet of one of its frames is overwritten."""
    path = write_video(tmp_path / "film.mkv", moving_pattern(20), "mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][6]
    path.write_bytes(path.read_bytes().replace(packet, bytes(len(packet))))
    with pytest.warns(UserWarning, match="1 damaged packets were left out"), open_frame_stream(str(path)) as stream:
        times = [time for time, _ in stream.frames]
    assert times == pytest.approx([i / 25 for i in range(20) if i != 6])
    with pytest.raises(VideoReadError, match=r"film\.mkv"), open_frame_stream(str(path), strict=True) as stream:
        list(stream.frames)


def test_frames_that_change_size_get_the_first_size(tmp_path):
    parts = [
        write_video(tmp_path / f"{i}.ts", moving_pattern(10, *size)) for i, size in enumerate([(48, 64), (96, 96)])
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(UserWarning, match="change size at 0.4"), open_frame_stream(str(path)) as stream:
        shapes = [read().shape for _, read in stream.frames]
    assert shapes == [(48, 64, 3)] * 20
    with pytest.raises(VideoReadError, match="re-encode"), open_frame_stream(str(path), strict=True) as stream:
        list(stream.frames)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([7.0, 7.04, 7.08, 7.2], [0, 0.04, 0.08, 0.2]),
        ([None, None, None], [0, 0.04, 0.08]),
        ([0, 0.12, 0.04, 0.08, 0.16, 0.24], [0, 0.12, 0.16, 0.2, 0.24, 0.28]),  # wrong order: still rising
        ([50, 50.04, 0, 0.04, 0.08], [0, 0.04, 0.08, 0.12, 0.16]),  # another recording was appended
        ([50, 50.04, 0, 0.04, 90, 90.04], [0, 0.04, 0.08, 0.12, 90.08, 90.12]),  # a gap in it
    ],
)
def test_times_start_at_zero_and_rise(given, expected):
    clock = frame_stream._Clock(0.04)
    assert [clock.read(time) for time in given] == pytest.approx(expected)


def test_a_varying_frame_rate_gets_a_regular_grid(model, processor, tmp_path):
    """Half of the frames are missing in the middle; the times stay right."""
    frames = moving_pattern(60)
    shown = [i for i in range(60) if not (20 <= i < 40 and i % 2)]
    path = write_video(tmp_path / "film.mkv", [frames[i] for i in shown], times=[40 * i for i in shown])
    with open_frame_stream(str(path)) as stream:
        decoded = [(time, read()) for time, read in stream.frames]
    found, expected = [], []
    classifier = StreamClassifier(model, processor, 25, window=0.4, on_window=found.append)
    twin = StreamClassifier(model, processor, 25, window=0.4, on_window=expected.append)
    for time, frame in decoded:
        classifier.add(frame, time)
    for i in range(60):
        twin.add(decoded[max(j for j, shown_at in enumerate(shown) if shown_at <= i)][1])
    classifier.finish(), twin.finish()
    assert classifier.duration == pytest.approx(60 / 25)
    assert [w.start for w in found] == [w.start for w in expected]
    assert np.array_equal([w.scores for w in found], [w.scores for w in expected])


class TestResuming:
    @pytest.fixture
    def call(self, model, processor, film, tmp_path):
        def make(**changes):
            settings = {"window": 0.4, "stride": 0.12, "batch_size": 4, "resume": tmp_path / "film.scores"}
            return make_timeline(model, processor, film, **settings | changes)

        return make

    def interrupt(self, call, monkeypatch, after: int) -> list[int]:
        """Run until so many windows are scored. Return the numbers of windows in the later batches."""
        batches, score = [], WindowScorer.score

        def stopping(self, clips):
            if sum(batches) >= after:
                raise KeyboardInterrupt
            batches.append(len(clips))
            return score(self, clips)

        with monkeypatch.context() as patch:
            patch.setattr(WindowScorer, "score", stopping)
            with pytest.raises(KeyboardInterrupt):
                call()
        monkeypatch.setattr(WindowScorer, "score", lambda self, clips: batches.append(len(clips)) or score(self, clips))
        batches.clear()
        return batches

    def test_it_goes_on_and_gives_the_same(self, call, monkeypatch):
        expected = call(resume=None)
        assert len(expected.windows) > 20
        batches = self.interrupt(call, monkeypatch, 12)
        found = call()
        assert sum(batches) == len(expected.windows) - 12
        assert np.array_equal([w.scores for w in found.windows], [w.scores for w in expected.windows])
        assert found.segments == expected.segments

    def test_a_torn_file_loses_one_batch(self, call, monkeypatch, tmp_path):
        expected = call(resume=None)
        batches = self.interrupt(call, monkeypatch, 12)
        path = tmp_path / "film.scores"
        path.write_bytes(path.read_bytes()[:-3])
        found = call()
        assert sum(batches) == len(expected.windows) - 8
        assert np.array_equal([w.scores for w in found.windows], [w.scores for w in expected.windows])
        batches.clear()
        call()
        assert sum(batches) == len(expected.windows) % 4  # only whole batches count

    def test_another_run_is_refused(self, call, monkeypatch, processor, film, tmp_path):
        self.interrupt(call, monkeypatch, 4)
        with pytest.raises(ValueError, match="interrupted run with another stride"):
            call(stride=0.2)
        other = make_keen_model(id2label=dict(enumerate(LABELS)))
        with torch.no_grad():
            other.classifier.bias += 1
        with pytest.raises(ValueError, match="with another model"):
            make_timeline(
                other, processor, film, window=0.4, stride=0.12, batch_size=4, resume=tmp_path / "film.scores"
            )
        (tmp_path / "film.scores").write_text("notes")
        with pytest.raises(ValueError, match="not a file of scores"):
            call()
        assert (tmp_path / "film.scores").read_text() == "notes"


class TestBadInput:
    def test_labels(self, model, processor, film):
        with pytest.raises(ValueError, match=r"no label 'runing'\. The nearest of its 5 labels: 'running'"):
            make_timeline(model, processor, film, labels=["runing"])
        with pytest.raises(ValueError, match="a list of at least one name, got 'running'"):
            make_timeline(model, processor, film, labels="running")

    @pytest.mark.parametrize("name", ["window", "stride"])
    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2"])
    def test_seconds(self, name, value, model, processor, film):
        with pytest.raises(ValueError, match=f"{name}={value!r} must be a positive number of seconds"):
            make_timeline(model, processor, film, **{name: value})

    def test_other_numbers(self, model, processor, film):
        with pytest.raises(ValueError, match="smoothing=2 must be odd"):
            make_timeline(model, processor, film, smoothing=2)
        assert StreamClassifier(model, processor, np.float32(25), window=Fraction(1, 2)).window == 12 / 25
        with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
            make_timeline(model, processor, film, batch_size=0)
        with pytest.raises(ValueError, match="threshold=nan must be a finite number"):
            make_timeline(model, processor, film, threshold=float("nan"))

    def test_processors(self, model, film):
        with pytest.raises(TypeError, match="needs a TimesformerVideoProcessor, got str"):
            make_timeline(model, "processor", film)
        with pytest.raises(ValueError, match="several views"):
            make_timeline(model, TimesformerVideoProcessor(num_crops=3), film)

    def test_videos(self, model, processor, corrupt, tmp_path):
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4: can't be decoded"):
            make_timeline(model, processor, corrupt)
        with pytest.raises(VideoReadError, match="has no video stream"):
            make_timeline(model, processor, write_sound(tmp_path / "sound.m4a"))
        with pytest.raises(FileNotFoundError, match="missing"):
            make_timeline(model, processor, tmp_path / "missing.mp4")

    def test_a_window_too_long_for_memory(self, model, processor, film):
        with pytest.raises(ValueError, match="takes too much memory; choose at most 27,962 s"):
            make_timeline(model, processor, film, window=1e6)  # 2 ** 31 bytes of 32 x 32 x 3, 25 a second

    def test_scores_that_are_not_finite(self, processor, film):
        broken = make_keen_model()
        broken.classifier.weight.data[0, 0] = float("nan")
        with pytest.raises(ValueError, match="scores are not finite"):
            make_timeline(broken, processor, film)

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (np.zeros((4, 4, 3)), r"got float64 \(4, 4, 3\)"),
            (np.zeros((3, 4, 4), np.uint8), r"got uint8 \(3, 4, 4\)"),
            (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        ],
    )
    def test_frames(self, frame, message, model, processor):
        with pytest.raises(ValueError, match=message):
            StreamClassifier(model, processor, 25).add(frame)
        with pytest.raises(TypeError, match="NumPy array, got list"):
            StreamClassifier(model, processor, 25).add([[1]])

    @pytest.mark.parametrize("time", [-1, float("nan"), float("inf")])
    def test_times(self, time, model, processor):
        with pytest.raises(ValueError, match=f"time={time} must be a number of seconds from 0 on"):
            StreamClassifier(model, processor, 25).add(np.zeros((4, 4, 3), np.uint8), time)

"""Files of timelines, read back by the library of each tool where there is one."""

import csv
import json
import re
from xml.etree import ElementTree

import av
import numpy as np
import PIL.Image
import pytest
from clips import decode_all, moving_pattern, write_video

from timesformer_hf import Segment, Timeline, VideoReadError, Window, write_timeline
from timesformer_hf.timeline.formats import check_timeline_file


ENDINGS = ("json", "csv", "srt", "vtt", "edl", "otio", "eaf", "labelstudio.json", "png", "mp4")
SEGMENTS = (
    Segment(0.0, 1.48, "running", 0.875),
    Segment(1.48, 2.2, "a <b> & c --> | d", 0.5),
    Segment(3599.04, 7200.0, "running", 1.0),
)


def make(segments=SEGMENTS, fps: float = 25.0, duration: float = 7200.0, video: str = "films/film.mp4") -> Timeline:
    labels = tuple(dict.fromkeys([segment.label for segment in segments] + ["other"]))
    windows = (Window(0.0, duration, np.linspace(0, 1, len(labels), dtype=np.float32)),)
    return Timeline(video, duration, fps, labels, 10.0, 5.0, windows, tuple(segments))


def overlapping() -> Timeline:
    return make((Segment(0, 2, "running", 0.9), Segment(1, 3, "other", 0.8), Segment(4, 5, "running", 0.7)))


@pytest.fixture
def written(tmp_path):
    def write(ending: str, timeline: Timeline | None = None, **settings):
        path = tmp_path / f"out.{ending}"
        write_timeline(path, timeline or make(), **settings)
        return path

    return write


def test_json_has_activitynets_form(written):
    content = json.loads(written("json").read_text())
    assert list(content) == ["video", "duration", "fps", "segments", "windows"]
    assert content["segments"] == [
        {"start": s.start, "end": s.end, "label": s.label, "score": s.score} for s in SEGMENTS
    ]
    assert content["windows"] == [
        {
            "start": 0.0,
            "end": 7200.0,
            "predictions": [
                {"label": "other", "score": 1.0},
                {"label": "a <b> & c --> | d", "score": 0.5},
                {"label": "running", "score": 0.0},
            ],
        }
    ]


def test_csv(written):
    with written("csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(r["start"]), float(r["end"]), r["label"], float(r["score"])) for r in rows] == [
        (s.start, s.end, s.label, s.score) for s in SEGMENTS
    ]


def read_cues(path) -> list[tuple[float, float, str]]:
    """The subtitles as FFmpeg, which players use, reads them."""
    found = []
    with av.open(str(path)) as container:
        for packet in container.demux(subtitles=0):
            if packet.size:
                start, length = float(packet.pts * packet.time_base), float(packet.duration * packet.time_base)
                found.append((round(start, 3), round(start + length, 3), bytes(packet).decode()))
    return found


def test_srt(written):
    times = [(s.start, s.end) for s in SEGMENTS]
    texts = ["running 88%", "a <b> & c -> | d 50%", "running 100%"]
    assert read_cues(written("srt")) == [(*time, text) for time, text in zip(times, texts, strict=True)]
    assert len(read_cues(written("srt", overlapping(), overwrite=True))) == 3


def test_srt_by_its_library(written):
    srt = pytest.importorskip("srt", reason="reads subtitles back")
    found = list(srt.parse(written("srt").read_text()))
    assert [(c.start.total_seconds(), c.end.total_seconds()) for c in found] == [(s.start, s.end) for s in SEGMENTS]


def test_vtt(written):
    times = [(s.start, s.end) for s in SEGMENTS]
    texts = ["running 88%", "a &lt;b&gt; &amp; c -&gt; | d 50%", "running 100%"]
    assert read_cues(written("vtt")) == [(*time, text) for time, text in zip(times, texts, strict=True)]


MARKER = re.compile(
    r"(\d{3})  001      V     C        (\S+) (\S+) \2 \3  \nscore (\d+%) \|C:ResolveColor(\w+) \|M:([^|]*) \|D:(\d+)\n"
)


def test_edl_has_resolves_markers(written):
    text = written("edl").read_text()
    assert text.startswith("TITLE: film\nFCM: NON-DROP FRAME\n\n001  001")
    assert MARKER.findall(text) == [
        ("001", "01:00:00:00", "01:00:00:01", "88%", "Blue", "running", "37"),
        ("002", "01:00:01:12", "01:00:01:13", "50%", "Yellow", "a <b> & c --> / d", "18"),
        ("003", "01:59:59:01", "01:59:59:02", "100%", "Blue", "running", str(7200 * 25 - 89976)),
    ]


def test_edl_by_opentimelineio(written):
    otio = pytest.importorskip("opentimelineio", reason="reads edit decision lists back")
    pytest.importorskip("otio_cmx3600_adapter", reason="OpenTimelineIO's reader of edit decision lists")
    found = otio.adapters.read_from_file(str(written("edl")), rate=25)
    starts = [clip.range_in_parent().start_time.value for clip in found.find_clips()]
    assert starts == [0, 37, 89976]


def test_otio(written):
    otio = pytest.importorskip("opentimelineio", reason="reads .otio back")
    timeline = otio.adapters.read_from_file(str(written("otio", make(fps=30000 / 1001))))
    (clip,) = timeline.find_clips()
    assert clip.media_reference.target_url == "films/film.mp4"
    assert clip.duration().to_seconds() == pytest.approx(7200, abs=0.02)
    found = [
        (m.name, m.marked_range.start_time.to_seconds(), m.marked_range.end_time_exclusive().to_seconds())
        for m in clip.markers
    ]
    for (name, start, end), segment in zip(found, SEGMENTS, strict=True):
        assert (name, start, end) == (
            segment.label,
            pytest.approx(segment.start, abs=0.017),
            pytest.approx(segment.end, abs=0.017),
        )
    assert clip.markers[0].metadata["timesformer_hf"]["score"] == 0.875


class TestElan:
    def test_one_tier(self, written):
        elan = pytest.importorskip("pympi.Elan", reason="reads .eaf back")
        document = elan.Eaf(str(written("eaf")))
        assert list(document.get_tier_names()) == ["label"]
        expected = [(round(s.start * 1000), round(s.end * 1000), s.label) for s in SEGMENTS]
        assert sorted(row[:3] for row in document.get_annotation_data_for_tier("label")) == expected
        (media,) = document.get_linked_files()
        assert media["MEDIA_URL"].startswith("file:///")
        assert media["MEDIA_URL"].endswith("/films/film.mp4")
        assert media["MIME_TYPE"] == "video/mp4"

    def test_a_tier_for_each_label_where_they_overlap(self, written):
        elan = pytest.importorskip("pympi.Elan", reason="reads .eaf back")
        document = elan.Eaf(str(written("eaf", overlapping())))
        found = {tier: sorted(document.get_annotation_data_for_tier(tier)) for tier in document.get_tier_names()}
        assert found == {"running": [(0, 2000, "running"), (4000, 5000, "running")], "other": [(1000, 3000, "other")]}

    def test_without_segments(self, written):
        pytest.importorskip("pympi.Elan", reason="writes .eaf")
        assert ElementTree.parse(written("eaf", make(()))).getroot().tag == "ANNOTATION_DOCUMENT"


def test_label_studio(written):
    (task,) = json.loads(written("labelstudio.json").read_text())
    assert task["data"] == {"video": "films/film.mp4"}
    (prediction,) = task["predictions"]
    assert prediction["score"] == pytest.approx((0.875 + 0.5 + 1) / 3)
    values = [result["value"] for result in prediction["result"]]
    assert values[0] == {"ranges": [{"start": 1, "end": 37}], "timelinelabels": ["running"]}
    assert values[1] == {"ranges": [{"start": 38, "end": 55}], "timelinelabels": ["a <b> & c --> | d"]}
    assert {(r["type"], r["from_name"], r["to_name"]) for r in prediction["result"]} == {
        ("timelinelabels", "label", "video")
    }


class TestPicture:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib", reason="draws the picture")

    def test_a_long_film_has_strips(self, written):
        short = PIL.Image.open(written("png", make((Segment(1, 3, "a", 0.9),), duration=60.0)))
        long = PIL.Image.open(written("png", make(), overwrite=True))
        assert short.width == long.width
        assert long.height > 2 * short.height

    def test_a_short_segment_is_seen(self, written):
        """One second of two hours."""
        path = written("png", make((Segment(4000.0, 4001.0, "a", 1.0),)))
        pixels = np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)
        assert (pixels[..., 2] - pixels[..., 0] > 80).any(axis=1).sum() > 10  # blue

    def test_labels_with_little_time_are_left_out(self, written):
        segments = [Segment(10.0 * i, 10.0 * i + 1 + i / 10, f"label $ {i}", 0.5) for i in range(40)]
        written("png", make(segments, duration=500.0))

    def test_without_segments(self, written):
        written("png", make(()))


class TestFilm:
    @pytest.mark.parametrize(("height", "width"), [(96, 160), (95, 161)])
    def test_the_label_is_in_the_picture(self, height, width, written, tmp_path):
        video = write_video(tmp_path / "film.mp4", moving_pattern(50, 96, 160), options={"crf": "1"})
        if height % 2:
            video = write_video(tmp_path / "film.mkv", moving_pattern(50, height, width), codec="ffv1", pix_fmt="bgr0")
        timeline = make((Segment(0.4, 1.2, "running", 0.9),), duration=2.0)
        before, after = decode_all(video), decode_all(written("mp4", timeline, video=str(video)))
        assert len(after) == 50
        assert after[0].shape == (height // 2 * 2, width // 2 * 2, 3)
        corner = [
            np.abs(a[-12:, :60].astype(int) - b[: len(a), : a.shape[1]][-12:, :60]).mean()
            for a, b in zip(after, before, strict=True)
        ]
        with_label = [value > 40 for value in corner]
        assert with_label == [10 <= i < 30 for i in range(50)]

    def test_times_stay(self, written, tmp_path):
        times = [0, 40, 80, 400, 440, 1000]
        video = write_video(tmp_path / "film.mkv", moving_pattern(6), times=times)
        with av.open(str(written("mp4", make(duration=1.04), video=str(video)))) as container:
            found = [round(frame.time * 1000) for frame in container.decode(video=0)]
        assert found == times

    def test_an_unreadable_video_leaves_no_file(self, corrupt, tmp_path):
        with pytest.raises(VideoReadError):
            write_timeline(tmp_path / "out.mp4", make(), corrupt)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["corrupt.mp4"]
        with pytest.raises(ValueError, match="a film needs the video"):
            write_timeline(tmp_path / "out.mp4", make())


class TestNames:
    def test_unknown_ending(self, tmp_path):
        with pytest.raises(ValueError, match=r"a\.txt: the name of a timeline's file must end in one of \.json, \.csv"):
            check_timeline_file(tmp_path / "a.txt")

    @pytest.mark.parametrize("ending", ["json", "labelstudio.json", "mp4"])
    def test_an_existing_file_stays(self, ending, tmp_path):
        path = tmp_path / f"out.{ending}"
        path.write_text("before")
        with pytest.raises(FileExistsError, match="exists; give another name"):
            write_timeline(path, make())
        assert path.read_text() == "before"

    @pytest.mark.parametrize(("ending", "package"), [("otio", "opentimelineio"), ("eaf", "pympi")])
    def test_missing_packages(self, ending, package, tmp_path, monkeypatch):
        monkeypatch.setattr("timesformer_hf.output.extras.importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=rf'{package}.*pip install "timesformer_hf\[timeline\]"'):
            check_timeline_file(tmp_path / f"out.{ending}")

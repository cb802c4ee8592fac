"""The report on near-duplicates: its text, the table that training reads, and the page that loads nothing."""

import csv
import html.parser
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import moving_pattern, write_video

from timesformer_hf import LabelledVideo, LabelledVideos, choose_splits, find_near_duplicates, read_labelled_videos
from timesformer_hf.data import duplicate_report
from timesformer_hf.data.duplicate_report import DuplicateReport, check_report_file


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"


def make_report(rows: list[tuple[str, str, str | None, int]], groups: dict[int, str] | None = None) -> DuplicateReport:
    """A report on videos by name, label, split and the number of the direction in which their features point."""
    videos = [
        LabelledVideo(name, (label,) if label else (), (groups or {}).get(index, name), split)
        for index, (name, label, split, _) in enumerate(rows)
    ]
    features = np.eye(10)[[direction for *_, direction in rows]]
    found = find_near_duplicates(features, 0.9, [video.split for video in videos])
    return DuplicateReport(videos, found, 0.9)


ROWS = [
    ("a.mp4", "run", "train", 0),
    ("b.mp4", "run", "train", 1),
    ("c.mp4", "run", "train", 1),
    ("d.mp4", "sit", "train", 2),
    ("e.mp4", "run", "train", 2),
    ("f.mp4", "run", "validation", 3),
    ("g.mp4", "run", "train", 3),
    ("h.mp4", "sit", "validation", 4),
]


class TestText:
    def test_groups_across_splits_come_first_then_different_labels(self):
        lines = make_report(ROWS).summary().splitlines()
        assert lines == [
            "3 groups of near-duplicates (cosine 0.9 or more): 6 of 8 videos",
            "1 of 2 validation videos have a near-duplicate in another split",
            "1 group with different labels",
            "group 1:",
            "  1.0000  validation  run  f.mp4",
            "  1.0000  train  run  g.mp4",
            "group 2:",
            "  1.0000  train  sit  d.mp4",
            "  1.0000  train  run  e.mp4",
            "group 3:",
            "  1.0000  train  run  b.mp4",
            "  1.0000  train  run  c.mp4",
        ]

    def test_none(self):
        report = make_report(ROWS[:2])
        assert report.summary() == "no near-duplicates among 2 videos (cosine 0.9 or more)"

    def test_many_are_cut(self):
        rows = [(f"{number}.mp4", "run", None, number % 5) for number in range(100)]
        text = make_report(rows).summary()
        assert text.count("  and 10 more") == 5
        report = make_report([(f"{number}.mp4", "", None, number // 2 % 10) for number in range(20)])
        assert "more group" not in report.summary()
        features = np.repeat(np.eye(12), 2, axis=0)
        videos = [LabelledVideo(f"{number}.mp4", (), str(number)) for number in range(24)]
        assert DuplicateReport(videos, find_near_duplicates(features), 0.95).summary().endswith("and 2 more groups")


class TestTable:
    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_training_reads_it(self, ending, tmp_path):
        if ending == "parquet":
            pytest.importorskip("pyarrow", reason="writes Parquet")
        rows = [(str(tmp_path / name), label, split, direction) for name, label, split, direction in ROWS]
        for name, *_ in rows:
            Path(name).write_text(name)
        report = make_report(rows)
        report.write(tmp_path / f"out.{ending}")
        videos = read_labelled_videos(tmp_path / f"out.{ending}")
        assert [(video.name, *video.labels, video.split) for video in videos] == [row[:3] for row in rows]
        group = {Path(video.name).stem: video.group for video in videos}
        assert group["b"] == group["c"]
        assert group["f"] == group["g"]
        assert len(set(group.values())) == 5

    def test_near_duplicates_stay_on_one_side_of_a_split(self, tmp_path):
        """Together with the groups of the data: b and c are near-duplicates, c and d are of one film."""
        rows = [
            (str(tmp_path / f"{number}.mp4"), ("run", "sit")[number % 2], None, number // 3) for number in range(30)
        ]
        for name, *_ in rows:
            Path(name).write_text(name)
        make_report(rows, {2: "film", 3: "film"}).write(tmp_path / "out.csv")
        videos = read_labelled_videos(tmp_path / "out.csv")
        assert len({video.group for video in videos}) == 9
        for seed in range(5):
            train, validation = choose_splits(videos, 0.3, seed)
            sides = [{int(Path(video.name).stem) // 3 for video in side} for side in (train, validation)]
            assert sides[1]
            assert not sides[0] & sides[1]
            assert (0 in sides[0]) == (1 in sides[0])

    def test_columns(self, tmp_path):
        report = make_report([("http://x/a.mp4", "run", None, 0), ("b.mp4", "run", None, 0), ("c.mp4", "sit", None, 1)])
        report.write(tmp_path / "out.csv")
        with (tmp_path / "out.csv").open(newline="") as file:
            a, b, c = csv.DictReader(file)
        assert (a["path"], a["nearest"], a["duplicates"]) == ("http://x/a.mp4", os.path.abspath("b.mp4"), "1")
        assert (b["nearest"], float(b["cosine"])) == ("http://x/a.mp4", 1)
        assert (c["duplicates"], c["nearest"], c["cosine"]) == ("", "", "")


class _Elements(html.parser.HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def hostile_report(tmp_path) -> DuplicateReport:
    """Two copies, the second of which is gone, with markup in names, labels and splits."""
    name = str(write_video(tmp_path / "a.mp4", moving_pattern(3)))
    named = str(tmp_path / f"{HOSTILE.replace('/', '')}.mp4")
    shutil.copy(name, named)
    return make_report([(named, HOSTILE, HOSTILE, 0), (str(tmp_path / "gone<b>.mp4"), "x<i>", None, 0)])


class TestPage:
    def test_names_are_text_and_nothing_is_loaded(self, hostile_report, tmp_path):
        hostile_report.write(tmp_path / "page.html")
        page = _Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "i", "a", "link", "iframe", "object", "form"}
        (picture,) = (attributes for tag, attributes in page.elements if tag == "img")
        assert set(picture) == {"alt", "src"}
        assert picture["src"].startswith("data:image/jpeg;base64,")
        for name, value in [pair for _, attributes in page.elements for pair in attributes.items()]:
            assert not name.startswith("on")
            assert "http:" not in value
            assert "https:" not in value
        assert any("default-src 'none'" in attributes.get("content", "") for _, attributes in page.elements)
        assert "<script>alert(1)</script>" in page.text
        assert "\u202e" not in page.text
        assert page.text.count("\\u202e") == 4  # in the heading, and as split, label and name
        assert "gone<b>.mp4" in page.text
        assert "Group 1: 2 videosacross splitsdifferent labels" in page.text

    def test_large_groups_are_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(duplicate_report, "_MOST_SHOWN", (1, 2))
        report = make_report([("a", "", None, 0)] * 3 + [("b", "", None, 1)] * 2)
        report.write(tmp_path / "page.html")
        text = _Elements((tmp_path / "page.html").read_text(encoding="utf-8")).text
        assert "Group 1: 2 of 3 videos" in text
        assert "The first 1 of 2 groups are shown." in text

    def test_without_near_duplicates(self, tmp_path):
        make_report(ROWS[:1]).write(tmp_path / "page.html")
        assert "no near-duplicates among 1 videos" in (tmp_path / "page.html").read_text()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_it_asks_for_nothing_and_runs_nothing(width, hostile_report, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    hostile_report.write(tmp_path / "page.html")
    asked, said = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "page.html").as_uri()]
    assert said == []


class TestFiles:
    def test_names(self, tmp_path):
        with pytest.raises(ValueError, match=r"out\.txt: the name of a report must end in \.csv, \.parquet or \.html"):
            check_report_file(tmp_path / "out.txt")
        (tmp_path / "out.csv").write_text("before")
        with pytest.raises(FileExistsError, match="--overwrite"):
            make_report(ROWS).write(tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text() == "before"

    def test_labels_of_several_are_separated_by_bars(self, tmp_path):
        for name in "ab":
            (tmp_path / f"{name}.mp4").write_text("no video is read")
        videos = [LabelledVideo(str(tmp_path / f"{name}.mp4"), ("run", "sit"), name) for name in "ab"]
        report = DuplicateReport(LabelledVideos(videos, ["run", "sit"], True), find_near_duplicates(np.eye(2)), 0.95)
        report.write(tmp_path / "out.csv")
        assert [video.labels for video in read_labelled_videos(tmp_path / "out.csv")] == [("run", "sit")] * 2

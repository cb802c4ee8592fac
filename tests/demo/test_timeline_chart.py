"""The chart of a timeline: what it shows, in which order, and that names from a model can't become markup."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from timesformer_hf import Segment, Timeline, Window
from timesformer_hf.demo.timeline_chart import choose_labels, draw_chart


LABELS = ("run", "sit", "jump", "fall")


def make_timeline(scores, segments=(), labels=LABELS, seconds: float = 2.0) -> Timeline:
    """A timeline with windows of 2 seconds, one after the other."""
    rows = np.asarray(scores, dtype=np.float32)
    windows = tuple(Window(seconds * i, seconds * (i + 1), row) for i, row in enumerate(rows))
    made = tuple(Segment(*segment) for segment in segments)
    return Timeline("clip.mp4", seconds * len(rows), 25.0, labels, seconds, seconds, windows, made)


SCORES = [[0.9, 0.06, 0.02, 0.02], [0.2, 0.7, 0.05, 0.05], [0.8, 0.1, 0.06, 0.04], [0.1, 0.3, 0.04, 0.56]]
SEGMENTS = [(0.0, 2.0, "run", 0.9), (2.0, 4.0, "sit", 0.7), (4.0, 6.0, "run", 0.8)]


class Elements(HTMLParser):
    """The elements of a page, as (tag, attributes), and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_segments_are_buttons_at_their_times():
    buttons = Elements(draw_chart(make_timeline(SCORES, SEGMENTS))).all("button")
    assert [button["data-seconds"] for button in buttons] == ["0.000", "4.000", "2.000"]  # row by row
    assert "width: 25.000%" in buttons[1]["style"]
    assert "50.000%" in buttons[1]["style"]
    assert buttons[1]["aria-label"] == "run from 0:04.0 to 0:06.0, score 80%. Jump there."


def test_rows_are_those_that_hold_longest_and_then_the_best():
    assert choose_labels(make_timeline(SCORES, SEGMENTS)) == ["run", "sit", "fall"]
    assert choose_labels(make_timeline(SCORES)) == ["run", "sit", "fall"]
    assert choose_labels(make_timeline([[1, 0.04, 0, 0]])) == ["run"]  # the others have no score to speak of
    assert choose_labels(make_timeline([[0.01, 0.04, 0, 0]])) == ["sit"]
    many = tuple(map(str, range(20)))
    segments = [(i, i + 1, str(i), 0.9) for i in range(20)]
    assert len(choose_labels(make_timeline(np.full((20, 20), 0.9), segments, many))) == 8


def test_the_curve_goes_through_the_scores():
    path = Elements(draw_chart(make_timeline(SCORES, SEGMENTS))).all("path")[0]["d"]
    points = [tuple(map(float, point)) for point in re.findall(r"L([\d.]+),([\d.]+)", path)][:-1]  # without a corner
    assert points == [(0, 10), (12.5, 10), (37.5, 80), (62.5, 20), (87.5, 90), (100, 90)]


def test_a_long_film_stays_a_small_chart_and_loses_no_peak():
    scores = np.zeros((7200, 4))
    scores[3601, 2] = 1
    chart = draw_chart(make_timeline(scores, seconds=1.0))
    assert len(chart) < 20_000
    points = re.findall(r"L([\d.]+),([\d.]+)", Elements(chart).all("path")[0]["d"])
    (peak,) = [float(x) for x, y in points if float(y) == 0]
    assert peak == pytest.approx(100 * 3601.5 / 7200, abs=100 / 400)  # within a point of the curve


def test_nothing_is_sure():
    page = Elements(draw_chart(make_timeline(SCORES)))
    assert "No label is sure for long enough" in page.text
    assert page.all("button") == []
    assert len(page.all("path")) == 3


def test_times():
    page = draw_chart(make_timeline(np.ones((70, 4)), [(61.0, 3.5 * 60, "sit", 1.0)], seconds=60.0))
    assert "sit from 1:01 to 3:30" in page
    assert 'aria-label="Timeline, 1:10:00 long"' in page
    assert re.findall(r">(\d+:[\d:]+)<", page) == ["0:00", "15:00", "30:00", "45:00", "1:00:00"]


def test_names_are_no_markup():
    bad = '<script>alert(1)</script>" onclick="alert(2)\x1b[31m'
    page = Elements(draw_chart(make_timeline([[1.0]], [(0.0, 2.0, bad, 1.0)], (bad,))))
    assert page.all("script") == []
    assert not any("onclick" in attributes for _, attributes in page.found)
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text

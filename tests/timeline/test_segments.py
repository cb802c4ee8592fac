"""Segments from scores, against a plain reading of the rules over all windows at once."""

import itertools
import random

import numpy as np
import pytest

from timesformer_hf.timeline.segments import HYSTERESIS, SegmentBuilder, Window


LABELS = ("a", "b", "c")


def make_windows(rows, parts=None, length: float = 2.0, stride: float = 1.0) -> list[Window]:
    parts = parts or [0] * len(rows)
    return [
        Window(i * stride, i * stride + length, np.array(row, np.float32), part)
        for i, (row, part) in enumerate(zip(rows, parts, strict=True))
    ]


def build(windows, threshold: float = 0.5, several: bool = False, smoothing: int = 1, allowed=(0, 1, 2)):
    builder = SegmentBuilder(LABELS, allowed, threshold, several, smoothing)
    found = [segment for window in windows for segment in builder.add(window)]
    return [(s.start, s.end, s.label, pytest.approx(s.score)) for s in found + builder.end_part()]


def by_the_rules(windows, threshold: float, several: bool, smoothing: int, allowed):
    """All windows of a part at once: smoothed, then the labels that hold at each, then runs of equal labels."""
    found = []
    for number in sorted({window.part for window in windows}):
        part = [window for window in windows if window.part == number]
        reach = smoothing // 2
        smooth = [
            np.mean([w.scores for w in part[max(i - reach, 0) : i + reach + 1]], axis=0, dtype=float)
            for i in range(len(part))
        ]
        holding, before = [], set()
        for scores in smooth:
            if several:
                now = {i for i in allowed if scores[i] >= threshold * (HYSTERESIS if i in before else 1)}
            else:
                best = max(allowed, key=lambda i: scores[i])
                now = (
                    {best} if scores[best] >= threshold else {i for i in before if scores[i] >= threshold * HYSTERESIS}
                )
            holding.append(now)
            before = now
        middles = [(w.start + w.end) / 2 for w in part]
        edges = [part[0].start, *[(m + n) / 2 for m, n in itertools.pairwise(middles)], part[-1].end]
        for label in allowed:
            i = 0
            while i < len(part):
                j = i
                while j < len(part) and label in holding[j]:
                    j += 1
                if j > i:
                    score = np.mean([w.scores[label] for w in part[i:j]])
                    found.append((edges[i], edges[j], LABELS[label], pytest.approx(score, rel=1e-5)))
                i = max(j, i + 1)
    return found


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("smoothing", [1, 3, 5])
@pytest.mark.parametrize("allowed", [(0, 1, 2), (1, 2)])
def test_one_at_a_time_gives_the_same_as_all_at_once(several, smoothing, allowed):
    generator = np.random.default_rng(smoothing)
    steps = random.Random(smoothing)
    for _ in range(30):
        rows = generator.dirichlet([0.5] * 3, steps.randint(1, 30))
        rows = np.repeat(rows, 3, axis=0)
        parts = sorted(steps.choices(range(3), k=len(rows)))
        windows = make_windows(rows, parts)
        expected = by_the_rules(windows, 0.5, several, smoothing, allowed)
        assert sorted(build(windows, 0.5, several, smoothing, allowed), key=str) == sorted(expected, key=str)


def test_segments_tile_the_time_between_the_middles():
    rows = [[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0.2, 0.3]]
    assert build(make_windows(rows)) == [(0, 2.5, "a", 0.9), (2.5, 3.5, "b", 0.9)]


def test_hysteresis_keeps_a_segment_whole():
    rows = [[0.6, 0, 0], [0.4, 0, 0], [0.6, 0, 0], [0.3, 0, 0], [0.4, 0, 0]]
    assert build(make_windows(rows)) == [(0, 3.5, "a", (0.6 + 0.4 + 0.6) / 3)]


def test_smoothing_removes_a_single_window():
    rows = [[0.9, 0.1, 0]] * 3 + [[0.1, 0.9, 0]] + [[0.9, 0.1, 0]] * 3
    assert [row[2] for row in build(make_windows(rows))] == ["a", "b", "a"]
    assert [row[2] for row in build(make_windows(rows), smoothing=3)] == ["a"]


def test_a_segment_ends_as_soon_as_its_end_is_known():
    builder = SegmentBuilder(LABELS, (0, 1, 2), 0.5, False, 1)
    ended = [len(builder.add(window)) for window in make_windows([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]])]
    assert ended == [0, 0, 0, 1]


def test_memory_is_bounded():
    builder = SegmentBuilder(LABELS, (0, 1, 2), 0.5, False, 5)
    for window in make_windows([[1, 0, 0]] * 500):
        builder.add(window)
    assert len(builder._recent) <= 6

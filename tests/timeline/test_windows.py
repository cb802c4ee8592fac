"""Windows over frames that come one at a time, against a list of all frames cut by hand."""

import itertools

import numpy as np
import pytest
import torch

from timesformer_hf.timeline.windows import MissingFrameError, Windows


def picture(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


def prepare(frame: np.ndarray) -> torch.Tensor:
    return torch.tensor(int(frame[0, 0, 0]))


def choose(length: int) -> list[int]:
    """Three frames in the middle, as far as there are any."""
    start = max(length - 5, 0) // 2
    return [min(start + 2 * i, length - 1) for i in range(3)]


def by_hand(numbers: list[int], length: int, stride: int) -> list[tuple[int, list[int]]]:
    """First frame and seen frames of each window over frames that are all in memory."""
    starts = list(range(0, len(numbers) - length + 1, stride)) or [0]
    if starts[-1] + length < len(numbers):
        starts.append(len(numbers) - length)
    windows = [(start, numbers[start : start + length]) for start in starts]
    return [(start, [window[pick] for pick in choose(len(window))]) for start, window in windows]


def run(windows: Windows, indices, cuts=()) -> list[tuple[int, list[int]]]:
    clips = []
    for index in indices:
        clips += windows.cut() if index in cuts else []
        clips += windows.add(index, picture(index))
    clips += windows.cut()
    return [(clip.first, [int(frame) for frame in clip.frames]) for clip in clips]


@pytest.mark.parametrize("total", [1, 4, 6, 7, 20, 23])
@pytest.mark.parametrize(("length", "stride"), [(6, 3), (6, 4), (1, 1), (3, 8), (7, 7)])
def test_windows_are_those_of_all_frames_in_memory(total, length, stride):
    assert run(Windows(length, stride, choose, prepare), range(total)) == by_hand(list(range(total)), length, stride)


@pytest.mark.parametrize(("length", "stride"), list(itertools.product([5, 6, 9], [2, 4])))
def test_only_needed_frames_are_prepared(length, stride):
    prepared = []
    windows = Windows(length, stride, choose, lambda frame: prepared.append(prepare(frame)) or prepared[-1], 30)
    assert run(windows, range(40)) == by_hand(list(range(40)), length, stride)
    needed = {start + pick for start in range(0, 40 - length + 1, stride) for pick in choose(length)}
    assert {int(number) for number in prepared if number < 30} == {number for number in needed if number < 30}


def test_an_early_end_is_noticed():
    with pytest.raises(MissingFrameError):
        run(Windows(6, 4, choose, prepare, keep_all_from=100), range(21))


def test_cuts_begin_new_windows():
    found = run(Windows(6, 3, choose, prepare), range(20), cuts=(8, 10))
    parts = [by_hand(list(range(start, end)), 6, 3) for start, end in [(0, 8), (8, 10), (10, 20)]]
    shifts = (0, 8, 10)
    assert found == [(first + shift, seen) for part, shift in zip(parts, shifts, strict=True) for first, seen in part]


def test_a_missing_frame_repeats_the_one_before():
    given = [index for index in range(20) if index not in (3, 4, 11)]
    shown = [index if index in given else max(i for i in given if i < index) for index in range(20)]
    assert run(Windows(6, 3, choose, prepare), given) == by_hand(shown, 6, 3)


def test_a_frame_too_many_is_left_out():
    assert run(Windows(6, 3, choose, prepare), [0, 1, 1, 2, *range(2, 20)]) == by_hand(list(range(20)), 6, 3)


def test_a_long_gap_is_a_cut():
    found = run(Windows(6, 3, choose, prepare), [*range(8), *range(50, 60)])
    first, second = by_hand(list(range(8)), 6, 3), by_hand(list(range(50, 60)), 6, 3)
    assert found == first + [(50 + start, seen) for start, seen in second]


def test_known_windows_need_no_frames():
    """Those after them are the same as without."""
    prepared = []
    windows = Windows(6, 3, choose, lambda frame: prepared.append(prepare(frame)) or prepared[-1], skipped=9)
    found = run(windows, range(60))
    expected = by_hand(list(range(60)), 6, 3)
    assert [seen for _, seen in found] == [[]] * 9 + [seen for _, seen in expected[9:]]
    assert min(int(number) for number in prepared) > 12  # the tenth window begins at 27


def test_memory_is_bounded():
    windows = Windows(6, 3, choose, prepare)
    for index in range(1000):
        windows.add(index, picture(index % 250))
    assert len(windows._kept) == 6

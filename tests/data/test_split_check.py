"""The warning that validation videos are near-duplicates of training videos."""

import itertools
import warnings

import pytest
from altered_copies import write_altered_copies

from timesformer_hf import LabelledVideo
from timesformer_hf.data import frame_signatures
from timesformer_hf.data.split_check import _in_turn, warn_of_near_duplicates
from timesformer_hf.video.video_errors import VideoWarning


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> dict[str, LabelledVideo]:
    paths = write_altered_copies(tmp_path_factory.mktemp("copies"))
    return {name: LabelledVideo(str(path), ("run",), str(path)) for name, path in paths.items()}


@pytest.fixture
def warning(caplog):
    """What a comparison warns of; an empty text for nothing."""

    def compare(train, validation, **settings) -> str:
        caplog.clear()
        warn_of_near_duplicates(train, validation, **settings)
        return "".join(record.getMessage() for record in caplog.records)

    return compare


def test_an_altered_copy_is_named_with_its_original(copies, corrupt, monkeypatch, warning):
    read, signature = [], frame_signatures.frame_signature
    monkeypatch.setattr(frame_signatures, "frame_signature", lambda source: read.append(source) or signature(source))
    broken = LabelledVideo(corrupt, ("run",), corrupt)
    away = LabelledVideo("http://192.0.2.1/a.mp4", ("run",), "away")  # which nobody waits for
    train, validation = [copies["original"], broken, away], [copies["another"], copies["half the size"], broken]
    text = warning(train, validation)
    one, other = copies["half the size"].name, copies["original"].name
    assert text.startswith("1 of 2 validation videos")
    assert away.name not in read
    assert f"are near-duplicates of training videos, for example {one} of {other}: the accuracy" in text


def test_copies_on_one_side_are_no_leak(copies, warning):
    train = [copies["original"], copies["brighter"], copies["encoded again"]]
    assert warning(train, [copies["another"]]) == ""
    assert warning([copies["another"]], train) == ""
    assert warning([], []) == ""


def test_after_twenty_seconds_it_says_how_many_were_compared(copies, warning):
    """A clock that gains nine seconds for each video stops after three of ten."""
    clock = itertools.count(0, 9)
    train, validation = [copies["original"]] * 5, [copies["brighter"]] * 5
    text = warning(train, validation, clock=lambda: next(clock))
    assert text.startswith("1 of 1 validation videos, compared with 2 of 5 training videos, are near-duplicates")


def test_damaged_videos_are_not_warned_of_here(copies, monkeypatch, recwarn, warning):
    signature = frame_signatures.frame_signature

    def damaged(source):
        warnings.warn("a damaged packet", VideoWarning, stacklevel=2)
        return signature(source)

    monkeypatch.setattr(frame_signatures, "frame_signature", damaged)
    assert warning([copies["original"]], [copies["brighter"]]).startswith("1 of 1")
    assert not recwarn.list


def test_sides_are_read_in_turn_in_an_order_that_the_seed_decides():
    train, validation = (
        [LabelledVideo(f"{side}{i}", (), "") for i in range(number)] for side, number in (("t", 9), ("v", 4))
    )
    orders = [[video.name for video, _ in _in_turn(train, validation, seed)] for seed in (0, 0, 1)]
    assert [name[0] for name in orders[0]] == list("tvtvtvtvttttt")
    assert orders[0] == orders[1] != orders[2]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}
    assert all(is_held_out == video.name.startswith("v") for video, is_held_out in _in_turn(train, validation, 0))

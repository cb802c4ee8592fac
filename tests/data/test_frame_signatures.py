"""Signatures against means that are taken by hand, and on copies of a real film."""

import sys

import numpy as np
import pytest
from altered_copies import write_altered_copies
from clips import decode_all, moving_pattern, write_video

from timesformer_hf import LabelledVideo, find_near_duplicates
from timesformer_hf.data import frame_signatures as module
from timesformer_hf.data.frame_signatures import frame_signature, frame_signatures


def named(*paths) -> list[LabelledVideo]:
    return [LabelledVideo(str(path), (), str(path)) for path in paths]


def test_a_signature_is_what_means_by_hand_give(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_pattern(23, 48, 64))
    frames = decode_all(path)
    expected = np.zeros((4, 16, 16))
    for place, index in enumerate((2, 8, 14, 20)):  # the middles of quarters of 23 frames
        for row in range(16):
            for column in range(16):
                cell = frames[index][3 * row : 3 * row + 3, 4 * column : 4 * column + 4].astype(float)
                expected[place, row, column] = cell.sum() / cell.size
    np.testing.assert_allclose(frame_signature(str(path)), expected - expected.mean(), atol=1e-3)


def test_altered_copies_of_a_film_are_near_duplicates_and_another_clip_is_not(tmp_path):
    paths = write_altered_copies(tmp_path)
    signatures = list(frame_signatures(named(*paths.values())))
    found = find_near_duplicates(np.stack(signatures))
    assert dict(zip(paths, found.groups.tolist(), strict=True)) == dict.fromkeys(paths, 0) | {"another": -1}


@pytest.mark.parametrize("size", [(16, 8), (10, 200)])
def test_odd_sizes_and_few_frames(size, tmp_path):
    path = write_video(tmp_path / "a.mkv", moving_pattern(1, *size), codec="ffv1", pix_fmt="bgr0")
    assert frame_signature(str(path)).shape == (4, 16, 16)


def test_errors_keep_the_place_of_their_video(tmp_path, corrupt):
    good = write_video(tmp_path / "good.mp4", moving_pattern(6))
    black = write_video(tmp_path / "black.mp4", [np.zeros((48, 64, 3), np.uint8)] * 6)
    one, broken, uniform, missing, other = frame_signatures(named(good, corrupt, black, "/no/such.mp4", good))
    np.testing.assert_array_equal(one, other)
    assert "can't be decoded" in str(broken)
    assert "frames are of one colour" in str(uniform)
    assert isinstance(missing, FileNotFoundError)


def test_a_missing_decoder_is_not_an_error_of_a_video(corrupt, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="PyAV"):
        list(frame_signatures(named(corrupt)))


def test_an_iterator_that_is_closed_reads_no_further(monkeypatch):
    read = []
    monkeypatch.setattr(module, "frame_signature", lambda source: read.append(source) or np.ones((4, 16, 16)))
    signatures = frame_signatures(named(*range(1000)), num_workers=1)
    next(signatures)
    signatures.close()
    assert len(read) < 40

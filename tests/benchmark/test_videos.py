"""The benchmark's clips and how they are decoded."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tiny_benchmark import OURS, TINY_CASES, make_result

from timesformer_hf.benchmark.cases import CASES, Clip
from timesformer_hf.benchmark.measuring import UnavailableError, measure


def frames_differ(file: Path) -> float:
    """The least mean difference of two frames that follow on each other, in grey levels."""
    import av

    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    return min(np.abs(one - other).mean() for one, other in pairwise(frames))


def test_no_frame_passes_for_its_neighbour(here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.videos import OTHER_CONVERSION, generated_clip

    assert frames_differ(generated_clip(Clip(160, 120, 2), here)) > 2 * OTHER_CONVERSION


def test_every_encoding_of_the_clips(here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.videos import ENCODINGS, decode_ours, decode_sequentially, generated_clip

    used = {case.clip.encoding for case in CASES if case.clip}
    assert used == set(ENCODINGS)
    for encoding in ENCODINGS:
        try:
            path = generated_clip(Clip(96, 64, 1, encoding), here)
        except UnavailableError:
            continue
        np.testing.assert_array_equal(decode_ours(path, [0, 9, 24]), decode_sequentially(path, [0, 9, 24]))


def test_torchcodec_is_listed_as_missing(monkeypatch, here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.videos import make_workload as make_decoding

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    case = replace(TINY_CASES["tiny-decode"], paths=("ours", "torchcodec"))
    result = make_result(OURS, ("torchcodec", "peer"))
    measure(result, make_decoding(case, here), 1)
    assert [path.status for path in result.paths] == ["measured", "missing"]
    assert "pip install torchcodec" in result.paths[1].reason

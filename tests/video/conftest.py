"""What several tests of decoding share."""

import pytest

from timesformer_hf.video import decoding_plan, video_decoding


@pytest.fixture(params=["one thread", "four decoders", "two decoders of two threads", "one decoder of eight threads"])
def shared_out(request, monkeypatch):
    """As if the frames were large and the cores many."""
    monkeypatch.setattr(video_decoding, "cores_for_decoding", lambda: 1 if request.param == "one thread" else 4)
    monkeypatch.setattr(decoding_plan, "WORTH_THREADS", 0)
    monkeypatch.setattr(decoding_plan, "MAX_JOINED_WORK", 0)
    decoders = {"two decoders of two threads": 2, "one decoder of eight threads": 1}.get(request.param, 4)
    monkeypatch.setattr(
        decoding_plan,
        "estimated_time",
        lambda shares, cores_each: abs(len(shares) - decoders),
    )

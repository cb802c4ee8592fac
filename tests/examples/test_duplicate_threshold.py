"""The measurement behind the default threshold of `timesformer-hf duplicates`, on two clips."""

import re

import pytest
from repository import FILM, SAMPLE, load_example
from tiny_models import save_classifier


pytest.importorskip("av", reason="makes the copies")


@pytest.mark.parametrize("with_model", [False, True])
def test_copies_are_alike_and_other_videos_are_not(with_model, tmp_path, monkeypatch, capsys):
    example = load_example("duplicate_threshold")
    monkeypatch.setattr(example, "MOST_FRAMES", 12)
    model = ["--model", save_classifier(tmp_path)] if with_model else []
    assert example.main([str(SAMPLE), str(FILM), *model]) == 0
    rows = re.findall(r"^(\S.*?) +(-?\d\.\d{4}) +(-?\d\.\d{4}) +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
    assert [row[0] for row in rows] == [*example.ALTERATIONS, "different videos"]
    lowest = {name: float(cosine) for name, cosine, _, _ in rows}
    assert min(lowest[name] for name in ("none, and encoded again", "half the size", "darker", "grey")) > 0.95
    assert with_model or lowest["different videos"] < 0.6
    assert with_model or lowest["mirrored"] < 0.95


def test_two_videos_are_needed(capsys):
    with pytest.raises(SystemExit):
        load_example("duplicate_threshold").main([str(SAMPLE)])
    assert "give two videos or more" in capsys.readouterr().err

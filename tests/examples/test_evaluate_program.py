"""examples/evaluate.py, on tiny data, against videos classified one by one."""

import numpy as np
import pytest
from finetuning import flags, load_example
from transformers import pipeline


def test_evaluate_measures_what_the_pipeline_says(data, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    videos = sorted(data.rglob("*.mp4"))
    table = tmp_path / "videos.csv"
    table.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in videos) + "broken.mp4,cat\n")
    (tmp_path / "broken.mp4").write_text("no video")
    settings = {"model": model, "data": table, "frame_sampling_rate": 2, "num_workers": 0}
    results = load_example("evaluate").main(flags(**settings, plot=tmp_path / "confusion.png"))
    classifier = pipeline("video-classification", model=str(model))
    found = [classifier(str(path), views="paper", frame_sampling_rate=2, top_k=1)[0]["label"] for path in videos]
    right = [label == path.parent.name for label, path in zip(found, videos, strict=True)]
    assert results["top_1_accuracy"] == pytest.approx(np.mean(right))
    output = capsys.readouterr()
    assert "12 of 13 videos measured" in output.out
    assert "broken.mp4: can't be decoded" in output.err
    assert (tmp_path / "confusion.png").stat().st_size > 100

"""`timesformer-hf shard`, and a training from what it wrote."""

import shutil

import pytest
from finetuning import run

from timesformer_hf.cli import main


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("no_plots")
def test_a_training_takes_the_shards(data, model, tmp_path, monkeypatch, capsys):
    """Without a number of steps or labels. A video that can't be read is left out, and so is the exit code 0."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
    shutil.copytree(data, tmp_path / "videos")
    (tmp_path / "videos" / "cat" / "empty.mp4").touch()
    shards = tmp_path / "shards"
    assert main(["shard", str(tmp_path / "videos"), "--out", str(shards), "--validation-share", "0.4"]) == 1
    output = capsys.readouterr()
    assert f"{shards}: train, " in output.out
    assert "validation, " in output.out
    assert "empty.mp4 is empty" in output.err
    assert f"1 video is left out; {shards}/_left_out.csv lists it" in output.err
    result = run(tmp_path / "out", shards, model=model, streaming=True)
    assert 0 <= result["validation"]["accuracy"] <= 1
    assert main(["shard", str(tmp_path / "videos"), "--out", str(shards)]) == 2
    assert "has finished shards; give another folder" in capsys.readouterr().err


def test_a_share_is_below_one(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["shard", str(tmp_path), "--out", str(tmp_path / "shards"), "--validation-share", "1"])
    assert "1 must be at least 0 and below 1" in capsys.readouterr().err

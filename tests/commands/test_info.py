"""`timesformer-hf info`."""

import json

from repository import SAMPLE
from tiny_models import load_original, save_original, with_classes

from timesformer_hf.cli import main


def test_prints_what_there_is_and_what_is_missing(tmp_path, capsys):
    state = load_original()
    source = save_original(tmp_path / "a.pyth", with_classes(state, 174))
    del state["model.norm.bias"]
    assert main(["info", str(source), "--num-attention-heads", "4"]) == 0
    output = capsys.readouterr().out
    assert "classes:    174, those of ssv2" in output
    assert "pixels:     BGR, mean 0.45, deviation 0.225" in output
    assert main(["info", str(save_original(source, state)), "--num-attention-heads", "4", "--json"]) == 0
    assert "weight timesformer.layernorm.bias" in json.loads(capsys.readouterr().out)["missing"]
    assert main(["info", str(tmp_path / "nothing")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err


def test_a_video_is_called_a_video(capsys):
    assert main(["info", str(SAMPLE)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"timesformer-hf: {SAMPLE} is a video, not a checkpoint; to label it: timesformer-hf classify {SAMPLE}"
    )


def test_nobody_is_told_to_run_the_code_in_a_file(tmp_path, capsys):
    """As torch's own message does, of a file that is not a checkpoint."""
    path = tmp_path / "weights.pth"
    path.write_bytes(SAMPLE.read_bytes())
    assert main(["info", str(path)]) == 2
    errors = capsys.readouterr().err
    assert f"{path} is damaged, incomplete or not a checkpoint" in errors
    assert "weights_only" not in errors

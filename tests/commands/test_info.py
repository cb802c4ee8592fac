"""`timesformer-hf info`."""

import json

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

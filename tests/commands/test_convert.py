"""`timesformer-hf convert`."""

import pytest
from tiny_models import ORIGINAL

from timesformer_hf.cli import main


def test_says_what_was_converted_and_checked(tmp_path, capsys):
    arguments = ["convert", str(ORIGINAL), str(tmp_path / "k"), "--num-attention-heads", "4", "--image-size", "64"]
    assert main([*arguments, "--check", str(ORIGINAL.with_suffix(".safetensors"))]) == 0
    output = capsys.readouterr().out
    assert "divided_space_time, 4 frames, size 64, 7 classes" in output
    assert "checked: logits equal to those in divided_space_time.safetensors, within" in output
    assert main(arguments) == 2
    assert "exists; give another name, or --overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "1x2x3"])
    assert "1x2x3 must be a side, 224, or a height and a width, 256x448" in capsys.readouterr().err

"""The program that measures the memory of an explanation, on a small clip."""

import importlib
import re
import sys

import pytest
from repository import EXAMPLES
from tiny_models import TINY

from timesformer_hf import TimesformerConfig


@pytest.mark.parametrize("what", ["maps", "rollout"])
def test_it_prints_the_peak(what, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program = importlib.import_module("explain_memory")
    monkeypatch.setattr(program, "TimesformerConfig", lambda **settings: TimesformerConfig(**TINY | settings))
    monkeypatch.setattr(sys, "argv", ["explain_memory.py", what, "--num-frames", "2", "--image-size", "32"])
    assert program.main() == 0
    numbers = re.fullmatch(rf"{what}: at most (\S+) GiB, (\S+) GiB of it before; 0 s\n", capsys.readouterr().out)
    assert 0.05 < float(numbers[2]) <= float(numbers[1]) < 100

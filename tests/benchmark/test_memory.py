"""The peak of memory, measured in a process of its own."""

import io
import json
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_benchmark import TINY, TINY_CASES

from timesformer_hf.benchmark import memory
from timesformer_hf.benchmark.measuring import UnavailableError
from timesformer_hf.benchmark.memory import peak_in_child, start_peak


class TestMemory:
    @pytest.fixture
    def child_here(self, monkeypatch, capsys) -> None:
        """The child runs in this process."""

        def run_child(command, *, input: str, **kwargs) -> SimpleNamespace:
            monkeypatch.setattr(sys, "stdin", io.StringIO(input))
            memory.main()
            return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out, stderr="")

        monkeypatch.setattr(memory.subprocess, "run", run_child)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_peak_counts_what_was_freed_again(self):
        read_peak = start_peak("cpu")
        array = np.ones(100 * 2**20, np.uint8)
        del array
        assert 99 * 2**20 < read_peak() < 130 * 2**20  # the kernel counts in bunches of pages

    def test_peak_holds_the_scores_of_the_built_in_model(self, here):
        """2,049 tokens of 4 heads have 64 MiB of scores, which the built-in model holds more than once."""
        config = TINY | {"attention_type": "joint_space_time", "num_frames": 32, "image_size": 64}
        case = replace(TINY_CASES["tiny"], kind="joint", config=config)
        assert peak_in_child(case, here, "built-in") > 2 * 64 * 2**20

    @pytest.mark.parametrize(
        ("error", "raised", "message"),
        [
            (UnavailableError("no bf16"), UnavailableError, "no bf16"),
            (ImportError("no torchao"), ImportError, "no torchao"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 17 GB\nmore"), MemoryError, "17 GB$"),
            (torch.OutOfMemoryError("CUDA out of memory"), MemoryError, "CUDA out of memory"),
            (KeyError("key"), RuntimeError, "key"),
        ],
    )
    def test_errors_of_the_child_are_raised_here(self, error, raised, message, here, child_here, monkeypatch):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(memory, "peak_of", fail)
        with pytest.raises(raised, match=message):
            peak_in_child(TINY_CASES["tiny-decode"], here, "ours")

    def test_the_child_gets_the_case_as_it_is(self, here, child_here, monkeypatch):
        """It gets the case as it is, the clip in it too."""
        seen = []

        monkeypatch.setattr(memory, "peak_of", lambda *task: seen.append(task) or 7)
        for case in TINY_CASES.values():
            assert peak_in_child(case, here, "ours", calls=2) == 7
            got, environment, path, calls = seen.pop()
            assert json.dumps(asdict(got)) == json.dumps(asdict(case))
            assert (got.clip, environment, path, calls) == (case.clip, here, "ours", 2)

    def test_a_killed_child_is_out_of_memory(self, here, monkeypatch):
        killed = SimpleNamespace(returncode=-9, stdout="", stderr="")
        monkeypatch.setattr(memory.subprocess, "run", lambda *args, **kwargs: killed)
        with pytest.raises(MemoryError, match="signal 9"):
            peak_in_child(TINY_CASES["tiny"], here, "ours")

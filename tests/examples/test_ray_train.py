"""examples/ray_train.py: two workers of Ray against two processes of torchrun. Needs the package ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from finetuning import OVERRIDES, REPOSITORY, assert_same_weights, flags, load_example, losses

from timesformer_hf.scale.shards import write_shards


pytest.importorskip("datasets")
pytest.importorskip("ray", reason="the example needs ray")

EXAMPLE = REPOSITORY / "examples" / "ray_train.py"
# A program that runs the example, whose second worker dies once, when there is a checkpoint after the third step.
KILLED = f"""
import importlib.util, os, signal, sys, threading, time
from pathlib import Path

def load():
    spec = importlib.util.spec_from_file_location("example", {str(EXAMPLE)!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def train(config):
    output = Path(config["words"][config["words"].index("--output_dir") + 1])

    def die():
        while not (output / "checkpoint-3" / "trainer_state.json").exists():
            time.sleep(0.01)
        (output / "_died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1" and not (output / "_died").exists():
        threading.Thread(target=die, daemon=True).start()
    load().train(config)

example = load()
example.train = train
example.main(sys.argv[1:])
"""


def run(*command: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run([sys.executable, *command], env=environment, timeout=900, text=True, **pipes)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory):
    """A training on a stream of uneven shards, for two passes."""
    shards = tmp_path_factory.mktemp("stream") / "shards"
    write_shards(data, shards, shard_size=3, validation_share=0.3)
    settings = {"data": shards, "streaming": True, "epochs": 2, "batch_size": 1, "logging_steps": 1}
    settings |= {"config_overrides": OVERRIDES, "dataloader_num_workers": 0, "report_to": "none"}
    return settings | {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def by_torchrun(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun") / "out"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    run(*torchrun, "-m", "timesformer_hf", "finetune", *flags(**settings, use_cpu=True, output_dir=folder))
    assert len(losses(folder)) > 5
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2000)
class TestTwoWorkers:
    def test_the_curve_is_that_of_torchrun(self, settings, by_torchrun, tmp_path):
        run(str(EXAMPLE), "--num_workers", "2", *flags(**settings, output_dir=tmp_path / "out"))
        assert losses(tmp_path / "out") == losses(by_torchrun)
        assert_same_weights(tmp_path / "out", by_torchrun)

    def test_it_is_also_when_a_worker_is_killed(self, settings, by_torchrun, tmp_path):
        (tmp_path / "killed.py").write_text(KILLED)
        run(str(tmp_path / "killed.py"), "--num_workers", "2", *flags(**settings, output_dir=tmp_path / "out"))
        assert (tmp_path / "out" / "_died").exists()
        assert losses(tmp_path / "out") == losses(by_torchrun)
        assert_same_weights(tmp_path / "out", by_torchrun)


def test_a_mistake_is_told_before_a_worker_starts(tmp_path, monkeypatch):
    example = load_example("ray_train")
    monkeypatch.setattr(example.ray, "init", lambda *arguments: pytest.fail("Ray was started"))
    with pytest.raises(ValueError, match="there is no option --modle"):
        example.main(flags(data=tmp_path, modle=tmp_path, output_dir=Path(tmp_path, "out")))

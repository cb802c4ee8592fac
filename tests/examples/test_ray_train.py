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


def run(*command: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        timeout=280,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_curve_is_that_of_torchrun(data, tmp_path):
    """On a stream of uneven shards, for two passes: the same losses and the same weights."""
    write_shards(data, tmp_path / "shards", shard_size=3, validation_share=0.3)
    settings = {"data": tmp_path / "shards", "streaming": True, "epochs": 2, "batch_size": 2, "logging_steps": 1}
    settings |= {"config_overrides": OVERRIDES, "dataloader_num_workers": 0, "report_to": "none"}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = flags(**settings, use_cpu=True, output_dir=tmp_path / "torchrun")
    run(*torchrun, "-m", "timesformer_hf", "finetune", *words)
    words = flags(**settings, output_dir=tmp_path / "ray")
    run(str(REPOSITORY / "examples" / "ray_train.py"), "--num_workers", "2", *words)
    assert len(losses(tmp_path / "ray")) > 2
    assert losses(tmp_path / "ray") == losses(tmp_path / "torchrun")
    assert_same_weights(tmp_path / "ray", tmp_path / "torchrun")


def test_a_mistake_is_told_before_a_worker_starts(tmp_path, monkeypatch):
    example = load_example("ray_train")
    monkeypatch.setattr(example.ray, "init", lambda *arguments: pytest.fail("Ray was started"))
    with pytest.raises(ValueError, match="there is no option --modle"):
        example.main(flags(data=tmp_path, modle=tmp_path, output_dir=Path(tmp_path, "out")))

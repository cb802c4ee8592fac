"""Streams of shards in several processes, by gloo. What runs in them is in stream_worker.py."""

import itertools
import os
import shutil
import subprocess
import sys

import pytest
import torch
from distributed_worker import launch
from finetuning import OVERRIDES, REPOSITORY, flags, losses
from safetensors.torch import load_file
from stream_worker import (
    NUM_CLASSES,
    number_shards,
    random_clip,
    train_and_change,
    train_and_resume,
    train_each,
    train_on_numbers,
)
from tiny_models import make_model
from torch.nn import functional as F
from transformers.trainer_callback import TrainerState

from timesformer_hf import TimesformerForVideoClassification
from timesformer_hf.scale.shards import write_shards
from timesformer_hf.training.streams import StreamOrder


pytest.importorskip("datasets")
FLOAT64 = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(num_hidden_layers=1, num_labels=NUM_CLASSES).save_pretrained(folder)
    return folder


def steps_of(batches: list[list]) -> dict[int, list[int]]:
    """The numbers that all processes trained with in each step, without blank clips."""
    numbers = {step: [] for of_process in batches for _, step, _ in of_process}
    for _, step, batch in itertools.chain(*batches):
        numbers[step] += [number for number in batch if number >= 0]
    return numbers


def assert_once_a_pass(batches: list[list], number: int) -> int:
    """Every clip is seen once in a pass, and in the last one, which is cut off, at most once. Return the passes."""
    shapes = [[(epoch, step) for epoch, step, _ in of_process] for of_process in batches]
    assert all(shape == shapes[0] for shape in shapes)  # no process has a batch that another lacks
    last = shapes[0][-1][0]
    for epoch in range(last + 1):
        seen = sorted(n for p, _, batch in itertools.chain(*batches) if p == epoch for n in batch if n >= 0)
        assert seen == list(range(number)) or (epoch == last and len(set(seen)) == len(seen))
    return last + 1


def plain_loop(model_folder, steps: dict[int, list[int]]) -> tuple[list[float], dict]:
    """The losses and weights of plain SGD in one process with the clips of each step in one batch."""
    model = TimesformerForVideoClassification.from_pretrained(model_folder, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for numbers in steps.values():
        logits = model(torch.stack([random_clip(number) for number in numbers])).logits
        loss = F.cross_entropy(logits, torch.tensor(numbers) % NUM_CLASSES)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()


CASES = {
    2: {
        "a shard for each process": ((4, 3), {"max_steps": 5}),
        "shards that don't divide, in workers": ((5, 4, 2), {"max_steps": 5, "num_workers": 2, "accumulation": 2}),
        "a process without any clip": ((1,), {"max_steps": 3}),
    },
    3: {
        "uneven shards": ((5, 4, 2), {"max_steps": 7}),
        "more processes than shards": ((7, 1), {"max_steps": 4, "accumulation": 2}),
    },
}


@pytest.mark.parametrize("processes", CASES)
def test_every_clip_counts_once_in_a_pass(processes, model_folder, tmp_path):
    """Losses and weights are those of the same clips in one process, also where a process has run out of them."""
    cases = CASES[processes].values()
    for number, (sizes, _) in enumerate(cases):
        number_shards(tmp_path / f"shards-{number}", *sizes)
    found = launch(processes, train_each, model_folder, tmp_path, [settings for _, settings in cases])
    for (sizes, settings), of_case in zip(cases, found, strict=True):
        assert assert_once_a_pass(of_case["batches"], sum(sizes)) > 1
        numbers = steps_of(of_case["batches"])
        assert len(numbers) == settings["max_steps"]
        losses, weights = plain_loop(model_folder, numbers)
        torch.testing.assert_close(of_case["losses"], losses, rtol=1e-6, atol=0)  # a log rounds
        torch.testing.assert_close(of_case["weights"], weights, **FLOAT64)


def test_validation_counts_every_clip_once(model_folder, tmp_path):
    """Five clips in three processes and batches of two, with a training of one step before."""
    shards = number_shards(number_shards(tmp_path / "shards", 6), 5, split="validation")
    found = launch(3, train_on_numbers, model_folder, shards, tmp_path / "out", max_steps=1, eval_strategy="steps")
    kept = found["labels"] != -100
    assert sorted(found["labels"][kept].tolist()) == [0, 1, 2, 3, 4]
    model = TimesformerForVideoClassification.from_pretrained(model_folder, dtype=torch.float64)
    model.load_state_dict(found["weights"])
    with torch.no_grad():
        logits = model(torch.stack([random_clip(number) for number in range(5)])).logits
    order = found["labels"][kept].argsort()
    torch.testing.assert_close(found["logits"][kept][order], logits, **FLOAT64)
    assert found["metrics"]["test_loss"] == pytest.approx(F.cross_entropy(logits, torch.arange(5)).item(), rel=1e-6)
    assert found["metrics"]["test_accuracy"] == (logits.argmax(dim=1) == torch.arange(5)).double().mean().item()


class TestResuming:
    def test_it_is_exact(self, model_folder, tmp_path):
        """In the first and the second pass, and after the end of one; what was seen before isn't decoded again."""
        shards = number_shards(tmp_path / "shards", 4, 4, 4, 3)
        settings = {"max_steps": 6, "num_workers": 2, "steps": (2, 4, 5)}
        whole, *resumed = launch(2, train_and_resume, model_folder, shards, tmp_path / "out", **settings)
        assert assert_once_a_pass(whole["batches"], 15) == 2
        for step, found in zip(settings["steps"], resumed, strict=True):
            for ours, of_process in zip(found["batches"], whole["batches"], strict=True):
                assert ours == [batch for batch in of_process if batch[1] >= step]
            assert found["losses"] == whole["losses"]
            torch.testing.assert_close(found["weights"], whole["weights"], rtol=0, atol=0)
        seen_again = (tmp_path / "out" / "journal-2").read_text().split()
        assert len(seen_again) == (15 - 8) + 15

    def test_another_order_is_refused(self, model_folder, tmp_path):
        """Which would skip other clips than those that were seen; unless the pass is to begin anew."""
        shards = number_shards(tmp_path / "shards", 6, 6)
        changes = [
            {"num_workers": 1},
            {"accumulation": 2},
            {"shards": number_shards(tmp_path / "others", 4, 4, 4)},
            {"num_workers": 1, "ignore_data_skip": True},
        ]
        *refused, number = launch(2, train_and_change, model_folder, shards, tmp_path / "out", changes)
        expected = ["dataloader_num_workers 0, now 1", "gradient_accumulation_steps 1, now 2", "shards 2, now 3"]
        for message, change in zip(refused, expected, strict=True):
            assert f"checkpoint-2 was written with another order of the stream ({change})" in message
            assert "--ignore_data_skip" in message
        assert number == 2

    def test_other_processes_are_refused(self):
        stored = TrainerState(stateful_callbacks={"StreamOrder": StreamOrder({"processes": 2, "seed": 0}).state()})
        StreamOrder({"processes": 2, "seed": 0}).check(stored, "checkpoint-1")
        with pytest.raises(ValueError, match=r"checkpoint-1 was .* \(processes 2, now 3\), so it is not known which"):
            StreamOrder({"processes": 3, "seed": 0}).check(stored, "checkpoint-1")
        with pytest.raises(ValueError, match="processes unknown, now 2"):
            StreamOrder({"processes": 2}).check(TrainerState(), "checkpoint-1")


def test_a_stream_without_clips_is_an_error(model_folder, tmp_path):
    shards = number_shards(tmp_path / "shards", 0)
    with pytest.raises(ValueError, match="train has no clip to train with"):
        train_on_numbers(model_folder, shards, tmp_path / "out", max_steps=2)


@pytest.mark.slow
def test_torchrun_on_shards(data, tmp_path):
    """`timesformer-hf finetune` in three processes with two workers each, and its end once more from a checkpoint."""
    write_shards(data, tmp_path / "shards", shard_size=2, validation_share=0.3)
    settings = {"data": tmp_path / "shards", "streaming": True, "epochs": 3, "batch_size": 1, "logging_steps": 1}
    settings |= {"config_overrides": OVERRIDES, "use_cpu": True, "dataloader_num_workers": 2, "report_to": "none"}
    settings |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 100}
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3")

    def run(out, **more) -> None:
        words = [
            sys.executable,
            *torchrun,
            "-m",
            "timesformer_hf",
            "finetune",
            *flags(**settings, output_dir=out, **more),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(words, env=environment, timeout=300, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    run(tmp_path / "whole")
    resumed = tmp_path / "resumed" / "checkpoint-4"
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", resumed)
    run(tmp_path / "resumed", resume=True)
    assert len(losses(tmp_path / "whole")) > 6
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    # DDP packs the gradients of its first step in another order, so the sums of three processes may differ in rounding.
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))
    torch.testing.assert_close(resumed, whole, rtol=1e-5, atol=1e-7)

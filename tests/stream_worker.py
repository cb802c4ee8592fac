"""
Streams of numbered clips, and what tests/training/test_distributed_streams.py does with them in several processes.

A clip is its number: nothing is decoded. [`launch`] of distributed_worker.py starts the processes.
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_worker import load_model
from transformers import PrinterCallback

from timesformer_hf.data.clip_dataset import ClipStream, VideoStream


NUM_CLASSES = 5


def number_shards(folder: Path, *sizes: int, split: str = "train") -> Path:
    """Parquet shards with so many videos each, whose bytes are the numbers 0, 1, ... in text."""
    import datasets

    label = datasets.ClassLabel(names=[str(number) for number in range(NUM_CLASSES)])
    features = datasets.Features({"video": datasets.Video(decode=False), "label": label})
    folder.mkdir(exist_ok=True)
    start = 0
    for shard, size in enumerate(sizes):
        numbers = range(start, start + size)
        videos = [{"bytes": str(number).encode(), "path": f"{split}_{number}.mp4"} for number in numbers]
        rows = {"video": videos, "label": [number % NUM_CLASSES for number in numbers]}
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{split}-{shard:05d}.parquet")
        start += size
    return folder


def random_clip(number: int) -> torch.Tensor:
    """The clip with this number, float64 (4, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64)


class NumberLoader:
    """Stands for a `ClipLoader`. It notes in a file which videos it has loaded."""

    def __init__(self, journal: Path | None = None):
        self.journal = journal

    def __call__(self, video, draw: tuple[int, int]) -> dict:
        number = int(video.source)
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(f"{number}\n")
        label = torch.tensor(int(video.labels[0]))
        return {"pixel_values": random_clip(number), "labels": label, "number": torch.tensor(number)}

    def blank_sample(self) -> dict:
        blank = torch.zeros(4, 3, 32, 32, dtype=torch.float64)
        return {"pixel_values": blank, "labels": torch.tensor(-100), "number": torch.tensor(-1)}


def collate(samples: list[dict]) -> dict:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def open_stream(folder: Path, split: str, **settings) -> VideoStream:
    import datasets

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.05
    share = {"process_index": int(os.environ.get("RANK", 0)), "num_processes": int(os.environ.get("WORLD_SIZE", 1))}
    return VideoStream(folder, split, **settings, **share)


def of_all_processes(value) -> list:
    """The values of all processes, in their order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def train_on_numbers(
    model_folder: Path,
    shards: Path,
    output: Path,
    max_steps: int,
    num_workers: int = 0,
    accumulation: int = 1,
    resume: int | None = None,
    journal: Path | None = None,
    checkpoints: bool = False,
    **settings,
) -> dict:
    """
    The ClipTrainer on a stream of numbers in float64, with 2 clips a batch. Then it predicts the stream for validation,
    if there is one.

    Args:
        resume: the step of the checkpoint to go on from.
        journal: a file for the numbers that are loaded.
        checkpoints: save one after each step.
        settings: further arguments of the training.

    Returns:
        `batches` of each process: pass, step and numbers (-1 for a blank clip); `losses` of the steps; `weights`;
        `labels` and `metrics` of the prediction.
    """
    from timesformer_hf import TimesformerVideoProcessor
    from timesformer_hf.training.losses import ClipLoss
    from timesformer_hf.training.trainer import ClipTrainer, ClipTrainingArguments, clip_metrics

    batches = []

    class Recorder(ClipTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            batches.append((self.train_dataset.epoch, self.state.global_step, inputs.pop("number").tolist()))
            return super().training_step(model, inputs, *args, **kwargs)

        def prediction_step(self, model, inputs, *args, **kwargs):
            inputs.pop("number")
            return super().prediction_step(model, inputs, *args, **kwargs)

    arguments = ClipTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=max_steps,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        save_strategy="steps" if checkpoints else "no",
        save_steps=1,
        logging_steps=1,
        dataloader_num_workers=num_workers,
        dataloader_pin_memory=False,
        dataloader_multiprocessing_context="fork" if num_workers else None,  # the others start slowly
        ddp_find_unused_parameters=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    load = NumberLoader(journal)
    validation = None
    if next(shards.glob("validation*"), None):
        validation = ClipStream(open_stream(shards, "validation"), load)
    trainer = Recorder(
        model=load_model(model_folder),
        args=arguments,
        loss=ClipLoss(),
        data_collator=collate,
        train_dataset=ClipStream(open_stream(shards, "train", buffer_size=4), load),
        eval_dataset=validation,
        compute_metrics=clip_metrics,
        processing_class=TimesformerVideoProcessor(),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if resume is None else str(output / f"checkpoint-{resume}"))
    found = {
        "batches": of_all_processes(batches),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": trainer.accelerator.get_state_dict(trainer.model_wrapped),
    }
    if validation is not None:
        prediction = trainer.predict(validation)
        found |= {"labels": torch.from_numpy(prediction.label_ids), "metrics": prediction.metrics}
        found["logits"] = torch.from_numpy(prediction.predictions)
    return found


def train_each(model_folder: Path, folder: Path, cases: list[dict]) -> list[dict]:
    """What `train_on_numbers` finds with the settings of each case, whose shards are in `folder` by its number."""
    return [
        train_on_numbers(model_folder, folder / f"shards-{number}", folder / f"out-{number}", **settings)
        for number, settings in enumerate(cases)
    ]


def train_and_resume(model_folder: Path, shards: Path, output: Path, steps: tuple[int, ...], **settings) -> list[dict]:
    """What a whole training finds, and then what trainings find that go on from its checkpoints after these steps."""
    found = [train_on_numbers(model_folder, shards, output, checkpoints=True, **settings)]
    for step in steps:
        journal = output / f"journal-{step}"
        found.append(train_on_numbers(model_folder, shards, output, resume=step, journal=journal, **settings))
    return found


def train_and_change(model_folder: Path, shards: Path, output: Path, changes: list[dict]) -> list[str | int]:
    """The message for each change, with which a training of two steps doesn't go on; or the number of its batches."""
    train_on_numbers(model_folder, shards, output, max_steps=2, checkpoints=True)
    found = []
    for change in changes:
        settings = {"shards": shards, "output": output, "max_steps": 3, "resume": 2} | change
        try:
            found.append(sum(map(len, train_on_numbers(model_folder, **settings)["batches"])))
        except ValueError as error:
            found.append(str(error))
    return found

"""
transformers' Trainer for clips, with the recipes' optimizer and schedule, a loss for mixed and unreadable clips, and
checkpoints that are whole or not there.
"""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..data.clip_dataset import ClipStream, EpochSampler, SkippedClips, readable_clips
from ..evaluation.metrics import mean_average_precision, mean_class_accuracy, top_k_accuracy
from .callbacks import (
    EpochCallback,
    InterruptionCallback,
    UnreadableClipsCallback,
    UnreadableClipsError,
    resume_hint,
)
from .losses import ClipLoss
from .parameter_order import name_parameters
from .recipes import drop_factor, parameter_groups, scaled_learning_rate
from .streams import EvenBatches, StreamOrder, blank_batch, make_stream_loader


class CheckpointError(OSError):
    """A checkpoint couldn't be written. The message says which one is the last whole one."""


@dataclass
class ClipTrainingArguments(TrainingArguments):
    """The `TrainingArguments` of transformers, and further ones that the recipes need."""

    _argument_group_name = "training: transformers' TrainingArguments, and some more"

    resume: bool = field(default=False, metadata={"help": "Go on from the last whole checkpoint in output_dir."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "The highest learning rate. (None: base_learning_rate, for this batch size)",
            "aliases": ["--lr"],
        },
    )
    num_train_epochs: float = field(
        default=3.0, metadata={"help": "How often each clip is trained with.", "aliases": ["--epochs"]}
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Clips at once on each device.", "aliases": ["--batch_size"]}
    )
    base_learning_rate: float = field(
        default=5e-4, metadata={"help": "The learning rate for a batch of base_batch_size clips."}
    )
    base_batch_size: int = field(default=256, metadata={"help": "The batch that base_learning_rate is for."})
    lr_scaling: str = field(
        default="sqrt", metadata={"help": "How the rate grows with the batch: none, linear (SGD) or sqrt (Adam)."}
    )
    lr_drops: list[float] | None = field(
        default=None,
        metadata={"help": "Shares of the training after which the rate is a tenth, in place of lr_scheduler_type."},
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of a block over that of the block above it."}
    )
    decay_everything: bool = field(
        default=False, metadata={"help": "Weight decay on biases, norms and embedding tables too."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing_factor <= 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor} must lie in [0, 1]")
        if self.learning_rate is None:
            self.learning_rate = scaled_learning_rate(
                self.base_learning_rate, self.base_batch_size, self.total_batch_size, self.lr_scaling
            )

    @property
    def total_batch_size(self) -> int:
        """The number of clips in a step of the optimizer, on all devices."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size


class ClipTrainer(Trainer):
    """
    A Trainer of clip classifiers. On ctrl-C and SIGTERM it saves a checkpoint and stops. From a checkpoint it goes on
    exactly as it would have: stochastic depth and dropout depend only on the seed and the step, and the random choices
    of a clip only on the seed and its epoch.

    Args:
        loss: a [`ClipLoss`].
        skipped: the list in which the datasets note clips that can't be read.
        max_unreadable: how many of these there may be; with 0 the first one stops the training.
        settings: further arguments of `Trainer`, with a [`ClipTrainingArguments`] as `args` and a
            [`TimesformerVideoProcessor`] as `processing_class`.

    Raises:
        UnreadableClipsError: while training or evaluating, for too many of them, or if no validation clip can be read.
        TrainingInterrupted: on a signal.
        CheckpointError: where a checkpoint can't be written.
        ParameterOrderError: where a checkpoint's state of the optimizer is for other parameters, or for these in
            another order, as in the first versions of this package.
    """

    def __init__(
        self, *, loss: ClipLoss, skipped: SkippedClips | None = None, max_unreadable: int = 0, **settings: Any
    ):
        self.clip_loss: ClipLoss = loss
        self.skipped: SkippedClips | None = skipped
        super().__init__(compute_loss_func=loss, **settings)
        self._interruption = InterruptionCallback()
        self.add_callback(self._interruption)
        if skipped is not None:
            self.add_callback(UnreadableClipsCallback(skipped, max_unreadable))
        self._last_log: tuple[float, int] | None = None  # when, and after which step
        self._place = (-1, 0)  # the step under way, and the batch of it

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._interruption.restore()
        if isinstance(self.train_dataset, ClipStream) and not self.state.global_step:
            videos = self.train_dataset.videos
            raise ValueError(f"{videos.source}, {videos.split} has no clip to train with")
        return output

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = EpochSampler(len(dataset), seed)
        self.pop_callback(EpochCallback)
        self.add_callback(EpochCallback(sampler))
        return sampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        stream = self.train_dataset
        if not isinstance(stream, ClipStream):
            return super().get_train_dataloader()
        self.pop_callback(StreamOrder)
        self.add_callback(StreamOrder(self._stream_order()))
        return make_stream_loader(stream, self._train_batch_size, self.data_collator, self.args)

    def get_eval_dataloader(self, eval_dataset: str | Dataset[Any] | None = None) -> DataLoader[Any] | EvenBatches:
        stream = self.eval_dataset if eval_dataset is None else eval_dataset
        is_stream = isinstance(stream, ClipStream)
        return self._even_batches(stream) if is_stream else super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset[Any]) -> DataLoader[Any] | EvenBatches:
        is_stream = isinstance(test_dataset, ClipStream)
        return self._even_batches(test_dataset) if is_stream else super().get_test_dataloader(test_dataset)

    def _even_batches(self, stream: ClipStream) -> DataLoader | EvenBatches:
        """The batches of a stream to validate with, as many in each process."""
        size = self.args.eval_batch_size
        loader = make_stream_loader(stream, size, self.data_collator, self.args)
        if self.args.world_size == 1:
            return loader
        return EvenBatches(loader, blank_batch(stream, size, self.data_collator, self.args.device), self._has_any)

    def _has_any(self, value: bool) -> bool:
        """Whether `value` is true in any process. Every process must call it."""
        return bool(self.accelerator.gather(torch.tensor([value], device=self.args.device)).any())

    def _stream_order(self) -> dict[str, int]:
        """What the batches of a stream depend on, by name."""
        names = ("dataloader_num_workers", "gradient_accumulation_steps")
        sizes = {name: getattr(self.args, name) for name in names}
        return self.train_dataset.videos.order | sizes | {"per_device_train_batch_size": self._train_batch_size}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """
        The batches of a step. A pass over a stream ends when no process has clips left. Until then, blank batches take
        the place of those that a process lacks, so that no process waits for another.
        """
        if not isinstance(self.train_dataset, ClipStream):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = list(itertools.islice(epoch_iterator, num_batches))
        if not self._has_any(bool(batches)):
            self.control.should_epoch_stop = True
            return [], None
        missing = num_batches - len(batches)
        batches += [blank_batch(self.train_dataset, 1, self.data_collator, device) for _ in range(missing)]
        return super().get_batch_samples(iter(batches), num_batches, device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            args, model = self.args, self.model if model is None else model
            groups = parameter_groups(
                model, args.learning_rate, args.weight_decay, args.layer_decay, args.decay_everything
            )
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer: torch.optim.Optimizer = optimizer_class(groups, **settings)
            if not self.is_fsdp_enabled:  # which stores the state of the optimizer by names
                name_parameters(self.optimizer, model)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.args.lr_drops is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda step: drop_factor(step, num_training_steps, self.args.lr_drops, warmup),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.clip_loss.training = model.training
        return super().compute_loss(model, *args, **kwargs)

    def _init_training_state(self, max_steps, steps_of_epoch, num_epochs, checkpoint, trial) -> tuple[int, int]:
        """
        The epoch to go on with, and how many of its batches are done. Trainer believes that a pass over a stream is as
        long as the training, so only its state says how many passes have ended. It would also add a step to a training
        that is finished.
        """
        place = super()._init_training_state(max_steps, steps_of_epoch, num_epochs, checkpoint, trial)
        if self.state.global_step >= max_steps:
            return num_epochs, 0
        if checkpoint is None or not isinstance(self.train_dataset, ClipStream):
            return place
        stored = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))  # its max_steps may be another
        passes, part = divmod(stored.epoch, 1)
        if self.args.ignore_data_skip:
            return int(passes), 0
        StreamOrder(self._stream_order()).check(stored, checkpoint)
        batches = round(part * stored.max_steps * self.args.gradient_accumulation_steps)
        self.train_dataset.start_at(int(passes), batches, self._train_batch_size)
        return int(passes), batches

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's evaluation, with a loss that is the mean over all readable clips and not over batches."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if output.predictions is not None and output.label_ids is not None:
            scores, labels = readable(output.predictions, output.label_ids)
            if not len(labels):
                where = "" if self.skipped is None else f"; {self.skipped.path} says why"
                raise UnreadableClipsError(
                    f"None of the {output.num_samples} clips to validate with can be read{where}"
                )
            self.clip_loss.training = False
            loss = self.clip_loss({"logits": torch.from_numpy(scores)}, torch.from_numpy(labels))
            output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        step = self.state.global_step
        if self._last_log is None:
            self._last_log = (time.monotonic(), step)
        self._place = (step, self._place[1] + 1 if self._place[0] == step else 0)
        torch.manual_seed(_mixed_seed(self.args.seed, *self._place, self.args.process_index))
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the number of clips a second since the last time, including evaluations in between."""
        if "loss" in logs and self._last_log is not None:
            (then, step), now = self._last_log, (time.monotonic(), self.state.global_step)
            logs["samples_per_second"] = (now[1] - step) * self.args.total_batch_size / (now[0] - then)
            self._last_log = now
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save also what Trainer leaves out: the image processor, and the config and processor beside FSDP's shards."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.processing_class.image_processor().save_pretrained(folder)
            self.accelerator.unwrap_model(self.model).config.save_pretrained(folder)
            if self.is_fsdp_enabled:
                self.processing_class.save_pretrained(folder)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        try:
            with saving(folder, self.args.output_dir):
                super()._save_checkpoint(model, trial)
        except CheckpointError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Keep the README.md that is there. `push_to_hub` would replace it by one that says less."""


@contextlib.contextmanager
def saving(folder: str | os.PathLike, output_dir: str | os.PathLike) -> Iterator[None]:
    """
    The block saves a model to a folder, in a training whose checkpoints are in `output_dir`.

    Raises:
        CheckpointError: where the folder can't be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # of Python, torch.save and safetensors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{folder} can't be written: {reason}. Is the disk full? {resume_hint(output_dir)}"
        ) from error


def _mixed_seed(*numbers: int) -> int:
    """A seed made of several numbers, which is quite different if any of them changes."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def clip_metrics(prediction: EvalPrediction, multi_label: bool = False) -> dict[str, float]:
    """
    The metrics of the clips that could be read, for `compute_metrics` of a Trainer: `accuracy`, `top_5_accuracy` (with
    more than five labels) and `mean_class_accuracy`. With `multi_label`: `mean_average_precision` (if any clip has a
    label) and `label_accuracy`, the share of right answers to the yes-no questions, most of which are no.
    """
    scores, labels = readable(prediction.predictions, prediction.label_ids)
    if not len(labels):
        return {}
    if multi_label:
        metrics = {"mean_average_precision": mean_average_precision(scores, labels)} if labels.any() else {}
        return metrics | {"label_accuracy": float(((scores > 0) == (labels > 0.5)).mean())}
    metrics = {"accuracy": top_k_accuracy(scores, labels)}
    if scores.shape[1] > 5:
        metrics["top_5_accuracy"] = top_k_accuracy(scores, labels, 5)
    return metrics | {"mean_class_accuracy": mean_class_accuracy(scores.argmax(axis=1), labels)}


def readable(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels without those of clips that couldn't be read."""
    kept = readable_clips(labels)
    return scores[kept], labels[kept]

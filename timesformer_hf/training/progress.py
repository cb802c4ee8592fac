"""What a training says: what it is going to do, a line for each epoch, and what to do if it has learnt nothing."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from transformers.trainer_callback import ProgressCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from ..data.clip_augmentation import ClipAugmentation
from ..data.labelled_videos import LabelledVideos
from .trainer import ClipTrainer


_CLASSES_SHOWN = 10
_METRICS = {"eval_accuracy": "accuracy", "eval_mean_average_precision": "mean average precision"}


def describe_training(
    trainer: ClipTrainer, train, validation, recipe: str, augmentation: ClipAugmentation, mirrored: Sequence[str] = ()
) -> str:
    """
    Return what a training is going to do, as lines of text.

    Args:
        train, validation: the videos or streams of them; `validation` may be `None`.
        recipe: the name of the recipe.
        augmentation: what is done to the clips.
        mirrored: two labels that flips would exchange, if flips were turned off because of them.
    """
    model, processor = trainer.model, trainer.processing_class
    trained, total = trainer.get_num_trainable_parameters(), sum(p.numel() for p in model.parameters())
    lines = {
        "classes": _classes(train, validation),
        "held out": _held_out(train, validation),
        "clips": f"{processor.num_frames} frames, {_sampling(processor)}, {_size(processor)}",
        "parameters": f"{trained:,} of {total:,} are trained ({trained / total:.2%})",
        "recipe": f"{recipe}: {_schedule(trainer, train)}",
        "augmentation": _describe_augmentation(augmentation),
        "device": _device(trainer.args),
    }
    if mirrored:
        one, other = mirrored
        lines["flips"] = f"none, because they would exchange {one!r} and {other!r}; --flip 0.5 turns them on"
    return "\n".join(f"{name + ':':<14}{text}" for name, text in lines.items())


def _classes(train, validation) -> str:
    """Return the classes with their numbers of videos: `2: cat 12, dog 10`."""
    names = train.label_names
    if not isinstance(train, LabelledVideos):
        return f"{len(names)}: {', '.join(names[:_CLASSES_SHOWN])}{', ...' if len(names) > _CLASSES_SHOWN else ''}"
    videos = [*train, *(validation if isinstance(validation, LabelledVideos) else ())]
    counts = Counter(label for video in videos for label in video.labels)
    if len(names) > _CLASSES_SHOWN:
        return f"{len(names)}, of {min(counts[name] for name in names)} to {max(counts.values())} videos each"
    return f"{len(names)}: {', '.join(f'{name} {counts[name]}' for name in names)}"


def _held_out(train, validation) -> str:
    if validation is None:
        return "nothing"
    if not isinstance(train, LabelledVideos) or not isinstance(validation, LabelledVideos):
        return "a split of its own"
    return f"{len(validation)} of {len(train) + len(validation)} videos, to validate with"


def _sampling(processor) -> str:
    rate = processor.frame_sampling_rate
    policy = processor.frame_sampling or ("center" if rate else "uniform")
    return policy if policy in ("uniform", "segments") else f"{policy}, {rate} frames of the video apart"


def _size(processor) -> str:
    height, width = processor.clip_size
    return f"{height} x {width} pixels, {'cropped' if processor.do_center_crop else 'squeezed'}"


def _schedule(trainer: ClipTrainer, train) -> str:
    args = trainer.args
    if args.max_steps > 0:
        length = f"{args.max_steps} step{'s' if args.max_steps > 1 else ''}"
    else:
        steps = max(1, math.ceil(len(train) / args.total_batch_size))
        length = f"{args.num_train_epochs:g} epochs of {steps} step{'s' if steps > 1 else ''}"
    return f"{length} of {args.total_batch_size} clips, {args.optim.value}, learning rate {args.learning_rate:.3g}"


def _describe_augmentation(augmentation: ClipAugmentation) -> str:
    """Return every augmentation in a line, with those that are off left out, but for the flip."""
    low, high = augmentation.jitter
    parts = [f"crops from {low:.3g} to {high:.3g} times the size"]
    parts.append(f"flips of {augmentation.flip:.0%} of the clips" if augmentation.flip else "no flips")
    if augmentation.rand_augment:
        parts.append(f"RandAugment {augmentation.rand_augment} of magnitude {augmentation.magnitude}")
    parts += [f"{name} {getattr(augmentation, name):g}" for name in ("mixup", "cutmix") if getattr(augmentation, name)]
    return ", ".join(parts)


def _device(args) -> str:
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    count = torch.get_num_threads()
    where = f"{args.world_size} x {name}" if args.world_size > 1 else name
    threads = f", {count} thread{'s' if count > 1 else ''}" if args.device.type == "cpu" else ""
    return f"{where}, {dtype}{threads}, {args.dataloader_num_workers} processes that decode"


class EpochLines(TrainerCallback):
    """
    Prints a line for each epoch, or for each evaluation if these are by steps: losses, accuracy, seconds, time left.

    After the first few steps it also prints how long all of it will take.

    Attributes:
        losses: the mean training loss of each line so far.
        epochs: how many epochs the training has; 0 if it has a number of steps.
    """

    _EARLY = 4  # steps; the first one is slower than the others

    def __init__(self, write: Callable[[str], None] | None = None):
        self.write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self.losses: list[float] = []
        self.epochs = 0.0
        self._since_line: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = self.last = time.monotonic()
        self.first_step = state.global_step
        self.epochs = 0.0 if args.max_steps > 0 else args.num_train_epochs

    def on_step_end(self, args, state, control, **kwargs):
        done = state.global_step - self.first_step
        if done == 1:
            self.first_seconds = time.monotonic() - self.start
        if done == self._EARLY and state.max_steps > state.global_step:
            seconds = (time.monotonic() - self.start - self.first_seconds) / (done - 1)
            self._say(state, f"expected:     {_duration(seconds * (state.max_steps - self.first_step))} for all steps")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self._since_line.append(logs["loss"])

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self._line(args, state, metrics or {})

    def on_epoch_end(self, args, state, control, **kwargs):
        if args.eval_strategy == IntervalStrategy.NO:
            self._line(args, state, {})

    def _line(self, args, state, metrics: dict) -> None:
        now = time.monotonic()
        by_epoch = args.max_steps <= 0 and args.eval_strategy != IntervalStrategy.STEPS
        place = f"epoch {round(state.epoch or 0)} of {math.ceil(args.num_train_epochs)}"
        parts = [place if by_epoch else f"step {state.global_step} of {state.max_steps}"]
        if self._since_line:
            self.losses.append(sum(self._since_line) / len(self._since_line))
            self._since_line = []
            parts.append(f"loss {self.losses[-1]:.4f}")
        if "eval_loss" in metrics:
            parts.append(f"validation loss {metrics['eval_loss']:.4f}")
        parts += [f"validation {word} {metrics[name]:.2%}" for name, word in _METRICS.items() if name in metrics]
        parts.append(f"{now - self.last:.1f} s")
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        if left > 0 and done > 0:
            parts.append(f"{_duration((now - self.start) / done * left)} left")
        self.last = now
        self._say(state, ", ".join(parts))

    def _say(self, state, line: str) -> None:
        if state.is_world_process_zero:
            self.write(line)

    def has_hardly_moved(self) -> bool:
        """Whether the training loss fell by less than a twentieth from the first line to the best of all."""
        return len(self.losses) > 1 and min(self.losses) > 0.95 * self.losses[0]


def _duration(seconds: float) -> str:
    """Return a time in words: `about 40 s`, `about 12 min`, `about 3.5 h`."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h"


class StepBar(ProgressCallback):
    """The Trainer's progress bar, without the lines that it prints for each entry of the log."""

    def on_log(self, args, state, control, **kwargs):
        """Print nothing: `EpochLines` does."""

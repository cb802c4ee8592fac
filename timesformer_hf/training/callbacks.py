"""What happens beside the steps of a training: the epoch is set, unreadable clips are counted, signals are answered."""

import json
import os
import signal
import threading
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy

from ..data.clip_dataset import EpochSampler, SkippedClips
from ..output.terminal import video_error
from ..video.printable import printable


class UnreadableClipsError(ValueError):
    """More clips can't be read than the caller allows. The message names some and says why."""


class TrainingInterrupted(Exception):  # noqa: N818 - it is not an error
    """
    A signal asked the training to stop. The message says how it goes on.

    Attributes:
        signal_number: the number of the signal.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def last_checkpoint(folder: str | os.PathLike) -> Path | None:
    """
    The newest whole checkpoint in the output folder of a Trainer, if there is one. The Trainer writes
    `trainer_state.json` last, so in a checkpoint that was cut off it is missing or damaged.
    """
    numbered = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in Path(folder).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    }
    return next((numbered[number] for number in sorted(numbered, reverse=True) if _is_whole(numbered[number])), None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that is written last can be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def resume_hint(folder: str | os.PathLike) -> str:
    """A sentence that says how a training that ended early goes on."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "There is no checkpoint yet; start anew."
    return f"The last whole checkpoint is {checkpoint}; the same command with --resume goes on from there."


class EpochCallback(TrainerCallback):
    """
    Sets the epoch of the sampler. accelerate sets it too, but not in several processes that go on in the middle of an
    epoch.
    """

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state: TrainerState, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class UnreadableClipsCallback(TrainerCallback):
    """
    Stops the training when more than `max_unreadable` clips can't be read.

    Raises:
        UnreadableClipsError: after the step in which there are too many.
    """

    def __init__(self, skipped: SkippedClips, max_unreadable: int):
        self.skipped, self.max_unreadable = skipped, max_unreadable

    def check(self, *args, **kwargs) -> None:
        """Raise the error if too many clips can't be read."""
        unreadable = self.skipped.read()
        if len(unreadable) > self.max_unreadable:
            examples = [video_error(printable(name), printable(reason)) for name, reason in unreadable.items()]
            more = f"\n  and {len(examples) - 3} more" if len(examples) > 3 else ""
            raise UnreadableClipsError(
                f"Clips that can't be read: {len(examples)}; allowed are {self.max_unreadable} (--max_unreadable, "
                f"--strict). {self.skipped.path} lists them:\n  " + "\n  ".join(examples[:3]) + more
            )

    def on_step_end(self, *args, **kwargs):
        self.check()

    def on_prediction_step(self, *args, **kwargs):
        self.check()


class InterruptionCallback(TrainerCallback):
    """
    On ctrl-C or SIGTERM, ends the step, saves a checkpoint and stops the training. A second signal stops it at once.
    Several processes may be at different steps, so none of them saves: they stop at once and leave the last checkpoint.

    Raises:
        TrainingInterrupted: when the training has stopped.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received: int | None = None
        self.handlers: dict[int, object] = {}
        self.folder, self.process, self.can_save = "", os.getpid(), False

    def on_train_begin(self, args, state, control, **kwargs):
        self.folder, self.process = args.output_dir, os.getpid()
        self.can_save = args.world_size == 1 and args.save_strategy != IntervalStrategy.NO
        in_main_thread = threading.current_thread() is threading.main_thread()  # no other thread can set handlers
        for number in self.SIGNALS if in_main_thread else ():
            self.handlers[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame) -> None:
        """Handle a signal."""
        if os.getpid() != self.process:  # a worker, which has inherited this; ctrl-C reaches it too
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if not self.can_save or self.received is not None:
            self.stop(number)
        self.received = number

    def stop(self, number: int) -> None:
        """Stop the training at once."""
        self.restore()
        raise TrainingInterrupted(f"interrupted. {resume_hint(self.folder)}", number)

    def restore(self) -> None:
        """Set the handlers that were there before the training."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self.received is not None:
            control.should_save, control.should_evaluate = True, False
        return control

    def on_save(self, args, state, control, **kwargs):
        if self.received is not None:
            self.stop(self.received)

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

"""`timesformer-hf finetune`: train a model on videos of your own."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..output.extras import check_packages


if TYPE_CHECKING:
    from ..training.progress import EpochLines
    from ..training.report import TrainingReport
    from ..training.trainer import ClipTrainer, ClipTrainingArguments


PROGRAM = "timesformer-hf finetune"
_USAGE = f"{PROGRAM} [SETTINGS.yaml] --data DATA --model MODEL --output_dir FOLDER [options]"
DESCRIPTION = """\
examples:
  timesformer-hf finetune --data videos/ --model facebook/timesformer-base-finetuned-k400 --reset_head \\
      --output_dir my-model
  timesformer-hf finetune settings.yaml --output_dir my-model --learning_rate 1e-4
  timesformer-hf finetune settings.yaml --output_dir my-model --resume
  torchrun --nproc_per_node 8 -m timesformer_hf finetune settings.yaml --output_dir my-model

Train a model on videos of your own. videos/ has a folder for each class. A part of the videos is held out, and the
accuracy on them is printed at the end. Then my-model is a model like any other:

  timesformer-hf classify clip.mp4 --model my-model

docs/training.md has the recipes, LoRA, unbalanced and multi-label sets, streaming, and what to do when something fails.
--verbose shows the warnings of other packages too.
"""


_FEW_STEPS = 200
_TOO_FEW = (
    "timesformer-hf: {} steps are few, as sets of few clips have. If the accuracy still rises, try {:g} --epochs and a "
    "threefold --lr\n"
)
_NOT_LEARNT = (
    "timesformer-hf: the training loss has hardly moved, from {:.4f} to {:.4f}, so little has been learnt.\n"
    "  Try a threefold --lr, more --epochs, or less augmentation: --rand_augment 0 --mixup 0 --cutmix 0.\n"
    '  docs/training.md says more, in "When something fails"\n'
)


def add_parser(commands) -> None:
    parser = commands.add_parser("finetune", help="train a model on videos of your own", add_help=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as `args.words` say; returns 128 + the number of a signal that stopped it, 1 where memory is too small."""
    _check_extra(args.words)
    import torch
    from accelerate.utils.memory import should_reduce_batch_size
    from transformers.utils import logging

    from ..training.callbacks import TrainingInterrupted

    logging.disable_progress_bar()  # of single files; that of the training stays
    *others, training = parse_arguments(args.words)
    try:
        finetune(*others, training)
    except TrainingInterrupted as stop:
        print(f"timesformer-hf: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except BrokenPipeError as error:  # of a worker process: the main program would take it for the end of `| head`
        print(f"timesformer-hf: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
        print(f"timesformer-hf: {_out_of_memory_message(training, error)}", file=sys.stderr)
        return 1
    return 0


def _check_extra(words: Sequence[str]) -> None:
    """
    Check that the packages for training are installed, before torch is imported, which takes seconds.

    Raises:
        ImportError: naming those that are missing.
    """
    from_file = words and words[0].endswith((".json", ".yaml", ".yml"))  # which may choose other reports
    reports = from_file or any(word.startswith("--report_to") for word in words)
    if not {"-h", "--help"} & set(words):
        check_packages("finetune", ("matplotlib",) if reports else ("matplotlib", "tensorboard"), "train")


def parse_arguments(words: Sequence[str]) -> tuple:
    """
    The options of model, data, augmentation and training.

    Raises:
        ValueError: for a file of settings that can't be used, or an unknown recipe.
    """
    from ..training.arguments import ARGUMENTS, default_arguments, parse_with_recipe

    return parse_with_recipe(ARGUMENTS, words, default_arguments(), DESCRIPTION, PROGRAM, _USAGE)


def finetune(model_args, data_args, augmentation_args, training: "ClipTrainingArguments") -> None:
    """Say what the training will do, train, measure and save the model, and say how good it is."""
    from tqdm import tqdm

    from ..training.finetune import finish_training, prepare_training
    from ..training.progress import EpochLines, describe_training

    prepared = prepare_training(model_args, data_args, augmentation_args, training)
    trainer = prepared.trainer
    is_main = trainer.is_world_process_zero()
    data, augmentation = prepared.data, prepared.augmentation
    if is_main:
        plan = describe_training(
            trainer, data.train, data.validation, model_args.recipe, augmentation, prepared.mirrored
        )
        print(plan, file=sys.stderr, flush=True)
    lines = EpochLines(None if training.disable_tqdm else lambda line: tqdm.write(line, file=sys.stderr))
    trainer.add_callback(lines)
    trainer.train(resume_from_checkpoint=prepared.checkpoint)
    report = finish_training(trainer, data, model_args, data_args, augmentation)
    if is_main:
        print(summary(trainer, report))
        if not report.is_good():
            print(_advice(lines, trainer.state.global_step), end="", file=sys.stderr)
    if training.push_to_hub:
        trainer.push_to_hub()


def _advice(lines: "EpochLines", steps: int) -> str:
    """Return what to try, as a line that ends, if a training that isn't good has learnt little or was short."""
    if lines.has_hardly_moved():
        return _NOT_LEARNT.format(lines.losses[0], min(lines.losses))
    if lines.epochs and 0 < steps < _FEW_STEPS:
        return _TOO_FEW.format(steps, math.ceil(_FEW_STEPS / steps * lines.epochs))
    return ""


def summary(trainer: "ClipTrainer", report: "TrainingReport") -> str:
    """The last lines of a training: how good the model is, where it is, and how it is tried."""
    from ..training.adapters import has_adapters
    from ..training.finetune import SKIPPED_FILE

    folder, unreadable = trainer.args.output_dir, len(trainer.skipped.read())
    lines = [report.summary()]
    if unreadable:
        lines.append(f"clips that couldn't be read: {unreadable}, see {Path(folder, SKIPPED_FILE)}")
    names = ("README.md", "results.json", "curves.png", "confusion_matrix.png")
    files = ", ".join(name for name in names if Path(folder, name).exists())
    if has_adapters(trainer.model):
        lines.append(f"{folder}: adapters of {report.base_model}, {files}; README.md shows how they are used")
    else:
        lines.append(f"{folder}: the model, {files}")
        lines.append(f"try it: timesformer-hf classify CLIP.mp4 --model {folder}")
    return "\n".join(lines)


def _out_of_memory_message(training: "ClipTrainingArguments", error: Exception) -> str:
    """What to do where the memory is too small for a step."""
    return (
        f"out of memory with {training.per_device_train_batch_size} clips at once ({str(error).splitlines()[0]}).\n"
        "  Lower --per_device_train_batch_size, and raise --gradient_accumulation_steps by as much: the result is the "
        "same,\n  but for --mixup and --cutmix, which mix the clips that are computed at once.\n"
        "  --gradient_checkpointing and --bf16 need less memory a clip, as do fewer --num_frames, a smaller "
        "--image_size,\n  --freeze and --lora_rank. While validating: --per_device_eval_batch_size"
    )

"""
The options of `timesformer-hf finetune`. A value comes from a recipe, a file of settings or the command line.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser

from ..data.clip_augmentation import ClipAugmentation
from ..output.options import HelpFormatter, check_options, nearest_option, option
from ..video.decoding_plan import count_cores
from ..video.video_sampling import FRAME_SAMPLING
from .recipes import RECIPES, find_recipe
from .trainer import ClipTrainingArguments


@dataclass
class ModelArguments:
    """The options that choose the model and what of it is trained."""

    _argument_group_name = "the model"

    recipe: str | None = option(
        None, "The defaults of the other options. (None: modern with --model, scratch without)", RECIPES
    )
    model: str | None = option(None, "Folder or Hub name of a TimeSformer or of an image ViT to start from.")
    config: str | None = option(None, "In place of --model: folder or JSON file of the config of a new model.")
    config_overrides: str | None = option(None, "Fields of a new model: hidden_size=192,num_hidden_layers=4")
    attention_type: str | None = option(None, "The attention scheme, such as divided_space_time or joint_space_time.")
    num_frames: int | None = option(None, "Frames of a clip. (None: the checkpoint's)")
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Side of a frame in pixels, or height and width. (None: the checkpoint's)"}
    )
    frame_sampling: str | None = option(None, "How frames are chosen. (None: as the model does)", tuple(FRAME_SAMPLING))
    frame_sampling_rate: int | None = option(None, "Frames of the video from one of the clip to the next.")
    reset_head: bool = option(False, "Start a new head, where the checkpoint has other labels.")
    drop_path_rate: float | None = option(None, "Stochastic depth of the last block.")
    attn_implementation: str | None = option(None, "sdpa, eager, flash_attention_2, ...")
    freeze: str | None = option(None, "Don't train 'backbone' (all but the head), 'embeddings', or N first blocks.")
    lora_rank: int = option(0, "Train low-rank adapters of this rank, such as 8 or 16, with PEFT; 0: train everything.")
    lora_alpha: float | None = option(None, "Scale of the adapters times their rank. (None: twice the rank)")
    lora_dropout: float = option(0.0, "Dropout before the adapters.")
    merge_lora: bool = option(True, "Save the model with the adapters merged in, beside adapter/.")
    motion_start: bool = option(False, "Give a new model initial values from which it learns motion.")


@dataclass
class DataArguments:
    """The options that choose the videos, their labels and what is held out."""

    _argument_group_name = "the data"

    data: str = field(
        metadata={"help": "A folder with a folder for each class; a .csv or .parquet with path and label; a Hub name."}
    )
    data_config: str | None = option(None, "Config of a Hub data set that has several.")
    validation_data: str | None = option(None, "The same, to validate with. (None: a split or a part of --data)")
    train_split: str = option("train", "Split to train with, where --data has splits.")
    validation_split: str = option("validation", "Split to validate with, where --data has it.")
    validation_share: float = option(0.2, "The part of each class that is held out where there is nothing else.")
    labels: str | None = option(
        None, "A text file with a label a line, or kinetics400, ...: all labels in order; numbers in --data are lines."
    )
    multi_label: bool | None = option(None, "Whether a video can have several labels. (None: look at the data)")
    split_seed: int = option(0, "Seed of the choice of what is held out; the same for runs that are compared.")
    class_weights: bool = option(False, "Give each class the same weight, however few videos it has.")
    strict: bool = option(False, "Stop at the first clip that can't be read.")
    max_unreadable: float = option(0.1, "Stop where more than this share of the clips can't be read.")
    streaming: bool = option(False, "Read --data as it is needed and store nothing; needs --max_steps.")
    shuffle_buffer: int = option(256, "Videos that a stream is shuffled among.")


@dataclass
class AugmentationArguments:
    """
    The options of what is done to the clips while training, see [`ClipAugmentation`].

    Attributes:
        flip_is_given: whether the user gave `flip`, and not a recipe. It is not an option.
    """

    _argument_group_name = "augmentation, of whole clips"

    jitter: list[float] = field(
        default_factory=lambda: [1.0, 320 / 224],
        metadata={"help": "Range of a frame's shorter side (squeezed: of both) before it is cropped, in crops."},
    )
    flip: float = option(0.5, "Probability of a horizontal flip. (Not given: 0 where labels name left and right)")
    rand_augment: int = option(0, "Operations of RandAugment a clip.")
    magnitude: int = option(9, "Magnitude of these operations, 0 to 30.")
    mixup: float = option(0.0, "Parameter of mixup.")
    cutmix: float = option(0.0, "Parameter of cutmix.")
    flip_is_given: bool = field(default=False, init=False)

    def augmentation(self) -> ClipAugmentation:
        """Return the options as the package takes them."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        return ClipAugmentation(**values | {"jitter": tuple(self.jitter)})


ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, ClipTrainingArguments)


def default_arguments() -> dict:
    """The defaults that suit most people better than those of TrainingArguments. A recipe replaces them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return {
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "dataloader_num_workers": min(8, max(1, count_cores() // processes)),
        "dataloader_persistent_workers": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,  # there are none
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "tensorboard",
        "disable_tqdm": not sys.stderr.isatty(),
    }


_ABOUT_SETTINGS = """
A first argument that is a .json or .yaml file holds any of the options below, by name. The defaults shown are those of
the recipe: --recipe modern --help shows its.
"""


def parse_with_recipe(
    dataclasses: Sequence[type], arguments: Sequence[str], defaults: dict, description: str, prog: str, usage: str
) -> tuple:
    """
    Parse arguments into dataclasses, of which one has `recipe` and `model` and one `output_dir`.

    A value comes from the command line; or else from a first argument that is a .json, .yaml or .yml file; or else from
    the recipe (without one named: `modern`, or `scratch` where there is no model); or else from `defaults`.

    Args:
        description, prog, usage: for the help.

    Raises:
        ValueError: for a file that can't be used, an unknown option or an unknown recipe.
    """
    parser = HfArgumentParser(
        dataclasses,
        prog=prog,
        usage=usage,
        description=description + _ABOUT_SETTINGS,
        formatter_class=HelpFormatter,
    )
    settings, arguments = {}, list(arguments)
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        settings = read_settings(arguments.pop(0), {name.removeprefix("--") for name in parser._option_string_actions})
    recipe = _choose_recipe(arguments, settings)
    parser.set_defaults(**defaults | find_recipe(recipe).defaults | {"recipe": recipe})
    for action in parser._actions:
        action.required = action.required or action.dest == "output_dir"
    words = [*_as_arguments(settings), *arguments]
    *parsed, unknown = parser.parse_args_into_dataclasses(
        words, look_for_args_file=False, return_remaining_strings=True
    )
    check_options(unknown, parser._option_string_actions)
    parser.set_defaults(flip=None)
    for part in parsed:
        if isinstance(part, AugmentationArguments):
            part.flip_is_given = parser.parse_known_args(words)[0].flip is not None
    return tuple(parsed)


def _as_arguments(settings: dict) -> list[str]:
    """
    The settings of a file as words of a command line, so that they are parsed and refused as those are. A setting that
    is null gives no words.
    """
    words = []
    for name, value in settings.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            words.append(f"--{name}={json.dumps(value)}")
        elif value is not None:  # YAML reads `save_strategy: no` as False
            words.append(f"--{name}={'no' if value is False else value}")
    return words


def _choose_recipe(arguments: Sequence[str], settings: dict) -> str:
    """The recipe that the command line or the file names; without one, the one for this kind of start."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("recipe", "model"):
        parser.add_argument(f"--{name}", default=settings.get(name))
    known, _ = parser.parse_known_args(arguments)
    return known.recipe or ("modern" if known.model else "scratch")


def read_settings(path: str, known: set[str]) -> dict:
    """
    The options in a file of settings, by their names.

    Args:
        path: of a JSON or YAML file.
        known: the names of all options.

    Raises:
        ValueError: for a file that holds something else than options by their names.
        FileNotFoundError: where there is no such file.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither JSON nor YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options by their names, as data: videos/")
    for name in values:
        if name not in known:
            raise ValueError(f"{path}: there is no option {name!r}{nearest_option(str(name), known)}")
    return values

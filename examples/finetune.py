"""
Fine-tune a TimeSformer on videos of your own:

    python examples/finetune.py --data videos/ --model facebook/timesformer-base-finetuned-k400 --reset_head \\
        --output_dir my-model

videos/ has a folder for each class. A part of the videos is held out, and the accuracy on them printed at the end. Then
my-model is a model like any other:

    timesformer-hf classify clip.mp4 --model my-model

docs/training.md has the recipes, LoRA, unbalanced and multi-label sets, streaming, and what to do when something fails.
"""

import itertools
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate.utils.memory import should_reduce_batch_size
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import set_seed
from transformers.utils import logging

from timesformer_hf import (
    RECIPES,
    ClipAugmentation,
    ClipCollator,
    ClipDataset,
    ClipLoader,
    ClipLoss,
    ClipTrainer,
    ClipTrainingArguments,
    LabelledVideos,
    SkippedClips,
    TimesformerConfig,
    add_lora,
    choose_splits,
    freeze,
    make_clip_transform,
    read_labelled_videos,
    read_labels,
    start_from_checkpoint,
    start_from_scratch,
)
from timesformer_hf.data.clip_dataset import ClipStream
from timesformer_hf.data.hub_videos import VideoStream
from timesformer_hf.data.labelled_videos import name_split
from timesformer_hf.output.figures import check_can_plot
from timesformer_hf.training.adapters import has_adapters
from timesformer_hf.training.arguments import parse_with_recipe
from timesformer_hf.training.callbacks import TrainingInterrupted
from timesformer_hf.training.folder import check_same_model, find_checkpoint, write_splits
from timesformer_hf.training.losses import balanced_class_weights
from timesformer_hf.training.motion_start import start_for_motion
from timesformer_hf.training.report import TrainingReport
from timesformer_hf.training.trainer import clip_metrics


# Files with an underscore in front stay here when the folder is pushed to the Hub: they name files of this machine.
SPLIT_FILE = "_split.csv"
SKIPPED_FILE = "_skipped_clips.csv"

logger = logging.get_logger("finetune")


def option(default, help: str, choices: Sequence[str] = ()):
    return field(default=default, metadata={"help": help} | ({"choices": list(choices)} if choices else {}))


@dataclass
class ModelArguments:
    _argument_group_name = "the model"

    recipe: str | None = option(None, "What the defaults are. (None: modern with --model, scratch without)", RECIPES)
    model: str | None = option(None, "Folder or Hub name of a TimeSformer or of an image ViT to start from.")
    config: str | None = option(None, "In place of --model: folder or JSON file of the config of a new model.")
    config_overrides: str | None = option(None, "Of a new model: hidden_size=192,num_hidden_layers=4")
    attention_type: str | None = option(None, "The attention scheme, such as divided_space_time or joint_space_time.")
    num_frames: int | None = option(None, "Frames of a clip. (None: the checkpoint's)")
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Side of a frame in pixels, or height and width. (None: the checkpoint's)"}
    )
    frame_sampling: str | None = option(None, "How frames are chosen: uniform, center, original or segments.")
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
    _argument_group_name = "the data"

    data: str = field(
        metadata={"help": "A folder with a folder for each class; a .csv or .parquet with path and label; a Hub name."}
    )
    data_config: str | None = option(None, "Config of a Hub data set that has several.")
    validation_data: str | None = option(None, "The same, to validate with. (None: a split or a part of --data)")
    train_split: str = option("train", "Split to train with, where --data has splits.")
    validation_split: str = option("validation", "Split to validate with, where --data has it.")
    validation_share: float = option(0.2, "Of each class, the part that is held out where there is nothing else.")
    labels: str | None = option(
        None, "A text file with a label a line, or kinetics400, ...: all labels in order; numbers in --data are lines."
    )
    multi_label: bool | None = option(None, "Whether a video can have several labels. (None: look at the data)")
    split_seed: int = option(0, "Of the choice of what is held out; the same for runs that are compared.")
    class_weights: bool = option(False, "Give each class the same say, however few videos it has.")
    strict: bool = option(False, "Stop at the first clip that can't be read.")
    max_unreadable: float = option(0.1, "Stop where more than this share of the clips can't be read.")
    streaming: bool = option(False, "Read --data as it is needed and store nothing; needs --max_steps.")
    shuffle_buffer: int = option(256, "Videos that a stream is shuffled among.")


@dataclass
class AugmentationArguments:
    _argument_group_name = "augmentation, of whole clips"

    jitter: list[float] = field(
        default_factory=lambda: [1.0, 320 / 224],
        metadata={"help": "Range of a frame's shorter side (squeezed: of both) before it is cropped, in crops."},
    )
    flip: float = option(0.5, "Probability of a horizontal flip; 0 where left and right matter.")
    rand_augment: int = option(0, "Operations of RandAugment a clip.")
    magnitude: int = option(9, "Of these, 0 to 30.")
    mixup: float = option(0.0, "Parameter of mixup.")
    cutmix: float = option(0.0, "Parameter of cutmix.")


ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, ClipTrainingArguments)
USAGE = "finetune.py [SETTINGS.yaml] --data DATA --model MODEL --output_dir FOLDER [options]"


def default_arguments() -> dict:
    """What suits most people better than TrainingArguments' own defaults; a recipe stands above it."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return {
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "dataloader_num_workers": min(8, max(1, (os.cpu_count() or 1) // processes)),
        "dataloader_persistent_workers": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,  # there are none
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "tensorboard",
    }


@dataclass
class Data:
    """
    What is trained and validated with.

    Attributes:
        train, validation: videos, or streams of them; `validation` may be `None`.
        label_names: all classes, in order.
        multi_label: whether a video can have several.
    """

    train: LabelledVideos | VideoStream
    validation: LabelledVideos | VideoStream | None
    label_names: list[str]
    multi_label: bool

    @property
    def problem_type(self) -> str:
        return "multi_label_classification" if self.multi_label else "single_label_classification"


def load_data(args: DataArguments, training: ClipTrainingArguments) -> Data:
    """
    Raises:
        ValueError, FileNotFoundError: for data that can't be trained or validated with; the message says why.
    """
    names = None if args.labels is None else read_labels(args.labels)
    if args.streaming:
        return load_streams(args, training, names)
    videos = read_labelled_videos(args.data, None, names, args.multi_label, args.data_config)
    validation = None if args.validation_data is None else load_validation_data(args, videos)
    train, validation = choose_splits(
        videos, args.validation_share, args.split_seed, args.train_split, args.validation_split, validation
    )
    return Data(train, validation, videos.label_names, videos.multi_label)


def load_validation_data(args: DataArguments, train: LabelledVideos) -> LabelledVideos:
    videos = read_labelled_videos(args.validation_data, None, train.label_names, train.multi_label, args.data_config)
    return videos.of_split(args.validation_split) if name_split(args.validation_split) in videos.splits else videos


def load_streams(args: DataArguments, training: ClipTrainingArguments, names: list[str] | None) -> Data:
    if training.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: the length of a stream is not known")
    multi_label = bool(args.multi_label)
    settings = {"label_names": names, "config": args.data_config, "multi_label": multi_label}
    shuffling = {"buffer_size": args.shuffle_buffer, "seed": training.seed}
    train = VideoStream(args.data, args.train_split, **settings, **shuffling)
    known = LabelledVideos([], train.label_names, multi_label)
    if args.validation_data is not None:
        validation = load_validation_data(args, known)
    elif training.eval_strategy == "no":
        validation = None
    else:
        validation = VideoStream(args.data, args.validation_split, **settings)
    return Data(train, validation, train.label_names, multi_label)


def start_model(args: ModelArguments, data: Data) -> tuple:
    """
    The model, its processor and the number of each label.

    Raises:
        ValueError, OSError: where the arguments or the checkpoint don't allow it.
    """
    if (args.model is None) == (args.config is None and args.config_overrides is None):
        raise ValueError("Give --model to start from, or --config or --config_overrides for a new model, and not both")
    size = None if args.image_size is None else args.image_size[0] if len(args.image_size) == 1 else args.image_size
    fields = {
        "attention_type": args.attention_type,
        "num_frames": args.num_frames,
        "image_size": size,
        "drop_path_rate": args.drop_path_rate,
        "attn_implementation": args.attn_implementation,
    }
    if args.model is None:
        config = new_config(args, {name: value for name, value in fields.items() if value is not None})
        model, processor, label2id = start_from_scratch(config, data.label_names, data.problem_type)
    else:
        model, processor, label2id = start_from_checkpoint(
            args.model, data.label_names, args.reset_head, data.problem_type, **fields
        )
    for name in ("frame_sampling", "frame_sampling_rate"):
        if getattr(args, name) is not None:
            setattr(processor, name, getattr(args, name))
    return restrict_training(args, model), processor, label2id


def new_config(args: ModelArguments, fields: dict) -> TimesformerConfig:
    config = TimesformerConfig() if args.config is None else TimesformerConfig.from_pretrained(args.config)
    implementation = fields.pop("attn_implementation", None)
    try:
        config = TimesformerConfig.from_dict(config.to_dict() | fields | read_overrides(args.config_overrides, config))
    except StrictDataclassFieldValidationError as error:  # a value of another type
        raise ValueError(f"--config_overrides: {error}") from error
    config._attn_implementation = implementation
    return config


def read_overrides(text: str | None, config: TimesformerConfig) -> dict:
    """
    The values of `hidden_size=192,image_size=[32,48]` by their names.

    Raises:
        ValueError: for another text, or a name that is no field of the config.
    """
    try:
        values = yaml.safe_load("{" + (text or "").replace("=", ": ") + "}")
    except yaml.YAMLError as error:
        raise ValueError(
            f"--config_overrides={text!r} must be names and values, as hidden_size=192,image_size=[32,48]"
        ) from error
    if unknown := [name for name in values if name not in config.to_dict()]:
        raise ValueError(f"--config_overrides: there is no field {unknown[0]!r} in the config")
    return values


def restrict_training(args: ModelArguments, model):
    """Freeze, or add adapters."""
    if args.freeze is not None and args.lora_rank:
        raise ValueError("--freeze and --lora_rank exclude each other: with adapters all else is frozen")
    if args.lora_rank and args.model is None and not args.merge_lora:
        raise ValueError("--merge_lora false needs --model: the new model that the adapters are for isn't saved")
    if args.freeze is not None:
        freeze(model, args.freeze)
    if not args.lora_rank:
        return model
    times = getattr(model.timesformer.embeddings, "time_embeddings", None)
    unborn = times is not None and not times.any()  # started from an image ViT
    return add_lora(model, args.lora_rank, args.lora_alpha, args.lora_dropout, train_embeddings=unborn)


def make_trainer(
    data: Data,
    data_args: DataArguments,
    augmentation: ClipAugmentation,
    training: ClipTrainingArguments,
    start: tuple,
    skipped: SkippedClips,
) -> ClipTrainer:
    model, processor, label2id = start
    settings = {"multi_label": data.multi_label, "num_labels": model.config.num_labels, "skipped": skipped}
    transform = make_clip_transform(augmentation, processor.clip_size, squeeze=not processor.do_center_crop)
    load = ClipLoader(processor, label2id, transform=transform, seed=training.seed, **settings)
    load_validation = ClipLoader(processor, label2id, **settings)
    weights = class_weights(data, label2id, model.config.num_labels) if data_args.class_weights else None
    return ClipTrainer(
        model=model,
        args=training,
        train_dataset=as_dataset(data.train, load),
        eval_dataset=None if data.validation is None else as_dataset(data.validation, load_validation),
        data_collator=ClipCollator(augmentation, model.config.num_labels),
        processing_class=processor,
        compute_metrics=lambda prediction: clip_metrics(prediction, data.multi_label),
        loss=ClipLoss(data.multi_label, weights, training.label_smoothing_factor),
        skipped=skipped,
        max_unreadable=0 if data_args.strict else math.floor(data_args.max_unreadable * count_clips(data, training)),
    )


def tell_what_is_trained(trainer: ClipTrainer) -> None:
    if trainer.is_world_process_zero():
        trained, total = trainer.get_num_trainable_parameters(), sum(p.numel() for p in trainer.model.parameters())
        print(f"finetune: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})", file=sys.stderr)


def as_dataset(videos: LabelledVideos | VideoStream, load: ClipLoader) -> ClipDataset | ClipStream:
    return ClipStream(videos, load) if isinstance(videos, VideoStream) else ClipDataset(videos, load)


def first_clips(dataset: ClipDataset | ClipStream, number: int = 64) -> torch.Tensor:
    """Some clips to train with, as `pixel_values`."""
    if isinstance(dataset, ClipDataset):  # they may be sorted by class
        items = (dataset[index] for index in range(0, len(dataset), math.ceil(len(dataset) / number)))
    else:
        items = itertools.islice(dataset, number)
    return torch.stack([item["pixel_values"] for item in items])


def count_clips(data: Data, training: ClipTrainingArguments) -> int:
    """Clips that are looked at, each once; of a stream those that it will have given."""
    if isinstance(data.train, VideoStream):
        return training.max_steps * training.total_batch_size
    return len(data.train) + len(data.validation)


def class_weights(data: Data, label2id: dict[str, int], num_labels: int) -> torch.Tensor:
    if isinstance(data.train, VideoStream):
        raise ValueError("--class_weights needs to know all labels; a stream's are not known before it is read")
    weights = torch.ones(num_labels)
    labels = [video.labels for video in data.train]
    numbers = [label2id[name] for name in data.label_names]
    weights[numbers] = balanced_class_weights(labels, data.label_names, data.multi_label)
    return weights


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation_args: AugmentationArguments,
    training: ClipTrainingArguments,
) -> None:
    augmentation = ClipAugmentation(**vars(augmentation_args) | {"jitter": tuple(augmentation_args.jitter)})
    check_can_plot("curves.png")  # not after hours of training
    checkpoint = find_checkpoint(training, data_args.data, data_args.validation_data)
    with training.main_process_first(desc="reading the data"):
        data = load_data(data_args, training)
    adjust(training, data, augmentation)
    set_seed(training.seed)
    start = start_model(model_args, data)
    if checkpoint is not None:
        check_same_model(start[0], checkpoint)
    with training.main_process_first(desc="starting the reports"):
        skipped = start_reports(data, training, start, resumed=checkpoint is not None)
    trainer = make_trainer(data, data_args, augmentation, training, start, skipped)
    if model_args.freeze is not None or model_args.lora_rank:
        tell_what_is_trained(trainer)
    if model_args.model is None and model_args.motion_start and checkpoint is None:
        start_for_motion(trainer.model, first_clips(trainer.train_dataset))
    trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer, data, model_args, data_args)


def adjust(training: ClipTrainingArguments, data: Data, augmentation: ClipAugmentation) -> None:
    """
    Settings that follow from the data, or are no choice here. Warns of clips that are never mixed.

    Raises:
        ValueError: for several processes that don't know of each other, which would train apart into one folder; and
            where no clip would be trained.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > training.world_size:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were started, but each would train alone: there is no accelerator. "
            "Give --use_cpu to train on CPUs together"
        )
    training.remove_unused_columns = False
    training.label_names = ["labels"]
    is_stream = isinstance(data.train, VideoStream)
    if is_stream or not training.dataloader_num_workers:  # those of a stream would repeat the first epoch's order
        training.dataloader_persistent_workers = False
    if not is_stream and training.logging_steps >= 1:  # often enough for a curve
        training.logging_steps = min(training.logging_steps, math.ceil(len(data.train) / training.total_batch_size))
    batch = training.train_batch_size * training.world_size
    if not is_stream and training.dataloader_drop_last and len(data.train) < batch:
        raise ValueError(
            f"--dataloader_drop_last drops all of {len(data.train)} clips to train with, which make no whole batch of "
            f"{batch}: leave it away, or lower --per_device_train_batch_size"
        )
    if data.multi_label:
        training.label_smoothing_factor = 0.0  # it is for a choice of one
    if (augmentation.mixup or augmentation.cutmix) and training.train_batch_size == 1:
        logger.warning("--mixup and --cutmix mix the clips of a batch, so none with --per_device_train_batch_size 1")


def start_reports(data: Data, training: ClipTrainingArguments, start: tuple, resumed: bool) -> SkippedClips:
    """
    The table of what is trained and validated with, and that of clips that can't be read. Of those that a continued
    training couldn't read, the ones that were not repaired since.
    """
    split, path = Path(training.output_dir, SPLIT_FILE), Path(training.output_dir, SKIPPED_FILE)
    if training.process_index:
        return SkippedClips(path)
    if not isinstance(data.train, VideoStream):
        write_splits({"train": data.train, "validation": data.validation}, split, resumed)
    before = SkippedClips(path).read() if resumed else {}
    path.unlink(missing_ok=True)
    skipped = SkippedClips(path)
    if before and not isinstance(data.train, VideoStream):  # which is read from its beginning again
        load = ClipLoader(*start[1:], data.multi_label, start[0].config.num_labels, skipped=skipped)
        for video in (*data.train, *data.validation):
            if video.name in before:
                load(video, (0, 0))
    return skipped


def finish(trainer: ClipTrainer, data: Data, model_args: ModelArguments, data_args: DataArguments) -> None:
    """Measure and save the model, and say how good it is."""
    settings = {"recipe": model_args.recipe}
    for name, videos in (("training_clips", data.train), ("validation_clips", data.validation)):
        settings |= {name: len(videos)} if isinstance(videos, LabelledVideos) else {}
    for name in ("lora_rank", "freeze"):
        settings |= {name: getattr(model_args, name)} if getattr(model_args, name) else {}
    data_name = Path(data_args.data).resolve().name if Path(data_args.data).exists() else data_args.data
    report = TrainingReport(data_name, model_args.model, settings, data.multi_label)
    if trainer.eval_dataset is not None:
        report.validate(trainer)
    save_model(trainer, model_args)
    if trainer.is_world_process_zero():
        trainer.save_state()
        report.write(trainer)
        print_summary(trainer, report)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def save_model(trainer: ClipTrainer, args: ModelArguments) -> None:
    """The model; of one with adapters these, and the model that they were merged into."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        if args.lora_rank:
            logger.warning("With FSDP adapters are saved, not merged")
    elif args.lora_rank and args.merge_lora:
        if trainer.is_world_process_zero():
            trainer.model.save_pretrained(Path(trainer.args.output_dir, "adapter"))
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    trainer.save_model(_internal_call=True)  # which doesn't push it yet: the README isn't there


def print_summary(trainer: ClipTrainer, report: TrainingReport) -> None:
    folder, unreadable = trainer.args.output_dir, len(trainer.skipped.read())
    print(report.summary())
    if unreadable:
        print(f"clips that couldn't be read: {unreadable}, see {Path(folder, SKIPPED_FILE)}")
    names = ("README.md", "results.json", "curves.png", "confusion_matrix.png")
    files = ", ".join(name for name in names if Path(folder, name).exists())
    if has_adapters(trainer.model):
        print(f"{folder}: adapters of {report.base_model}, {files}; README.md shows how they are used")
    else:
        print(f"{folder}: the model, {files}")
        print(f"try it: timesformer-hf classify CLIP.mp4 --model {folder}")


def out_of_memory_message(training: ClipTrainingArguments, error: Exception) -> str:
    return (
        f"out of memory with {training.per_device_train_batch_size} clips at once ({str(error).splitlines()[0]}).\n"
        "  Lower --per_device_train_batch_size, and raise --gradient_accumulation_steps by as much: the result is the "
        "same,\n  but for --mixup and --cutmix, which mix the clips that are computed at once.\n"
        "  --gradient_checkpointing and --bf16 need less memory a clip, as do fewer --num_frames, a smaller "
        "--image_size,\n  --freeze and --lora_rank. While validating: --per_device_eval_batch_size"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    training = None
    logging.disable_progress_bar()  # of single files; that of the training stays
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        *others, training = parse_with_recipe(ARGUMENTS, arguments, default_arguments(), __doc__, USAGE)
        run(*others, training)
    except TrainingInterrupted as stop:
        print(f"finetune: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except (ValueError, OSError, ImportError) as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
        print(f"finetune: {out_of_memory_message(training, error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

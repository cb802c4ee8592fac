"""
Fine-tuning, from the options to a model in a folder. `timesformer-hf finetune` calls [`prepare_training`], trains, and
calls [`finish_training`].
"""

import contextlib
import importlib.util
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PrinterCallback, ProgressCallback, set_seed
from transformers.utils import logging

from ..data.clip_augmentation import ClipAugmentation, ClipCollator, make_clip_transform
from ..data.clip_dataset import ClipDataset, ClipLoader, ClipStream, SkippedClips
from ..data.hub_videos import VideoStream
from ..data.label_lists import read_labels
from ..data.labelled_videos import LabelledVideos, name_split
from ..data.mirrored_labels import find_mirrored_labels
from ..data.reading import read_labelled_videos
from ..data.split_check import warn_of_near_duplicates
from ..data.training_splits import choose_splits
from ..model.configuration_timesformer import TimesformerConfig
from ..output.extras import check_packages
from ..output.hub import hub_or_stored
from ..output.model_cards import public_name
from ..video.video_errors import VideoReadError
from .adapters import add_lora
from .arguments import AugmentationArguments, DataArguments, ModelArguments
from .folder import check_same_model, find_checkpoint, write_splits
from .losses import ClipLoss, balanced_class_weights
from .motion_start import start_for_motion
from .progress import StepBar
from .report import TrainingReport
from .start import freeze, start_from_checkpoint, start_from_scratch
from .trainer import ClipTrainer, ClipTrainingArguments, clip_metrics, saving


# Files with an underscore in front stay here when the folder is pushed to the Hub: they name files of this machine.
_SPLIT_FILE = "_split.csv"
SKIPPED_FILE = "_skipped_clips.csv"

logger = logging.get_logger(__name__)


@dataclass
class Data:
    """
    The data of a training.

    Attributes:
        train, validation: videos, or streams of them; `validation` may be `None`.
        label_names: all classes, in order.
        multi_label: whether a video can have several labels.
    """

    train: LabelledVideos | VideoStream
    validation: LabelledVideos | VideoStream | None
    label_names: list[str]
    multi_label: bool

    @property
    def problem_type(self) -> str:
        """The name of the task in a model's config."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"


def load_data(args: DataArguments, training: ClipTrainingArguments) -> Data:
    """
    Read what the options name, and split it where it has no splits.

    Raises:
        ValueError, FileNotFoundError: for data that can't be trained or validated with; the message says why.
    """
    names = None if args.labels is None else read_labels(args.labels)
    if args.streaming:
        return _load_streams(args, training, names)
    videos = read_labelled_videos(args.data, None, names, args.multi_label, args.data_config)
    validation = None if args.validation_data is None else _load_validation_data(args, videos)
    train, validation = choose_splits(
        videos, args.validation_share, args.split_seed, args.train_split, args.validation_split, validation
    )
    return Data(train, validation, videos.label_names, videos.multi_label)


def _load_validation_data(args: DataArguments, train: LabelledVideos) -> LabelledVideos:
    """The videos of `--validation_data`, with the labels of those to train with."""
    videos = read_labelled_videos(args.validation_data, None, train.label_names, train.multi_label, args.data_config)
    return videos.of_split(args.validation_split) if name_split(args.validation_split) in videos.splits else videos


def _load_streams(args: DataArguments, training: ClipTrainingArguments, names: list[str] | None) -> Data:
    """
    The data with `--streaming`. From the number of epochs it decides how many steps to train, if that isn't given.

    Raises:
        ValueError: where it isn't known how many steps to train.
    """
    multi_label = bool(args.multi_label)
    settings = {"label_names": names, "config": args.data_config, "multi_label": multi_label}
    settings |= {"process_index": training.process_index, "num_processes": training.world_size}
    shuffling = {"buffer_size": args.shuffle_buffer, "seed": training.seed}
    train = VideoStream(args.data, args.train_split, **settings, **shuffling)
    if training.max_steps <= 0:
        if not train.num_videos:
            raise ValueError(f"--streaming needs --max_steps: {args.data} doesn't say how many videos it has")
        training.max_steps = math.ceil(training.num_train_epochs * train.num_videos / training.total_batch_size)
    known = LabelledVideos([], train.label_names, multi_label)
    if args.validation_data is not None:
        validation = _load_validation_data(args, known)
    elif training.eval_strategy == "no":
        validation = None
    else:
        validation = VideoStream(args.data, args.validation_split, **settings)
    return Data(train, validation, train.label_names, multi_label)


def start_model(args: ModelArguments, data: Data) -> tuple:
    """
    The model to train, its processor and the number of each label.

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
        config = _new_config(args, {name: value for name, value in fields.items() if value is not None})
        model, processor, label2id = start_from_scratch(config, data.label_names, data.problem_type)
    else:
        with hub_or_stored(args.model):
            model, processor, label2id = start_from_checkpoint(
                args.model, data.label_names, args.reset_head, data.problem_type, **fields
            )
    for name in ("frame_sampling", "frame_sampling_rate"):
        if getattr(args, name) is not None:
            setattr(processor, name, getattr(args, name))
    return restrict_training(args, model), processor, label2id


def _new_config(args: ModelArguments, fields: dict) -> TimesformerConfig:
    """
    The config of a new model.

    Raises:
        ValueError: for a field that doesn't exist, or a value of another type.
    """
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
        ValueError: for another text, or a name that is not a field of the config.
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
    """
    The model with frozen parts or with adapters, as the options say.

    Raises:
        ValueError: where the options exclude each other. ImportError: where PEFT is missing.
    """
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
    """The trainer for a model that [`start_model`] returned. It notes clips that can't be read in `skipped`."""
    model, processor, label2id = start
    settings = {"multi_label": data.multi_label, "num_labels": model.config.num_labels, "skipped": skipped}
    transform = make_clip_transform(augmentation, processor.clip_size, squeeze=not processor.do_center_crop)
    load = ClipLoader(processor, label2id, transform=transform, seed=training.seed, **settings)
    load_validation = ClipLoader(processor, label2id, **settings)
    weights = _class_weights(data, label2id, model.config.num_labels) if data_args.class_weights else None
    trainer = ClipTrainer(
        model=model,
        args=training,
        train_dataset=_as_dataset(data.train, load),
        eval_dataset=None if data.validation is None else _as_dataset(data.validation, load_validation),
        data_collator=ClipCollator(augmentation, model.config.num_labels),
        processing_class=processor,
        compute_metrics=lambda prediction: clip_metrics(prediction, data.multi_label),
        loss=ClipLoss(data.multi_label, weights, training.label_smoothing_factor),
        skipped=skipped,
        max_unreadable=0 if data_args.strict else math.floor(data_args.max_unreadable * _count_clips(data, training)),
    )
    for callback in (PrinterCallback, ProgressCallback):  # which print each entry of the log
        trainer.remove_callback(callback)
    if not training.disable_tqdm:
        trainer.add_callback(StepBar())
    return trainer


def _as_dataset(videos: LabelledVideos | VideoStream, load: ClipLoader) -> ClipDataset | ClipStream:
    """The dataset of a list or a stream of videos."""
    return ClipStream(videos, load) if isinstance(videos, VideoStream) else ClipDataset(videos, load)


def _first_clips(dataset: ClipDataset | ClipStream, number: int = 64) -> torch.Tensor:
    """Some clips to train with, as `pixel_values`."""
    if isinstance(dataset, ClipDataset):  # they may be sorted by class
        items = (dataset[index] for index in range(0, len(dataset), math.ceil(len(dataset) / number)))
    else:
        same_in_every_process = ClipStream(dataset.videos.of_all_processes(), dataset.load)
        items = itertools.islice(same_in_every_process, number)
    return torch.stack([item["pixel_values"] for item in items])


def _count_clips(data: Data, training: ClipTrainingArguments) -> int:
    """The number of different clips to train and validate with; for a stream the number that the training takes."""
    if isinstance(data.train, VideoStream):
        return training.max_steps * training.total_batch_size
    return len(data.train) + len(data.validation)


def _class_weights(data: Data, label2id: dict[str, int], num_labels: int) -> torch.Tensor:
    """
    The weight of each class of the model, float32 (labels,), see [`balanced_class_weights`].

    Raises:
        ValueError: for a stream.
    """
    if isinstance(data.train, VideoStream):
        raise ValueError("--class_weights needs to know all labels; a stream's are not known before it is read")
    weights = torch.ones(num_labels)
    labels = [video.labels for video in data.train]
    numbers = [label2id[name] for name in data.label_names]
    weights[numbers] = balanced_class_weights(labels, data.label_names, data.multi_label)
    return weights


@dataclass
class _Preparation:
    """
    A training that can begin.

    Attributes:
        trainer: with the model and the data.
        data: what it trains and validates with.
        checkpoint: the folder to go on from, if there is one and it was asked for.
        augmentation: what is done to the clips.
        mirrored: two labels because of which clips are not flipped.
    """

    trainer: ClipTrainer
    data: Data
    checkpoint: str | None
    augmentation: ClipAugmentation
    mirrored: Sequence[str]


def prepare_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation_args: AugmentationArguments,
    training: ClipTrainingArguments,
) -> _Preparation:
    """
    Read the data and start the model, and check all that can be checked before the training.

    Raises:
        ValueError, OSError, ImportError: where options, data or the checkpoint don't allow it, or a package is missing.
    """
    augmentation = augmentation_args.augmentation()
    check_extras(model_args, training)
    checkpoint = find_checkpoint(training, data_args.data, data_args.validation_data)
    with training.main_process_first(desc="reading the data"):
        data = load_data(data_args, training)
    is_decided = augmentation_args.flip_is_given or not augmentation.flip
    mirrored = None if is_decided else find_mirrored_labels(data.label_names)
    if mirrored:
        augmentation = replace(augmentation, flip=0.0)
    adjust(training, data, augmentation)
    set_seed(training.seed)
    start = start_model(model_args, data)
    if checkpoint is not None:
        check_same_model(start[0], checkpoint)
    with training.main_process_first(desc="starting the reports"):
        skipped = start_reports(data, training, start, resumed=checkpoint is not None)
    trainer = make_trainer(data, data_args, augmentation, training, start, skipped)
    if model_args.model is None and model_args.motion_start and checkpoint is None:
        start_for_motion(trainer.model, _first_clips(trainer.train_dataset))
    if trainer.is_world_process_zero():
        _look_at_first_video(data, trainer.processing_class)
        if checkpoint is None:
            _compare_splits(data, data_args.split_seed)
    return _Preparation(trainer, data, checkpoint, augmentation, mirrored or ())


def _look_at_first_video(data: Data, processor) -> None:
    """Warn if it is too short for a clip. The workers that load clips don't warn, because each would in each epoch."""
    if isinstance(data.train, LabelledVideos) and len(data.train):
        with contextlib.suppress(VideoReadError, OSError):  # unreadable clips are noted when their turn comes
            processor(data.train[0].source)


def _compare_splits(data: Data, seed: int) -> None:
    """Warn if validation videos are nearly the same as training videos. Streams are not compared."""
    if isinstance(data.train, LabelledVideos) and isinstance(data.validation, LabelledVideos):
        warn_of_near_duplicates(data.train, data.validation, seed)


def check_extras(args: ModelArguments, training: ClipTrainingArguments) -> None:
    """
    Check, before hours of training, that the packages are installed which only training needs.

    Raises:
        ImportError: naming those that are missing.
    """
    packages = ["matplotlib", *(["peft"] if args.lora_rank else [])]
    if "tensorboard" in training.report_to and importlib.util.find_spec("tensorboardX") is None:
        packages.append("tensorboard")
    check_packages("finetune", packages, "train")


def adjust(training: ClipTrainingArguments, data: Data, augmentation: ClipAugmentation) -> None:
    """
    Change the settings that follow from the data, or that are not a choice here. Warns of clips that are never mixed.

    Raises:
        ValueError: for several processes that don't know of each other, because each would train alone and write into
            one folder; and where no clip would be trained.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > training.world_size:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were started, but each would train alone: there is no accelerator. "
            "Give --use_cpu to train on CPUs together"
        )
    training.remove_unused_columns = False
    training.label_names = ["labels"]
    is_stream = isinstance(data.train, VideoStream)
    if not training.dataloader_num_workers:
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
    Write the table of what is trained and validated with, and begin the table of clips that can't be read. A training
    that goes on keeps the clips in it that can't be read now either.
    """
    split, path = Path(training.output_dir, _SPLIT_FILE), Path(training.output_dir, SKIPPED_FILE)
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


def finish_training(
    trainer: ClipTrainer,
    data: Data,
    model_args: ModelArguments,
    data_args: DataArguments,
    augmentation: ClipAugmentation,
) -> TrainingReport:
    """Measure the trained model, save it and write what stands beside it. Returns what was measured."""
    settings = {"recipe": model_args.recipe} | asdict(augmentation)
    for name, videos in (("training_clips", data.train), ("validation_clips", data.validation)):
        settings |= {name: len(videos)} if isinstance(videos, LabelledVideos) else {}
    for name in ("lora_rank", "freeze"):
        settings |= {name: getattr(model_args, name)} if getattr(model_args, name) else {}
    report = TrainingReport(public_name(data_args.data), model_args.model, settings, data.multi_label)
    if trainer.eval_dataset is not None:
        report.validate(trainer)
    with saving(trainer.args.output_dir, trainer.args.output_dir):
        _save_model(trainer, model_args)
    if trainer.is_world_process_zero():
        trainer.save_state()
        report.write(trainer)
    return report


def _save_model(trainer: ClipTrainer, args: ModelArguments) -> None:
    """Save the model. With adapters, save these, and the model that they are merged into."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        if args.lora_rank:
            logger.warning("With FSDP adapters are saved, not merged")
    elif args.lora_rank and args.merge_lora:
        if trainer.is_world_process_zero():
            trainer.model.save_pretrained(Path(trainer.args.output_dir, "adapter"))
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
    trainer.save_model(_internal_call=True)  # which doesn't push it yet: the README isn't there

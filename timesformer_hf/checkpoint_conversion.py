"""Any public checkpoint to a folder of transformers, or back to the authors' format: read, load, check, write."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from .atomic_outputs import check_free, output_file, output_folder
from .checkpoint_files import Checkpoint, read_checkpoint
from .checkpoint_formats import CheckpointFormat, find_format, own_weights
from .checkpoint_keys import ORIGINAL, restore_keys
from .checkpoint_parity import (
    check_parity,
    difference_from_built_in,
    difference_from_image_vit,
    difference_from_masks,
    difference_from_outputs,
)
from .checkpoint_structure import infer_config_values
from .class_labels import known_list, read_labels
from .configuration_timesformer import TimesformerConfig, as_pair
from .image_vit import read_image_vit, start_from_image_vit
from .model_card import make_model_card
from .modeling_timesformer import TimesformerForVideoClassification


TARGETS = ("transformers", "original")


@dataclass
class Conversion:
    """
    What a conversion did.

    Attributes:
        checkpoint, found: the source and its format.
        model: the converted model, in evaluation mode.
        label_list: name of the label list that its classes are, `None` where unknown.
        bgr: whether it was trained on BGR.
        checks: a sentence on each check that it passed.
    """

    checkpoint: Checkpoint
    found: CheckpointFormat
    model: TimesformerForVideoClassification
    label_list: str | None
    bgr: bool
    checks: list[str]


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    to: str = "transformers",
    from_format: str | None = None,
    attention_type: str | None = None,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_attention_heads: int | None = None,
    labels: str | None = None,
    outputs: str | os.PathLike | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> Conversion:
    """
    Convert a checkpoint. Every key must fit, and the model must equal a twin in float64, before anything is written.

    Args:
        source: a file, a folder, or a name on the Hub; see [`read_checkpoint`].
        out: a folder, or with `to="original"` a file, which appears whole or not at all.
        to: `"transformers"`, or `"original"` for the authors' format.
        from_format: what `source` is, where that shall be checked; found out by default.
        attention_type: the scheme that an image ViT becomes (divided by default); others have one.
        num_frames, image_size: what to resize the embeddings to, or to make them for.
        num_attention_heads: by default the config's, or one for every 64 channels.
        labels: a label list's name, a file with a label a line, or `"none"`; by default what the published weights
            with so many classes have.
        outputs: a safetensors file with `pixel_values` and `logits` of the source's own code, to check against.
        overwrite: whether `out` may be replaced.
        report: is told what is being done, since large models take a minute.

    Raises:
        ValueError: where the source is not understood or does not fit; `ParityError`, one of them, where the model
            does not compute what its twin does.
        OSError: where a file can't be read or written. Nothing half-written stays.
    """
    if to not in TARGETS:
        raise ValueError(f"Unknown target {to!r}; it must be one of {', '.join(TARGETS)}")
    check_free(out, overwrite)
    report(f"reading {source}")
    checkpoint = read_checkpoint(source)
    found = find_format(checkpoint, from_format)
    report(f"it is {found.title}; comparing the model with its twin, in float64")
    sizes = {"num_frames": num_frames, "image_size": image_size}
    if found.is_image_model:
        model, checks = start_model(checkpoint, attention_type, num_attention_heads, num_frames, labels)
    elif attention_type is not None:
        raise ValueError(f"{source} is {found.title} and has its attention scheme; --attention-type is for image ViTs")
    else:
        model, checks = load_model(checkpoint, found, num_attention_heads, sizes["image_size"])
    if outputs is not None:
        difference, tolerance = difference_from_outputs(model, Path(outputs))
        check_parity(difference, f"the outputs in {outputs}", tolerance)
        checks.append(f"logits equal to those in {Path(outputs).name}, within {difference:.1e}")
    label_list = attach_labels(model, found, labels)
    model.resize_embeddings(**sizes)
    report(f"writing {out}")
    conversion = Conversion(checkpoint, found, model, label_list, label_list in found.bgr_labels, checks)
    try:
        write_original(conversion, out, overwrite) if to == "original" else write_folder(conversion, out, overwrite)
    except (SafetensorError, RuntimeError) as error:  # what safetensors and torch make of a full disk
        raise OSError(f"{out} could not be written, and nothing of it stays: {error}") from error
    return conversion


def load_model(
    checkpoint: Checkpoint, found: CheckpointFormat, num_attention_heads: int | None, image_size
) -> tuple[TimesformerForVideoClassification, list[str]]:
    """A TimeSformer from any format, and the check that it passed."""
    weights = own_weights(checkpoint, found)
    check_finite(weights, checkpoint.source)
    config = find_config(checkpoint, weights, num_attention_heads, image_size)
    with torch.device("meta"):
        model = TimesformerForVideoClassification(config)
    load_strictly(model, weights, checkpoint.source)
    difference, twin = difference_from_built_in(model, weights), "transformers' built-in model with the same weights"
    if difference is None:
        difference, twin = difference_from_masks(model), "the masks that define its scheme"
    check_parity(difference, twin)
    return model, [f"logits equal to those of {twin}, within {difference:.1e}"]


def find_config(
    checkpoint: Checkpoint, weights: Mapping[str, torch.Tensor], num_attention_heads: int | None, image_size
) -> TimesformerConfig:
    """
    The checkpoint's own config, or the one that its weights imply.

    Raises:
        ValueError: where its weights contradict its config.
    """
    stored = checkpoint.config if checkpoint.config.get("model_type") == "timesformer" else {}
    heads = num_attention_heads or stored.get("num_attention_heads")
    implied = infer_config_values(weights, checkpoint.source, heads, stored.get("image_size") or image_size)
    implied.setdefault("num_labels", 0)
    if not stored:
        return TimesformerConfig(**implied)
    config = TimesformerConfig.from_dict(stored | {"num_attention_heads": implied["num_attention_heads"]})
    if implied["num_labels"] == 0:  # saved without a head
        config.num_labels = 0
    wrong = [
        f"{name}={getattr(config, name)!r}, the weights say {value!r}"
        for name, value in implied.items()
        if name not in ("image_size", "patch_size", "num_frames") and getattr(config, name) != value
    ]
    if wrong:
        raise ValueError(f"The config.json of {checkpoint.source} contradicts its weights: {'; '.join(wrong)}")
    return config


def load_strictly(model: TimesformerForVideoClassification, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """
    Give a model on the meta device its weights.

    Raises:
        ValueError: listing what is missing, left over or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, left_over = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    misfits = [
        f"{name} {tuple(weights[name].shape)} instead of {expected[name]}"
        for name in sorted(expected.keys() & weights.keys())
        if tuple(weights[name].shape) != expected[name]
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        for names, what in ((missing, "missing"), (left_over, "left over"), (misfits, "of another shape"))
        if names
    ]
    if problems:
        raise ValueError(
            f"The weights of {source} don't make a {model.config.attention_type} model; {'; '.join(problems)}"
        )
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval()


def check_finite(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """
    Raises:
        ValueError: for weights with NaN or infinite values.
    """
    wrong = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"{len(wrong)} weights of {source} hold NaN or infinity: {', '.join(wrong[:5])}")


def start_model(
    checkpoint: Checkpoint,
    attention_type: str | None,
    num_attention_heads: int | None,
    num_frames: int | None,
    labels: str | None,
) -> tuple[TimesformerForVideoClassification, list[str]]:
    """A TimeSformer that starts from an image ViT, at the ViT's own image size, and the check that it passed."""
    weights, _ = read_image_vit(checkpoint, num_attention_heads)
    check_finite(weights, checkpoint.source)
    settings = {"num_labels": 0} if "classifier.weight" not in weights else {}
    if labels not in (None, "none"):
        settings = {"id2label": dict(enumerate(read_labels(labels)))}
    scheme = attention_type or "divided_space_time"
    model = start_from_image_vit(
        TimesformerForVideoClassification,
        checkpoint,
        scheme,
        num_frames=num_frames or TimesformerConfig.num_frames,
        num_attention_heads=num_attention_heads,
        **settings,
    )
    difference = difference_from_image_vit(model, weights)
    check_parity(difference, "the image ViT")
    checks = [f"class feature equal to the image ViT's {WHERE_EQUAL[scheme]}, within {difference:.1e}"]
    head = weights.get("classifier.weight")
    if model.config.num_labels and (head is None or len(head) != model.config.num_labels):
        checks.append("all but the head, which is new and untrained: fine-tune it before you use its labels")
    return model, checks


WHERE_EQUAL = {
    "divided_space_time": "on identical frames",
    "space_only": "on identical frames",
    "joint_space_time": "on a clip of one frame",
    "sparse_local_global": "on a clip that repeats each patch in time, height and width",
    "axial": "on identical frames that are one patch wide",
}


def attach_labels(model: TimesformerForVideoClassification, found: CheckpointFormat, labels: str | None) -> str | None:
    """
    Put class names into the config.

    Returns:
        The name of the list that they are, `None` where it is none of the known ones.

    Raises:
        ValueError: where there are more or fewer of them than classes.
    """
    config = model.config
    present = [config.id2label[index] for index in range(config.num_labels)]
    unnamed = present == [f"LABEL_{index}" for index in range(config.num_labels)]
    if labels == "none":
        return None
    if labels is None:
        labels = found.labels.get(config.num_labels) if unnamed else None
        if labels is None:
            return known_list(present)
    names = read_labels(labels)
    if len(names) != config.num_labels:
        raise ValueError(
            f"The label list {labels!r} has {len(names)} labels, the model {config.num_labels} classes; give another "
            "list, or a file with a label a line, as --labels, or 'none'"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return known_list(names)


def write_folder(conversion: Conversion, out: str | os.PathLike, overwrite: bool) -> None:
    """Config, safetensors, processor files and model card."""
    with output_folder(out, overwrite) as folder:
        conversion.model.save_pretrained(folder)
        save_processors(conversion, folder)
        checkpoint = conversion.checkpoint
        card = make_model_card(
            name=Path(out).resolve().name,
            config=conversion.model.config,
            source=checkpoint.source,
            digest=file_digest(checkpoint.path),
            title=conversion.found.title,
            licence=conversion.found.licence,
            source_card=checkpoint.path / "README.md",
            label_list=conversion.label_list,
            bgr=conversion.bgr,
            checks=conversion.checks,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def save_processors(conversion: Conversion, folder: Path) -> None:
    """
    The processors for the model's frames and size, with the statistics that the source was trained with: its own
    preprocessor file's, or else its format's.
    """
    from .image_processing_timesformer import TimesformerImageProcessor
    from .video_processing_timesformer import TimesformerVideoProcessor

    config, found, stored = conversion.model.config, conversion.found, conversion.checkpoint.preprocessor
    height, width = as_pair(config.image_size, "image_size")
    settings = {
        "size": {"shortest_edge": max(height, width)},  # which leaves no border, whatever a video's shape
        "crop_size": {"height": height, "width": width},
        "image_mean": stored.get("image_mean") or [found.mean] * config.num_channels,
        "image_std": stored.get("image_std") or [found.std] * config.num_channels,
        "do_flip_channel_order": stored.get("do_flip_channel_order", conversion.bgr),
    }
    TimesformerImageProcessor(**settings).save_pretrained(folder)
    sampling = {"frame_sampling": "segments"} if conversion.bgr else {}  # what Something-Something was tested with
    TimesformerVideoProcessor(num_frames=config.num_frames, **sampling | settings).save_pretrained(folder)


def write_original(conversion: Conversion, out: str | os.PathLike, overwrite: bool) -> None:
    """
    The authors' format: a dict of `epoch` and `model_state`, float32.

    Raises:
        ValueError: for a scheme, or sizes, that their code doesn't have.
    """
    config = conversion.model.config
    height, width = as_pair(config.image_size, "image_size")
    if height != width or len(set(as_pair(config.patch_size))) > 1:
        raise ValueError(f"The authors' code has no rectangular sizes; this model is for {height} x {width} pixels")
    try:
        state = restore_keys(conversion.model.state_dict(), ORIGINAL)
    except ValueError as error:
        raise ValueError(f"The authors' code has no {config.attention_type} attention: {error}") from error
    state = {name: tensor.detach().float().clone() for name, tensor in state.items()}
    with output_file(out, overwrite) as path:
        torch.save({"epoch": 0, "model_state": state}, path)
        again = own_weights(*identified(read_checkpoint(path)))
        for name, tensor in conversion.model.state_dict().items():
            if not again[name].equal(tensor.float()):
                raise OSError(f"{name} was not written as it is; nothing stays")
    conversion.checks.append("read back, every weight bit for bit")


def identified(checkpoint: Checkpoint) -> tuple[Checkpoint, CheckpointFormat]:
    return checkpoint, find_format(checkpoint)


def file_digest(path: Path) -> str | None:
    """The SHA-256 of a file; `None` of a folder."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

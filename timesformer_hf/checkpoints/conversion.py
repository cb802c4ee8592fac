"""
Converts any public checkpoint to a folder of transformers, or back to the authors' format: read, load, check, write.
"""

import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..data.label_lists import known_list, read_labels
from ..model.configuration_timesformer import TimesformerConfig, as_pair
from ..model.modeling_timesformer import TimesformerForVideoClassification
from ..output.atomic import check_output_file, check_output_folder, output_file, output_folder
from .files import Checkpoint, find_source, read_checkpoint
from .formats import CheckpointFormat, find_format, own_weights
from .image_vit import make_start, read_image_vit
from .keys import ORIGINAL, restore_keys
from .limits import CheckpointLimits
from .model_card import make_model_card
from .parity import (
    ParityError,
    check_parity,
    difference_from_built_in,
    difference_from_image_vit,
    difference_from_masks,
    difference_from_outputs,
    difference_of_configs,
)
from .processors import is_bgr, save_processors
from .structure import find_config


_MODEL_FILES = ("config.json", "*preprocessor_config.json", "model*.safetensors", "model*.index.json", "README.md")
TARGETS = ("transformers", "original")
_ORIGINAL_SUFFIXES = (".pyth", ".pth", ".pt")
_ORIGINAL_CONSTANTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "interpolation_mode": "nearest"}


@dataclass
class _Conversion:
    """
    The result of a conversion.

    Attributes:
        checkpoint: the source.
        found: the format of the source.
        model: the converted model, in evaluation mode.
        label_list: the name of the label list that the class names are from, for example `"kinetics400"`; `None` where
            they are from no known list.
        bgr: whether the model was trained on BGR.
        assumed: one phrase for each value that neither config nor weights tell.
        checks: one sentence for each check that the model passed.
        notes: further remarks for the user.
    """

    checkpoint: Checkpoint
    found: CheckpointFormat
    model: TimesformerForVideoClassification
    label_list: str | None
    bgr: bool
    assumed: list[str]
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    bgr: bool | None = None,
    outputs: str | os.PathLike | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda step: None,
    limits: CheckpointLimits | None = None,
) -> _Conversion:
    """
    Convert a checkpoint. Nothing is written before every key fits and the model equals a reference in float64.

    Args:
        source: a file, a folder, or a name on the Hub; see [`read_checkpoint`].
        out: the folder to write, or with `to="original"` the file. It is written completely or not at all.
        to: `"transformers"`, or `"original"` for the authors' format.
        from_format: the format that `source` must have, for example `"mmaction2"` (default: any known format).
        attention_type: the scheme that an image ViT becomes (default: divided). A TimeSformer already has one.
        num_frames: the number of frames that the time embeddings are resized to, or created for.
        image_size: the side or (height, width) in pixels that the position embeddings are resized to.
        num_attention_heads: the number of heads (default: the config's, or one for every 64 channels).
        labels: the name of a label list, a text file with one label a line, or `"none"` (default: the list of the
            published weights with the same number of classes).
        bgr: whether the model was trained on BGR (default: what its preprocessor file says, else whether it is one of
            the authors' Something-Something models).
        outputs: a safetensors file with `pixel_values`, and the `logits` that the source's own code computed from them.
            The converted model must compute the same.
        overwrite: replace `out` where it is a model.
        report: is called with a phrase before each step, because large models take a minute.
        limits: how large the parts of the source may be, see [`CheckpointLimits`].

    Raises:
        ValueError: where the source has an unknown format or doesn't fit. [`ParityError`], a subclass, where the model
            doesn't compute what its reference computes.
        OSError: where a file can't be read or written. No partial output stays.
    """
    _check_target(out, to, overwrite)
    names = None if labels in (None, "none") else read_labels(labels)
    report(f"reading {source}")
    path = find_source(source)
    if overwrite and Path(out).resolve() in path.resolve().parents:
        raise FileExistsError(f"{source} is inside {out}, which would be replaced; give another name")
    checkpoint = read_checkpoint(source, path=path, limits=limits)
    found = find_format(checkpoint, from_format)
    notes = []
    if found.is_image_model:
        model, weights, assumed = start_model(
            checkpoint, found, attention_type, num_frames, num_attention_heads, image_size, names
        )
        if model.config.num_labels and len(weights.get("classifier.weight", ())) != model.config.num_labels:
            notes.append("the classification head is new and untrained; fine-tune it before you use its labels")
    elif attention_type is not None:
        raise ValueError(f"{source} already has an attention scheme; --attention-type is only for image ViTs")
    else:
        model, weights, assumed = load_model(checkpoint, found, num_attention_heads, image_size)
    label_list = attach_labels(model, found, labels, names)
    if bgr is None:
        bgr = is_bgr(checkpoint, found, _published_list(model.config, found) if labels == "none" else label_list)
        if not bgr and is_bgr(checkpoint, found, found.labels.get(model.config.num_labels)):
            assumed.append("RGB, because its labels are not those of the published model, which is BGR (--bgr)")
    conversion = _Conversion(checkpoint, found, model, label_list, bgr, assumed, notes=notes)
    _check_sizes(model, num_frames, image_size, to)
    report(f"it is {found.title}; comparing the model with a reference, in float64")
    conversion.checks += check_model(model, weights, found, outputs)
    model.resize_embeddings(num_frames=num_frames, image_size=image_size)
    report(f"writing {out}")
    try:
        _write_original(conversion, out, overwrite) if to == "original" else _write_folder(conversion, out, overwrite)
    except (SafetensorError, RuntimeError) as error:  # safetensors and torch raise these when the disk is full
        raise OSError(f"{out} could not be written, and no part of it stays: {error}") from error
    return conversion


def _check_target(out: str | os.PathLike, to: str, overwrite: bool) -> None:
    """
    Check that the output can be written. To be called before long work.

    Raises:
        ValueError: for an unknown target or a wrong file name.
        FileExistsError: where `out` exists and may not be replaced.
    """
    if to not in TARGETS:
        raise ValueError(f"Unknown target {to!r}; it must be one of {', '.join(TARGETS)}")
    if to == "original":
        if Path(out).suffix not in _ORIGINAL_SUFFIXES:
            raise ValueError(f"OUT must be a file name that ends in {', '.join(_ORIGINAL_SUFFIXES)}, got {out}")
        check_output_file(out, overwrite)
    else:
        check_output_folder(out, overwrite, _MODEL_FILES)


def load_model(
    checkpoint: Checkpoint, found: CheckpointFormat, num_attention_heads: int | None, image_size
) -> tuple[TimesformerForVideoClassification, dict[str, torch.Tensor], list[str]]:
    """
    Return the TimeSformer of a checkpoint of any format, its weights, and a phrase for each value that was assumed.
    """
    weights = own_weights(checkpoint, found)
    _check_finite(weights, checkpoint.source)
    config, assumed = find_config(checkpoint, found, weights, num_attention_heads, image_size)
    with torch.device("meta"):
        model = TimesformerForVideoClassification(config)
    _load_strictly(model, weights, checkpoint.source)
    return model, weights, assumed


def start_model(
    checkpoint: Checkpoint,
    found: CheckpointFormat,
    attention_type: str | None,
    num_frames: int | None,
    num_attention_heads: int | None,
    image_size,
    names: list[str] | None,
) -> tuple[TimesformerForVideoClassification, dict[str, torch.Tensor], list[str]]:
    """
    Return a TimeSformer that starts from an image ViT, at the ViT's own image size. See [`load_model`] for the rest.
    """
    weights, start, assumed = read_image_vit(checkpoint, num_attention_heads, image_size, found)
    _check_finite(weights, checkpoint.source)
    model = make_start(
        TimesformerForVideoClassification,
        weights,
        start,
        attention_type=attention_type or TimesformerConfig.attention_type,
        num_frames=num_frames or TimesformerConfig.num_frames,
        id2label=start.id2label if names is None else dict(enumerate(names)),
    )
    return model, weights, assumed


def _check_sizes(model: TimesformerForVideoClassification, num_frames, image_size, to: str) -> None:
    """
    Check that the model can be resized to these sizes and stored in the target format.

    Raises:
        ValueError: where one of them is not possible.
    """
    config = copy.deepcopy(model.config)
    config.num_frames, config.image_size = num_frames or config.num_frames, image_size or config.image_size
    config.check_values()
    if to != "original":
        return
    height, width = as_pair(config.image_size, "image_size")
    if height != width or len(set(as_pair(config.patch_size))) > 1:
        raise ValueError(f"The authors' code takes only square frames; this model is for {height} x {width} pixels")
    try:
        restore_keys(model.state_dict(), ORIGINAL)
    except ValueError as error:
        raise ValueError(f"The authors' code has no {config.attention_type} attention: {error}") from error


def check_model(
    model: TimesformerForVideoClassification, weights: dict, found: CheckpointFormat, outputs: str | os.PathLike | None
) -> list[str]:
    """
    Compare a model in float64 with a reference that doesn't use this package's model, and with `outputs` if given.

    Returns:
        one sentence for each comparison.

    Raises:
        ParityError: where the model differs from its reference.
    """
    scheme = model.config.attention_type
    if found.is_image_model:
        what, reference = f"class feature equal to the image ViT's {_WHERE_EQUAL[scheme]}", "the image ViT"
        difference = difference_from_image_vit(model, weights)
    else:
        reference, difference = (
            "transformers' built-in model with the same weights",
            difference_from_built_in(model, weights),
        )
        if difference is None:
            reference, difference = "the masks that define its scheme", difference_from_masks(model)
        what = f"logits equal to those of {reference}"
    check_parity(difference, reference)
    checks = [f"{what}, within {difference:.1e} of the largest value"]
    if outputs is not None:
        difference, tolerance = difference_from_outputs(model, Path(outputs))
        check_parity(difference, f"the outputs in {outputs}", tolerance)
        checks.append(f"logits equal to those in {Path(outputs).name}, within {difference:.1e} of the largest value")
    return checks


def _load_strictly(model: TimesformerForVideoClassification, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """
    Load weights into a model that was created on the meta device.

    Raises:
        ValueError: where a weight is missing, left over or of another shape. The message lists them.
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
            f"The weights of {source} don't fit a {model.config.attention_type} model; {'; '.join(problems)}"
        )
    # copies, because a file can contain one tensor under two names, or a part of a larger one
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, strict=True, assign=True)
    model.eval()


def _check_finite(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """
    Check that all weights are finite.

    Raises:
        ValueError: for weights with NaN or infinite values.
    """
    wrong = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"{len(wrong)} weights of {source} contain NaN or infinity: {', '.join(wrong[:5])}")


_WHERE_EQUAL = {
    "divided_space_time": "on identical frames",
    "space_only": "on identical frames",
    "joint_space_time": "on a clip of one frame",
    "sparse_local_global": "on a clip that repeats each patch in time, height and width",
    "axial": "on identical frames that are one patch wide",
}


def attach_labels(
    model: TimesformerForVideoClassification,
    found: CheckpointFormat,
    labels: str | None = None,
    names: list[str] | None = None,
) -> str | None:
    """
    Write class names into the model's config.

    Args:
        model: gets the names.
        found: the format of the checkpoint, which knows the label lists of its published weights.
        labels: how the user named the list, for messages. `"none"` writes no names.
        names: the class names. By default, a model without names gets those of the published weights with the same
            number of classes.

    Returns:
        the name of the label list that the names are from; `None` for no known list.

    Raises:
        ValueError: where the number of names is not the number of classes.
    """
    config = model.config
    if labels == "none":
        return None
    if names is None:
        labels = _published_list(config, found)
        if labels is None or _has_names(config):
            return labels
        names = read_labels(labels)
    if len(names) != config.num_labels:
        raise ValueError(
            f"The label list {labels!r} has {len(names)} labels, but the model has {config.num_labels} classes; give "
            "--labels another list, a file with one label a line, or 'none'"
        )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return known_list(names)


def _published_list(config: TimesformerConfig, found: CheckpointFormat) -> str | None:
    """
    Return the label list that a model's classes are from, or `None` if it is unknown.

    A model without class names is taken for one of the published ones of its format with the same number of classes.
    """
    if _has_names(config):
        return known_list([config.id2label[index] for index in range(config.num_labels)])
    return found.labels.get(config.num_labels)


def _has_names(config: TimesformerConfig) -> bool:
    return any(config.id2label[index] != f"LABEL_{index}" for index in range(config.num_labels))


def _write_folder(conversion: _Conversion, out: str | os.PathLike, overwrite: bool) -> None:
    """Write the output folder: config, safetensors, processor files and model card."""
    with output_folder(out, overwrite, _MODEL_FILES) as folder:
        conversion.model.save_pretrained(folder)
        checkpoint = conversion.checkpoint
        save_processors(checkpoint, conversion.found, conversion.model.config, conversion.bgr, folder)
        card = make_model_card(
            name=Path(out).resolve().name,
            config=conversion.model.config,
            source=checkpoint.source,
            digest=file_digest(checkpoint.path),
            title=conversion.found.title,
            licence=conversion.found.licence,
            source_card=checkpoint.path / "README.md",
            label_list=None if conversion.notes else conversion.label_list,
            bgr=conversion.bgr,
            remarks=[
                *(f"Checked in float64: {check}" for check in conversion.checks),
                *(f"Assumed: {assumption}" for assumption in conversion.assumed),
                *(f"Note: {note}" for note in conversion.notes),
            ],
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def _write_original(conversion: _Conversion, out: str | os.PathLike, overwrite: bool) -> None:
    """
    Write the authors' format: a pickled dict with `epoch` and `model_state`, whose weights are float32.

    Raises:
        ParityError: where the model would compute something else with the constants in the authors' code.
        OSError: where the file, read back, has other weights.
    """
    model = conversion.model
    difference = difference_of_configs(model, _ORIGINAL_CONSTANTS)
    constants = "the authors' constants (exact GELU, layer norm epsilon 1e-6, nearest resizing)"
    if not difference <= 1e-4:
        differing = [
            f"{name}={getattr(model.config, name)!r} (theirs: {value!r})"
            for name, value in _ORIGINAL_CONSTANTS.items()
            if getattr(model.config, name) != value
        ]
        raise ParityError(
            f"The authors' code can't compute this model, because these constants are fixed in it: "
            f"{', '.join(differing)}. With their values the logits differ by {difference:.1e} of the largest value; "
            "nothing was written"
        )
    conversion.checks.append(f"logits equal to those with {constants}, within {difference:.1e} of the largest value")
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    if heads * 64 != width:
        conversion.notes.append(f"the format doesn't store the number of heads, {heads}: give it when you load it")
    state = restore_keys(model.state_dict(), ORIGINAL)
    state = {name: tensor.detach().float().clone() for name, tensor in state.items()}
    with output_file(out, overwrite) as path:
        torch.save({"epoch": 0, "model_state": state}, path)
        written = read_checkpoint(path)
        again = own_weights(written, find_format(written, "original"))
        for name, tensor in model.state_dict().items():
            if not again[name].equal(tensor.float()):
                raise OSError(f"{name} was not written correctly, so the file is deleted; try again")
    conversion.checks.append("read back: every weight is equal bit for bit")


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal, or `None` for a folder."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Low-rank adapters (LoRA) by PEFT: adding them to a model, and merging trained ones into it."""

import os

from ..model.configuration_timesformer import TimesformerConfig
from ..model.modeling_timesformer import TimesformerForVideoClassification
from ..output.extras import missing_package
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .start import start_from_checkpoint, stored_processor


_LORA_TARGETS = r".*\.encoder\.layer\..*(qkv|dense)"  # every linear layer of the blocks


def has_adapters(model) -> bool:
    """Whether a model is wrapped in adapters of PEFT."""
    return hasattr(model, "get_base_model")


def base_model(model):
    """The model inside its adapters, if it has any."""
    return model.get_base_model() if has_adapters(model) else model


def add_lora(
    model: TimesformerForVideoClassification,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    train_embeddings: bool = False,
):
    """
    The model with low-rank adapters (Hu et al. 2022) on the linear layers of its blocks, which alone are trained,
    with the head.

    Args:
        rank: of the adapters.
        alpha: their scale is `alpha` / `rank`; twice the rank by default.
        train_embeddings: train the embeddings too: for a start from an image ViT, whose time table is zero.

    Raises:
        ImportError: where PEFT is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_package("LoRA", "PEFT", "train") from error
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=_LORA_TARGETS,
        modules_to_save=["classifier", *(["timesformer.embeddings"] if train_embeddings else [])],
    )
    return get_peft_model(model, settings)


def load_adapters(
    folder: str | os.PathLike, base: str | os.PathLike
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """
    The model that adapters of [`add_lora`] make of another one, merged into it, and its processor.

    Args:
        folder: of the adapters, or their Hub name, with the config and processor that `ClipTrainer` saves beside them.
        base: what they were trained on, as of [`start_from_checkpoint`].

    Raises:
        OSError, ValueError: where there is no such thing, or the one doesn't fit the other.
    """
    from peft import PeftModel

    config = TimesformerConfig.from_pretrained(folder)
    labels = [config.id2label[number] for number in sorted(config.id2label)]
    fields = {name: getattr(config, name) for name in ("attention_type", "num_frames", "image_size")}
    model, _, _ = start_from_checkpoint(base, labels, True, config.problem_type, **fields)  # the head is an adapter
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval(), stored_processor(folder)

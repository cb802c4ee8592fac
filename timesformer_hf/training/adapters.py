"""Low-rank adapters (LoRA) by PEFT: adding them to a model, and merging trained ones into it."""

import os
from typing import TYPE_CHECKING

from ..model.configuration_timesformer import TimesformerConfig
from ..model.modeling_timesformer import TimesformerForVideoClassification
from ..output.extras import missing_package
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .start import start_from_checkpoint, stored_processor


if TYPE_CHECKING:
    from peft import PeftModel


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
) -> "PeftModel":
    """
    Put low-rank adapters (Hu et al. 2022) on the linear layers of a model's blocks. Only they and the head are trained.

    Args:
        rank: the rank of the adapters.
        alpha: the scale of the adapters is `alpha` / `rank`; by default it is twice the rank.
        train_embeddings: train the embeddings too, which a start from an image ViT needs, whose time table is zero.

    Returns:
        the model, wrapped by PEFT.

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
    adapted = get_peft_model(model, settings)
    adapted.create_or_update_model_card = _write_no_card
    return adapted


def _write_no_card(folder: str) -> None:
    """Stands in for PEFT's model card, which names the folder of the base model on this machine."""


def load_adapters(
    folder: str | os.PathLike[str], base: str | os.PathLike[str]
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """
    Load a model and merge into it the adapters that [`add_lora`] added to it.

    Args:
        folder: folder or Hub name of the adapters, with the config and processor that `ClipTrainer` saves beside them.
        base: the checkpoint that they were trained on, as for [`start_from_checkpoint`].

    Returns:
        the merged model in evaluation mode, and its processor.

    Raises:
        OSError, ValueError: where there is no such checkpoint, or the two don't fit each other.
    """
    from peft import PeftModel

    config = TimesformerConfig.from_pretrained(folder)
    labels = [config.id2label[number] for number in sorted(config.id2label)]
    fields = {name: getattr(config, name) for name in ("attention_type", "num_frames", "image_size")}
    model, _, _ = start_from_checkpoint(base, labels, True, config.problem_type, **fields)  # the head is an adapter
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval(), stored_processor(folder)

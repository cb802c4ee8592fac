"""
What a model costs: parameters, and the multiply-accumulates of one clip (paper, Section 4 and Figure 3).

The model itself is counted, run on torch's meta device, where tensors have a shape and no values: nothing is allocated,
however large. Counted are the products of matrices and the patch convolution, as in the paper's "TFLOPs", which are
multiply-accumulates over the three spatial crops of a video; norms, softmax, GELU and sums are not.
"""

import copy
import functools
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from .configuration_timesformer import TimesformerConfig, as_pair
from .modeling_timesformer import TimesformerForVideoClassification


_PAPER_CROPS = 3
# name: (frames, side in pixels) (paper, Section 4.3)
PAPER_VARIANTS = {"base": (8, 224), "HR": (16, 448), "L": (96, 224)}
KINETICS_400_LABELS = 400


@dataclass(frozen=True)
class ModelCost:
    """
    The cost of a model that is made for a number of frames and a size, at them.

    Attributes:
        attention_type: its attention scheme.
        num_frames: frames of a clip.
        image_size: height and width of a frame in pixels.
        parameters: how many, the embeddings of that many frames and patches included.
        multiply_accumulates: of one forward pass of one clip, that is of one crop.
    """

    attention_type: str
    num_frames: int
    image_size: tuple[int, int]
    parameters: int
    multiply_accumulates: int

    @property
    def tera_over_crops(self) -> float:
        """10^12 multiply-accumulates over three crops: what the paper's tables call TFLOPs."""
        return _PAPER_CROPS * self.multiply_accumulates / 1e12


def _meta_model(config: TimesformerConfig) -> TimesformerForVideoClassification:
    """The model of `config` without values. With eager attention, whose products a counter sees one by one."""
    with torch.device("meta"):
        model = TimesformerForVideoClassification(copy.deepcopy(config)).eval()
    model.set_attn_implementation("eager")
    return model


def count_parameters(config: TimesformerConfig) -> int:
    """Parameters of a `TimesformerForVideoClassification` of `config`, its head of `config.num_labels` included."""
    return sum(parameter.numel() for parameter in _meta_model(config).parameters())


def count_multiply_accumulates(
    config: TimesformerConfig, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> int:
    """
    Multiply-accumulates of one forward pass of one clip: one crop, where the paper's numbers are of three. Where a
    scheme pads its groups, at odd sizes, the padding is computed and so it counts.

    Args:
        num_frames: frames of the clip; the config's where `None`.
        image_size: side, or (height, width), of a frame in pixels; the config's where `None`.

    Raises:
        ValueError: where no model or clip of that size can be; the message names what is wrong.
    """
    num_frames = config.num_frames if num_frames is None else num_frames
    height, width = as_pair(config.image_size if image_size is None else image_size, "image_size")
    model = _meta_model(config)
    clip = torch.empty(1, num_frames, config.num_channels, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # all of the last block, as the paper: the classifier itself leaves out what only the patches need there
        model.classifier(model.timesformer(clip).last_hidden_state[:, 0])
    return counter.get_total_flops() // 2  # a multiplication and an addition each


def model_cost(
    config: TimesformerConfig, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> ModelCost:
    """
    The cost of the model of `config`, resized to `num_frames` and `image_size` (side, or height and width, in pixels)
    where they are given, as `from_pretrained` resizes it.

    Raises:
        ValueError: where a value is out of the config's rules.
    """
    config = copy.deepcopy(config)
    config.num_frames = config.num_frames if num_frames is None else num_frames
    config.image_size = config.image_size if image_size is None else image_size
    return ModelCost(
        attention_type=config.attention_type,
        num_frames=config.num_frames,
        image_size=as_pair(config.image_size, "image_size"),
        parameters=count_parameters(config),
        multiply_accumulates=count_multiply_accumulates(config),
    )


@functools.cache
def scheme_cost(attention_type: str, num_frames: int, image_size: int) -> ModelCost:
    """The cost of the paper's model, ViT-Base with Kinetics-400's head, with a scheme of `ATTENTION_SCHEMES`."""
    return model_cost(
        TimesformerConfig(
            attention_type=attention_type,
            num_frames=num_frames,
            image_size=image_size,
            num_labels=KINETICS_400_LABELS,
        )
    )

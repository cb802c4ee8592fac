"""
The cost of a model: its parameters, and the multiply-accumulates of one clip (paper, Section 4 and Figure 3).

The model runs on torch's meta device, where tensors have a shape but no values, and its operations are counted. So
nothing is allocated, however large the model is.

As in the paper, the count contains the matmuls and the patch convolution, but not norms, softmax, GELU and sums. The
paper's "TFLOPs" are multiply-accumulates too, for the three spatial crops of a video.
"""

import copy
import functools
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .configuration_timesformer import TimesformerConfig, as_pair
from .modeling_timesformer import TimesformerForVideoClassification


_PAPER_CROPS = 3
# name of the variant: (frames, side of a frame in pixels) (paper, Section 4.3)
PAPER_VARIANTS = {"base": (8, 224), "HR": (16, 448), "L": (96, 224)}
KINETICS_400_LABELS = 400


@dataclass(frozen=True)
class ModelCost:
    """
    The cost of a model for clips of the size that the model is made for.

    Attributes:
        attention_type: name of the attention scheme.
        num_frames: number of frames of a clip.
        image_size: height and width of a frame in pixels.
        parameters: number of parameters, including the position and time embeddings for that size.
        multiply_accumulates: number of multiply-accumulates in one forward pass of one clip, that is, of one crop.
    """

    attention_type: str
    num_frames: int
    image_size: tuple[int, int]
    parameters: int
    multiply_accumulates: int

    @property
    def tera_over_crops(self) -> float:
        """Multiply-accumulates of three crops, in units of 10^12. The paper's tables call this TFLOPs."""
        return _PAPER_CROPS * self.multiply_accumulates / 1e12


def _meta_model(config: TimesformerConfig) -> TimesformerForVideoClassification:
    """Return the model of `config` on the meta device, with eager attention, whose matmuls a counter can see."""
    with torch.device("meta"):
        model = TimesformerForVideoClassification(copy.deepcopy(config)).eval()
    model.set_attn_implementation("eager")
    return model


def count_parameters(config: TimesformerConfig) -> int:
    """Count the parameters of a `TimesformerForVideoClassification`, including its head for `config.num_labels`."""
    return sum(parameter.numel() for parameter in _meta_model(config).parameters())


class _FlopCounter(TorchDispatchMode):
    """
    Counts floating-point operations in its block, by the formulas of torch. Torch's own counter puts hooks on the
    modules, and with hooks the model computes more.
    """

    flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=output)
        return output


def count_multiply_accumulates(
    config: TimesformerConfig, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> int:
    """
    Count the multiply-accumulates of one forward pass of one clip.

    A clip is one crop; the paper's numbers are for three. Padding counts too, because the model computes it. Some
    schemes pad their groups at odd sizes.

    Args:
        num_frames: number of frames of the clip. `None` takes it from the config.
        image_size: side, or (height, width), of a frame in pixels. `None` takes it from the config.

    Raises:
        ValueError: if there is no model or clip of that size. The message names what is wrong.
    """
    num_frames = config.num_frames if num_frames is None else num_frames
    height, width = as_pair(config.image_size if image_size is None else image_size, "image_size")
    model = _meta_model(config)
    clip = torch.empty(1, num_frames, config.num_channels, height, width, device="meta")
    with torch.no_grad(), _FlopCounter() as counter:
        # All of the last block is counted, as in the paper. The classifier would leave out what only patches need
        # there.
        model.classifier(model.timesformer(clip).last_hidden_state[:, 0])
    return counter.flops // 2  # a multiply-accumulate is two operations


def model_cost(
    config: TimesformerConfig, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> ModelCost:
    """
    Return the cost of the model of `config`, resized first as `from_pretrained` resizes it.

    Args:
        num_frames: number of frames to resize to. `None` keeps the config's.
        image_size: side, or (height, width), of a frame in pixels to resize to. `None` keeps the config's.

    Raises:
        ValueError: if a value breaks a rule of the config.
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
    """Return the cost of the paper's model with this attention scheme: ViT-Base with a head for Kinetics-400."""
    return model_cost(
        TimesformerConfig(
            attention_type=attention_type,
            num_frames=num_frames,
            image_size=image_size,
            num_labels=KINETICS_400_LABELS,
        )
    )

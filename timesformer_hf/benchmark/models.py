"""Shared by the cases with a model: the random weights and clips that every path gets, dtypes, and the reference."""

import copy
import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from ..model.configuration_timesformer import TimesformerConfig
from ..output.atomic import output_folder
from .cases import QUANTIZED, Case
from .matrix_products import Product, model_products, prepare_products
from .measuring import Environment, UnavailableError


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_QUANTIZED_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# Largest allowed difference from the float32 reference, relative to its largest logit.
# fp32: the same sums in another order, through all layers (and on CUDA a patch convolution in TF32).
# fp16 and bf16: they have 11 and 8 bits, so each rounding adds up to 0.0005 or 0.004; a value is rounded a few dozen
# times. int8 and fp8: each operand of a matmul is rounded to 1/127 of its largest value, or to 4 bits.
# A path that computes something else, for example without one attention step, differs by more.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 0.05, "int8": 0.2, "fp8": 0.3}
_DISTINCT_CLIPS = 2  # larger batches repeat these clips, to limit the time of the reference
REFERENCE_QUERIES = 1024  # queries at a time in the reference, so that it needs little memory
_FP8_CAPABILITY = (8, 9)  # CUDA capability of Ada; Hopper has 9.0


@dataclass(frozen=True)
class ModelBench:
    """
    The model, weights and clips of a case, on a device.

    Attributes:
        case: the row of the table.
        environment: the device and the other settings.
    """

    case: Case
    environment: Environment

    @property
    def device(self) -> str:
        """The device of the environment."""
        return self.environment.device

    @cached_property
    def config(self) -> TimesformerConfig:
        """The config of the model."""
        return TimesformerConfig(**self.case.config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what isn't quantized. For int8 and fp8 it is the dtype that the model is quantized from."""
        if self.case.dtype in QUANTIZED:
            return torch.float32 if self.device == "cpu" else torch.bfloat16
        return DTYPES[self.case.dtype]

    @property
    def quantized(self) -> torch.dtype | None:
        """The quantized dtype, or `None` where the case isn't quantized."""
        return _QUANTIZED_DTYPES.get(self.case.dtype)

    @cached_property
    def weights(self) -> Path:
        """The folder of the model."""
        return random_weights(self.config, self.environment)

    @cached_property
    def clips(self) -> torch.Tensor:
        """Random clips (batch, frames, channels, height, width), in float32 on the CPU."""
        generator = torch.Generator().manual_seed(self.environment.seed)
        shape = (self.config.num_frames, self.config.num_channels, *self.image_size)
        distinct = torch.randn(min(_DISTINCT_CLIPS, self.case.batch_size), *shape, generator=generator)
        return distinct[torch.arange(self.case.batch_size) % len(distinct)]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        rows, columns = self.config.grid_size
        return rows * self.config.patch_size, columns * self.config.patch_size

    @cached_property
    def pixel_values(self) -> torch.Tensor:
        """The clips in the model's dtype, on its device."""
        return self.clips.to(self.device, self.dtype)

    def ours(self, dtype: torch.dtype | None = None) -> nn.Module:
        """Return this package's model, by default in the dtype of the case."""
        from ..model.modeling_timesformer import TimesformerForVideoClassification

        return self.load(TimesformerForVideoClassification, dtype)

    def built_in(self, dtype: torch.dtype | None = None) -> nn.Module:
        """Return transformers' built-in model with the same weights, by default in the dtype of the case."""
        from transformers.models.timesformer.modeling_timesformer import TimesformerForVideoClassification

        return self.load(TimesformerForVideoClassification, dtype)

    def load(self, model_class: type, dtype: torch.dtype | None) -> nn.Module:
        """
        Load the weights into a model of this class, in evaluation mode. The weights are copied out of the memory-mapped
        file, because only those parts of a mapped file that were read count as used memory.
        """
        model = model_class.from_pretrained(self.weights, dtype=self.dtype if dtype is None else dtype)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model.to(self.device).eval()

    @cached_property
    def products(self) -> list[Product]:
        """The matrix products of one forward pass of the original model."""
        return model_products(self.config, self.case.batch_size)

    def prepare_products(self) -> Callable[[], None]:
        """Return a function that runs these products once."""
        return prepare_products(self.products, self.dtype, self.device, self.quantized)

    def reference_logits(self) -> torch.Tensor:
        """Return the logits (batch, labels) of the built-in model in float32, computed clip by clip to save memory."""
        model = self.built_in(torch.float32)
        _attend_in_parts(model)
        with torch.inference_mode():
            distinct = self.clips[:_DISTINCT_CLIPS].to(self.device)
            logits = torch.cat([model(clip[None]).logits for clip in distinct])
        del model
        free_memory(self.device)
        return logits[torch.arange(self.case.batch_size) % len(logits)].cpu()


def random_weights(config: TimesformerConfig, environment: Environment) -> Path:
    """
    Return the folder of a classifier with random weights. None is zero, so no path can leave out a term unnoticed.
    """
    from ..model.modeling_timesformer import TimesformerForVideoClassification

    name = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
    folder = environment.folder / f"model-{name}-{environment.seed}"
    if not folder.exists():
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(environment.seed)
            model = TimesformerForVideoClassification(copy.deepcopy(config))  # saving a model changes its config
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=config.initializer_range)
        with output_folder(folder) as temporary:
            model.save_pretrained(temporary)
    return folder


def check_dtype(dtype: str, device: str) -> None:
    """
    Check that the hardware has the dtype.

    Raises:
        UnavailableError: where it doesn't.
    """
    if dtype != "fp8":
        return
    if not device.startswith("cuda"):
        raise UnavailableError(f"fp8 needs a CUDA device of capability {_FP8_CAPABILITY} or more; this is {device}")
    capability = torch.cuda.get_device_capability(device)
    if capability < _FP8_CAPABILITY:
        raise UnavailableError(f"fp8 needs a CUDA device of capability {_FP8_CAPABILITY}; this one has {capability}")


def compiled(model: nn.Module) -> nn.Module:
    """Return the model compiled by torch.compile for fixed shapes."""
    return torch.compile(model, dynamic=False)


def relative_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """
    Return the largest difference, relative to the largest expected value. It is NaN where a value is NaN.

    Raises:
        ValueError: where the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"the result is {tuple(got.shape)}, the reference {tuple(expected.shape)}")
    got, expected = got.detach().cpu().double(), expected.detach().cpu().double()
    return ((got - expected).abs().max() / expected.abs().max()).item()


def _attend_in_parts(model: nn.Module) -> None:
    """
    Make the built-in model compute attention for some queries at a time. It needs less memory for the same result.
    """
    from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

    for module in model.modules():
        if isinstance(module, TimesformerSelfAttention):
            module.forward = partial(_attention_in_parts, module)


def _attention_in_parts(attention: nn.Module, hidden_states: torch.Tensor, output_attentions: bool = False) -> tuple:
    """Return the attention of (groups, length, dim) in the same shape, in a tuple as the built-in module does."""
    qkv = attention.qkv(hidden_states).unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (part @ key.transpose(2, 3) * attention.scale for part in query.split(REFERENCE_QUERIES, dim=2))
    context = torch.cat([part.softmax(dim=-1) @ value for part in scores], dim=2)
    return (context.transpose(1, 2).flatten(2),)


def synchronizer(device: str) -> Callable[[], None]:
    """Return a function that waits until the device has finished all work. On a CPU it does nothing."""
    return (lambda: None) if device == "cpu" else partial(torch.accelerator.synchronize, torch.device(device))


def free_memory(device: str) -> None:
    """Free the memory of deleted objects, also in torch's CUDA cache."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()

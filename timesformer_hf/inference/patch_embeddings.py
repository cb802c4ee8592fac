"""
The patch embeddings of a model of `optimize_for_inference`: a product of patches and filters, and raw pixels.

Patches don't overlap. So their convolution is a product of a matrix of patches with a matrix of filters, which a CPU
computes faster. It goes in parts, so that the memory of the patches is reused.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ..model.backends import LARGEST_REUSED_MEMORY, emulated_dtypes, size_of_part
from ..model.modeling_timesformer import TimesformerPatchEmbeddings
from .linear_kernels import KERNELS, HasKernel, choose_kernel


if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.video_processing_utils import BaseVideoProcessor


class PatchConvolution(HasKernel, nn.Conv2d):
    """A convolution with filters as large as their stride. The class of a `nn.Conv2d` is changed to this one."""

    kernel, rows = "torch", 1

    @classmethod
    def replace(cls, convolution: nn.Conv2d, rows: int, kernel: str | None) -> None:
        """Change the class of a convolution, which usually gets so many patches. Its parameters stay where they are."""
        convolution.__class__, convolution.rows = cls, rows
        convolution.set_kernel(kernel)

    def ordinary_weight(self) -> torch.Tensor:
        """Return the filters (out_channels, channels * patch height * patch width)."""
        return self.weight.flatten(1)

    def set_kernel(self, name: str | None = None) -> None:
        """
        Take another kernel, by default the fastest one that supports the filters.

        Raises:
            ValueError: see [`choose_kernel`].
        """
        self.kernel = choose_kernel(self.ordinary_weight(), self.rows, name)

    def extra_repr(self) -> str:
        """Name the kernel, so that `print(model)` shows it."""
        return f"{super().extra_repr()}, kernel={self.kernel}"

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (frames, out_channels, rows, columns) for pixels (frames, channels, height, width)."""
        needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (pixels, *self.parameters()))
        is_of_patches = (self.stride, self.padding, self.dilation, self.groups) == (self.kernel_size, (0, 0), (1, 1), 1)
        if needs_gradient or not is_of_patches:
            return super().forward(pixels)
        return embed_patches(pixels, self.weight, self.bias, self.kernel)


def embed_patches(
    pixels: torch.Tensor, filters: torch.Tensor, bias: torch.Tensor | None, kernel_name: str
) -> torch.Tensor:
    """
    Convolve pixels (frames, channels, height, width) with filters (features, channels, patch height, patch width),
    whose stride is their size. The result is (frames, features, rows, columns), without gradients on a CPU. There it is
    a product by the kernel of that name, or by torch's own if that doesn't support the filters.
    """
    height, width = filters.shape[2:]
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # asked first: it can't ask for the processor
    if (
        is_recorded
        or torch.is_autocast_enabled("cpu")
        or pixels.device.type != "cpu"
        or pixels.dtype is not filters.dtype
        or pixels.dtype in emulated_dtypes()
        or pixels.shape[2] % height
        or pixels.shape[3] % width
    ):
        return F.conv2d(pixels, filters, bias, stride=(height, width))
    # (frames, rows, columns, channels, patch height, patch width)
    patches = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)
    frames, rows, columns, *_ = patches.shape
    weight = filters.flatten(1)
    kernel = KERNELS[kernel_name if KERNELS[kernel_name].supports(weight) else "torch"]
    packed = kernel.pack(weight, frames * rows * columns)
    embedded = pixels.new_empty(frames, rows, columns, len(filters))
    bytes_of_frame = rows * columns * max(weight.shape) * pixels.itemsize
    at_once = size_of_part(frames, max(1, LARGEST_REUSED_MEMORY // (2 * bytes_of_frame)))
    for some, part in zip(embedded.split(at_once), patches.split(at_once), strict=True):
        some.copy_(kernel.product(part.reshape(-1, weight.shape[1]), packed, bias).view_as(some))
    return embedded.permute(0, 3, 1, 2)


class RawPixelPatchEmbeddings(TimesformerPatchEmbeddings):
    """
    Patch embeddings that also take uint8 pixels. They share the weights of the model's own patch embeddings.

    Patches have no padding. So rescaling and normalising the pixels is the same as scaling the filters and shifting
    the bias.
    """

    def __init__(self, embeddings: TimesformerPatchEmbeddings, processor: "BaseVideoProcessor | BaseImageProcessor"):
        nn.Module.__init__(self)
        self.config = embeddings.config
        self.projection = projection = embeddings.projection
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        mean, std = (torch.tensor(value, dtype=torch.float64).expand(self.num_channels) for value in (mean, std))
        weight = in_float64(projection.weight) / std[:, None, None]
        bias = in_float64(projection.bias) - torch.einsum("ocij,c->o", weight, mean)
        weight = weight * (processor.rescale_factor if processor.do_rescale else 1.0)
        self.register_buffer("raw_weight", weight.to(projection.weight), persistent=False)
        self.register_buffer("raw_bias", bias.to(projection.bias), persistent=False)
        self.train(embeddings.training)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """
        Embed pixels (batch, frames, channels, height, width), raw ones where they are uint8. The result is that of the
        model's own patch embeddings.
        """
        if not isinstance(pixel_values, torch.Tensor) or pixel_values.dtype is not torch.uint8:
            return super().forward(pixel_values)
        pixels = pixel_values.to(self.raw_weight.dtype)
        self.check_pixel_values(pixels)
        patches = embed_patches(pixels.flatten(0, 1), self.raw_weight, self.raw_bias, self.projection.kernel)
        return patches.flatten(2).transpose(1, 2), pixel_values.shape[1], patches.shape[-1]


def in_float64(values: torch.Tensor) -> torch.Tensor:
    """Return the values in float64, on the CPU, because some devices have no float64."""
    return values.detach().cpu().double()

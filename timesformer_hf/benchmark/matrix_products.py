"""
The products of matrices of a model, and nothing else: what the hardware can at most do of its work.

The products are those of the model built into transformers, which computes the original arithmetic as it is written
down: no product is folded into another, none is left out. They are run at the model's shapes and in its dtype into
memory that is there already. Each layer has its own weights, since the model has to read them all; activations of equal
shapes share their memory. A product whose result is large is computed in parts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..model.configuration_timesformer import TimesformerConfig


_LARGEST_OUTPUT = 2**26  # numbers
_INT8_LEAST_ROWS, _INT8_MULTIPLE, _FP8_MULTIPLE = 17, 8, 16  # what torch's kernels on CUDA ask for


@dataclass(frozen=True)
class Product:
    """
    `groups` products of (rows, inner) with (inner, columns).

    Attributes:
        weights: whether the second operand is a layer's weights; else both are activations.
        of_pixels: whether the first operand is the model's input, which needs no gradient.
    """

    groups: int
    rows: int
    inner: int
    columns: int
    weights: bool
    of_pixels: bool = False

    @property
    def multiply_accumulates(self) -> int:
        return self.groups * self.rows * self.inner * self.columns


class _ProductRecorder(TorchDispatchMode):
    """Notes the products of matrices that run under it, in their order."""

    def __init__(self):
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.products.append(Product(1, *left.shape, right.shape[1], weights=True))
        elif name in ("bmm", "baddbmm"):
            left, right = args[-2:]
            self.products.append(Product(*left.shape, right.shape[2], weights=False))
        elif name == "convolution":
            filters = args[1]  # patches that don't overlap: a product of each with all filters
            rows = output.numel() // output.shape[1]
            self.products.append(Product(1, rows, filters[0].numel(), len(filters), weights=True, of_pixels=True))
        return output


def model_products(config: TimesformerConfig, batch_size: int) -> list[Product]:
    """
    Those of one forward pass of the model built into transformers, on clips of the config's size.

    Raises:
        KeyError, ValueError: for an attention scheme that it doesn't have.
    """
    from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as BuiltInConfig
    from transformers.models.timesformer.modeling_timesformer import TimesformerForVideoClassification

    values = config.to_dict()
    with torch.device("meta"):
        model = TimesformerForVideoClassification(BuiltInConfig.from_dict(values)).eval()
        side = values["image_size"]
        clip = torch.empty(batch_size, config.num_frames, config.num_channels, side, side)
    with torch.no_grad(), _ProductRecorder() as recorder:
        model(clip)
    return recorder.products


def training_products(products: Sequence[Product]) -> list[Product]:
    """Of a forward and a backward pass: the gradient of each operand is a product of the same size."""
    backward = []
    for product in reversed(products):
        if not product.of_pixels:
            backward.append(dataclasses.replace(product, inner=product.columns, columns=product.inner))
        backward.append(dataclasses.replace(product, rows=product.inner, inner=product.rows, weights=False))
    return [*products, *backward]


def count(products: Sequence[Product]) -> int:
    """Multiply-accumulates."""
    return sum(product.multiply_accumulates for product in products)


def split(product: Product, largest: int = _LARGEST_OUTPUT) -> list[Product]:
    """In parts whose result has at most `largest` numbers, or is one row."""
    most_groups = max(1, largest // (product.rows * product.columns))
    most_rows = max(1, min(product.rows, largest // product.columns))
    return [
        dataclasses.replace(
            product,
            groups=min(most_groups, product.groups - group),
            rows=min(most_rows, product.rows - row),
        )
        for group in range(0, product.groups, most_groups)
        for row in range(0, product.rows, most_rows)
    ]


class _Operands:
    """Memory for the products, shared between equal shapes."""

    def __init__(self, device: str):
        self.device, self.shared = device, {}

    def new(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Values of about 1: a product of zeros takes less power, and so less time on some hardware."""
        if dtype in (torch.int8, torch.int32):
            return torch.randint(-100, 100, shape, dtype=dtype, device=self.device)
        return torch.rand(shape, device=self.device).to(dtype)

    def activations(self, *shape: int, dtype: torch.dtype, written: bool = False) -> torch.Tensor:
        """To be read, or `written`: a product can't be written over its own operand."""
        if (shape, dtype, written) not in self.shared:
            self.shared[shape, dtype, written] = self.new(*shape, dtype=dtype)
        return self.shared[shape, dtype, written]


def prepare_products(
    products: Sequence[Product], dtype: torch.dtype, device: str, quantized: torch.dtype | None = None
) -> Callable[[], None]:
    """
    What runs `products` once, in their order.

    Args:
        dtype: of what isn't quantized.
        quantized: int8 or float8_e4m3fn, for the products with weights, where torch has a kernel for their shape.
    """
    operands, calls = _Operands(device), []
    for product in products:
        low = quantized if quantized is not None and takes(product, quantized) else None
        weights = operands.new(product.columns, product.inner, dtype=low or dtype).t() if product.weights else None
        calls += [_prepare_product(part, operands, weights, dtype, low) for part in split(product)]

    def run() -> None:
        for call in calls:
            call()

    return run


def takes(product: Product, quantized: torch.dtype) -> bool:
    """Whether there is a kernel for it."""
    if not product.weights:
        return False
    if quantized is torch.int8:
        return (
            product.rows >= _INT8_LEAST_ROWS and product.inner % _INT8_MULTIPLE == product.columns % _INT8_MULTIPLE == 0
        )
    return product.inner % _FP8_MULTIPLE == product.columns % _FP8_MULTIPLE == 0


def _prepare_product(
    product: Product,
    operands: _Operands,
    weights: torch.Tensor | None,
    dtype: torch.dtype,
    quantized: torch.dtype | None,
) -> Callable[[], object]:
    rows, inner, columns = product.rows, product.inner, product.columns
    if weights is None:
        left = operands.activations(product.groups, rows, inner, dtype=dtype)
        right = operands.activations(product.groups, inner, columns, dtype=dtype)
        out = operands.activations(product.groups, rows, columns, dtype=dtype, written=True)
        return lambda: torch.bmm(left, right, out=out)
    left = operands.activations(rows, inner, dtype=quantized or dtype)
    if quantized is torch.int8:
        out = operands.activations(rows, columns, dtype=torch.int32, written=True)
        return lambda: torch._int_mm(left, weights, out=out)
    if quantized is not None:
        scale = torch.ones((), device=operands.device)
        return lambda: torch._scaled_mm(left, weights, scale_a=scale, scale_b=scale, out_dtype=dtype)
    out = operands.activations(rows, columns, dtype=dtype, written=True)
    return lambda: torch.mm(left, weights, out=out)

"""
Runs a model's matrix products (matmuls) and nothing else. Their time is the limit of what the hardware can do.

The products are those of the model built into transformers, which computes the original arithmetic without
simplification: no matmul is folded into another, and none is left out. They run at the model's shapes and in its dtype.
On a CPU torch has several libraries for a product with weights: MKL, and oneDNN with packed weights. The fastest one at
that shape computes it. Each layer has its own weights, because the model must read them all from memory. Activations of
equal shape share one buffer. A product with a large result is computed in parts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..inference.int8_linear import has_int8_products
from ..inference.linear_kernels import KERNELS, fastest_kernel
from ..model.backends import LARGEST_REUSED_MEMORY, size_of_part
from ..model.configuration_timesformer import TimesformerConfig


_LARGEST_OUTPUT = 2**26  # values in a result
_INT8_LEAST_ROWS, _INT8_MULTIPLE, _FP8_MULTIPLE = 17, 8, 16  # the shapes that torch's CUDA kernels take


@dataclass(frozen=True)
class Product:
    """
    A matrix product: `groups` matmuls of (rows, inner) with (inner, columns).

    Attributes:
        groups: the batch size of the matmul.
        rows: of the first operand and the result.
        inner: columns of the first operand, which are the rows of the second.
        columns: of the second operand and the result.
        weights: whether the second operand is a layer's weights. Otherwise both operands are activations.
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
        """The number of multiplications, each with an addition."""
        return self.groups * self.rows * self.inner * self.columns


class _ProductRecorder(TorchDispatchMode):
    """Records the matrix products that run inside its block, in their order."""

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
            filters = args[1]  # patches don't overlap, so the convolution is a matmul of patches and filters
            rows = output.numel() // output.shape[1]
            self.products.append(Product(1, rows, filters[0].numel(), len(filters), weights=True, of_pixels=True))
        return output


def model_products(config: TimesformerConfig, batch_size: int) -> list[Product]:
    """
    Return the matrix products of one forward pass of the model built into transformers, on clips of the config's size.

    Raises:
        KeyError, ValueError: for an attention scheme that the built-in model doesn't have.
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
    """
    Return the products of a forward and a backward pass, given those of the forward pass. In the backward pass the
    gradient of each operand is one more product of the same size.
    """
    backward = []
    for product in reversed(products):
        if not product.of_pixels:
            backward.append(dataclasses.replace(product, inner=product.columns, columns=product.inner))
        backward.append(dataclasses.replace(product, rows=product.inner, inner=product.rows, weights=False))
    return [*products, *backward]


def total_multiply_accumulates(products: Sequence[Product]) -> int:
    """Return the number of multiply-accumulates of all products together."""
    return sum(product.multiply_accumulates for product in products)


def split(product: Product, largest: int = _LARGEST_OUTPUT) -> list[Product]:
    """
    Return parts that together compute the product. The result of each has at most `largest` values, or is one row.
    """
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
    """Buffers for the operands and results of products. Activations of equal shape share one buffer."""

    def __init__(self, device: str):
        self.device, self.shared = device, {}

    def new(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of random values. Zeros would take less power, and so less time on some hardware."""
        if not dtype.is_floating_point:
            return torch.randint(0 if dtype is torch.uint8 else -100, 100, shape, dtype=dtype, device=self.device)
        return torch.rand(shape, device=self.device).to(dtype)

    def activations(self, *shape: int, dtype: torch.dtype, written: bool = False) -> torch.Tensor:
        """Return the buffer of that shape and dtype to read from, or with `written` another one to write to."""
        if (shape, dtype, written) not in self.shared:
            self.shared[shape, dtype, written] = self.new(*shape, dtype=dtype)
        return self.shared[shape, dtype, written]


def prepare_products(
    products: Sequence[Product], dtype: torch.dtype, device: str, quantized: torch.dtype | None = None
) -> Callable[[], None]:
    """
    Return a function that runs `products` once, in their order.

    Args:
        products: see [`model_products`].
        dtype: the dtype of what isn't quantized.
        device: where they run.
        quantized: int8 or float8_e4m3fn, for those products with weights that torch has a kernel for.
    """
    operands, calls = _Operands(device), []
    for product in products:
        low = quantized if quantized is not None and _has_kernel(product, quantized) else None
        weights = operands.new(product.columns, product.inner, dtype=low or dtype) if product.weights else None
        if weights is not None and (prepared := _prepare_packed(product, operands, weights)) is not None:
            calls.append(prepared)
            continue
        weights = None if weights is None else weights.t()
        calls += [_prepare_product(part, operands, weights, dtype, low) for part in split(product)]

    def run() -> None:
        for call in calls:
            call()

    return run


def _has_kernel(product: Product, quantized: torch.dtype) -> bool:
    """Return whether torch has a kernel for this product in the quantized dtype."""
    if not product.weights:
        return False
    if quantized is torch.int8:
        return (
            product.rows >= _INT8_LEAST_ROWS and product.inner % _INT8_MULTIPLE == product.columns % _INT8_MULTIPLE == 0
        )
    return product.inner % _FP8_MULTIPLE == product.columns % _FP8_MULTIPLE == 0


def _prepare_packed(product: Product, operands: _Operands, weights: torch.Tensor) -> Callable[[], object] | None:
    """Return a call of oneDNN with packed weights, or `None` where there is none or another library is faster."""
    if weights.dtype is torch.int8:
        if weights.device.type != "cpu" or not has_int8_products():
            return None
        tokens = operands.activations(product.rows, product.inner, dtype=torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(weights, [product.rows, product.inner])
        scales, zeros = torch.ones(product.columns), torch.zeros(product.columns, dtype=torch.int64)
        settings = (None, 1.0, 0, torch.float32, "none", [], "none")
        return lambda: torch.ops.onednn.qlinear_pointwise(tokens, 1.0, 0, packed, scales, zeros, *settings)
    kernel = KERNELS[fastest_kernel(weights, product.rows)]
    if kernel is KERNELS["torch"]:
        return None
    packed = kernel.pack(weights, product.rows)
    tokens = operands.activations(product.rows, product.inner, dtype=weights.dtype)
    most_rows = max(1, LARGEST_REUSED_MEMORY // (product.columns * weights.itemsize))
    parts = tokens.split(size_of_part(product.rows, most_rows))
    return lambda: [kernel.product(part, packed, None) for part in parts]


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

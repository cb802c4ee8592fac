"""
The linear layers of a model of `optimize_for_inference`, and the kernels that compute them.

Which library multiplies matrices fastest depends on the processor, the dtype and the shape. So [`fastest_kernel`]
measures them. A kernel computes the three forms that a block needs: the product alone, the product with the activation
function after it, and the product added to the tokens. Each layer keeps its weight in the order that its kernel reads.
"""

import functools
import time
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import GELUActivation

from ..model.backends import emulated_dtypes


_MEASURED_ROWS = 256  # enough to tell kernels apart, in a few milliseconds
_MEASURED_TURNS = 4


def is_quantized(linear: nn.Linear) -> bool:
    """Return whether the weight is a quantized tensor, which needs its own matmul."""
    return type(linear.weight) is not nn.Parameter


class LinearKernel:
    """
    Torch's own matmul, and what every kernel has.

    A weight is (out_features, in_features), tokens are (rows, in_features), a bias (out_features,) is optional.
    """

    name = "torch"

    def supports(self, weight: torch.Tensor) -> bool:
        """Return whether this machine has the kernel, for a weight of this dtype and device."""
        return True

    def pack(self, weight: torch.Tensor, rows: int) -> torch.Tensor:
        """Return the weight in the order that the kernel reads, for products with about that many rows."""
        return weight

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Return the weight in the ordinary order."""
        return packed

    def product(self, tokens, weight, bias, buffer: torch.Tensor | None = None) -> torch.Tensor:
        """
        Return the product (rows, out_features). It may lie in `buffer`, a 1-D tensor that later products overwrite.
        """
        if bias is None or buffer is None or not _can_write_in_place(weight):
            return F.linear(tokens, weight, bias)
        out = buffer[: len(tokens) * len(weight)].view(len(tokens), -1)
        return torch.addmm(bias, tokens, weight.t(), out=out)

    def gelu(self, tokens, weight, bias, buffer: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product after the exact GELU, (rows, out_features). See [`product`] for `buffer`."""
        return torch.ops.aten.gelu_(self.product(tokens, weight, bias, buffer))

    def add(self, stream: torch.Tensor, tokens, weight, bias) -> torch.Tensor:
        """Return `stream` (rows, out_features) plus the product. It may be changed in place."""
        if not _can_write_in_place(weight):
            return stream.add_(F.linear(tokens, weight, bias))
        stream.addmm_(tokens, weight.t())
        return stream if bias is None else stream.add_(bias)


class _OneDnnKernel(LinearKernel):
    """
    oneDNN's matmul with a packed weight, as Inductor uses it. The activation function and the addition are part of it.
    """

    name = "onednn"

    def supports(self, weight: torch.Tensor) -> bool:
        return (
            weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.bfloat16)
            and weight.dtype not in emulated_dtypes()
            and torch.backends.mkldnn.is_available()
            and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        )

    def pack(self, weight: torch.Tensor, rows: int) -> torch.Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        return packed.to_dense()

    def product(self, tokens, weight, bias, buffer=None) -> torch.Tensor:
        function = _packed_product_operator if torch.compiler.is_compiling() else _packed_product
        return function(tokens, weight, bias, "none")

    def gelu(self, tokens, weight, bias, buffer=None) -> torch.Tensor:
        function = _packed_product_operator if torch.compiler.is_compiling() else _packed_product
        return function(tokens, weight, bias, "gelu")

    def add(self, stream: torch.Tensor, tokens, weight, bias) -> torch.Tensor:
        function = _packed_sum_operator if torch.compiler.is_compiling() else _packed_sum
        return function(stream, tokens, weight, bias)


def _packed_product(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, activation, [], "none")


def _packed_sum(
    stream: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(tokens, stream, weight, bias, "add")


# torch.compile can't look into a packed weight. It calls these operators as they are.
_packed_product_operator = torch.library.custom_op("timesformer_hf::packed_product", _packed_product, mutates_args=())
_packed_sum_operator = torch.library.custom_op("timesformer_hf::packed_sum", _packed_sum, mutates_args=())


@_packed_product_operator.register_fake
def _(tokens, weight, bias, activation):
    return tokens.new_empty(len(tokens), len(weight))


@_packed_sum_operator.register_fake
def _(stream, tokens, weight, bias):
    return torch.empty_like(stream)


# name -> kernel, in the order in which they are tried. The first one supports everything.
KERNELS = {kernel.name: kernel for kernel in (LinearKernel(), _OneDnnKernel())}


def _can_write_in_place(weight: torch.Tensor) -> bool:
    """
    Return whether the weight's matmul can write to a given tensor. A quantized weight can't, and torch.compile plans
    memory itself.
    """
    return type(weight) in (torch.Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def fastest_kernel(weight: torch.Tensor, rows: int) -> str:
    """
    Return the name of the kernel that multiplies that many rows by the weight in the least time, by a measurement.
    Equal shapes are measured once in a process.
    """
    names = tuple(name for name, kernel in KERNELS.items() if kernel.supports(weight))
    if len(names) == 1:
        return names[0]
    return _measure(names, min(rows, _MEASURED_ROWS), *weight.shape, weight.dtype, torch.get_num_threads())


@functools.cache
def _measure(
    names: tuple[str, ...], rows: int, out_features: int, in_features: int, dtype: torch.dtype, threads: int
) -> str:
    tokens, stream = (torch.rand(rows, width).to(dtype) for width in (in_features, out_features))
    weight, bias = torch.rand(out_features, in_features).to(dtype), torch.rand(out_features).to(dtype)
    packed = {name: KERNELS[name].pack(weight, rows) for name in names}
    seconds = dict.fromkeys(names, float("inf"))
    for turn in range(1 + _MEASURED_TURNS):
        for name in names:
            start = time.perf_counter()
            KERNELS[name].add(stream, tokens, packed[name], bias)
            if turn:  # the first turn warms up
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=seconds.get)


class HasKernel:
    """A layer of an optimized model that is computed by a kernel of this module, whose name is `kernel`."""

    kernel: str

    def ordinary_weight(self) -> torch.Tensor:
        """Return the weight of its product as an ordinary tensor (out_features, in_features)."""
        raise NotImplementedError

    def set_kernel(self, name: str | None = None) -> None:
        """Take another kernel, by default the fastest one that supports the weight."""
        raise NotImplementedError


def list_kernels(model: nn.Module) -> dict[str, str]:
    """Return the name of the kernel of each layer of an optimized model that has one, by the name of the layer."""
    return {name: module.kernel for name, module in model.named_modules() if isinstance(module, HasKernel)}


def set_kernels(model: nn.Module, kernels: Mapping[str, str]) -> None:
    """
    Give the layers of an optimized model the kernels that [`list_kernels`] returned for a copy of it.

    A kernel that is not on this machine is replaced by the fastest one that is.
    """
    for name, module in model.named_modules():
        if isinstance(module, HasKernel) and name in kernels:
            wanted = KERNELS.get(kernels[name])
            module.set_kernel(wanted.name if wanted and wanted.supports(module.ordinary_weight()) else None)


def choose_kernel(weight: torch.Tensor, rows: int, name: str | None = None) -> str:
    """
    Return the kernel of that name, by default the fastest one for products with about that many rows.

    Raises:
        ValueError: for a kernel that there isn't, or that doesn't support the weight's dtype and device.
    """
    name = fastest_kernel(weight, rows) if name is None else name
    if name not in KERNELS or not KERNELS[name].supports(weight):
        possible = [repr(kernel.name) for kernel in KERNELS.values() if kernel.supports(weight)]
        raise ValueError(
            f"The kernel {name!r} can't multiply {weight.dtype} on {weight.device} here; it must be one of "
            f"{', '.join(possible)}"
        )
    return name


class ForInference(nn.Module):
    """A module of an optimized model, which can't be trained."""

    def train(self, mode: bool = True):
        """Set evaluation mode, with `mode=False`. Training mode is an error."""
        if mode:
            raise ValueError(
                "A model of optimize_for_inference can't be trained: its weights are folded. Train the model that it "
                "was made from, and optimize it again"
            )
        return super().train(mode)


class RearrangedWeights(ForInference):
    """
    A linear layer with its weights in another order than a checkpoint. It saves the checkpoint's order and refuses to
    load.
    """

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.training = linear.training

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        errors.append(f"{prefix[:-1]}: a model of optimize_for_inference can't load weights; load first, then optimize")


class FoldedLinear(RearrangedWeights):
    """
    A placeholder for a linear layer that was folded into the one before it. It computes nothing and is saved as the
    identity.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        self.register_buffer("like", linear.weight.new_empty(()), persistent=False)  # keeps dtype and device

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the input unchanged."""
        return hidden_states

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.eye(self.in_features, dtype=self.like.dtype, device=self.like.device)
        destination[f"{prefix}bias"] = self.like.new_zeros(self.out_features)


class InferenceLinear(HasKernel, RearrangedWeights, nn.Linear):
    """
    A linear layer that is computed by a kernel of this module.

    Args:
        linear: the ordinary layer.
        rows: how many tokens it will usually get at once.
        kernel: a name in `KERNELS`. By default the fastest one is taken.
        head_dim: for the projection to queries, keys and values. Its rows are then sorted by head first: query, key and
            value of head 0, then those of head 1. With this order attention can treat frames and heads as one dimension
            without a copy. `forward` still returns the order of the ordinary layer.
        of_cls: whether only CLS asks in this attention. Then parts of the weight are used alone, so it stays plain.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rows: int,
        kernel: str | None = None,
        head_dim: int | None = None,
        of_cls: bool = False,
    ):
        super().__init__(linear)
        self.rows, self.head_dim, self.of_cls = rows, head_dim, of_cls
        for name in ("weight", "bias"):
            values = getattr(linear, name)
            self.register_parameter(name, None if values is None else self._constant(self._to_head_major(values)))
        self.kernel = KERNELS["torch"].name
        self.set_kernel(kernel)

    rows_at_once = None  # no limit

    def ordinary_weight(self) -> torch.Tensor:
        """Return the weight as an ordinary tensor (out_features, in_features), sorted by head where it has heads."""
        return KERNELS[self.kernel].unpack(self.weight)

    def by_head(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight (heads, 3, head_dim, in_features) and the bias (heads, 3, head_dim) in this dtype."""
        _, *parameters = self._kernel_for(dtype)
        weight, bias = (None if part is None else part.unflatten(0, (-1, 3, self.head_dim)) for part in parameters)
        return weight, bias

    def set_kernel(self, name: str | None = None) -> None:
        """
        Keep the weight for another kernel, by default the fastest one that supports it.

        Raises:
            ValueError: for a kernel that there isn't, or that doesn't support the weight's dtype and device.
        """
        weight = self.ordinary_weight()
        name = choose_kernel(weight, self.rows, "torch" if self.of_cls else name)
        self.weight = self._constant(KERNELS[name].pack(weight, self.rows))
        self.kernel = name

    def product(self, tokens: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """Return the output (tokens, out_features) for tokens (..., in_features). See [`LinearKernel.product`]."""
        tokens = tokens.flatten(0, -2)
        kernel, *parameters = self._kernel_for(tokens.dtype)
        return kernel.product(tokens, *parameters, buffer)

    def activated_product(self, tokens: torch.Tensor, activation: nn.Module, buffer: torch.Tensor) -> torch.Tensor:
        """Return the activation of the output, (tokens, out_features), for tokens (..., in_features)."""
        if not isinstance(activation, GELUActivation):
            return activation(self.product(tokens, buffer))
        tokens = tokens.flatten(0, -2)
        kernel, *parameters = self._kernel_for(tokens.dtype)
        return kernel.gelu(tokens, *parameters, buffer)

    def add_product(self, stream: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return `stream` (..., out_features) plus the output for the tokens. It may be changed in place."""
        flat = stream.view(-1, self.out_features)
        tokens = tokens.reshape(len(flat), -1)
        kernel, *parameters = self._kernel_for(tokens.dtype)
        return kernel.add(flat, tokens, *parameters).view_as(stream)

    def _kernel_for(self, dtype: torch.dtype) -> tuple[LinearKernel, torch.Tensor, torch.Tensor | None]:
        """Return the kernel for tokens of this dtype, the weight in its order, and the bias."""
        if self.weight.dtype is dtype:
            return KERNELS[self.kernel], self.weight, self.bias
        weight = self.ordinary_weight().to(dtype)
        return KERNELS["torch"], weight, None if self.bias is None else self.bias.to(dtype)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return (..., out_features) in the order of the ordinary layer, with gradients."""
        if torch.is_grad_enabled() or hidden_states.dtype != self.weight.dtype or torch.is_autocast_enabled("cpu"):
            output = F.linear(hidden_states, self.ordinary_weight(), self.bias)
        else:
            tokens = hidden_states.flatten(0, -2)
            output = KERNELS[self.kernel].product(tokens, self.weight, self.bias).unflatten(0, hidden_states.shape[:-1])
        return self.to_ordinary_order(output)

    def to_ordinary_order(self, output: torch.Tensor) -> torch.Tensor:
        """Return an output (..., out_features) in the order of the ordinary layer."""
        if self.head_dim is None:
            return output
        return output.unflatten(-1, (-1, 3, self.head_dim)).transpose(-3, -2).flatten(-3)

    def extra_repr(self) -> str:
        """Name the kernel, so that `print(model)` shows it."""
        return f"{super().extra_repr()}, kernel={self.kernel}"

    def _to_head_major(self, values: torch.Tensor) -> torch.Tensor:
        if self.head_dim is None:
            return values.detach()
        return values.detach().unflatten(0, (3, -1, self.head_dim)).transpose(0, 1).flatten(0, 2).contiguous()

    def _to_checkpoint_order(self, values: torch.Tensor) -> torch.Tensor:
        if self.head_dim is None:
            return values
        return values.unflatten(0, (-1, 3, self.head_dim)).transpose(0, 1).flatten(0, 2).contiguous()

    @staticmethod
    def _constant(values: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(values, requires_grad=False)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        values = {"weight": self.ordinary_weight(), "bias": self.bias}
        for name, value in values.items():
            if value is not None:
                destination[prefix + name] = self._to_checkpoint_order(value.detach())

    def _apply(self, function, recurse: bool = True):
        """Move or convert the layer. The weight is packed again for where it then is."""
        kernel = self.kernel
        self.set_kernel("torch")
        super()._apply(function, recurse)
        if kernel != "torch" and not is_quantized(self):
            self.set_kernel(kernel if KERNELS[kernel].supports(self.weight) else None)
        return self

    def __getstate__(self) -> dict:
        """Return what a copy is made from. A packed weight can't be copied as it is."""
        weight = self._constant(self.ordinary_weight())
        return self.__dict__ | {"_parameters": self._parameters | {"weight": weight}}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        kernel, self.kernel = self.kernel, "torch"
        self.set_kernel(kernel)

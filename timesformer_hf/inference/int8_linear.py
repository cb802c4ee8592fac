"""
Linear layers in int8 on a CPU, without a compiler: oneDNN multiplies 8-bit tokens by 8-bit weights.

Each row of a weight has one scale. Tokens get one scale and one zero point for each call, from their own smallest and
largest value, so nothing has to be calibrated. An `InferenceEncoder` passes one clip at a time, so the result of a clip
does not depend on the rest of the batch. The MLP is computed for some tokens at a time: its wide inner values then stay
in the processor's cache while they are rounded.
"""

import math

import torch
from torch import nn
from transformers.activations import GELUActivation

from ..model.backends import emulated_dtypes
from .linear_kernels import InferenceLinear, RearrangedWeights


_LEVELS = 254  # of 255, because the zero point is rounded up
_ROUNDS_TO_INTEGERS = 2.0**23  # a float32 from here to twice as much has no fraction, and its lowest bits count upwards
# in torch.cpu.get_capabilities(): instructions that multiply 8-bit numbers and add in 32 bits. Without them the sums
# of oneDNN's products could overflow.
_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "avx10_2", "amx_int8")


def has_int8_products() -> bool:
    """Return whether this torch and this CPU have the products of this module."""
    return (
        hasattr(torch.ops.onednn, "qlinear_pointwise")
        and torch.backends.mkldnn.is_available()
        and any(map(torch.cpu.get_capabilities().get, _INSTRUCTIONS))
    )


def _to_uint8(tokens: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """
    Round tokens to uint8.

    Returns:
        the integers, their scale and their zero point, an integer: a token is about scale * (integer - zero point).
    """
    low, high = (value.item() for value in torch.aminmax(tokens))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / _LEVELS, torch.finfo(torch.float32).tiny)
    zero_point = float(math.ceil(-low / scale))  # so the lowest value becomes 0 or a little more
    rounded = torch.add(torch.tensor(_ROUNDS_TO_INTEGERS + zero_point), tokens.float(), alpha=1 / scale)
    return rounded.view(torch.int32).to(torch.uint8), scale, zero_point  # the lowest byte of each number


def _to_uint8_in_graph(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round as [`_to_uint8`] does, in operations that torch.compile makes a loop of."""
    low, high = torch.aminmax(tokens)
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    zero_point = (-low / scale).ceil()
    return (tokens / scale + zero_point).round().to(torch.uint8), scale, zero_point


def _int8_product(
    integers: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    bias: torch.Tensor | None,
    gelu: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """
    Return tokens (rows, in_features), rounded by [`_to_uint8`], times the packed weight, plus the bias, and after the
    exact GELU where it is asked for.
    """
    operands = (integers, float(scale), int(zero_point), weight, scales, zero_points)
    activation = "gelu" if gelu else "none"
    return torch.ops.onednn.qlinear_pointwise(*operands, bias, 1.0, 0, dtype, activation, [], "none")


def _int8_sum(
    tokens: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    bias: torch.Tensor | None,
    stream: torch.Tensor,
) -> torch.Tensor:
    """
    Return `stream` (rows, out_features) plus the tokens (rows, in_features), not yet rounded, times the packed weight,
    plus the bias. It is in float32.
    """
    integers, scale, zero_point = _to_uint8(tokens)
    operands = (integers, scale, int(zero_point), weight, scales, zero_points)
    settings = (1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], "")
    return torch.ops.onednn.qlinear_pointwise.binary(*operands, stream, bias, *settings)


# torch.compile can't look into a packed weight. It calls these operators as they are. The rounding is outside of the
# product, where torch.compile makes one loop of it and of the norm before it. It is inside of the sum, because tokens
# come from attention in another order in memory, for which torch.compile's loop is slow.
_int8_product_operator = torch.library.custom_op("timesformer_hf::int8_product", _int8_product, mutates_args=())
_int8_sum_operator = torch.library.custom_op("timesformer_hf::int8_sum", _int8_sum, mutates_args=())


@_int8_product_operator.register_fake
def _(integers, scale, zero_point, weight, scales, zero_points, bias, gelu, dtype):
    return integers.new_empty(len(integers), len(scales), dtype=dtype)


@_int8_sum_operator.register_fake
def _(tokens, weight, scales, zero_points, bias, stream):
    return torch.empty_like(stream)


class Int8Linear(RearrangedWeights):
    """
    A linear layer of an optimized model in int8. It stands where an `InferenceLinear` of float32 stood.

    It can't be saved or trained: save and train the model that it was made from.
    """

    of_cls = False
    rows_at_once = 256  # 3 MB of the inner values of the MLP of ViT-Base

    def __init__(self, linear: InferenceLinear):
        super().__init__(linear)
        self.rows, self.head_dim, self.bias = linear.rows, linear.head_dim, linear.bias
        # of queries, keys and values: bfloat16 where this CPU multiplies it, because attention comes next
        self.output_dtype = torch.float32 if torch.bfloat16 in emulated_dtypes() else torch.bfloat16
        weight = linear.ordinary_weight().float()
        scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / torch.iinfo(torch.int8).max
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zero_points", torch.zeros(len(scales), dtype=torch.int64), persistent=False)
        self._pack((weight / scales[:, None]).round().to(torch.int8))

    def _pack(self, integers: torch.Tensor) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(integers, [self.rows, self.in_features])

    def to_ordinary_order(self, output: torch.Tensor) -> torch.Tensor:
        """Return an output (..., out_features) in the order of the ordinary layer."""
        if self.head_dim is None:
            return output
        return output.unflatten(-1, (-1, 3, self.head_dim)).transpose(-3, -2).flatten(-3)

    def _product(self, tokens: torch.Tensor, gelu: bool = False, dtype=torch.float32) -> torch.Tensor:
        tokens = tokens.flatten(0, -2)
        if torch.compiler.is_compiling():
            return _int8_product_operator(*_to_uint8_in_graph(tokens), *self._weight(), gelu, dtype)
        return _int8_product(*_to_uint8(tokens), *self._weight(), gelu, dtype)

    def _weight(self) -> tuple[torch.Tensor | None, ...]:
        return self.packed, self.scales, self.zero_points, self.bias

    def product(self, tokens: torch.Tensor, buffer: torch.Tensor | None = None) -> torch.Tensor:
        """Return the output (tokens, out_features) for tokens (..., in_features), in `output_dtype`."""
        return self._product(tokens, dtype=self.output_dtype)

    def activated_product(self, tokens: torch.Tensor, activation: nn.Module, buffer: torch.Tensor) -> torch.Tensor:
        """Return the activation of the output in float32, (tokens, out_features), for tokens (..., in_features)."""
        if isinstance(activation, GELUActivation):
            return self._product(tokens, gelu=True)
        return activation(self._product(tokens))

    def add_product(self, stream: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return `stream` (..., out_features) plus the output for the tokens, in float32."""
        flat = stream.reshape(-1, self.out_features)
        add = _int8_sum_operator if torch.compiler.is_compiling() else _int8_sum
        return add(tokens.reshape(len(flat), -1), *self._weight(), flat).view_as(stream)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Return (..., out_features) in the order of the ordinary layer, in the dtype of the input.

        Raises:
            ValueError: where a gradient is needed.
        """
        if torch.is_grad_enabled() and (self.training or hidden_states.requires_grad):
            raise ValueError("A model in int8 has no gradients. Train or explain the model that it was quantized from")
        output = self._product(hidden_states, dtype=torch.float32).unflatten(0, hidden_states.shape[:-1])
        return self.to_ordinary_order(output).to(hidden_states.dtype)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        raise ValueError(
            "A model in int8 can't be saved. Save the model that it was quantized from, then quantize again"
        )

    def _apply(self, function, recurse: bool = True):
        """
        Move or convert the layer.

        Raises:
            ValueError: for another device or dtype.
        """
        moved = function(self.scales)
        if moved.device != self.scales.device or moved.dtype != self.scales.dtype:
            raise ValueError(
                f"A model in int8 stays in float32 on the CPU; it can't become {moved.dtype} on {moved.device}. Move "
                "or convert the model that it was quantized from"
            )
        return self

    def __getstate__(self) -> dict:
        """Return what a copy is made from. A packed weight can't be copied as it is."""
        return self.__dict__ | {"packed": self.packed.to_dense().t().contiguous()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._pack(state["packed"])

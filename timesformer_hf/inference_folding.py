"""
The same answers with less arithmetic: linear maps that meet in inference with nothing between them, made one.

While training, dropout and stochastic depth stand between the output projection of an added attention step and the
step's own linear layer, and each has its gradient. In inference they are one map. The scale and shift of a norm are
part of the linear layer behind it.
"""

import copy

import torch
from torch import nn

from .modeling_timesformer import TimesformerLayer, TimesformerPreTrainedModel


class FoldedLinear(nn.Module):
    """In place of a linear layer that was folded into the one before: saved as the identity, and left out."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.has_bias = linear.in_features, linear.out_features, linear.bias is not None
        self.register_buffer("like", linear.weight.new_empty(()), persistent=False)  # keeps dtype and device

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.eye(self.in_features, dtype=self.like.dtype, device=self.like.device)
        if self.has_bias:
            destination[f"{prefix}bias"] = self.like.new_zeros(self.out_features)


def optimize_for_inference(model: TimesformerPreTrainedModel) -> TimesformerPreTrainedModel:
    """
    A model with the same answers, on the same device and in the same number format, that computes less. It is saved as
    any other and can be loaded without this function; loaded, it computes as much as before.

    Args:
        model: a TimeSformer in evaluation mode; it is left as it is.

    Raises:
        TypeError: for another model.
        ValueError: for a model in training mode.
    """
    if not isinstance(model, TimesformerPreTrainedModel):
        raise TypeError(f"optimize_for_inference takes a TimeSformer of timesformer_hf, got {type(model).__name__}")
    if model.training:
        raise ValueError("The model is in training mode, where nothing can be folded; call model.eval() first")
    model = copy.deepcopy(model)
    for layer in model.base_model.encoder.layer:
        fold_layer(layer)
    return model.requires_grad_(False)


@torch.no_grad()
def fold_layer(layer: TimesformerLayer) -> None:
    for step in layer.steps:
        attention = getattr(layer, step.attention)
        fold_norm(getattr(layer, step.norm), attention.attention.qkv)
        if step.dense is not None:
            fold_linear(attention.output.dense, getattr(layer, step.dense))
            setattr(layer, step.dense, FoldedLinear(getattr(layer, step.dense)))
    fold_norm(layer.layernorm_after, layer.intermediate.dense)


def fold_linear(first: nn.Linear, second: nn.Linear) -> None:
    """Make `first` what both do one after the other; the product in float64."""
    weight = second.weight.double()
    first.bias.copy_(weight @ first.bias.double() + second.bias.double())
    first.weight.copy_(weight @ first.weight.double())


def fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Let `linear` do the norm's scale and shift, where it has a bias to take the shift."""
    if linear.bias is None:
        return
    weight = linear.weight.double()
    linear.bias.copy_(linear.bias.double() + weight @ norm.bias.double())
    linear.weight.copy_(weight * norm.weight.double())
    norm.weight.fill_(1)
    norm.bias.zero_()

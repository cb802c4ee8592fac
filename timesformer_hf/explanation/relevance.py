"""
The relevance of every patch for a class, from the attention of all steps.

An attention step is a matrix over all tokens: the row of a query has its attention to each key. Both methods multiply
(identity + matrix) of all steps, and the row of CLS in the product tells how much each patch contributes. They differ
in the matrix:

- `"rollout"` takes the attention, averaged over heads (Abnar and Zuidema 2020, "Quantifying Attention Flow in
  Transformers"). Half of each token comes from the residual connection. The factors of 1/2 cancel out in the end.
- `"gradient_rollout"` takes the attention times the gradient of the class's logit with respect to it, without negative
  values, averaged over heads (Chefer et al. 2021, "Generic Attention-model Explainability", equations 5 and 6).

Only the row of CLS is carried backwards, from the last step to the first, and it goes through each step in that step's
groups. So no matrix of (tokens x tokens) is made. Blocks are run again one at a time, as in gradient checkpointing. So
the memory is that of one block and the inputs of all blocks, less than that of a forward pass that returns all maps.

CLS has a copy in each group of a block's last step, and becomes the mean of these copies. With rollout its row is
therefore the mean of the rows of its copies. With gradients it is their sum, because the gradient with respect to one
copy already contains the factor of the mean. In an added step CLS takes no part and stays as it is.
"""

import torch
from torch import nn

from ..inference.linear_kernels import ForInference, is_quantized
from ..model.attention_schemes import AttentionStep, Grid, patch_grid
from ..model.masked_attention import ATTENTION_PATTERNS
from ..model.modeling_timesformer import TimesformerForVideoClassification, TimesformerLayer
from .target_labels import Target, target_classes


METHODS = ("gradient_rollout", "rollout")


def explain(
    model: TimesformerForVideoClassification,
    pixel_values: torch.Tensor,
    target: Target = None,
    method: str = "gradient_rollout",
) -> torch.Tensor:
    """
    Return how relevant each patch of clips is for a class: (batch, frames, rows, columns).

    The values of a clip are at least 0 and sum to 1. If no patch has any relevance, all have the same. It works with
    every attention scheme, and with every attention backend, because it computes the attention itself.

    Args:
        model: a classifier in eval mode.
        pixel_values: (batch, frames, channels, height, width), on the model's device.
        target: the class to explain: the number or the name of a label, or one for each clip. `None` means the
            predicted class. `"rollout"` gives the same result for every class.
        method: `"gradient_rollout"` or `"rollout"`, see the module.

    Raises:
        TypeError: for a model of another class, or a target that is neither a number nor a name.
        ValueError: for an unknown method or label; for a model that is in training mode, optimized for inference or
            quantized; or if gradients are not finite.

    Example:

    ```python
    >>> relevance = explain(model, pixel_values, target="pan_left")
    >>> relevance.sum(dim=(2, 3))  # the share of each frame
    ```"""
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(map(repr, METHODS))}")
    check_can_explain(model)
    with torch.inference_mode(False), torch.no_grad():
        tokens = model.base_model.embeddings(pixel_values)
        grid = model.base_model.embeddings.grid_of(pixel_values)
        inputs = []
        for layer in model.base_model.encoder.layer:
            inputs.append(tokens)
            (tokens,) = layer(tokens, grid=grid)
        gradient = _logit_gradient(model, tokens, len(pixel_values), target)
        relevance = _carry_through_blocks(model, inputs, grid, gradient, method)
    patches = patch_grid(relevance.unsqueeze(-1), grid).squeeze(-1).permute(0, 3, 1, 2)
    return _normalized(patches.reshape(len(pixel_values), -1, *grid[1:]))


def check_can_explain(model) -> None:
    """
    Check that a model's attention can be explained. Call it before long work.

    Raises:
        TypeError, ValueError: see [`explain`].
    """
    if not isinstance(model, TimesformerForVideoClassification):
        raise TypeError(
            "explain takes a TimesformerForVideoClassification of timesformer_hf, got "
            f"{type(model).__module__}.{type(model).__name__}; with adapters of peft, give model.merge_and_unload()"
        )
    if model.config.num_labels < 1:
        raise ValueError("The model has no labels, so there is no class to explain; give a classifier")
    if getattr(model, "is_quantized", False) or any(map(_is_for_inference_only, model.modules())):
        raise ValueError(
            "The model is optimized for inference or quantized, so it no longer gives the exact attention and its "
            "gradients; explain the model from before optimize_for_inference or quantize"
        )
    if model.training:
        raise ValueError("The model is in training mode, where dropout changes the result; call model.eval() first")


def _is_for_inference_only(module: nn.Module) -> bool:
    return isinstance(module, ForInference) or (isinstance(module, nn.Linear) and is_quantized(module))


def _logit_gradient(
    model: TimesformerForVideoClassification, tokens: torch.Tensor, batch: int, target: Target
) -> torch.Tensor:
    """
    Return the gradient of each clip's target logit with respect to the last block's output, in the shape of that.

    Raises:
        TypeError, ValueError: if the model doesn't have the target.
    """
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        cls_token = tokens[:, 0].unflatten(0, (batch, -1)).mean(dim=1)  # over frames that are kept apart
        logits = model.classifier(model.base_model.layernorm(cls_token))
        classes = target_classes(target, logits.detach(), model.config.id2label)
        (gradient,) = torch.autograd.grad(logits.gather(1, classes.unsqueeze(1)).sum(), tokens)
    return gradient


def _carry_through_blocks(
    model: TimesformerForVideoClassification,
    inputs: list[torch.Tensor],
    grid: Grid,
    gradient: torch.Tensor,
    method: str,
) -> torch.Tensor:
    """
    Carry the row of CLS from the last step of the last block to the first step of the first.

    Args:
        inputs: the input of each block, (batch, tokens, dim). Each is dropped when its block is done.
        gradient: the gradient of the target logit with respect to the output of the last block.

    Returns:
        the row, (batch, tokens), in float32 or float64.

    Raises:
        ValueError: if it is not finite.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    relevance = gradient.new_zeros(gradient.shape[:2], dtype=dtype)
    relevance[:, 0] = 1
    for layer in reversed(model.base_model.encoder.layer):
        matrices, gradient = _step_matrices(layer, inputs.pop(), grid, gradient, method, dtype)
        for step, matrix in zip(reversed(layer.steps), reversed(matrices), strict=True):
            relevance = relevance + carry_back(relevance, step, matrix, grid, method)
    if not relevance.isfinite().all():
        raise ValueError(
            f"The relevance is not finite in {model.dtype}: the weights are broken, or it overflows; use float32"
        )
    return relevance


def _step_matrices(
    layer: TimesformerLayer, tokens: torch.Tensor, grid: Grid, gradient: torch.Tensor, method: str, dtype: torch.dtype
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """
    Run a block and return a matrix of each step, (groups, length, length), and the gradient of the block's input.

    With rollout there is no gradient, and the one of the output is returned.
    """
    if method == "rollout":
        _, own, *added = layer(tokens, output_attentions=True, grid=grid)
        return [attention.to(dtype).mean(dim=1) for attention in (*added, own)], gradient
    with torch.enable_grad():
        tokens = tokens.detach().requires_grad_()
        output, own, *added = layer(tokens, output_attentions=True, grid=grid)
    maps = (*added, own)  # in the order of the steps
    gradient, *gradients = torch.autograd.grad(output, (tokens, *maps), gradient)
    products = [one.to(dtype) * other.to(dtype) for one, other in zip(maps, gradients, strict=True)]
    return [product.detach().relu().mean(dim=1) for product in products], gradient


def carry_back(
    relevance: torch.Tensor, step: AttentionStep, matrix: torch.Tensor, grid: Grid, method: str
) -> torch.Tensor:
    """
    Multiply rows of relevance by the matrix of a step, which is given by its groups.

    Args:
        relevance: (batch, tokens). The result has the same shape.
        matrix: the step's part of the matrix for each group, (groups, length, length).
    """
    groups = step.regroup(relevance.unsqueeze(-1), grid).transpose(1, 2)
    cls_takes_part = ATTENTION_PATTERNS[step].cls_takes_part
    copies = len(groups) // len(relevance)  # of CLS
    if cls_takes_part and method == "rollout":
        matrix = torch.cat((matrix[:, :1] / copies, matrix[:, 1:]), dim=1)
    carried = step.restore((groups @ matrix).transpose(1, 2), grid).squeeze(-1)
    cls_token = carried[:, :1] * copies  # `restore` averages the copies, but their relevance adds up
    if not cls_takes_part:
        cls_token = relevance[:, :1] * (method == "rollout")  # rollout: all of CLS comes from itself
    return torch.cat((cls_token, carried[:, 1:]), dim=1)


def _normalized(relevance: torch.Tensor) -> torch.Tensor:
    """Scale each clip (batch, frames, rows, columns) to a sum of 1. A clip of zeros gets the same everywhere."""
    total = relevance.sum(dim=(1, 2, 3), keepdim=True)
    return torch.where(total > 0, relevance / total, 1 / relevance[0].numel())

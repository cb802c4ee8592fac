"""
Large activations that are cheap to compute: the backward pass recomputes them, so that they needn't be kept in memory.

A linear layer keeps its input for the gradient of its weights. If that input is the result of a norm or an activation
function, it can be recomputed quickly from the input of that function, which is kept anyway.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.activations import ACT2CLS


_Layout = tuple[torch.Size, tuple[int, ...], int]

# Modules that give the same result again for the same input
_ACTIVATIONS = (entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values())
DETERMINISTIC = (nn.LayerNorm, *dict.fromkeys(_ACTIVATIONS))


def hooks_on(module: nn.Module) -> list[Callable]:
    """Return what besides the module sees its calls: its hooks, those of all modules, and a `forward` of the object."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = [hook for hooks in (*own, *_GLOBAL_HOOKS) for hook in hooks.values()]
    return [*hooks, module.forward] if "forward" in module.__dict__ else hooks


_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)


def is_untouched(module: nn.Module, *kinds: type) -> bool:
    """Whether a module is of exactly one of these classes, and nothing else sees its calls."""
    return type(module) in kinds and not hooks_on(module)


@contextmanager
def recomputed(module: nn.Module, make: Callable[[], torch.Tensor]) -> Iterator[torch.Tensor]:
    """
    Yield the result of `make`, and don't let operations in the `with` block keep it for the backward pass.

    The backward pass calls `make` again to get the result, or a view of it. Nothing changes if `module`, which `make`
    calls, can't be called again: it has hooks, or is not one of `DETERMINISTIC`. Nor if something else already decides
    what is kept: gradient checkpointing, other hooks, a compiler.
    """
    if torch.compiler.is_compiling() or not is_untouched(module, *DETERMINISTIC) or not _may_hook():
        yield make()
        return
    value = make()
    if torch._C._functorch.is_functorch_wrapped_tensor(value):  # it has no storage of its own
        yield value
        return
    storage = value.untyped_storage()._cdata

    def pack(kept: torch.Tensor) -> torch.Tensor | _Layout:
        if kept.untyped_storage()._cdata != storage:
            return kept
        return kept.shape, kept.stride(), kept.storage_offset()

    def unpack(kept: torch.Tensor | _Layout) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        with torch.no_grad():
            return make().as_strided(*kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield value


def _may_hook() -> bool:
    """Whether autograd keeps tensors now, allows a hook on what it keeps, and has no such hook yet."""
    autograd = torch._C._autograd
    return (
        torch.is_grad_enabled()
        and autograd._saved_tensors_hooks_is_enabled()  # torch.func's transforms forbid them
        and autograd._top_saved_tensors_default_hooks(True) is None
    )

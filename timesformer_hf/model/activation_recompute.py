"""
Large activations that are cheap to compute: the backward pass recomputes them, so that they needn't be kept in memory.

A linear layer keeps its input for the gradient of its weights. If that input is the result of a norm or an activation
function, it can be recomputed quickly from the input of that function, which is kept anyway.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


_Layout = tuple[torch.Size, tuple[int, ...], int]


@contextmanager
def recomputed(make: Callable[[], torch.Tensor]) -> Iterator[torch.Tensor]:
    """
    Yield the result of `make`, and don't let operations in the `with` block keep it for the backward pass.

    The backward pass calls `make` again to get the result, or a view of it. Nothing changes if something else already
    decides what is kept: gradient checkpointing, other hooks, a compiler.
    """
    if torch.compiler.is_compiling() or not _may_hook():
        yield make()
        return
    value = make()
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

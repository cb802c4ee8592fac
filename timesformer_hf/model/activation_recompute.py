"""
Activations that the backward pass makes again instead of keeping: large ones that are cheap to compute.

A linear layer keeps its input, for the gradient of its weights. Where that is the result of a norm or of an activation
function, it can be made again in a moment from the input of that function, which is kept anyway.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


_Layout = tuple[torch.Size, tuple[int, ...], int]


@contextmanager
def made_again(make: Callable[[], torch.Tensor]) -> Iterator[torch.Tensor]:
    """
    What `make` returns. An operation in the block that would keep it, or a view of it, for the backward pass keeps how
    to make it. Whatever else decides over what is kept has precedence: gradient checkpointing, other hooks, a compiler.
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
    """Whether autograd keeps anything now, may be told what, and nobody else tells it."""
    autograd = torch._C._autograd
    return (
        torch.is_grad_enabled()
        and autograd._saved_tensors_hooks_is_enabled()  # torch.func's transforms forbid them
        and autograd._top_saved_tensors_default_hooks(True) is None
    )

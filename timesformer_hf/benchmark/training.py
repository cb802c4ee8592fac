"""Cases that run a training step: forward, backward and AdamW, with and without gradient checkpointing."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from .cases import Case
from .matrix_products import prepare_products, total_multiply_accumulates, training_products
from .measuring import CodePath, Environment, Prepared, Workload
from .memory import peak_in_child
from .models import DTYPES, ModelBench, check_dtype, compiled, free_memory


_LEARNING_RATE = 1e-6  # so small that the last step computes the same as the first
# Largest allowed relative difference, of the loss and of all gradients as one vector. fp32: the same sums in another
# order, through all layers and back. bf16: it has 8 bits, and each product of the two passes is rounded to them.
TOLERANCES = {"fp32": 1e-3, "bf16": 0.1}
_Gradients = dict[str, torch.Tensor]


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Return the workload of a case: one training step.

    Raises:
        UnavailableError: where the hardware doesn't have the case's dtype.
    """
    check_dtype(case.dtype, environment.device)
    torch.compiler.reset()
    bench = ModelBench(case, environment)
    return Workload(
        prepare={name: partial(PATHS[name].prepare, bench) for name in case.paths},
        reference=partial(_reference_gradients, bench),
        difference=difference_of_gradients,
        tolerance=lambda path: TOLERANCES[case.dtype],
        peak_bytes=partial(peak_in_child, case, environment, calls=2) if case.memory else None,
        multiply_accumulates=total_multiply_accumulates(training_products(bench.products)),
    )


def prepare_ours(bench: ModelBench) -> Prepared:
    """Prepare a training step of this package's model."""
    return _prepare_step(bench, bench.ours(torch.float32))


def _prepare_ours_checkpointed(bench: ModelBench) -> Prepared:
    return _prepare_step(bench, checkpointed(bench.ours(torch.float32)))


def prepare_ours_compiled(bench: ModelBench) -> Prepared:
    """Prepare a training step of this package's model with torch.compile."""
    return _prepare_step(bench, bench.ours(torch.float32), compiled)


def prepare_built_in(bench: ModelBench) -> Prepared:
    """Prepare a training step of transformers' built-in model."""
    return _prepare_step(bench, bench.built_in(torch.float32))


def _prepare_built_in_checkpointed(bench: ModelBench) -> Prepared:
    return _prepare_step(bench, checkpointed(bench.built_in(torch.float32)))


def prepare_built_in_compiled(bench: ModelBench) -> Prepared:
    """Prepare a training step of transformers' built-in model with torch.compile."""
    return _prepare_step(bench, bench.built_in(torch.float32), compiled)


def checkpointed(model: nn.Module) -> nn.Module:
    """Turn on gradient checkpointing, by the method name that the installed transformers doesn't deprecate."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    return model


def _prepare_step(
    bench: ModelBench, model: nn.Module, wrap: Callable[[nn.Module], nn.Module] | None = None
) -> Prepared:
    """
    Prepare the work of a training loop for one batch, with the optimizer that Trainer uses.

    Args:
        wrap: a function of the model that returns what is called instead of it, for example the compiled model.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, fused=True)
    backward = _make_backward(bench, model.train(), wrap)

    def run() -> None:
        backward()
        optimizer.step()
        optimizer.zero_grad()

    def output() -> _Gradients:
        values = {"loss": backward().detach().float().cpu()}
        values |= {name: parameter.grad.float().cpu() for name, parameter in model.named_parameters()}
        optimizer.zero_grad()
        return values

    return Prepared(run, output)


def _make_backward(bench: ModelBench, model: nn.Module, wrap: Callable | None = None) -> Callable[[], torch.Tensor]:
    """Return a function that computes the gradients and returns the loss."""
    called = model if wrap is None else wrap(model)
    pixel_values = bench.clips.to(bench.device)
    labels = (torch.arange(bench.case.batch_size) % bench.config.num_labels).to(bench.device)
    dtype = DTYPES[bench.case.dtype]
    kind = torch.device(bench.device).type

    def backward() -> torch.Tensor:
        with torch.autocast(kind, dtype, enabled=dtype is not torch.float32):
            loss = called(pixel_values=pixel_values, labels=labels).loss
        loss.backward()
        return loss

    return backward


def _reference_gradients(bench: ModelBench) -> _Gradients:
    """Return loss and gradients of the built-in model in float32, with gradient checkpointing to save memory."""
    model = checkpointed(bench.built_in(torch.float32).train())
    pixel_values = bench.clips.to(bench.device)
    labels = (torch.arange(bench.case.batch_size) % bench.config.num_labels).to(bench.device)
    loss = model(pixel_values=pixel_values, labels=labels).loss
    loss.backward()
    values = {"loss": loss.detach().cpu()}
    values |= {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
    del model, loss
    free_memory(bench.device)
    return values


def difference_of_gradients(got: _Gradients, expected: _Gradients) -> float:
    """
    Return the larger of two relative differences: that of the loss, and that of all gradients as one vector.

    Raises:
        ValueError: where they have gradients of different parameters.
    """
    if got.keys() != expected.keys():
        raise ValueError(f"gradients of other parameters: {', '.join(sorted(got.keys() ^ expected.keys())[:5])}")
    loss = (got["loss"] - expected["loss"]).abs() / expected["loss"].abs()
    names = expected.keys() - {"loss"}
    length = sum(expected[name].double().square().sum() for name in names).sqrt()
    apart = sum((got[name].double() - expected[name].double()).square().sum() for name in names).sqrt()
    return torch.stack((loss.double(), apart / length)).max().item()


def prepare_limit(bench: ModelBench) -> Prepared:
    """Prepare the limit: the matmuls of the original model's forward and backward pass."""
    run = prepare_products(training_products(bench.products), DTYPES[bench.case.dtype], bench.device)
    return Prepared(torch.inference_mode()(run))


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, eager PyTorch", prepare_ours),
    "ours-checkpointed": CodePath("ours", "the same, gradient checkpointing", _prepare_ours_checkpointed),
    "ours-compiled": CodePath("ours", "timesformer_hf, torch.compile", prepare_ours_compiled, on_request=True),
    "built-in": CodePath("peer", "the model built into transformers, eager", prepare_built_in),
    "built-in-checkpointed": CodePath("peer", "the same, gradient checkpointing", _prepare_built_in_checkpointed),
    "built-in-compiled": CodePath(
        "peer", "the model built into transformers, torch.compile", prepare_built_in_compiled, on_request=True
    ),
    "matrix-products": CodePath("limit", "the matmuls of both passes alone", prepare_limit),
}

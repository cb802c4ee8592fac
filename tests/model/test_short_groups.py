"""The kernels for short groups, run by Triton's interpreter on the CPU; on a GPU test_gpu.py runs them."""

import json
import os
import subprocess
import sys

import pytest


pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")

# Groups that fill a tile and that don't, heads that aren't powers of two, one token, the longest group of the dtype.
SHAPES = [(7, 3, 8, 64), (5, 2, 5, 16), (3, 2, 31, 24), (9, 2, 1, 32), (2, 1, 64, 40), (40, 1, 3, 8)]
# float16 has 11 bits: sums of numbers of about 1, rounded once or twice. float32: the same sums in another order.
# (bfloat16 is for the GPU: Triton's interpreter multiplies its bits as if they were integers, as of 3.8.)
TOLERANCES = {"float32": 1e-5, "float16": 5e-3}

PROGRAM = """
import json, sys, torch
from timesformer_hf.model.short_groups import attend_in_short_groups

shape, dtype = json.loads(sys.argv[1])
groups, heads, length, head_dim = shape
torch.manual_seed(0)
qkv = torch.randn(groups, length, 3, heads, head_dim).to(getattr(torch, dtype)).requires_grad_()
grad = torch.randn(groups, length, heads, head_dim).to(qkv.dtype)
context = attend_in_short_groups(*qkv.permute(2, 0, 3, 1, 4).unbind(0), head_dim**-0.5)
context.backward(grad)
exact = qkv.detach().double().requires_grad_()
query, key, value = exact.permute(2, 0, 3, 1, 4).unbind(0)
expected = ((query @ key.mT * head_dim**-0.5).softmax(-1) @ value).transpose(1, 2)
expected.backward(grad.double())
print(json.dumps([(a.double() - b).abs().max().item() for a, b in ((context, expected), (qkv.grad, exact.grad))]))
"""


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_attention(shape, dtype):
    """Results and gradients, against plain attention in float64. Triton reads its setting when it is imported."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([shape, dtype])],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert all(difference < TOLERANCES[dtype] for difference in json.loads(run.stdout))

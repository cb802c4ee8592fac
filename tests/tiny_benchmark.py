"""Tiny cases for the benchmark, and results that nothing was measured for."""

from timesformer_hf.benchmark.cases import Case, Clip
from timesformer_hf.benchmark.results import CaseResult, PathResult


TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 16,
}


TINY_CASES = {
    case.name: case
    for case in (
        Case("tiny", "inference", "a tiny one", ("fast",), ("ours", "built-in", "matrix-products"), TINY),
        Case("tiny-onnx-bf16", "inference", "a tiny one", (), ("ours", "onnxruntime"), TINY, dtype="bf16"),
        Case("tiny-fp8", "inference", "a tiny one in fp8", (), ("ours",), TINY, dtype="fp8"),
        Case(
            "tiny-training",
            "training",
            "a tiny step",
            (),
            ("ours", "ours-checkpointed", "built-in", "matrix-products"),
            TINY,
            batch_size=3,
        ),
        Case(
            "tiny-decode", "decode", "a tiny clip", (), ("ours", "pyav-sequential", "full-decode"), clip=Clip(64, 48, 2)
        ),
        Case(
            "tiny-label",
            "file-to-label",
            "a tiny one",
            (),
            ("ours", "built-in-pyav", "full-decode-and-products"),
            TINY,
            clip=Clip(64, 48, 2),
        ),
    )
}


def make_result(*paths: tuple[str, str]) -> CaseResult:
    """A result whose paths have these names and roles, and no times yet."""
    return CaseResult("case", "about it", "inference", [PathResult(name, role) for name, role in paths])


OURS, PEER, LIMIT = ("ours", "ours"), ("slow twin", "peer"), ("floor", "limit")

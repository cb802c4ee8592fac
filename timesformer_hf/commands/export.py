"""`timesformer-hf export`: write a classifier for ONNX, torch.export or AOTInductor."""

import argparse
import sys
from pathlib import Path

from ..output.terminal import quiet_transformers


_PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
DESCRIPTION = """\
examples:
  timesformer-hf export ./my-model --format onnx
  timesformer-hf export ./my-model --format onnx --dtype float16 --out ./my-model-half
  timesformer-hf export ./my-model --format aoti --overwrite
  python examples/classify_onnx.py ./my-model-onnx clip.mp4

Write a classifier as a graph that runs without this package. It takes clips of any batch size, number of frames, height
and width (multiples of the patch size):

  onnx          model.onnx, opset 18, for onnxruntime and others. Weights over 100 MB are in model.onnx.data beside it.
  torch-export  model.pt2, for torch.export.load
  aoti          model.pt2, compiled by AOTInductor for this machine's CPU, for torch._inductor.aoti_load_package; this
                needs a C++ compiler

Its input is "pixel_values" (batch, frames, channels, height, width), its output "logits" (batch, labels), before any
softmax or sigmoid. Both are float32. The config and the preprocessor files are copied beside it.

Before the export is kept, it is run on clips of the traced size and of other sizes, and compared with the model. If it
computes something else, that is an error and nothing is written.
"""


def add_parser(commands) -> None:
    """Add `export` and its options to the command line."""
    parser = commands.add_parser(
        "export",
        help="write a model for onnxruntime, torch.export or AOTInductor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="DIR", help="the folder of a classifier, or its name on the Hub")
    parser.add_argument(
        "--format", required=True, choices=("onnx", "torch-export", "aoti"), help="the runtime to write for"
    )
    parser.add_argument(
        "--out", metavar="OUT", help="the folder to write (default: DIR-FORMAT, for example my-model-onnx)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="dtype of the weights and of all that is computed inside (default: float32); clips and logits are always "
        "float32",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is an export")


def run(args: argparse.Namespace) -> int:
    """Export the model and print what was written and checked. Return the exit code."""
    from ..checkpoints.files import find_source
    from ..inference.export import TOLERANCES, export_model

    folder = find_source(args.model)
    out = _default_out(args.model, args.format) if args.out is None else Path(args.out)
    with quiet_transformers():
        checks = export_model(folder, out, format=args.format, dtype=args.dtype, overwrite=args.overwrite)
    print(f"{out}: " + ", ".join(f"{file.name} ({_size_text(file)})" for file in sorted(out.glob("model.*"))))
    if not any((out / name).exists() for name in _PREPROCESSOR_FILES):
        print(f"timesformer-hf: {folder} has no preprocessor file, so none is copied beside the graph", file=sys.stderr)
    for check in checks:
        print(f"  checked {' x '.join(map(str, check.shape))}: differs by {check.difference:.1e} of the largest logit")
    largest = max(check.difference for check in checks)
    print(f"  largest difference {largest:.1e}, allowed {TOLERANCES[args.dtype]:.0e}")
    return 0


def _default_out(name: str, format: str) -> Path:
    """Return the default output: my-model-onnx beside my-model, or in the current folder for a model on the Hub."""
    model = Path(name) if Path(name).exists() else Path(Path(name).name)
    model = model if model.name not in ("", "..") else model.resolve()
    return model.with_name(f"{model.name}-{format}")


def _size_text(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:,.1f} MB"

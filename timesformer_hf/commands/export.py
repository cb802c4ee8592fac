"""`timesformer-hf export`: write a classifier for ONNX, OpenVINO, torch.export or AOTInductor."""

import argparse
import sys
from pathlib import Path

from ..output.terminal import quiet_transformers


_PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
_CALIBRATION_CLIPS = 32
DESCRIPTION = """\
examples:
  timesformer-hf export ./my-model --format onnx
  timesformer-hf export ./my-model --format onnx --dtype float16 --out ./my-model-half
  timesformer-hf export ./my-model --format openvino
  timesformer-hf export ./my-model --format openvino --calibration clips/ --out ./my-model-int8
  timesformer-hf export ./my-model --format aoti --overwrite
  timesformer-hf classify clip.mp4 --model ./my-model-openvino
  python examples/classify_onnx.py ./my-model-onnx clip.mp4

Write a classifier as a graph that runs without this package. It takes clips of any batch size, number of frames, height
and width (multiples of the patch size):

  onnx          model.onnx, opset 18, for onnxruntime and others. Weights over 100 MB are in model.onnx.data beside it.
  openvino      model.xml and model.bin, for OpenVINO. With --calibration the weights and inner values are int8.
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
        help="write a model for onnxruntime, OpenVINO, torch.export or AOTInductor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="DIR", help="the folder of a classifier, or its name on the Hub")
    parser.add_argument(
        "--format", required=True, choices=("onnx", "openvino", "torch-export", "aoti"), help="the runtime to write for"
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
    parser.add_argument(
        "--calibration",
        metavar="VIDEO_OR_FOLDER",
        nargs="+",
        help=f"videos like those that the model will see, of which {_CALIBRATION_CLIPS} are enough. The openvino "
        "export is then quantized to int8, and the change of its logits and labels on these videos is printed",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is an export")


def run(args: argparse.Namespace) -> int:
    """Export the model and print what was written and checked. Return the exit code."""
    from ..checkpoints.files import find_source
    from ..inference.export import TOLERANCES, check_can_export, export_model

    folder = find_source(args.model)
    out = _default_out(args.model, args.format) if args.out is None else Path(args.out)
    check_can_export(args.format, args.dtype, int8=args.calibration is not None)
    with quiet_transformers():
        clips = () if args.calibration is None else _read_clips(folder, args.calibration)
        checks = export_model(
            folder, out, format=args.format, dtype=args.dtype, calibration=clips, overwrite=args.overwrite
        )
    print(f"{out}: " + ", ".join(f"{file.name} ({_size_text(file)})" for file in sorted(out.glob("model.*"))))
    if not any((out / name).exists() for name in _PREPROCESSOR_FILES):
        print(f"timesformer-hf: {folder} has no preprocessor file, so none is copied beside the graph", file=sys.stderr)
    quantized = [check for check in checks if check.same_label is not None]
    checks = [check for check in checks if check.same_label is None]
    for check in checks:
        print(f"  checked {' x '.join(map(str, check.shape))}: differs by {check.difference:.1e} of the largest logit")
    largest = max(check.difference for check in checks)
    print(f"  largest difference {largest:.1e}, allowed {TOLERANCES[args.dtype]:.0e}")
    if quantized:
        kept = sum(check.same_label for check in quantized)
        largest = max(check.difference for check in quantized)
        print(f"  in int8: the same label for {kept} of {len(quantized)} videos, logits differ by up to {largest:.2f}")
    return 0


def _read_clips(folder: Path, names: list[str]) -> list:
    """
    Return pixel values (1, frames, channels, height, width) of videos to calibrate with.

    Raises:
        ValueError: where a video can't be read, or there is none.
    """
    from transformers import AutoVideoProcessor

    from ..video.video_folders import find_videos

    videos = find_videos(names)
    if not videos:
        raise ValueError(f"--calibration found no video in {', '.join(names)}")
    processor = AutoVideoProcessor.from_pretrained(folder)
    step = -(-len(videos) // _CALIBRATION_CLIPS)
    return [processor(video, return_tensors="pt").pixel_values for video in videos[::step]]


def _default_out(name: str, format: str) -> Path:
    """Return the default output: my-model-onnx beside my-model, or in the current folder for a model on the Hub."""
    model = Path(name) if Path(name).exists() else Path(Path(name).name)
    model = model if model.name not in ("", "..") else model.resolve()
    return model.with_name(f"{model.name}-{format}")


def _size_text(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:,.1f} MB"

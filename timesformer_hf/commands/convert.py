"""`timesformer-hf convert`: convert checkpoints from and to other formats."""

import argparse
import sys

from ..output.terminal import quiet_transformers
from .common import frame_size, positive


DESCRIPTION = """\
examples:
  timesformer-hf convert TimeSformer_divST_8x32_224_K400.pyth timesformer-k400
  timesformer-hf convert TimeSformer_divST_8_224_SSv2.pyth timesformer-ssv2      (trained on BGR; gets its labels)
  timesformer-hf convert timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb.pth timesformer-joint
  timesformer-hf convert google/vit-base-patch16-224-in21k start --attention-type axial --num-frames 16 \\
      --labels my_classes.txt
  timesformer-hf convert my-finetuned-model old-format.pyth --to original

Convert a checkpoint to a folder that transformers loads, with and without timesformer_hf.

SOURCE is one of
  original     the authors' .pyth (8x224, 16x448, 96x224, 64x224; any number of classes; divided, joint, space-only)
  mmaction2    the .pth of mmaction2 (divided, joint, space-only)
  timesformer  a folder of transformers or a name on the Hub: to resize it, to add labels and processor files, or
               for --to original
  vit, timm    an image ViT of transformers (folder, file or name on the Hub) or of timm (file, folder): the start of
               a TimeSformer of any scheme, frames and size

Every key must fit. The result is compared in float64 with transformers' own model, or with the image ViT, and with
outputs of the source's own code if you have some. Only then is OUT written, completely or not at all. Code in a file
is never run.
"""


def add_parser(commands) -> None:
    """Add `convert` and its options to the command line."""
    parser = commands.add_parser(
        "convert",
        help="convert checkpoints from and to other formats",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("source", metavar="SOURCE", help="a file, a folder, or a name on the Hub")
    parser.add_argument("out", metavar="OUT", help="the folder to write; with --to original, the file")
    parser.add_argument(
        "--to",
        default="transformers",
        metavar="FORMAT",
        help="transformers (default), or original for the authors' format",
    )
    parser.add_argument(
        "--from",
        dest="from_format",
        metavar="FORMAT",
        help="the format that SOURCE must have: original, mmaction2, timesformer, vit or timm (default: any of them)",
    )
    parser.add_argument(
        "--attention-type",
        metavar="SCHEME",
        help="for an image ViT, the attention scheme of the TimeSformer: divided_space_time (default), "
        "joint_space_time, space_only, sparse_local_global or axial",
    )
    parser.add_argument("--num-frames", type=positive, metavar="N", help="resize the time embeddings to N frames")
    parser.add_argument(
        "--image-size",
        type=frame_size,
        metavar="SIDE_OR_HxW",
        help="resize the position embeddings to frames of this size in pixels, for example 224 or 256x448",
    )
    parser.add_argument(
        "--num-attention-heads",
        type=positive,
        metavar="N",
        help="the number of heads, which weights don't tell (default: the config's, or one for every 64 channels)",
    )
    parser.add_argument(
        "--labels",
        metavar="LIST_OR_FILE",
        help="kinetics400, kinetics600, ssv2, diving48, hmdb51, ucf101, a text file with one label a line, or none "
        "(default: the list of the published weights with the same number of classes)",
    )
    parser.add_argument(
        "--bgr",
        action=argparse.BooleanOptionalAction,
        help="whether the model was trained on BGR (default: what its preprocessor file says, else whether it is one "
        "of the authors' Something-Something models)",
    )
    parser.add_argument(
        "--check",
        dest="outputs",
        metavar="FILE",
        help="a safetensors file with pixel_values (batch, frames, channels, height, width), and the logits that the "
        "source's own code computed from them: the converted model must compute the same",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUT if it is a model; other folders are never replaced"
    )


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoint and print what was found, assumed and checked. Return the exit code."""
    with quiet_transformers():
        from ..checkpoints.conversion import convert

        conversion = convert(
            args.source,
            args.out,
            to=args.to,
            from_format=args.from_format,
            attention_type=args.attention_type,
            num_frames=args.num_frames,
            image_size=args.image_size,
            num_attention_heads=args.num_attention_heads,
            labels=args.labels,
            bgr=args.bgr,
            outputs=args.outputs,
            overwrite=args.overwrite,
            report=lambda step: print(f"timesformer-hf: {step} ...", file=sys.stderr),
        )
    config = conversion.model.config
    print(f"{args.source}: {conversion.found.title}")
    print(
        f"  {config.attention_type}, {config.num_frames} frames, size {config.image_size}, {config.num_labels} classes"
    )
    if conversion.label_list:
        print(f"  labels of {conversion.label_list}")
    if conversion.bgr:
        print("  trained on BGR")
    remarks = {"assumed": conversion.assumed, "checked": conversion.checks, "note": conversion.notes}
    for name, sentences in remarks.items():
        for sentence in sentences:
            print(f"  {name}: {sentence}")
    print(f"{args.out}: written")
    return 0

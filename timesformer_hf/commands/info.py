"""`timesformer-hf info`: what a checkpoint is."""

import argparse
import json

from ..output.terminal import quiet_transformers
from .common import positive


DESCRIPTION = """\
Say what a checkpoint is, without loading a model: format, attention scheme, frames, size, classes, parameters, and what
is missing. It knows every format that convert knows. A file is never allowed to run code.
"""
EXAMPLES = """\
examples:
  timesformer-hf info TimeSformer_divST_8x32_224_K400.pyth
  timesformer-hf info facebook/timesformer-base-finetuned-k400 --json
"""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "info",
        help="say what a checkpoint is",
        description=f"{EXAMPLES}\n{DESCRIPTION}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a folder, or a name on the Hub")
    parser.add_argument(
        "--num-attention-heads",
        type=positive,
        metavar="N",
        help="weights alone don't tell it (default: the config's, or one for every 64 channels)",
    )
    parser.add_argument("--json", action="store_true", help="print one object")


def run(args: argparse.Namespace) -> int:
    with quiet_transformers():
        from ..checkpoints.info import describe_checkpoint

        about = describe_checkpoint(args.checkpoint, args.num_attention_heads)
    print(json.dumps(about) if args.json else _as_text(about))
    return 0


def _as_text(about: dict) -> str:
    """A line a fact."""
    heads = f"{about['num_attention_heads']} heads"
    classes = f"{about['num_labels']}{', those of ' + about['label_list'] if about['label_list'] else ''}"
    lines = {
        "format": f"{about['format']} ({about['title']})",
        "attention": about["attention_type"],
        "frames": about["num_frames"] or "any (it has no time embedding)",
        "size": "{} x {} pixels".format(*about["image_size"]) + ", patches of {} x {}".format(*about["patch_size"]),
        "structure": f"{about['num_hidden_layers']} blocks, {about['hidden_size']} wide, {heads}",
        "classes": classes,
        "parameters": f"{about['parameters']:,} in {' and '.join(about['dtypes'])}",
        "pixels": f"{about['channels']}, mean {numbers(about['image_mean'])}, deviation {numbers(about['image_std'])}",
        "assumed": "; ".join(about["assumed"]) or "nothing",
        "missing": shorten(about["missing"]),
        "left over": shorten(about["left_over"]),
    }
    return "\n".join([about["source"], *(f"  {name + ':':<12}{value}" for name, value in lines.items())])


def numbers(values) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values if isinstance(values, list) else [values]))


def shorten(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more

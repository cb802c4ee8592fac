"""`timesformer-hf info`: describe a checkpoint."""

import argparse

from ..output.terminal import quiet_transformers
from ..video.printable import printable
from .common import positive, to_json


DESCRIPTION = """\
examples:
  timesformer-hf info TimeSformer_divST_8x32_224_K400.pyth
  timesformer-hf info facebook/timesformer-base-finetuned-k400 --json

Describe a checkpoint of any format that convert knows, without loading a model: format, attention scheme, frames,
size, classes, parameters, and what is missing. Code in a file is never run.
"""


def add_parser(commands) -> None:
    """Add `info` and its options to the command line."""
    parser = commands.add_parser(
        "info",
        help="describe a checkpoint",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a folder, or a name on the Hub")
    parser.add_argument(
        "--num-attention-heads",
        type=positive,
        metavar="N",
        help="the number of heads, which weights don't tell (default: the config's, or one for every 64 channels)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the description of a checkpoint. Return the exit code."""
    with quiet_transformers():
        from ..checkpoints.info import describe_checkpoint

        about = describe_checkpoint(args.checkpoint, args.num_attention_heads)
    print(to_json(about) if args.json else _as_text(about))
    return 0


def _as_text(about: dict) -> str:
    """Return the description as text, one fact a line."""
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
    lines = [f"  {name + ':':<12}{printable(value)}" for name, value in lines.items()]
    return "\n".join([printable(about["source"]), *lines])


def numbers(values) -> str:
    """Return the different numbers of a list as text; equal ones are written once."""
    return ", ".join(str(value) for value in dict.fromkeys(values if isinstance(values, list) else [values]))


def shorten(names: list[str]) -> str:
    """Return the first six names as text, and how many more there are."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more

"""`timesformer-hf cost`: count parameters and multiply-accumulates."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..output.atomic import check_output_file, output_file
from ..output.markdown_table import markdown_table
from ..output.terminal import quiet_transformers
from .common import frame_size, positive, to_json


if TYPE_CHECKING:
    from ..model.cost import ModelCost
    from ..output.cost_plot import Panel


# (frames, side in pixels): the paper's base model, and sizes that grow from there
_BASE = (8, 224)
_BY_FRAMES = {f"{frames} frames": (frames, _BASE[1]) for frames in (8, 16, 32, 64, 96)}
_BY_SIDE = {f"{side} px": (_BASE[0], side) for side in (224, 336, 448, 560)}
_COST = "10^12 multiply-accumulates over three crops"

DESCRIPTION = """\
examples:
  timesformer-hf cost
  timesformer-hf cost --plot attention_cost.svg
  timesformer-hf cost --model ./my-model --num-frames 32 --image-size 256x448
  timesformer-hf cost --json | jq -s 'min_by(.multiply_accumulates)'

Print how many parameters and multiply-accumulates the paper's attention schemes need, and how these grow with frames
and resolution, as Markdown tables. With --model, print those of a model of your own.

Multiply-accumulates are counted for matmuls and for the patch convolution. The paper calls them FLOPs: its TFLOPs are
10^12 of them over the three spatial crops of a video, and so are the numbers here. (Many libraries count a
multiplication and an addition as two FLOPs.) The model is counted without weights, so only a config is downloaded and
no memory is needed. Where a scheme pads its groups, the padding counts too: "sparse_local_global" can't halve 21 or 35
rows equally, which are 336 and 560 pixels.
"""


def add_parser(commands) -> None:
    """Add `cost` and its options to the command line."""
    parser = commands.add_parser(
        "cost",
        help="count parameters and multiply-accumulates",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        help="count this model: a folder or a name on the Hub, of which only the config is read",
    )
    parser.add_argument(
        "--num-frames", type=positive, metavar="N", help="with --model: frames of a clip (default: the model's own)"
    )
    parser.add_argument(
        "--image-size",
        type=frame_size,
        metavar="SIDE_OR_HxW",
        help="with --model: pixels of a frame, for example 224 or 256x448 (default: the model's own)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw how the schemes' costs grow, like the paper's Figure 3, to a file in .svg or .png",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--json",
        action="store_true",
        help='print one JSON object a line: {"attention_type", "num_frames", "image_size", "parameters", '
        '"multiply_accumulates"}, the last for one crop',
    )


def run(args: argparse.Namespace) -> int:
    """Print the costs, and draw them with --plot. Return the exit code."""
    check_arguments(args)
    costs = _scheme_costs() if args.model is None else [_cost_of(args.model, args.num_frames, args.image_size)]
    if args.json:
        print("\n".join(to_json(dataclasses.asdict(cost)) for cost in costs))
    else:
        print(_scheme_tables() if args.model is None else _model_table(costs[0]))
    if args.plot is not None:
        _write_plot(args.plot, args.overwrite)
        print(f"timesformer-hf: wrote {args.plot}", file=sys.stderr)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """
    Check that the arguments fit together and the plot can be written.

    Raises:
        ValueError, FileExistsError, NotADirectoryError, ImportError: where they don't or it can't.
    """
    if args.model is None and (args.num_frames is not None or args.image_size is not None):
        raise ValueError(
            "--num-frames and --image-size belong to --model, because the tables have the paper's sizes; add --model"
        )
    if args.plot is not None:
        from ..output.figures import check_can_plot

        if args.model is not None:
            raise ValueError(
                "--plot draws the paper's schemes, but --model counts a single model; give only one of them"
            )
        check_can_plot(args.plot)
        check_output_file(args.plot, args.overwrite)


def _cost_of(name: str, num_frames: int | None, image_size: int | tuple[int, int] | None) -> "ModelCost":
    """
    Return the cost of a model by its name, without loading weights.

    Raises:
        ValueError: where there is no such model, it is not a TimeSformer, or it can't have that size.
    """
    from transformers import AutoConfig

    from ..model.configuration_timesformer import TimesformerConfig
    from ..model.cost import model_cost

    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(name)
        except Exception as error:  # any error here is about this config
            missing = "" if Path(name).is_dir() else "there is no such folder, and on the Hub: "
            raise ValueError(f"can't read the config of {name}: {missing}{error}") from error
        if not isinstance(config, TimesformerConfig):
            raise ValueError(f'{name} is a "{config.model_type}", not a "timesformer"; give a TimeSformer')
        return model_cost(config, num_frames, image_size)


def _scheme_costs() -> list["ModelCost"]:
    """Return the costs of every scheme at every size of the tables."""
    from ..model.attention_schemes import ATTENTION_SCHEMES
    from ..model.cost import PAPER_VARIANTS, scheme_cost

    sizes = dict.fromkeys((*PAPER_VARIANTS.values(), *_BY_FRAMES.values(), *_BY_SIDE.values()))
    return [scheme_cost(scheme, *size) for scheme in ATTENTION_SCHEMES for size in sizes]


def _tera(cost: "ModelCost") -> str:
    return f"{cost.tera_over_crops:.2f}"


def parameters(cost: "ModelCost") -> str:
    """Return the number of parameters as text with commas."""
    return f"{cost.parameters:,}"


def _further_parameters(cost: "ModelCost") -> str:
    from ..model.cost import scheme_cost

    return f"{cost.parameters - scheme_cost(cost.attention_type, *_BASE).parameters:+,}"


def _scheme_tables() -> str:
    """Return Markdown tables: the paper's variants of every scheme, then how cost and parameters grow."""
    from ..model.cost import KINETICS_400_LABELS, PAPER_VARIANTS

    frames, side = _BASE
    variants = {f"{name} {'x'.join(map(str, size))}": (_tera, size) for name, size in PAPER_VARIANTS.items()}
    by_frames = {name: (_tera, size) for name, size in _BY_FRAMES.items()}
    by_side = {name: (_tera, size) for name, size in _BY_SIDE.items()}
    grown = {name: (_further_parameters, size) for name, size in (_BY_FRAMES | _BY_SIDE).items() if size != _BASE}
    tables = {
        f"Parameters at {frames}x{side} with {KINETICS_400_LABELS} classes, and {_COST}": {
            "parameters": (parameters, _BASE),
            **variants,
        },
        f"By frames of {side} x {side} pixels, {_COST}": by_frames,
        f"By the side of {frames} square frames, {_COST}": by_side,
        f"Parameters beyond those at {frames}x{side}, by frames and by side": grown,
    }
    return "\n\n".join(f"{title}:\n\n{_scheme_table(columns)}" for title, columns in tables.items())


def _scheme_table(columns: dict) -> str:
    """
    Return a table with a row for each scheme. `columns` is heading -> (function from a cost to text, (frames, side)).
    """
    from ..model.attention_schemes import ATTENTION_SCHEMES
    from ..model.cost import scheme_cost

    rows = [
        [f"`{scheme}`", *(say(scheme_cost(scheme, *size)) for say, size in columns.values())]
        for scheme in ATTENTION_SCHEMES
    ]
    return markdown_table(["scheme", *columns], rows)


def _model_table(cost: "ModelCost") -> str:
    """Return the table of a single model, with the cost of one crop and of three."""
    size = "x".join(str(side) for side in cost.image_size)
    row = [f"`{cost.attention_type}`", str(cost.num_frames), size, parameters(cost)]
    counts = [f"{cost.multiply_accumulates / 1e12:.4g}", f"{cost.tera_over_crops:.4g}"]
    heads = ["scheme", "frames", "pixels", "parameters", "10^12 multiply-accumulates, one crop", "three crops"]
    return markdown_table(heads, [[*row, *counts]])


def _write_plot(path: str, overwrite: bool) -> None:
    from ..output.cost_plot import plot_costs

    with output_file(path, overwrite) as temporary:
        plot_costs(temporary, _plot_panels(), _COST.replace("10^12", "$10^{12}$"))


def _plot_panels() -> list["Panel"]:
    """Return the panels of the paper's Figure 3: cost by resolution on the left, by frames on the right."""
    from ..model.attention_schemes import ATTENTION_SCHEMES
    from ..model.cost import scheme_cost
    from ..output.cost_plot import Panel

    def lines(sizes: dict) -> dict[str, list[float]]:
        return {
            scheme: [scheme_cost(scheme, *size).tera_over_crops for size in sizes.values()]
            for scheme in ATTENTION_SCHEMES
        }

    return [
        Panel(
            f"height and width of each of {_BASE[0]} frames (pixels)",
            [side for _, side in _BY_SIDE.values()],
            lines(_BY_SIDE),
        ),
        Panel(
            f"frames of {_BASE[1]} x {_BASE[1]} pixels (number)",
            [frames for frames, _ in _BY_FRAMES.values()],
            lines(_BY_FRAMES),
        ),
    ]

"""`timesformer-hf annotate`: predictions as tasks for annotation tools, for people to correct."""

import argparse
import os
import sys


DESCRIPTION = """\
examples:
  timesformer-hf annotate predictions.parquet --format label-studio --out tasks --document-root videos/
  timesformer-hf annotate predictions.parquet --format cvat --out tasks
  timesformer-hf annotate results/label_errors.csv --format label-studio --out doubtful

Write a folder that an annotation tool imports. In it, each video has the likeliest label as a suggestion, which people
accept or correct. `timesformer-hf classify videos/ --model my-model --out predictions.parquet` makes predictions. A
video without one is left out and counted.

docs/data_quality.md says how each tool imports the folder.
"""


def add_parser(commands) -> None:
    """Add `annotate` and its options to the command line."""
    parser = commands.add_parser(
        "annotate",
        help="turn predictions into tasks for annotation tools",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "predictions",
        metavar="FILE",
        help="lines of classify --json (.jsonl), a table of classify --out (.parquet), or the label_errors.csv of "
        "evaluate",
    )
    parser.add_argument("--format", required=True, choices=("label-studio", "cvat"), help="the tool")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write, which must be new")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="all labels to choose from: a text file with a label a line, or kinetics400, ... (default: those that "
        "occur)",
    )
    parser.add_argument(
        "--document-root",
        metavar="DIR",
        help="for label-studio: the folder whose files Label Studio serves, its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT "
        "(default: paths stay as they are, which Label Studio can't open unless they are URLs)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder. Return the exit code."""
    from ..data.annotation_tasks import collect_labels, read_predictions, write_cvat, write_label_studio
    from ..data.label_lists import read_labels
    from ..output.atomic import check_output_folder
    from ..output.terminal import counted

    if args.document_root is not None and args.format != "label-studio":
        raise ValueError("--document-root is for --format label-studio alone; leave it out")
    if os.path.lexists(args.out):
        raise FileExistsError(f"{args.out} exists, and no annotations are replaced; give another name")
    check_output_folder(args.out)
    videos, failures = read_predictions(args.predictions)
    labels = collect_labels(videos, None if args.labels is None else read_labels(args.labels))
    if args.format == "cvat":
        write_cvat(args.out, videos, labels)
    else:
        write_label_studio(args.out, videos, labels, args.document_root)
    if failures:
        print(f"timesformer-hf: left out: {counted(failures, 'video')} without a prediction", file=sys.stderr)
    print(f"{args.out}: {counted(len(videos), 'video')}, {counted(len(labels), 'label')} to choose from")
    return 0

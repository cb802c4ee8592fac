"""`timesformer-hf bench`: measure this package and its peers side by side."""

import argparse
import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..output.terminal import quiet_transformers
from .common import choose_device, positive


if TYPE_CHECKING:
    from ..benchmark.cases import Case
    from ..benchmark.measuring import Environment
    from ..benchmark.results import CaseResult, Results


DESCRIPTION = """\
examples:
  timesformer-hf bench
  timesformer-hf bench --list
  timesformer-hf bench --cases inference+base+fp32 decode --repetitions 7 --out results.json
  timesformer-hf bench --cases joint-32f-fp32 'training-base-b8-*' --threads 2
  timesformer-hf bench --cases inference+base+b32+bf16 --device cuda --paths all
  timesformer-hf bench --page docs/performance.md laptop.json server.json

Measure this package and its peers on this machine: the model built into transformers, ONNX Runtime, PyAV and
torchcodec. Without arguments this is a short run, about two minutes on two cores.

A case is one piece of work, and a path is one way to do it. --list shows all of them. --cases chooses cases by name,
kind or tag: + joins words that must all match, and * stands for any text. All paths of a case do the same work in one
process with the same random weights, and take turns. Before that, the result of each is compared with a reference. A
path that disagrees is reported as failed and not timed. The limit is that of the machine: the model's matrix products
alone, or the codec alone.

A path that can't run here is listed as missing, with the reason. Paths with torch.compile take minutes to prepare, so
they are measured only where --paths names them.

The numbers are medians. Ratios have their quartiles in brackets: 1.20x [1.18, 1.23] is 1.2 times as fast. On a machine
with other work, ratios are more stable than times. The exit code is 1 where a path disagrees with the reference, or one
of this package's paths raises an error.
"""


def add_parser(commands) -> None:
    """Add `bench` and its options to the command line."""
    parser = commands.add_parser(
        "bench",
        help="measure speed and memory against the peers",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "results",
        nargs="*",
        metavar="JSON",
        help="with --page or --plot: files that earlier runs wrote with --out; nothing is measured",
    )
    parser.add_argument("--list", action="store_true", help="print the cases and their paths, and measure nothing")
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        help="cases to measure, for example inference+base+fp32 (default: those tagged quick)",
    )
    parser.add_argument(
        "--paths",
        nargs="+",
        metavar="PATH",
        help='paths to measure, by name, or "all" (default: all that are prepared in seconds)',
    )
    parser.add_argument("--device", help="for example cpu, cuda or cuda:1 (default: an accelerator if there is one)")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of the computing libraries (default: torch's own choice)"
    )
    parser.add_argument(
        "--repetitions", type=positive, default=3, metavar="N", help="how often each path is timed (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights, clips and videos (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="write all times, the machine and the versions to this JSON file")
    parser.add_argument(
        "--page", metavar="FILE", help="write a page in Markdown, and its chart to an .svg file beside it"
    )
    parser.add_argument("--plot", metavar="FILE", help="write only the chart, to a file in .svg or .png")
    parser.add_argument("--overwrite", action="store_true", help="replace these files where they exist")


def run(args: argparse.Namespace) -> int:
    """
    Measure cases, or read earlier results, and write the outputs. Return the exit code: 1 where something is wrong.
    """
    from ..benchmark.cases import CASES, select_cases

    if args.list:
        print(_list_of_cases(select_cases(args.cases) if args.cases else CASES))
        return 0
    _check_outputs(args)
    if args.results:
        results = _read_all(args)
    else:
        results = [_run_cases(select_cases(args.cases or ()), args)]
        print(_terminal_text(results[0]))
    _write_outputs(args, results)
    return 1 if not args.results and results[0].failed else 0


def _check_outputs(args: argparse.Namespace) -> None:
    """
    Check that the arguments fit together and the output files can be written.

    Raises:
        ValueError, FileExistsError, NotADirectoryError, ImportError: where they don't or can't.
    """
    from ..output.atomic import check_output_file
    from ..output.figures import check_can_plot

    if args.results and not (args.page or args.plot):
        raise ValueError(
            f"{args.results[0]}: results of earlier runs are for --page or --plot; give one of these options"
        )
    measuring = [f"--{name}" for name in ("cases", "paths", "device", "threads", "out") if getattr(args, name)]
    if args.results and measuring:
        raise ValueError(
            f"{', '.join(measuring)} are for measuring, and earlier results are not measured again; leave them out"
        )
    if args.page and Path(args.page).suffix != ".md":
        raise ValueError(f"--page {args.page}: the name of a page must end in .md")
    for path in plots(args):
        check_can_plot(path)
    for path in (args.out, args.page, *plots(args)):
        if path is not None:
            check_output_file(path, args.overwrite)


def plots(args: argparse.Namespace) -> list[str]:
    """Return the file names of the charts to write."""
    return [*([args.plot] if args.plot else []), *([str(Path(args.page).with_suffix(".svg"))] if args.page else [])]


def _read_all(args: argparse.Namespace) -> list["Results"]:
    from ..benchmark.results import read_results

    return [read_results(path) for path in args.results]


def _list_of_cases(cases: Sequence["Case"]) -> str:
    """Return the text of --list: a line for each case, then the paths of each kind."""
    from ..benchmark.cases import KINDS

    width = max(len(case.name) for case in cases)
    lines = [f"{case.name:<{width}}  {case.about}  [{', '.join((case.kind, *case.tags))}]" for case in cases]
    for kind in KINDS:
        names = dict.fromkeys(name for case in cases if case.kind == kind for name in case.paths)
        table = paths_of(kind)
        if names:
            lines += ["", f"paths of {kind}:"]
        for name in names:
            asked = " (only where --paths names it)" if table[name].on_request else ""
            lines.append(f"  {name:<{width - 2}}  {table[name].role}: {table[name].about}{asked}")
    return "\n".join(lines)


def paths_of(kind: str) -> dict:
    """Return the table of paths of a kind of case."""
    from ..benchmark.cases import KINDS

    return import_module(f"..benchmark.{KINDS[kind]}", __package__).PATHS


def _run_cases(cases: Sequence["Case"], args: argparse.Namespace) -> "Results":
    """
    Measure the cases. `--out` is written after each, so that an interrupt loses only the case that is being measured.

    Raises:
        ValueError: for a device that torch can't use, or a path that no case has.
    """
    from ..benchmark.results import write_results

    device = choose_device(args.device)
    _check_paths(args.paths, cases)
    results, overwrite = _new_results(device, args), args.overwrite
    with environment(device, args) as here, progress(len(cases), args) as bar:
        for number, case in enumerate(cases, start=1):
            bar.set_description(case.name)
            results.cases.append(_run_case(case, here, args, bar.update))
            bar.n = number * steps(args)  # also where the case ended early
            if args.out is not None:
                write_results(args.out, results, overwrite)
                overwrite = True  # this run wrote the file
    return results


def steps(args: argparse.Namespace) -> int:
    """Return how many steps of the progress bar a case has: memory, agreement and each repetition."""
    return 2 + args.repetitions


def progress(num_cases: int, args: argparse.Namespace):
    """Return a progress bar for that many cases."""
    from tqdm import tqdm

    return tqdm(total=num_cases * steps(args), unit="step", disable=None)


@contextlib.contextmanager
def environment(device: str, args: argparse.Namespace) -> Iterator["Environment"]:
    """Set torch's threads and create a folder for the cases. Both end with the block."""
    import torch

    from ..benchmark.measuring import Environment

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="timesformer-hf-bench-") as folder, quiet_transformers():
        torch.set_num_threads(args.threads or threads)
        try:
            yield Environment(device, torch.get_num_threads(), args.seed, Path(folder))
        finally:
            torch.set_num_threads(threads)


def _run_case(case: "Case", here: "Environment", args: argparse.Namespace, advance) -> "CaseResult":
    """Measure a case. If it fails, the reason is in its result, and the other cases are still measured."""
    from ..benchmark.cases import KINDS
    from ..benchmark.measuring import Stopwatch, UnavailableError, measure, one_line
    from ..benchmark.models import free_memory, synchronizer
    from ..benchmark.results import CaseResult, PathResult

    chosen = _chosen_paths(case, args.paths)
    result = CaseResult(case.name, case.about, case.kind)
    if not chosen:
        result.skipped = "--paths names none of its paths"
        return result
    try:
        workload = import_module(f"..benchmark.{KINDS[case.kind]}", __package__).make_workload(case, here)
        result.paths = [PathResult(name, paths_of(case.kind)[name].role) for name in chosen]
        result.multiply_accumulates = workload.multiply_accumulates
        measure(result, workload, args.repetitions, Stopwatch(synchronize=synchronizer(here.device)), advance)
    except Exception as error:  # the other cases are still measured
        result.paths, result.skipped = [], one_line(error)
        result.broken = not isinstance(error, (UnavailableError, ImportError))
    free_memory(here.device)
    return result


def _chosen_paths(case: "Case", names: Sequence[str] | None) -> list[str]:
    """Return the paths to measure, in the order of the case."""
    if names is None:
        return [name for name in case.paths if not paths_of(case.kind)[name].on_request]
    return [name for name in case.paths if "all" in names or name in names]


def _check_paths(names: Sequence[str] | None, cases: Sequence["Case"]) -> None:
    """
    Check that each path belongs to one of the cases.

    Raises:
        ValueError: for a path that none of the cases has.
    """
    known = dict.fromkeys(name for case in cases for name in case.paths)
    for name in names or ():
        if name != "all" and name not in known:
            raise ValueError(f'--paths {name}: the chosen cases have {", ".join(known)}; give one of these or "all"')


def _new_results(device: str, args: argparse.Namespace) -> "Results":
    import torch

    from ..benchmark.machine import describe_machine, describe_versions
    from ..benchmark.results import Results

    return Results(
        machine=describe_machine(device),
        versions=describe_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command_of(args),
        settings={
            "device": device,
            "threads": args.threads or torch.get_num_threads(),
            "repetitions": args.repetitions,
            "seed": args.seed,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
    )


def _command_of(args: argparse.Namespace) -> str:
    """Return the command that measures the same, without its output files."""
    words = ["timesformer-hf", "bench"]
    for name in ("cases", "paths", "device", "threads", "repetitions", "seed"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _terminal_text(results: "Results") -> str:
    """Return what is printed: the machine, each case, then a summary of all."""
    from ..benchmark.page import about, case_text, summary

    cases = [f"{case.name}\n{case_text(case)}" for case in results.cases]
    return "\n\n".join([about(results), *cases, summary(results.cases)])


def _write_outputs(args: argparse.Namespace, results: Sequence["Results"]) -> None:
    """Write the page and the charts. A chart needs a case with a peer; `--out` was written before."""
    from ..benchmark.page import performance_page, plotted_rows
    from ..benchmark.plot import plot_ratios
    from ..output.atomic import output_file

    rows = plotted_rows(results)
    charts = plots(args) if rows else []
    if plots(args) and not rows:
        print(
            "timesformer-hf: no chart is written, because in no case were both one of our paths and a peer measured",
            file=sys.stderr,
        )
    for path in charts:
        with output_file(path, args.overwrite) as temporary:
            plot_ratios(temporary, rows)
    if args.page is not None:
        chart = Path(args.page).with_suffix(".svg").name if rows else None
        with output_file(args.page, args.overwrite) as temporary:
            temporary.write_text(performance_page(results, chart))
    for path in (args.out, args.page, *charts):
        if path is not None:
            print(f"timesformer-hf: wrote {path}", file=sys.stderr)

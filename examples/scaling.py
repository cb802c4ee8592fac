"""
Measures how `timesformer-hf classify --out` scales on this machine: runs over 50 to 400 clips on one and two cores,
beside what `timesformer-hf plan` says of them; Ray with one and two actors, beside no engine; the memory over 2,000
clips.

    python examples/scaling.py --out scaling.json

It prints the three tables of docs/scale.md, and takes about ten minutes on two cores without other work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from timesformer_hf.benchmark.cases import Clip
from timesformer_hf.benchmark.measuring import Environment
from timesformer_hf.benchmark.videos import generated_clip
from timesformer_hf.output.atomic import check_output_file, output_file
from timesformer_hf.output.markdown_table import markdown_table
from timesformer_hf.scale.plan import Corpus, Machines, Measurement, make_plan


DIFFERENT = 4  # clips; the others are the same files under other names


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400], help="clips of the runs")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="cores of the runs")
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2], help="actors of the runs with Ray")
    parser.add_argument("--many", type=int, default=2000, help="clips of the run whose memory is measured")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240], help="width and height of a clip")
    return parser.parse_args()


def make_clips(folder: Path, count: int, size: list[int]) -> None:
    """Make `count` clips of two seconds in a folder, most of them links to a few."""
    made = [generated_clip(Clip(*size, 2), Environment("cpu", 1, seed, folder.parent)) for seed in range(DIFFERENT)]
    folder.mkdir()
    for number in range(count):
        os.link(made[number % DIFFERENT], folder / f"{number:05d}.mp4")


def run_program(words: list[str], cores: int | None = None) -> tuple[float, int]:
    """Run `timesformer-hf` on so many cores. Return the seconds, and the peak of its memory in bytes."""
    first = sorted(os.sched_getaffinity(0))[:cores]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "timesformer_hf", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, first),
    )
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"timesformer-hf {' '.join(words)} failed:\n{errors}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def classify(folder: Path, count: int, cores: int | None = None, *options: str) -> tuple[float, int]:
    """Label the first clips of a folder. Return the seconds and the peak of the memory."""
    table, names = folder.parent / "table.parquet", folder.parent / "names.txt"
    names.write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())[:count]))
    return run_program(["classify", f"@{names}", "--out", str(table), "--overwrite", *options], cores)


def measure_plan(folder: Path, cores: int) -> dict:
    """Return the measurement that `timesformer-hf plan` makes on so many cores."""
    saved, samples = folder.parent / "plan.json", sorted(map(str, folder.iterdir()))[:DIFFERENT]
    run_program(["plan", *samples, "--videos", "1", "--save", str(saved), "--overwrite"], cores)
    return json.loads(saved.read_text())["measured"]


def planned_seconds(measured: dict, count: int) -> float:
    """Return how long the plan says that so many clips take."""
    return 3600 * make_plan(Measurement(**measured), Corpus(count, 0), Machines()).hours


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Return all measurements."""
    make_clips(folder, max(*args.counts, args.many), args.size)
    steps = len(args.cores) * (1 + len(args.counts)) + 1 + len(args.actors) + 2
    with tqdm(total=steps, unit="run", disable=None) as progress:
        results = {"plans": {}, "runs": [], "actors": [], "memory": []}
        for cores in args.cores:
            results["plans"][str(cores)] = measure_plan(folder, cores)
            progress.update()
            for count in args.counts:
                seconds, _ = classify(folder, count, cores)
                results["runs"].append({"cores": cores, "clips": count, "seconds": seconds})
                progress.update()
        small, large = min(args.counts), max(args.counts)
        for actors in [0, *args.actors]:  # 0: no engine. The difference of two runs leaves out what starting takes
            words = ["--engine", "ray", "--num-actors", str(actors)] if actors else []
            seconds = [classify(folder, count, None, *words)[0] for count in (small, large)]
            results["actors"].append(
                {"actors": actors, "start": seconds[0], "seconds_per_clip": (seconds[1] - seconds[0]) / (large - small)}
            )
            progress.update()
        for count in (args.many // 4, args.many):
            results["memory"].append({"clips": count, "bytes": classify(folder, count)[1]})
            progress.update()
    return results


def show(results: dict) -> str:
    """Return the three tables."""
    runs = []
    for run in results["runs"]:
        planned = planned_seconds(results["plans"][str(run["cores"])], run["clips"])
        error = planned / run["seconds"] - 1
        runs.append(
            [str(run["cores"]), str(run["clips"]), f"{run['seconds']:.1f} s", f"{planned:.1f} s", f"{error:+.0%}"]
        )
    alone = results["actors"][0]["seconds_per_clip"]
    engines = [
        [
            f"Ray, {row['actors']} actor{'s' if row['actors'] > 1 else ''}" if row["actors"] else "none",
            f"{1 / row['seconds_per_clip']:.1f}",
            f"{1e3 * (row['seconds_per_clip'] - alone):+.1f} ms",
        ]
        for row in results["actors"]
    ]
    memory = [[f"{row['clips']:,}", f"{row['bytes'] / 2**20:,.0f} MiB"] for row in results["memory"]]
    return "\n\n".join(
        [
            markdown_table(["cores", "clips", "measured", "planned", "error of the plan"], runs),
            markdown_table(["engine", "clips a second", "more time for a clip"], engines),
            markdown_table(["clips", "peak memory"], memory),
        ]
    )


def main() -> None:
    """Measure, write the results and print them."""
    args = parse_arguments()
    check_output_file(args.out, args.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, Path(folder) / "clips")
    with output_file(args.out, args.overwrite) as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(show(results))


if __name__ == "__main__":
    main()

"""The command `timesformer-hf`: parse and call. The commands are in `commands/`."""

import argparse
import os
import signal
import sys
import threading

from .commands import bench, classify, convert, cost, embed, export, info
from .version import __version__


COMMANDS = (classify, embed, convert, info, cost, export, bench)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 where a video or a check failed, 2 for a mistake in the call."""
    args = _make_parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("timesformer-hf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:  # bad input, each with a message of its own
        print(f"timesformer-hf: {error}", file=sys.stderr)
        return 2


def stop(number: int, frame) -> None:
    """End as after an error, so that nothing half-written stays."""
    sys.exit(128 + number)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="timesformer-hf", description="TimeSformer, the video transformer, for Hugging Face transformers."
    )
    parser.add_argument("--version", action="version", version=f"timesformer_hf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

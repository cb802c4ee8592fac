"""The command `timesformer-hf`: parse the words and call a command. The commands are in `commands/`."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from .commands import (
    annotate,
    bench,
    classify,
    convert,
    cost,
    demo,
    duplicates,
    embed,
    evaluate,
    explain,
    export,
    finetune,
    info,
    plan,
    shard,
    timeline,
)
from .commands.common import escaped_output, only_own_warnings
from .commands.completion import SHELLS, PrintCompletion
from .output.options import check_options
from .version import __version__


COMMANDS = (
    classify,
    timeline,
    explain,
    demo,
    shard,
    finetune,
    evaluate,
    embed,
    plan,
    duplicates,
    annotate,
    convert,
    info,
    cost,
    export,
    bench,
)
_PARSE_THEIR_OWN = ("finetune", "evaluate")  # their options come from dataclasses that need torch

_FIRST_STEPS = """\
TimeSformer, the video transformer, for Hugging Face transformers.

Label a video:
  timesformer-hf classify clip.mp4
  timesformer-hf classify clip.mp4 --model facebook/timesformer-base-finetuned-k400

See what the model looks at, as films and pictures:
  timesformer-hf explain clip.mp4 --out explained

See what happens when in a long film, as subtitles and as a picture:
  timesformer-hf timeline film.mp4 --out film.srt --out film.png

The same on a page in the browser, on which you drop clips:
  timesformer-hf demo

Train a model on videos of your own, in a folder for each class, and measure it:
  timesformer-hf finetune --data videos/ --model facebook/timesformer-base-finetuned-k400 --reset_head \\
      --output_dir my-model
  timesformer-hf evaluate --model my-model --data my-model/_split.csv --split validation --output_dir results

Look at what a checkpoint is:
  timesformer-hf info facebook/timesformer-base-finetuned-k400

Measure how fast it is on this machine:
  timesformer-hf bench

Everything else:
  timesformer-hf --help
  timesformer-hf COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command and return its exit code: 0, 1 where a video or a check failed, 2 for a mistake in the call.

    With `--verbose` anywhere among the words, warnings of other packages are shown too.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        print(_FIRST_STEPS, end="")
        return 0
    verbose = "--verbose" in words
    words = [word for word in words if word != "--verbose"]
    with escaped_output(), contextlib.nullcontext() if verbose else only_own_warnings():
        return _run(words)


def _run(words: list[str]) -> int:
    """Parse and run a command, and return its exit code."""
    try:
        args = _parse(words)
        with _ending_in_order():
            return args.run(args)
    except KeyboardInterrupt as interrupt:
        print(_message("interrupted.", interrupt), file=sys.stderr)
        return 128 + signal.SIGINT
    except _Terminated as termination:
        print(_message("interrupted.", termination), file=sys.stderr)
        raise
    except BrokenPipeError:  # the reader of our output, for example `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:  # bad input, each with a message of its own
        print(_message(str(error), error), file=sys.stderr)
        return 2


def _message(text: str, error: BaseException) -> str:
    """Return a line on the end of the program, with the notes of the error, which say how it goes on."""
    return " ".join(["timesformer-hf:", text, *getattr(error, "__notes__", ())])


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """In the block, SIGTERM ends the program as an error does, so that nothing half-written stays."""
    # One of several processes may wait for the others in a library, where no handler is run: SIGTERM must end it.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(SystemExit):
    """SIGTERM ends the program."""


def stop(number: int, frame) -> None:
    """Leave the program by an exception, which cleans up on its way."""
    raise _Terminated(128 + number)


def _parse(words: list[str]) -> argparse.Namespace:
    """
    Return the parsed words. Those of a command that parses its own are in `words`, as they are.

    Raises:
        ValueError: for an unknown option.
    """
    own = words[1:] if words[0] in _PARSE_THEIR_OWN else []
    parser, commands = _make_parser()
    args, unknown = parser.parse_known_args(words[:1] if own else words)
    check_options(unknown, commands[words[0]]._option_string_actions if words[0] in commands else ())
    args.words = own
    return args


def _make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and the parser of each command by its name."""
    parser = argparse.ArgumentParser(
        prog="timesformer-hf",
        description="TimeSformer, the video transformer, for Hugging Face transformers.",
        epilog="Without a command, the program shows the first steps, as commands to copy.",
    )
    parser.add_argument("--version", action="version", version=f"timesformer_hf {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print a script with which this shell completes commands and options by the tab key. For bash, write it "
        "to ~/.local/share/bash-completion/completions/timesformer-hf",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    for command in commands.choices.values():  # for its help: the word is taken out before
        command.add_argument("--verbose", action="store_true", help="show the warnings of other packages too")
    return parser, commands.choices


if __name__ == "__main__":
    sys.exit(main())

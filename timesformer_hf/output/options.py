"""The options of a command as fields of a dataclass, and the form of its help."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import field


def option(default, help: str, choices: Sequence[str] = ()):
    """A field of a dataclass for transformers' `HfArgumentParser`, with its help."""
    return field(default=default, metadata={"help": help} | ({"choices": list(choices)} if choices else {}))


def check_options(unknown: Sequence[str], known: Iterable[str]) -> None:
    """
    Check that no words of a command line are left over.

    Raises:
        ValueError: if some are. For an option the message names the most similar one.
    """
    if unknown:
        name = unknown[0].partition("=")[0]
        what = "option" if name.startswith("-") else "place for"
        raise ValueError(f"there is no {what} {name}{nearest_option(name, known) or '; --help lists all options'}")


def nearest_option(name: str, known: Iterable[str]) -> str:
    """Return `; is it --flip?` for the known name that is most similar, or an empty text."""
    alike = difflib.get_close_matches(name, list(known), 1)
    return f"; is it {alike[0]}?" if alike else ""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that shows the default of each option and keeps the lines of the description."""

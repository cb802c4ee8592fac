"""The options of a command as fields of a dataclass, and the form of its help."""

import argparse
from collections.abc import Sequence
from dataclasses import field


def option(default, help: str, choices: Sequence[str] = ()):
    """A field of a dataclass for transformers' `HfArgumentParser`, with its help."""
    return field(default=default, metadata={"help": help} | ({"choices": list(choices)} if choices else {}))


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that shows the default of each option and keeps the lines of the description."""

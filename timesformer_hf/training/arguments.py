"""Arguments of a training script: from its recipe, then a file of settings, then the command line."""

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .recipes import find_recipe


_ABOUT_SETTINGS = """
A first argument that is a .json or .yaml file holds any of the options below, by name. The defaults shown are those of
the recipe: --recipe modern --help shows its.
"""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def parse_with_recipe(
    dataclasses: Sequence[type], arguments: Sequence[str], defaults: dict, description: str, usage: str
) -> tuple:
    """
    Parse arguments into dataclasses, of which one has `recipe` and `model` and one `output_dir`.

    A value comes from the command line; or else from a first argument that is a .json, .yaml or .yml file; or else from
    the recipe (without one named: `modern`, or `scratch` where there is no model); or else from `defaults`.

    Raises:
        ValueError: for a file that can't be used, or an unknown recipe.
    """
    parser = HfArgumentParser(
        dataclasses, usage=usage, description=description + _ABOUT_SETTINGS, formatter_class=HelpFormatter
    )
    settings, arguments = {}, list(arguments)
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        settings = read_settings(arguments.pop(0), {action.dest for action in parser._actions})
    recipe = _choose_recipe(arguments, settings)
    parser.set_defaults(**defaults | find_recipe(recipe).defaults | {"recipe": recipe})
    for action in parser._actions:
        action.required = action.required or action.dest == "output_dir"
    return parser.parse_args_into_dataclasses([*_as_arguments(settings), *arguments], look_for_args_file=False)


def _as_arguments(settings: dict) -> list[str]:
    """Settings of a file as the words of a command line, which are parsed, and refused, as those are; null is none."""
    words = []
    for name, value in settings.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            words.append(f"--{name}={json.dumps(value)}")
        elif value is not None:  # YAML reads `save_strategy: no` as False
            words.append(f"--{name}={'no' if value is False else value}")
    return words


def _choose_recipe(arguments: Sequence[str], settings: dict) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("recipe", "model"):
        parser.add_argument(f"--{name}", default=settings.get(name))
    known, _ = parser.parse_known_args(arguments)
    return known.recipe or ("modern" if known.model else "scratch")


def read_settings(path: str, known: set[str]) -> dict:
    """
    Raises:
        ValueError: for a file that holds something else than options by their names.
        FileNotFoundError: where there is none.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither JSON nor YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options by their names, as data: videos/")
    for name in values:
        if name not in known:
            alike = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"{path}: there is no option {name!r}" + (f"; is it {alike[0]}?" if alike else ""))
    return values

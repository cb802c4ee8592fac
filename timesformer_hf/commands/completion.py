"""`timesformer-hf --print-completion`: the script with which a shell completes commands and options."""

import argparse

from ..output.extras import check_packages


SHELLS = ("bash", "fish", "zsh")


class PrintCompletion(argparse.Action):
    """
    The action of an option that prints the completion script of a shell, made by shtab, and ends the program.

    Raises:
        ImportError: if shtab is not installed. The message says how to install it.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace, shell: str, option: str | None = None) -> None:
        check_packages(option, ["shtab"], "completion")
        import shtab
        from transformers import HfArgumentParser

        from ..evaluation.arguments import EvaluationArguments
        from ..training.arguments import ARGUMENTS

        (commands,) = parser._subparsers._group_actions
        for name, options in (("finetune", ARGUMENTS), ("evaluate", EvaluationArguments)):  # they parse their own
            for action in HfArgumentParser(options, add_help=False)._actions:
                commands.choices[name]._add_action(action)
        for command in commands.choices.values():
            for action in command._actions:
                if action.nargs != 0 and action.choices is None:
                    action.complete = shtab.FILE  # shtab completes nothing else there, not even names of files
        print(shtab.complete(parser, shell))
        parser.exit()

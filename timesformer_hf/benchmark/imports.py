"""Cases that import this package, or transformers, in a fresh interpreter, and the first label of `classify`."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from .cases import Case
from .measuring import CodePath, Environment, Prepared, Workload


_DONE = "imported"


def make_workload(case: Case, environment: Environment) -> Workload:
    """Return the workload of a case: start an interpreter and run one import statement."""
    return Workload(
        prepare={name: partial(PATHS[name].prepare, environment) for name in case.paths},
        reference=lambda: _DONE,
        difference=lambda got, expected: 0.0 if got == expected else float("inf"),
        tolerance=lambda path: 0.0,
    )


def _prepare_import(statement: str, environment: Environment) -> Prepared:
    """Prepare a call that starts a fresh interpreter, runs the statement and waits for its end."""
    search_path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    variables = os.environ | {"PYTHONPATH": search_path}
    command = [sys.executable, "-c", f"{statement}; print({_DONE!r})"]

    def run() -> str:
        child = subprocess.run(command, capture_output=True, text=True, env=variables)
        if child.returncode:
            raise RuntimeError((child.stderr.strip().splitlines() or ["it failed"])[-1])
        return child.stdout.strip()

    return Prepared(run)


def _statement(role: str, text: str) -> CodePath:
    """Return the path that runs one Python statement."""
    return CodePath(role, f"`{text}`", partial(_prepare_import, text))


# The labels go to standard error, because standard output says that the work is done.
_FIRST_LABEL = (
    "import contextlib, sys, timesformer_hf; from timesformer_hf.cli import main; "
    "contextlib.redirect_stdout(sys.stderr).__enter__(); assert not main(['classify', timesformer_hf.SAMPLE_CLIP]); "
    "sys.stdout = sys.__stdout__"
)
PATHS = {
    "ours": _statement("ours", "import timesformer_hf"),
    "transformers": _statement("peer", "import transformers"),
    "interpreter": _statement("limit", "pass"),
    "ours-model": _statement("ours", "from timesformer_hf import TimesformerForVideoClassification"),
    "transformers-model": _statement("peer", "from transformers import TimesformerForVideoClassification"),
    "ours-label": CodePath("ours", "`timesformer-hf classify` on the sample", partial(_prepare_import, _FIRST_LABEL)),
    "torch": _statement("limit", "import torch"),
}

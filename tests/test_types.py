"""Type checkers see every public name with its type: the stub, a checked program, and what has no known type."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import REPOSITORY

import timesformer_hf
from timesformer_hf import _MODULE_OF


STUB = REPOSITORY / "timesformer_hf" / "__init__.pyi"
PROGRAM = REPOSITORY / "tests" / "typing" / "public_interface.py"
# The library evaluate, whose Metric is their base class, has no types.
UNTYPED_BASES = {"ExpectedCalibrationError", "MeanClassAccuracy", "TopKAccuracy"}


def test_the_stub_has_every_public_name():
    """
    Names are imported when they are first used, which no type checker can follow. So `__init__.pyi` imports each one
    from its module, as `from .module import name as name`.
    """
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        assert all(alias.asname == alias.name for alias in node.names)  # else a type checker takes it for private
        found |= {alias.name: node.module for alias in node.names}
    others = {"register": "registration", "unregister": "registration", "__version__": "version"}
    assert found == _MODULE_OF | others
    assert found.keys() == set(timesformer_hf.__all__)


def test_the_program_uses_every_public_name():
    nodes = ast.walk(ast.parse(PROGRAM.read_text()))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "t"}
    assert used == set(timesformer_hf.__all__)


def check(*arguments: str, folder: Path) -> dict:
    """The report of the type checker, with the packages of this environment."""
    environment = Path(sys.executable).parent
    checker = shutil.which("basedpyright", path=environment)
    if checker is None:
        pytest.skip("needs basedpyright, which checks types")
    path = f"{environment}{os.pathsep}{os.environ['PATH']}"  # where it finds python, and so the packages
    done = subprocess.run(
        [checker, "--outputjson", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_program_has_no_type_errors(tmp_path):
    """Those that are planted in another program are found."""
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    shutil.copy(PROGRAM, tmp_path / "right.py")
    planted = ["t.no_such_name", "t.explain(1)", "t.count_parameters(t.TimesformerConfig()) + ''", "t.read_labels(8)"]
    (tmp_path / "wrong.py").write_text("import timesformer_hf as t\n" + "\n".join(planted))
    report = check("right.py", "wrong.py", folder=tmp_path)
    errors = [item for item in report["generalDiagnostics"] if item["severity"] == "error"]
    in_right = [item["message"] for item in errors if item["file"].endswith("right.py")]
    assert in_right == []
    assert report["summary"]["filesAnalyzed"] >= 2
    assert {item["range"]["start"]["line"] for item in errors} == {1, 2, 3, 4}


@pytest.mark.slow
def test_the_type_of_everything_public_is_known(tmp_path):
    """Of each public name and what it has: parameters, results, attributes and base classes."""
    symbols = check("--verifytypes", "timesformer_hf", "--ignoreexternal", folder=tmp_path)["typeCompleteness"][
        "symbols"
    ]
    places = {name: (f"timesformer_hf.{name}", f"timesformer_hf.{_MODULE_OF[name]}.{name}") for name in _MODULE_OF}
    checked, unknown = set(), {}
    for symbol in symbols:
        for name, own in places.items():
            if symbol["name"] in own or symbol["name"].startswith(tuple(place + "." for place in own)):
                checked.add(name)
                if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]:
                    unknown[symbol["name"]] = [item["message"] for item in symbol["diagnostics"]]
    assert checked == _MODULE_OF.keys()
    assert unknown.keys() == {place for name in UNTYPED_BASES for place in places[name]}, unknown

"""Who may import whom in the package: imports run in one direction only, those inside functions included."""

import ast
from pathlib import Path

import pytest
from repository import REPOSITORY


PACKAGE = REPOSITORY / "timesformer_hf"

# A folder or top-level module: what it may import besides its own siblings.
MAY_IMPORT = {
    "version": set(),
    "shipped_models": set(),
    "output": set(),
    "video": set(),
    "model": set(),
    "data": {"output", "video"},
    "inference": {"model", "output", "video"},
    "evaluation": {"data", "inference", "model", "output", "video"},
    "explanation": {"data", "inference", "model", "output", "video"},
    "timeline": {"data", "inference", "model", "output", "video"},
    "scale": {"data", "evaluation", "inference", "model", "output", "shipped_models", "timeline", "version", "video"},
    "demo": {"explanation", "inference", "model", "output", "shipped_models", "timeline", "video"},
    "checkpoints": {"data", "model", "output", "version", "video"},
    "benchmark": {"inference", "model", "output", "version", "video"},
    "training": {"checkpoints", "data", "evaluation", "model", "output", "version", "video"},
    "registration": {"inference", "model", "version", "video"},
    "__init__": {"registration", "version"},
    "cli": {"commands", "output", "version"},
    "__main__": {"cli"},
}
MAY_IMPORT["commands"] = MAY_IMPORT.keys() - {"cli", "__init__", "__main__"}
# Files that transformers copies, flat, beside the weights of a saved model: with `from .sibling import` alone.
TRAVELLING = ("model", "video")
# The way from a saved model back to the package, in a `try` that transformers' copying leaves alone.
ALLOWED = {("model/modeling_timesformer.py", "checkpoints.image_vit")}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }


def imports_of(path: Path, package: Path) -> list[tuple[str, bool]]:
    """What a file imports of the package, as (dotted name below it, whether by `from .sibling import`)."""
    found = []
    here = path.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found += [
                (name.removeprefix("timesformer_hf."), False) for name in names if name.startswith("timesformer_hf")
            ]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(".".join((*base, target)), node.level == 1) for target in targets]
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "timesformer_hf":
            targets = [node.module] if "." in node.module else [f"timesformer_hf.{alias.name}" for alias in node.names]
            found += [(target.removeprefix("timesformer_hf."), False) for target in targets]
    return found


def room(module: str) -> str:
    """The folder or top-level module that a dotted name lies in."""
    return module.split(".")[0]


def violations(package: Path) -> list[str]:
    """One line for each import that the table doesn't allow."""
    lines = []
    for module, path in modules(package).items():
        source, here = path.relative_to(package).as_posix(), room(module)
        for target, as_sibling in imports_of(path, package):
            if (source, target) in ALLOWED:
                continue
            if room(target) == here and (as_sibling or here not in TRAVELLING):
                continue
            if here in TRAVELLING or room(target) not in MAY_IMPORT.get(here, set()):
                lines.append(f"{source} imports {target}")
    return lines


def circles(package: Path) -> list[list[str]]:
    """Every circle of files that a walk along the imports meets."""
    names = modules(package)
    graph = {
        module: {target for target, _ in imports_of(path, package) if target in names} for module, path in names.items()
    }
    found, done = [], set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, [*trail, module])
            done.add(module)

    for module in graph:
        walk(module, [])
    return found


def test_every_room_is_in_the_table():
    assert {room(module) for module in modules(PACKAGE)} <= MAY_IMPORT.keys()


def test_imports_follow_the_table():
    assert violations(PACKAGE) == []


def test_no_circles():
    assert circles(PACKAGE) == []


def test_travelling_files_have_names_of_their_own():
    names = [path.name for folder in TRAVELLING for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("model/modeling_timesformer.py", "from ..checkpoints.files import read", "imports checkpoints.files"),
        ("model/modeling_timesformer.py", "from timesformer_hf.model.cost import x", "imports model.cost"),
        ("video/multi_view.py", "def f():\n    from ..model.cost import x", "imports model.cost"),
        ("output/atomic.py", "from ..version import __version__", "imports version"),
        ("inference/export.py", "import timesformer_hf.commands.export", "imports commands.export"),
        ("training/start.py", "from .. import cli", "imports cli"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, expected):
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(line)
    assert violations(tmp_path) == [f"{file} {expected}"]


def test_a_planted_circle_is_found(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("from .b import x")
    (tmp_path / "data" / "b.py").write_text("def f():\n    from .a import y")
    assert circles(tmp_path) == [["data.a", "data.b", "data.a"]]

"""Where the tests find the repository and what lies in it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
SAMPLE = REPOSITORY / "timesformer_hf" / "samples" / "camera_pan.mp4"  # rendered: the camera pans to the right
FILM = REPOSITORY / "tests" / "film" / "big_buck_bunny.mp4"  # a real film: the camera rises slowly


def load_example(name: str) -> ModuleType:
    """The script of examples/ with this name, or path without its ending, as a module that is called `example_...`."""
    return load_file(EXAMPLES / f"{name}.py", "example_" + name.replace("/", "_"))


def load_file(path: Path, module_name: str | None = None) -> ModuleType:
    """A file of Python that belongs to no package, as a module; the default name is that of the file."""
    module_name = module_name or path.stem
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

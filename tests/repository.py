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
    module_name = "example_" + name.replace("/", "_")
    spec = importlib.util.spec_from_file_location(module_name, EXAMPLES / f"{name}.py")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

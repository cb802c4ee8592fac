"""The public names of the package, with the file and first sentence of each, read from the source without an import."""

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path


REPOSITORY = Path(__file__).parents[2]
_PACKAGE = REPOSITORY / "timesformer_hf"


@dataclass(frozen=True)
class PublicName:
    """A name of `timesformer_hf`."""

    name: str
    module: str
    """Below the package, for example `model.cost`."""
    summary: str
    """The first sentence of its docstring."""

    @property
    def topic(self) -> str:
        """The folder or module at the top of the package that it lies in."""
        return self.module.split(".")[0]

    @property
    def identifier(self) -> str:
        """Its full path, which is also its anchor on the page that mkdocstrings makes."""
        return f"timesformer_hf.{self.module}.{self.name}"


def public_names() -> list[PublicName]:
    """All names that `from timesformer_hf import ...` can import, in the order of `__init__.py`."""
    assignments = {}
    for node in ast.parse((_PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign):
            assignments[ast.unparse(node.targets[0])] = node.value
    modules = ast.literal_eval(assignments["_MODULE_OF"]) | {"register": "registration", "unregister": "registration"}
    return [PublicName(name, module, _summary(name, module)) for name, module in modules.items()]


def folder_title(topic: str) -> str:
    """The first sentence of the docstring of a folder or module at the top of the package, without its full stop."""
    file = _PACKAGE / topic / "__init__.py" if (_PACKAGE / topic).is_dir() else _PACKAGE / f"{topic}.py"
    return _first_sentence(ast.get_docstring(ast.parse(file.read_text())))


def _first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())
    sentence = re.split(r"(?<=\.) (?=[A-Z`(])", paragraph)[0].rstrip(".:")
    return re.sub(r"\[(`[^`]+`)\](?!\()", r"\1", sentence)  # transformers' form of a link


def _summary(name: str, module: str) -> str:
    body = ast.parse((_PACKAGE / f"{module.replace('.', '/')}.py").read_text()).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return _first_sentence(ast.get_docstring(node))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(following, ast.Expr):
            return _first_sentence(following.value.value)
    raise ValueError(f"timesformer_hf/{module} defines no {name} that has a docstring")

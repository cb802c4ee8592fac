"""
All messages of errors and warnings that the code can give, for the site's page of them.

`python docs/tools/messages.py` prints them. They are read from the source: the texts of exceptions, warnings and log
lines, with `...` for what is filled in.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from public_names import REPOSITORY, folder_title


_PACKAGE = REPOSITORY / "timesformer_hf"
_EXCEPTION = re.compile(r"_?[A-Z]\w*(Error|Exit)")
_WARNING = {"warn", "warning", "warning_once", "warn_once"}
# Errors that pass on a text of another process or of another part of the code, and which.
PASSED_ON = {
    ("benchmark/imports.py", "RuntimeError"): "the last line of another process",
    ("benchmark/memory.py", "RuntimeError"): "the last line of another process",
    ("checkpoints/keys.py", "KeyError"): "a missing key, which the reader of the table turns into a message",
    ("scale/ray_engine.py", "ValueError"): "an error of a worker",
}


@dataclass(frozen=True)
class Message:
    """A text that the code can give."""

    file: str
    kind: str
    """The class of the exception, or `warning`."""
    text: str


def messages() -> list[Message]:
    """Every message once for each file, in the order of the files, if it has a word of its own."""
    return list(dict.fromkeys(message for message, _ in _all() if re.search(r"[a-z]{2}", message.text)))


def without_text() -> list[str]:
    """One line for each error whose text isn't found, and that `PASSED_ON` doesn't explain."""
    return [
        f"{message.file}:{line} {message.kind}"
        for message, line in _all()
        if not message.text and (message.file, message.kind) not in PASSED_ON
    ]


def overview(entries: dict[str, str]) -> str:
    """
    The list of all messages by topic.

    Args:
        entries: the messages that docs/troubleshooting.md explains, and the anchors there.
    """
    topics: dict[str, list[Message]] = {}
    for message in messages():
        topics.setdefault(message.file.partition("/")[0].removesuffix(".py"), []).append(message)
    lines = []
    for topic, found in topics.items():
        heading = "The package" if topic == "__init__" else topic.replace("_", " ").capitalize()
        lines += ["", f"## {heading}", "", f"{folder_title(topic)}.", ""]
        for message in sorted(found, key=lambda message: (message.text.strip(". `'\"").lower(), message.file)):
            anchor = entries.get(first_line(message.text))
            more = f" [What to do](troubleshooting.md#{anchor})." if anchor else ""
            lines.append(f"- {_as_code(message.text)} ({message.kind}, `{message.file}`).{more}")
    return "\n".join([*lines, ""])


def first_line(text: str) -> str:
    """What docs/troubleshooting.md shows of a message."""
    return text.partition("\n")[0]


def _all() -> list[tuple[Message, int]]:
    """Every message with its line. The text is empty where it isn't written in that place."""
    return _read(_PACKAGE)


@cache
def _read(package: Path) -> list[tuple[Message, int]]:
    trees = {path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in package.rglob("*.py")}
    constants, functions = {}, {}
    for file, tree in trees.items():
        constants |= _assignments(tree.body)
        functions |= {node.name: (file, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found, called = [], {}
    for file, tree in sorted(trees.items()):
        values = constants | _assignments(ast.walk(tree))
        caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and _is_plain_call(node.exc) and node.exc.func.id in functions:
                path, maker = functions[node.exc.func.id]  # it makes the error
                called[maker.name] = (path, maker)
            if not isinstance(node, ast.Call) or not node.args or not (kind := _kind(node.func)):
                continue
            text = fill(node.args[0]) or fill(values.get(ast.unparse(node.args[0])))
            names = {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}
            # A name may stand for what a function returns: `missing = missing_videos(...)`.
            names |= {part.func.id for name in names if (part := values.get(name)) and _is_plain_call(part)}
            makers = [functions[name] for name in names & functions.keys()]
            if not text and makers:
                called |= {maker.name: (path, maker) for path, maker in makers}
            elif text or not names & (caught | {"str"}):  # else it is the text of another error: `str(error)`
                found.append((Message(file, kind, text), node.lineno))
    for file, function in called.values():
        known = {message.text for message, _ in found if message.file == file}
        found += [(Message(file, "error", text), function.lineno) for text in _texts(function) if text not in known]
    return sorted(found, key=lambda message: (message[0].file, message[1]))


def _assignments(nodes: Iterable[ast.AST]) -> dict[str, ast.expr]:
    """Names and the values that are assigned to them, by `=` or `:=`."""
    values = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            values[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.NamedExpr):
            values[node.target.id] = node.value
    return values


def _is_plain_call(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _kind(function: ast.expr) -> str | None:
    name = ast.unparse(function).split(".")[-1]
    if _EXCEPTION.fullmatch(name):
        return name
    return "warning" if name in _WARNING else None


def _texts(function: ast.FunctionDef) -> Iterator[str]:
    """The texts of a function that have several words, without its docstring."""
    inside = {id(part) for node in ast.walk(function) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for statement in function.body[1:]:
        for node in ast.walk(statement):
            if isinstance(node, ast.JoinedStr) or (id(node) not in inside and isinstance(node, ast.Constant)):
                text = fill(node)
                if text.count(" ") > 1:
                    yield text


def fill(node: ast.expr | None) -> str:
    """A text of the source with `...` for what is filled in; empty if the node isn't a text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        return join_gaps("".join(parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = fill(node.left), fill(node.right)
        return join_gaps(f"{left or '...'}{right or '...'}") if left or right else ""
    return ""


def join_gaps(text: str) -> str:
    """A text with one `...` where several parts in a row are filled in."""
    return re.sub(r"(\.\.\.)+", "...", text)


def _as_code(text: str) -> str:
    words = " ".join(text.split())
    return f"`` {words} ``" if "`" in words else f"`{words}`"


if __name__ == "__main__":
    print(overview({}))
    print("\n".join(without_text()))

"""The class names of public data sets, in the order of their indices (labels/README.md)."""

from pathlib import Path

from .label_matching import letters


_LABEL_FOLDER = Path(__file__).parent / "labels"
LABEL_LISTS = tuple(sorted(path.stem for path in _LABEL_FOLDER.glob("*.txt")))


def read_labels(name: str) -> list[str]:
    """
    Args:
        name: a list of `LABEL_LISTS`, or a text file with a label a line, the class with index 0 first.

    Raises:
        ValueError: where it is neither, or the file has an empty line or names a label twice.
    """
    path = _LABEL_FOLDER / f"{name}.txt" if name in LABEL_LISTS else Path(name)
    if not path.is_file():
        raise ValueError(f"{name!r} is neither a label list ({', '.join(LABEL_LISTS)}) nor a file with a label a line")
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8") from error
    if not all(labels):
        raise ValueError(f"{path} must have a label in every line; line {labels.index('') + 1} is empty")
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"{path} names labels more than once: {', '.join(repeated[:5])}")
    return labels


def known_list(labels: list[str]) -> str | None:
    """The name of the list that has those labels in that order, whatever their case and punctuation."""
    wanted = list(map(letters, labels))
    return next((name for name in LABEL_LISTS if list(map(letters, read_labels(name))) == wanted), None)

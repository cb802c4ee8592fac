"""The class names of public data sets, in the order of their indices (see labels/README.md)."""

from pathlib import Path

from .label_matching import normalized_name


_LABEL_FOLDER = Path(__file__).parent / "labels"
LABEL_LISTS = tuple(sorted(path.stem for path in _LABEL_FOLDER.glob("*.txt")))


def read_labels(name: str) -> list[str]:
    """
    Return the labels of a built-in list or of a text file.

    Args:
        name: a name in `LABEL_LISTS`, or a text file with one label per line, in the order of the class indices.

    Raises:
        ValueError: if it is neither, or the file is not in UTF-8, has an empty line or contains a label twice.
    """
    path = _LABEL_FOLDER / f"{name}.txt" if name in LABEL_LISTS else Path(name)
    if not path.is_file():
        raise ValueError(
            f"{name!r} is neither a label list ({', '.join(LABEL_LISTS)}) nor a file with a label per line"
        )
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; save it in that encoding") from error
    if not all(labels):
        raise ValueError(f"{path} must have a label in every line; line {labels.index('') + 1} is empty")
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"{path} names labels more than once: {', '.join(repeated[:5])}")
    return labels


def known_list(labels: list[str]) -> str | None:
    """Return the built-in list with these labels in this order, or `None`. Case and punctuation don't matter."""
    wanted = list(map(normalized_name, labels))
    return next((name for name in LABEL_LISTS if list(map(normalized_name, read_labels(name))) == wanted), None)

"""Outputs that are there whole or not at all: written under a temporary name beside their place, then moved."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> Iterator[Path]:
    """
    An empty folder to write into, which becomes `path` when the block ends; after an error nothing of it stays.

    Args:
        own_files: patterns of the files that may be overwritten.

    Raises:
        FileExistsError, NotADirectoryError: see [`check_output_folder`].
    """
    check_output_folder(path, overwrite, own_files)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(temporary / "old")
        try:
            new.rename(path)
        except OSError:
            if (temporary / "old").exists():
                (temporary / "old").rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def output_file(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    A file name to write to, which becomes `path` when the block ends; after an error nothing of it stays.

    Raises:
        FileExistsError, NotADirectoryError: see [`check_output_file`].
    """
    check_output_file(path, overwrite)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as temporary:
        yield Path(temporary) / path.name
        os.replace(Path(temporary) / path.name, path)


def check_output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> None:
    """
    To be called before long work, too.

    Raises:
        FileExistsError: where `path` exists and may not be overwritten: without `overwrite`, or where it is something
            else than a folder of nothing but `own_files`. A Trainer's folder with checkpoints is something else.
        NotADirectoryError: where it can't be made.
    """
    _check_free(path, overwrite)
    path = Path(path).resolve()
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(f"{path} is no folder; it is not overwritten")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.is_dir() or not any(map(entry.match, own_files)))
    if foreign or (any(path.iterdir()) and not (path / "config.json").exists()):
        reason = f"it holds {', '.join(foreign[:5])}" if foreign else "it has no config.json"
        raise FileExistsError(f"{path} is more than an output: {reason}. It is not overwritten; give another name")


def check_output_file(path: str | os.PathLike, overwrite: bool = False) -> None:
    """
    To be called before long work, too.

    Raises:
        FileExistsError: where `path` exists and may not be overwritten, or is no file.
        NotADirectoryError: where it can't be made.
    """
    if Path(path).is_dir():
        raise FileExistsError(f"{path} is a folder; give the name of a file")
    _check_free(path, overwrite)
    if Path(path).exists() and not Path(path).is_file():
        raise FileExistsError(f"{path} is no regular file; it is not overwritten")


def _check_free(path: str | os.PathLike, overwrite: bool) -> None:
    """
    Raises:
        FileExistsError: where `path` exists, unless `overwrite`.
        NotADirectoryError: where something above it is a file. ValueError: for an empty name.
    """
    if str(path).strip() in ("", "."):
        raise ValueError(f"The name of the output, {str(path)!r}, is empty or the current folder; give another")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    above = next(parent for parent in Path(path).resolve().parents if parent.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{path} can't be made: {above} is a file")

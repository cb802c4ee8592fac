"""Outputs that are there whole or not at all: written under a temporary name beside their place, then moved."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    An empty folder to write into, which becomes `path` when the block ends; after an error nothing of it stays.

    Raises:
        FileExistsError: where `path` exists, unless `overwrite` is given and it is a folder that this project wrote,
            one with a config.json, or an empty one.
    """
    path = Path(os.path.abspath(path))
    check_free(path, overwrite)
    if path.exists() and not (path.is_dir() and ((path / "config.json").exists() or not any(path.iterdir()))):
        raise FileExistsError(f"{path} is no model folder (it has no config.json); it is not overwritten")
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
    A file name to write to, which becomes `path` when the block ends; after an error nothing of it stays. It lies in
    a folder of its own beside `path`, and so may have companions, which are moved with it.

    Raises:
        FileExistsError: where `path` exists and `overwrite` is not given, or where it is a folder.
    """
    path = Path(os.path.abspath(path))
    check_free(path, overwrite)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as temporary:
        yield Path(temporary) / path.name
        companions = [file for file in sorted(Path(temporary).iterdir()) if file.name != path.name]
        for file in (*companions, Path(temporary) / path.name):  # the file itself last: it says that all is there
            os.replace(file, path.parent / file.name)


def check_free(path: str | os.PathLike, overwrite: bool) -> None:
    """
    Raises:
        FileExistsError: where `path` exists and may not be overwritten. To be called before long work, too.
    """
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or --overwrite to replace it")

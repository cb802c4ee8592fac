"""Atomic outputs: each is written under a temporary name in the same folder and renamed when it is complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> Iterator[Path]:
    """
    Yield an empty folder to write into. It becomes `path` when the block ends; after an error it is deleted.

    Args:
        overwrite: replace `path` where it exists.
        own_files: patterns of the file names that may be replaced, for example `("*.json",)`.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: see [`check_output_folder`].
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
    Yield a file name to write to. The file becomes `path` when the block ends; after an error it is deleted.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: see [`check_output_file`].
    """
    check_output_file(path, overwrite)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as temporary:
        yield Path(temporary) / path.name
        os.replace(Path(temporary) / path.name, path)


def check_output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> None:
    """
    Check that the folder `path` can be written. Call it also before long work, so that the work is not lost.

    Raises:
        FileExistsError: where `path` exists without `overwrite`; or where it is not a folder that contains only
            `own_files`. So a Trainer's folder with checkpoints is never replaced.
        NotADirectoryError, PermissionError: where the folder can't be created.
        ValueError: for an empty name.
    """
    _check_free(path, overwrite)
    path = Path(path).resolve()
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(f"{path} is not a folder, so it is not overwritten; give another name")
    foreign = sorted(entry.name for entry in path.iterdir() if entry.is_dir() or not any(map(entry.match, own_files)))
    if foreign or (any(path.iterdir()) and not (path / "config.json").exists()):
        reason = f"it contains {', '.join(foreign[:5])}" if foreign else "it has no config.json"
        raise FileExistsError(f"{path} is not only an output: {reason}. It is not overwritten; give another name")


def check_output_file(path: str | os.PathLike, overwrite: bool = False) -> None:
    """
    Check that the file `path` can be written. Call it also before long work, so that the work is not lost.

    Raises:
        FileExistsError: where `path` exists without `overwrite`, or is not a regular file.
        NotADirectoryError, PermissionError: where the file can't be created.
        ValueError: for an empty name.
    """
    if Path(path).is_dir():
        raise FileExistsError(f"{path} is a folder; give the name of a file")
    _check_free(path, overwrite)
    if Path(path).exists() and not Path(path).is_file():
        raise FileExistsError(f"{path} is not a regular file, so it is not overwritten; give another name")


def _check_free(path: str | os.PathLike, overwrite: bool) -> None:
    """
    Check that `path` can be created.

    Raises:
        FileExistsError: where `path` exists, unless `overwrite`.
        NotADirectoryError: where a part of the path above it is a file.
        PermissionError: where nothing can be written there.
        ValueError: for an empty name or the current folder.
    """
    if str(path).strip() in ("", "."):
        raise ValueError(f"The output name {str(path)!r} is empty or the current folder; give another name")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    above = next(parent for parent in Path(path).resolve().parents if parent.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{path} can't be created: {above} is a file, not a folder; give another name")
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=above):
            pass
    except OSError as error:
        raise PermissionError(f"{path} can't be created: {above} can't be written to ({error.strerror})") from error

"""
Atomic outputs: each is written under a temporary name in the same folder and renamed when it is complete.

The temporary name is that of a hidden folder, which the run that writes there has locked. If the run is killed, the
lock ends with it. So the next run can tell what a killed run has left from what a live one is writing.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OLD = "old"  # the output that is replaced
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp", re.DOTALL)  # as tempfile names it


@contextlib.contextmanager
def output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> Iterator[Path]:
    """
    Yield an empty folder to write into. It becomes `path` when the block ends; after an error it is deleted.

    Args:
        overwrite: replace `path` where it exists.
        own_files: patterns of the file names that may be replaced, for example `("*.json",)`.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: see [`check_output_folder`].
        OSError: where the disk is full. The message names `path`.
    """
    check_output_folder(path, overwrite, own_files)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming_full_disk(path), _temporary_folder(path) as temporary:
        new, old = temporary / "new", temporary / _OLD
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


@contextlib.contextmanager
def output_file(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    Yield a file name to write to. The file becomes `path` when the block ends; after an error it is deleted.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: see [`check_output_file`].
        OSError: where the disk is full. The message names `path`.
    """
    _check_file(path, overwrite)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming_full_disk(path), _temporary_folder(path) as temporary:
        yield temporary / path.name
        os.replace(temporary / path.name, path)


def remove_folder(path: str | os.PathLike) -> None:
    """Remove a folder. It disappears at once, so that a run that is killed meanwhile leaves no half of it."""
    path = Path(path).resolve()
    with _temporary_folder(path) as temporary:
        path.rename(temporary / "removed")


def remove_leftovers(folder: str | os.PathLike) -> None:
    """
    Remove what killed runs have left in a folder: temporary folders that no live run has locked.

    A killed run may have moved an output away, to replace it. This is moved back.
    """
    for leftover in Path(folder).glob(".*.tmp"):
        name = _TEMPORARY.fullmatch(leftover.name)
        if name is None or leftover.is_symlink():
            continue
        with _lock(leftover, wait=False) as is_locked:
            if is_locked and {entry.name for entry in leftover.glob("*")} <= {"new", _OLD, "removed", name[1]}:
                path = leftover.with_name(name[1])
                if (leftover / _OLD).exists() and not path.exists():
                    (leftover / _OLD).rename(path)
                shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """
    Keep every other run out of a folder in the block. The lock ends with the process at the latest.

    Where the system or the file system has no such locks, nothing is kept out.

    Raises:
        BlockingIOError: if a live run is in the folder.
    """
    with _lock(Path(folder), wait=False) as is_locked:
        if is_locked is False:
            raise BlockingIOError(
                f"{folder} belongs to a run that is still going on; wait for its end, or give another output"
            )
        yield


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a file can't grow: the disk is full, or a quota or a limit is reached."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


@contextlib.contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    """In the block, let the error of a full disk name the output, and not a temporary file or none."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        named = OSError(f"{path} can't be written, and no part of it stays: {os.strerror(error.errno)}")
        named.errno = error.errno
        raise named from error


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, which is locked in the block, and removed after it."""
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        with _lock(temporary, wait=True):
            if not temporary.exists():  # another run took it for a leftover before it was locked
                continue
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return


@contextlib.contextmanager
def _lock(folder: Path, wait: bool) -> Iterator[bool | None]:
    """
    Lock a folder in the block, and yield whether that was possible. The lock ends with the process at the latest.

    It is `None` where the system or the file system has no such locks. Without `wait`, it is `False` if a live process
    has locked the folder.
    """
    try:
        import fcntl

        opened = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield None
        return
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_locked = True
        except BlockingIOError:
            is_locked = False
        except OSError:
            is_locked = None
        yield is_locked
    finally:
        os.close(opened)


def check_output_folder(path: str | os.PathLike, overwrite: bool = False, own_files: tuple[str, ...] = ()) -> None:
    """
    Check that the folder `path` can be written. Call it also before long work, so that the work is not lost.

    Before that, what killed runs have left beside `path` is removed, see [`remove_leftovers`].

    Raises:
        FileExistsError: where `path` exists without `overwrite`; or where it is not a folder that contains only
            `own_files`. So a Trainer's folder with checkpoints is never replaced.
        NotADirectoryError, PermissionError: where the folder can't be created.
        ValueError: for an empty name.
    """
    remove_leftovers(Path(path).resolve().parent)
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

    Before that, what killed runs have left beside `path` is removed, see [`remove_leftovers`].

    Raises:
        FileExistsError: where `path` exists without `overwrite`, or is not a regular file.
        NotADirectoryError, PermissionError: where the file can't be created.
        ValueError: for an empty name.
    """
    remove_leftovers(Path(path).resolve().parent)
    _check_file(path, overwrite)


def _check_file(path: str | os.PathLike, overwrite: bool) -> None:
    """Check that the file `path` can be written, see [`check_output_file`]."""
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
        if is_disk_full(error):  # there may be room later, and writing has a message of its own
            return
        raise PermissionError(f"{path} can't be created: {above} can't be written to ({error.strerror})") from error

"""Checks of a checkpoint file before it is read: a small file must not take all memory or time."""

import io
import os
import pickletools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..video.printable import printable


_LARGEST_TUPLE, _DEEPEST_TUPLE = 10**6, 100  # a weight has tuples of about ten numbers, three deep
_MOST_PICKLES = 5  # at the start of a file in torch's format before version 1.6


@dataclass(frozen=True)
class CheckpointLimits:
    """
    How large the parts of a checkpoint may be.

    Attributes:
        max_header_bytes: the largest JSON file, or part of a checkpoint that describes its weights.
        max_unpacked_bytes: the most memory that the weights of a file may take (default: four times its size, at least
            256 MB). torch doesn't compress, so honest files take about their size.
    """

    max_header_bytes: int = 100 * 2**20
    max_unpacked_bytes: int | None = None

    def check_header(self, path: Path, size: int) -> None:
        """
        Check the size of a header.

        Raises:
            ValueError: if it is too large.
        """
        if size > self.max_header_bytes:
            raise ValueError(
                f"{printable(path)} has a header of {size:,} bytes, more than the limit "
                f"max_header_bytes={self.max_header_bytes:,}"
            )

    def check_unpacked(self, path: Path, size: int) -> None:
        """
        Check how many bytes the content of a file takes in memory.

        Raises:
            ValueError: if they are too many.
        """
        most = self.max_unpacked_bytes or max(4 * os.path.getsize(path), 2**28)
        if size > most:
            raise ValueError(
                f"{printable(path)} would take {size:,} bytes of memory, but the file is only "
                f"{os.path.getsize(path):,} bytes; the limit is max_unpacked_bytes={most:,}"
            )


def check_pickled_file(path: Path, limits: CheckpointLimits) -> None:
    """
    Check a file of torch before it is loaded.

    Raises:
        ValueError: if it unpacks to too many bytes, has too large a header, or nests values so that reading never ends.
    """
    entries = _list_archive(path)
    if entries is None:
        with path.open("rb") as file:
            for _ in range(_MOST_PICKLES):
                _check_nesting(file, path)
        return
    limits.check_unpacked(path, sum(entry.file_size for entry in entries))
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            limits.check_header(path, entry.file_size)
            _check_nesting(io.BytesIO(_read_entry(path, entry)), path)


def _list_archive(path: Path) -> list[zipfile.ZipInfo] | None:
    """Return the entries of a zip archive, which torch writes, or `None` for another file or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # zipfile raises many classes of errors; torch will say what is wrong
        return None


def _read_entry(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Return the content of an entry, or nothing if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(entry)
    except Exception:  # as above
        return b""


def check_tensors(tensors: Iterable[torch.Tensor], path: Path, limits: CheckpointLimits) -> None:
    """
    Check the size of loaded weights. One stored number can be repeated for a whole weight.

    Raises:
        ValueError: if they would take too much memory as soon as something is computed with them.
    """
    limits.check_unpacked(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors))


@dataclass(frozen=True)
class _Value:
    """A value on the stack of a pickle: the number of values in it, and how deep they are nested."""

    size: int = 1
    depth: int = 0


def _check_nesting(file, path: Path) -> None:
    """
    Check the next pickle in a file by its instructions, without carrying them out.

    Tuples can contain the same tuple twice, and so on: forty of them have a billion elements. Python goes through all
    of them, and one after the other if they are nested, as soon as such a tuple is the key of a dict.
    """
    stack, marks, memo = [], [], {}
    try:
        for instruction, argument, _ in pickletools.genops(file):
            value = _carry_out(instruction, argument, stack, marks, memo)
            if value.size > _LARGEST_TUPLE or value.depth > _DEEPEST_TUPLE:
                raise _NestingError
    except _NestingError:
        raise ValueError(f"{printable(path)} is not a checkpoint: its values are nested too deep") from None
    except Exception:  # not a pickle, or damaged: torch will say what is wrong
        return


class _NestingError(Exception):
    pass


def _carry_out(instruction, argument, stack: list[_Value], marks: list[int], memo: dict) -> _Value:
    """Change the stack as an instruction of a pickle does, and return the value that it puts there."""
    name, before, after = instruction.name, instruction.stack_before, instruction.stack_after
    if name == "MARK":
        marks.append(len(stack))
        return _Value()
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if argument is None else int(argument)] = stack[-1]
        return _Value()
    if name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
        return stack[-1]
    taken, count = [], len(before)
    if pickletools.markobject in before:
        start, count = marks.pop(), before.index(pickletools.markobject)
        taken = stack[start:]
        del stack[start:]
    for _ in range(count):
        taken.append(stack.pop())
    value = _Value()
    if taken and (name.startswith("TUPLE") or name in ("REDUCE", "NEWOBJ", "DUP")):
        value = _Value(1 + sum(part.size for part in taken), 1 + max(part.depth for part in taken))
    stack.extend([value] * len(after))
    return value

"""
How many frames the index of an MP4 or QuickTime file promises, read from the file itself.

FFmpeg takes about 30 bytes of memory for each of them when it opens the file. A file of a few hundred bytes can promise
billions. The boxes are those of ISO/IEC 14496-12: `stsz` and `stz2` (8.7.3), `stsc` and `stco` (8.7.4, 8.7.5), `elst`
(8.6.6), `trun` (8.8.8); and QuickTime's `cmov`, a compressed `moov`.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass


_PARENTS = {
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"mvex", b"udta"),
    *(b"dinf", b"wave", b"sinf", b"schi", b"iprp", b"ipco", b"cmov"),
}
_DEEPEST = 12
_LARGEST_COMPRESSED = 2**26  # bytes of an unpacked `cmov`
# Uncompressed sound: FFmpeg makes an entry for 1024 samples, not for each.
_PCM = {b"sowt", b"twos", b"raw ", b"in24", b"in32", b"fl32", b"fl64", b"lpcm", b"ipcm", b"fpcm", b"alaw", b"ulaw"}


@dataclass
class _Track:
    """What the boxes of a track say: numbers of samples, of edits, and of samples by chunk, and the coding."""

    samples: int = 0
    edits: int = 1
    chunks: int = 0
    chunk_runs: bytes = b""
    coding: bytes = b""

    @property
    def entries(self) -> int:
        """How many entries FFmpeg makes. Each edit can show every sample again."""
        if self.coding not in _PCM:
            return self.samples * self.edits
        runs = list(struct.iter_unpack(">III", self.chunk_runs))
        ends = [first for first, _, _ in runs[1:]] + [self.chunks + 1] * bool(runs)
        return sum(max(end - first, 0) * (1 + size // 1024) for (first, size, _), end in zip(runs, ends, strict=True))


def count_promised_frames(file: io.IOBase, enough: int) -> int:
    """
    Return how many entries FFmpeg's index of an MP4 file will have. It is 0 for a file of another kind.

    Args:
        file: a binary file that can seek.
        enough: counting stops above this number.
    """
    track, total = _Track(), 0
    for kind, content, size in _walk(file, 0, file.seek(0, io.SEEK_END)):
        total += 1  # a box takes memory too
        if kind == b"trak":
            total, track = total + track.entries, _Track()
        elif kind == b"trun":
            total += _read_number(content, 4)
        else:
            _note(track, kind, content, size)
        if total + track.entries > enough:
            break
    return total + track.entries


def _note(track: _Track, kind: bytes, content: io.IOBase, size: int) -> None:
    """Note what a box says about its track."""
    if kind in (b"stsz", b"stz2"):
        track.samples += _read_number(content, 8)
    elif kind == b"elst":
        track.edits = max(track.edits, _read_number(content, 4))
    elif kind in (b"stco", b"co64"):
        track.chunks = _read_number(content, 4)
    elif kind == b"stsd":
        track.coding = content.read(16)[12:]
    elif kind == b"stsc":
        runs = content.read(size)[8:]
        track.chunk_runs = runs[: len(runs) // 12 * 12]


def _read_number(content: io.IOBase, position: int) -> int:
    """Return the 32-bit number at a position from here."""
    return int.from_bytes(content.read(position + 4)[position:], "big")


def _walk(file: io.IOBase, start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, io.IOBase, int]]:
    """Yield every box between two positions: its kind, the file at the place of its content, and the content's size."""
    while start + 8 <= end and depth < _DEEPEST:
        file.seek(start)
        header = file.read(16)
        size, kind, head = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:
            size, head = int.from_bytes(header[8:], "big"), 16
        stop = min(start + size, end) if size else end
        if stop < start + head or not kind.isascii():
            return
        file.seek(start + head)
        yield kind, file, stop - start - head
        if kind == b"cmvd":
            unpacked = _unpack(file, start + head, stop)
            yield from _walk(unpacked, 0, len(unpacked.getvalue()), depth + 1)
        elif kind in _PARENTS:
            yield from _walk(file, start + head, stop, depth + 1)
        start = stop


def _unpack(file: io.IOBase, start: int, stop: int) -> io.BytesIO:
    """Return the boxes in a `cmvd` box, which zlib compressed, or nothing if it is damaged."""
    file.seek(start + 4)
    try:
        return io.BytesIO(zlib.decompressobj().decompress(file.read(stop - start - 4), _LARGEST_COMPRESSED))
    except zlib.error:
        return io.BytesIO()

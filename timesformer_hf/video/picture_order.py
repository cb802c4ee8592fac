"""
The place of each picture in the order of display, as the coded pictures themselves tell it, without timestamps.

A decoder shows frames in this order, whatever the timestamps in the container say. So timestamps that contradict it
don't tell which frame is the first, the second, ... one.
"""

from collections.abc import Callable, Iterable, Iterator

from .av1_units import sequence_headers
from .coded_headers import UnclearError
from .nal_order import H264Order, HevcOrder
from .nal_units import split_by_start_code, units_of_header


Place = tuple[int, ...]  # of a picture: a smaller one is shown earlier
Tables = dict[tuple, bytes]  # what a packet tells the decoder for later packets, too: by kind and number

_JPEG_HUFFMAN, _JPEG_QUANTISATION, _JPEG_SCAN = 0xC4, 0xDB, 0xDA
_MPEG_PICTURE, _MPEG_EXTENSION, _MPEG_SEQUENCE = b"\0\0\1\0", b"\0\0\1\xb5", b"\0\0\1\xb3"
_MPEG_CUT = ("mpegts", "mpeg", "mpegvideo")  # formats that FFmpeg itself cuts into packets, one for each picture
_MPEG_SEARCHED, _MPEG_HEADERS = 1024, 128  # bytes of such a packet, and of the headers of a picture
_WHOLE_FRAME = 3  # picture_structure; 1 and 2 are fields
_MPEG4_PICTURE = b"\0\0\1\xb6"
_MPEG4_LARGEST_EMPTY = 19  # a picture of up to this many bytes may be empty (FFmpeg's MAX_NVOP_SIZE)
_MPEG4_HEADERS = (*range(0x20, 0x30), 0xB0, 0xB2, 0xB5)  # start codes; a group's, with its time, isn't among them


def make_order(context, split: Callable[..., Iterable], format_name: str = ""):
    """
    Return the object that places the pictures of a stream.

    Args:
        context: PyAV's codec context.
        split: a function from a packet and a number of bytes to the NAL units in that part of the packet.
        format_name: FFmpeg's name of the container's format.

    Raises:
        UnclearError: if the codec may reorder frames in a way that isn't known here, or its header can't be read.
    """
    codec, extradata = context.codec.canonical_name, context.extradata or b""
    if codec in ("h264", "hevc"):
        return {"h264": H264Order, "hevc": HevcOrder}[codec](split, units_of_header(codec, extradata))
    if codec in _ORDERS:
        order = _ORDERS[codec](extradata)
        if format_name in _MPEG_CUT and isinstance(order, _Mpeg2):
            order.searched = _MPEG_SEARCHED
        return order
    if context.codec.reorder:
        raise UnclearError
    return InOrder(extradata)


class InOrder:
    """Places the pictures of a codec whose frames are shown in the order of decoding."""

    def __init__(self, extradata: bytes):
        self.decoded = 0
        self.known: Tables = {}

    def place(self, packet) -> tuple[Place, Tables]:
        """Return the place of a packet's picture, and what the packet tells the decoder for later packets, too."""
        self.decoded += 1
        return (self.decoded,), {}


class _Mjpeg(InOrder):
    """Finds the tables in JPEG pictures. A picture without tables uses those of the pictures before it."""

    def place(self, packet) -> tuple[Place, Tables]:
        return super().place(packet)[0], dict(_jpeg_tables(bytes(packet)))


def _jpeg_tables(data: bytes) -> Iterator[tuple[tuple, bytes]]:
    """Yield the tables before the first scan of a JPEG picture (ITU-T T.81, B.2)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != _JPEG_SCAN:
        kind, end = data[position + 1], position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : end] if kind in (_JPEG_HUFFMAN, _JPEG_QUANTISATION) else b""
        while segment:
            size = 17 + sum(segment[1:17]) if kind == _JPEG_HUFFMAN else 65 + 64 * (segment[0] >> 4)
            yield (kind, segment[0] if kind == _JPEG_HUFFMAN else segment[0] & 15), segment[:size]
            segment = segment[size:]
        position = end


class _Av1(InOrder):
    """Finds the sequence headers in key frames of AV1."""

    def __init__(self, extradata: bytes):
        super().__init__(extradata)
        self.known = sequence_headers(memoryview(extradata[4:] if extradata[:1] == b"\x81" else extradata))  # of av1C

    def place(self, packet) -> tuple[Place, Tables]:
        return super().place(packet)[0], sequence_headers(memoryview(packet)) if packet.is_keyframe else {}


class _Bidirectional:
    """
    Places the pictures of MPEG-1, MPEG-2 and MPEG-4.

    A B-picture is shown at once. Each other picture is shown when the next one that isn't a B-picture comes.
    """

    def __init__(self, extradata: bytes):
        self.decoded = self.references = 0
        self.known: Tables = {}

    def _next(self, is_bidirectional: bool) -> Place:
        self.decoded += 1
        if is_bidirectional:
            return self.references, 0, self.decoded
        self.references += 1
        return self.references, 1, self.decoded


class _Mpeg2(_Bidirectional):
    """Places the pictures of MPEG-1 and MPEG-2. Two fields in one packet are one picture. (ITU-T H.262, 6.2)"""

    size: bytes | None = None
    searched: int | None = None  # bytes of a packet in which pictures are looked for; None for all

    def place(self, packet) -> tuple[Place, Tables]:
        data = bytes(memoryview(packet)[: self.searched])
        start = data.find(_MPEG_PICTURE)
        in_reach = 0 <= start < len(data) - _MPEG_HEADERS and not _has_fields(data, start)
        if len(data) < packet.size and not in_reach:
            data = bytes(packet)
            start = data.find(_MPEG_PICTURE)
        last = data.find(_MPEG_PICTURE, start + 4) if _has_fields(data, start) else start
        if start < 0 or len(data) < start + 6 or data.rfind(_MPEG_PICTURE) != last:
            raise UnclearError
        self._check_size(data, data.find(_MPEG_SEQUENCE, 0, start))
        return self._next(data[start + 5] >> 3 & 7 == 3), {}

    def _check_size(self, data: bytes, start: int) -> None:
        """Raise an error if a sequence header changes the size, aspect ratio or frame rate."""
        size = data[start + 4 : start + 8] if start >= 0 else self.size
        if self.size not in (None, size):
            raise UnclearError
        self.size = size


def _has_fields(data: bytes, start: int) -> bool:
    """Whether the frame at `start` is coded as two fields, each with a header."""
    extension = data.find(_MPEG_EXTENSION, start, start + 64)
    return 0 <= extension < len(data) - 6 and data[extension + 6] & 3 != _WHOLE_FRAME


class _Mpeg4(_Bidirectional):
    """Places the pictures of MPEG-4, and finds the headers in its packets. (ISO/IEC 14496-2, 6.2)"""

    def __init__(self, extradata: bytes):
        super().__init__(extradata)
        self.known = _mpeg4_headers(extradata)

    def place(self, packet) -> tuple[Place, Tables]:
        data = bytes(packet)
        start = data.find(_MPEG4_PICTURE)
        # DivX and Xvid may pack a B-frame with the frame before it, and put an empty picture in its place.
        if start < 0 or data.rfind(_MPEG4_PICTURE) > start or not _MPEG4_LARGEST_EMPTY < len(data) > start + 4:
            raise UnclearError
        return self._next(data[start + 4] >> 6 == 2), _mpeg4_headers(data[:start]) if start else {}


def _mpeg4_headers(data: bytes) -> Tables:
    """Return the headers that stay in force, by their start codes."""
    units = [bytes(unit).rstrip(b"\0") for unit in split_by_start_code(memoryview(data))]
    return {(unit[0],): unit for unit in units if unit and unit[0] in _MPEG4_HEADERS}


_ORDERS = {
    "mjpeg": _Mjpeg,
    "av1": _Av1,
    "mpeg1video": _Mpeg2,
    "mpeg2video": _Mpeg2,
    "mpeg4": _Mpeg4,
}

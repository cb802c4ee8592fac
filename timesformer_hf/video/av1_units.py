"""The units of AV1 streams (OBUs): sequence headers, and how many frames a packet shows. (AV1 specification, 5.3)"""

from collections.abc import Iterator


_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_SHOWS = 0x80 | 0x10  # show_existing_frame, or show_frame behind two bits of frame_type (5.9.2)
_LAYERS = 4


def split_av1(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield the type of each unit of a packet, its spatial layer, and its content."""
    position = 0
    while position < len(data):
        header = data[position]
        layer = data[position + 1] >> 3 & 3 if header & 4 and position + 1 < len(data) else 0  # obu_extension_flag
        start, end = position + 1 + (header >> 2 & 1), len(data)
        if header & 2:  # obu_has_size_field; without it, the unit is the last one
            size = data[start] if start < end else 0
            start += 1
            if size > 127:
                start, size = _take_leb128(data, start - 1)
            end = start + size
        yield header >> 3 & 15, layer, data[start:end]
        position = end


def sequence_headers(data: memoryview) -> dict[tuple, bytes]:
    """Return the sequence headers among the units of a packet."""
    return {(kind,): bytes(content) for kind, _, content in split_av1(data) if kind == _SEQUENCE_HEADER}


def count_shown_av1(data: memoryview) -> int:
    """Return how many frames a packet shows. Frames of several spatial layers are shown as one."""
    shown = [0] * _LAYERS
    for kind, layer, content in split_av1(data):
        if kind in (_FRAME, _FRAME_HEADER) and content and content[0] & _SHOWS:
            shown[layer] += 1
    return max(shown)


def _take_leb128(data: memoryview, position: int) -> tuple[int, int]:
    """Return the position after a number of which each byte has 7 bits, the lowest first, and the number."""
    number = 0
    for count, byte in enumerate(data[position : position + 8]):
        number |= (byte & 127) << 7 * count
        if byte < 128:
            return position + count + 1, number
    return len(data), 0

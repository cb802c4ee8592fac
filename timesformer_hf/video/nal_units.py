"""The units of H.264 and HEVC streams (NAL units): where they start and end, in packets and in headers of files."""

from collections.abc import Iterator


_START_CODE = b"\0\0\1"


def split_by_length(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """Yield the NAL units of a packet in which each unit follows its length."""
    position = 0
    while position + length_size < len(data):
        start = position + length_size
        position = start + int.from_bytes(data[position:start], "big")
        if position > start:
            yield data[start:position]


def split_by_start_code(data: memoryview) -> Iterator[memoryview]:
    """Yield the NAL units of a packet in which each unit follows a start code."""
    whole = bytes(data)
    start = whole.find(_START_CODE) + 3
    while 3 <= start < len(whole):
        end = whole.find(_START_CODE, start)
        unit = data[start : end if end >= 0 else len(whole)]
        if len(unit):  # some encoders write a start code twice
            yield unit
        start = end + 3


def size_of_lengths(codec: str, extradata: bytes) -> int:
    """
    Return the size of the length before each NAL unit, or 0 if units follow start codes.

    A header that is an avcC or hvcC record gives that size.
    """
    if codec not in ("h264", "hevc") or extradata[:1] != b"\1" or len(extradata) <= 22:
        return 0
    return (extradata[{"h264": 4, "hevc": 21}[codec]] & 3) + 1


def units_of_header(codec: str, extradata: bytes) -> list[bytes]:
    """Return the parameter sets in the header of a file: in an avcC or hvcC record, or behind start codes."""
    if size_of_lengths(codec, extradata):
        return list(_units_of_avcc(extradata) if codec == "h264" else _units_of_hvcc(extradata))
    return [bytes(unit) for unit in split_by_start_code(memoryview(extradata))]


def _units_of_avcc(record: bytes) -> Iterator[bytes]:
    position = 5
    for bits in (31, 255):  # of the number of sequence parameter sets, and of picture parameter sets
        count = record[position] & bits if position < len(record) else 0
        units, position = _listed_units(record, position + 1, count)
        yield from units


def _units_of_hvcc(record: bytes) -> Iterator[bytes]:
    position = 23
    for _ in range(record[22]):
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        units, position = _listed_units(record, position + 3, count)
        yield from units


def _listed_units(record: bytes, position: int, count: int) -> tuple[list[bytes], int]:
    """Return `count` units, each behind a length of two bytes, and the position after them."""
    units = []
    while count and position < len(record):
        start = position + 2
        position = start + int.from_bytes(record[position:start], "big")
        units.append(record[start:position])
        count -= 1
    return [unit for unit in units if unit], position


def remove_emulation_prevention(data: bytes) -> bytes:
    """Return the contents of a NAL unit without the bytes that keep start codes out of it."""
    return data.replace(b"\0\0\3", b"\0\0")


def split_messages(sei: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the payload of each message in an SEI unit without its header (H.264, 7.3.2.3)."""
    rest = remove_emulation_prevention(sei)
    while len(rest) > 2:
        kind, rest = _take_number(rest)
        size, rest = _take_number(rest)
        yield kind, rest[:size]
        rest = rest[size:]


def _take_number(message: bytes) -> tuple[int, bytes]:
    """Return the type or size at the start of a message, and the rest. Each leading byte of 255 adds 255."""
    rest = message.lstrip(b"\xff")
    return 255 * (len(message) - len(rest)) + (rest[0] if rest else 0), rest[1:]

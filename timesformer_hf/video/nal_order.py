"""
The place of each picture of H.264 and HEVC in the order of display, by its picture order count.

The names are those of ITU-T H.264 and H.265.
"""

from collections.abc import Callable, Iterable

from .coded_headers import (
    BitReader,
    H264Parameters,
    H264Sequence,
    HevcParameters,
    HevcSequence,
    UnclearError,
)
from .nal_units import split_messages


_SLICE_HEADER = 28  # bytes of a slice; the parts of its header that are read take less
_SEARCHED = 512  # bytes of a packet in which its picture nearly always starts
_LASTING = (19, 47)  # messages: film grain and display orientation change the pixels of later frames, too


class _NalOrder:
    """What H.264 and HEVC have in common."""

    pictures: Iterable[int]  # types of NAL units
    parameter_sets: dict[int, Callable]
    sequence_kind: int
    messages: int
    header: int  # bytes of the header of a NAL unit
    ends: tuple[bytes, ...]  # the last bytes of a packet that ends the stream, so that another one may follow

    def __init__(self, split: Callable[..., Iterable], extradata: list[bytes]):
        """
        Read the parameter sets in the file's header.

        `split` is a function from a packet and a number of bytes to the NAL units in that part of the packet.
        """
        self.split = split
        self.parameters: dict[tuple[int, int], object] = {}
        self.contents: dict[tuple[int, int], bytes] = {}
        self.sequence_in_force: bytes | None = None
        self.has_ended = False
        self.last_bytes = {end[-1] for end in self.ends}
        self.active: dict[int, tuple] = {}  # from a picture's number of its parameter set to the sequence's and its own
        self.epoch = self.high = self.low = 0
        self.known = {name: unit for content in extradata for name, unit in self._keep(content).items()}

    def place(self, packet, searched: int = _SEARCHED) -> tuple[tuple[int, int], dict[tuple, bytes]]:
        """
        Return the place of a packet's picture, and the parameter sets in the packet.

        Only so many bytes of the packet are searched. If the picture doesn't start in them, all are.

        Raises:
            UnclearError: if the packet contains no frame, a field or something that changes later frames.
        """
        tables: dict[tuple, bytes] = {}
        data = memoryview(packet)
        for unit in self.split(data, searched):
            kind = self.kind(unit[0])
            if kind in self.pictures:
                if len(unit) < _SLICE_HEADER and searched < len(data):
                    break
                if self.has_ended:
                    raise UnclearError
                place = self.place_picture(bytes(unit[:_SLICE_HEADER]))
                self.has_ended = data[-1] in self.last_bytes and bytes(data[-5:]).endswith(self.ends)
                return place, tables
            if kind == self.messages:
                _check_messages(bytes(unit)[self.header :])
            if kind in self.parameter_sets:
                tables |= self._keep(unit)
        if searched < len(data):
            return self.place(packet, len(data))
        raise UnclearError

    @staticmethod
    def kind(first_byte: int) -> int:
        """Return the type of a NAL unit."""
        raise NotImplementedError

    def place_picture(self, unit: bytes) -> tuple[int, int]:
        """Return the place of the picture to which a slice belongs."""
        raise NotImplementedError

    def _keep(self, unit) -> dict[tuple, bytes]:
        """Read a parameter set, keep it and return its contents by kind and number. Other units have none."""
        kind = self.kind(unit[0])
        if kind not in self.parameter_sets:
            return {}
        unit = bytes(unit).rstrip(b"\0")  # zeros belong to the next start code
        parameters = self.parameter_sets[kind](unit)
        name = kind, parameters.number
        self.parameters[name], self.contents[name] = parameters, unit
        self.active.clear()
        return {name: unit}

    def _activate(self, kind: int, number: int) -> tuple:
        """Return the parameter sets of a picture: the sequence's and its own. The sequence's must never change."""
        if number not in self.active:
            parameters = self.parameters.get((kind, number))
            name = self.sequence_kind, parameters.sequence if parameters else -1
            content = self.contents.get(name)
            if content is None or self.sequence_in_force not in (None, content):
                raise UnclearError
            self.sequence_in_force = content
            self.active[number] = self.parameters[name], parameters
        return self.active[number]

    def _unwrap(self, low: int, bits: int) -> tuple[int, int]:
        """Return the upper part of the order count of which `low` is the last `bits` bits, and the count."""
        span, high = 1 << bits, self.high
        if self.low - low >= span // 2:
            high += span
        elif low - self.low > span // 2:
            high -= span
        return high, high + low

    def _start_epoch(self) -> None:
        """Start to count anew: later pictures are shown after all earlier ones."""
        self.epoch += 1
        self.high = self.low = 0


def _check_messages(sei: bytes) -> None:
    """Raise an error if a message stays in force."""
    if any(kind in _LASTING for kind, _ in split_messages(sei)):
        raise UnclearError


class H264Order(_NalOrder):
    """Places the pictures of an H.264 stream (8.2.1)."""

    pictures = (1, 5)
    parameter_sets = {7: H264Sequence.read, 8: H264Parameters.read}
    sequence_kind = 7
    messages, header = 6, 1
    ends = (b"\0\0\1\x0a", b"\0\0\1\x0b")

    def __init__(self, split: Callable[..., Iterable], extradata: list[bytes]):
        super().__init__(split, extradata)
        self.decoded = 0
        self.frame_num: int | None = None  # of the reference frame before

    @staticmethod
    def kind(first_byte: int) -> int:
        return first_byte & 31

    def place_picture(self, unit: bytes) -> tuple[int, int]:
        is_idr, is_reference = unit[0] & 31 == 5, bool(unit[0] & 0x60)
        bits = BitReader(unit[1:])
        bits.take_ue()  # first_mb_in_slice
        bits.take_ue()  # slice_type
        sequence, parameters = self._activate(8, bits.take_ue())
        if sequence.colour_planes:
            bits.take(2)
        self._check_number(bits.take(sequence.frame_num_bits), sequence, is_idr, is_reference)
        if not sequence.only_frames and bits.take(1):  # field_pic_flag: a decoder shows two fields as one frame
            raise UnclearError
        if is_idr:
            bits.take_ue()  # idr_pic_id
            self._start_epoch()
        self.decoded += 1
        return self.epoch, self._count(bits, sequence, parameters, is_reference)

    def _check_number(self, number: int, sequence: H264Sequence, is_idr: bool, is_reference: bool) -> None:
        """Raise an error if reference frames are missing before a picture (`frame_num`, 7.4.3)."""
        if not is_idr and self.frame_num not in (number, None) and self.frame_num != (number - 1) % sequence.frame_nums:
            raise UnclearError
        if is_reference:
            self.frame_num = number

    def _count(self, bits: BitReader, sequence: H264Sequence, parameters: H264Parameters, is_reference: bool) -> int:
        """Return the picture order count of a frame: the smaller one of its fields."""
        if sequence.order_type == 2:
            return self.decoded
        low = bits.take(sequence.order_bits)
        high, count = self._unwrap(low, sequence.order_bits)
        if is_reference:
            self.high, self.low = high, low
        return count + min(0, bits.take_se() if parameters.has_bottom_order else 0)


class HevcOrder(_NalOrder):
    """Places the pictures of an HEVC stream (8.3.1)."""

    pictures = range(32)
    parameter_sets = {33: HevcSequence.read, 34: HevcParameters.read}
    sequence_kind = 33
    messages, header = 39, 2
    ends = tuple(size + end for size in (b"\0\0\1", b"\0\0\2") for end in (b"\x48\1", b"\x4a\1"))

    @staticmethod
    def kind(first_byte: int) -> int:
        return first_byte >> 1 & 63

    def _keep(self, unit) -> dict[tuple, bytes]:
        is_of_first_layer = len(unit) > 1 and not unit[0] & 1 and unit[1] < 8  # nuh_layer_id: of alpha or another eye
        return super()._keep(unit) if is_of_first_layer else {}

    def place_picture(self, unit: bytes) -> tuple[int, int]:
        kind, is_first = unit[0] >> 1 & 63, self.sequence_in_force is None
        bits = BitReader(unit[2:])
        if not bits.take(1):  # first_slice_segment_in_pic_flag
            raise UnclearError
        drops_frames = 16 <= kind < 24 and bits.take(1)  # no_output_of_prior_pics_flag; ignored for H.264
        sequence, parameters = self._activate(34, bits.take_ue())
        if not is_first and (drops_frames or 16 <= kind < 19):  # after a broken link, pictures are dropped
            raise UnclearError
        if parameters.extra_bits:
            bits.take(parameters.extra_bits)
        bits.take_ue()  # slice_type
        if parameters.has_output_flag and not bits.take(1):  # pic_output_flag
            raise UnclearError
        if sequence.colour_planes:
            bits.take(2)
        if 16 <= kind < 21:
            self._start_epoch()
        return self.epoch, self._count(bits, sequence, kind, lowest_layer=unit[1] & 7 == 1)

    def _count(self, bits: BitReader, sequence: HevcSequence, kind: int, lowest_layer: bool) -> int:
        low = 0 if kind in (19, 20) else bits.take(sequence.order_bits)
        high, count = self._unwrap(low, sequence.order_bits)
        if lowest_layer and not ((kind < 16 and kind % 2 == 0) or 6 <= kind < 10):  # those never count (8.3.1)
            self.high, self.low = high, low
        return count

"""
Headers of H.264 and HEVC, read as far as the order and the number of frames depend on them.

The names are those of ITU-T H.264, 7.3, and H.265, 7.3. A header that ends too early raises `UnclearError`.
"""

from dataclasses import dataclass

from .nal_units import remove_emulation_prevention


_PROFILES_WITH_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # High and those above it
_LARGEST_PARAMETER_SET = 4096  # more bytes than the parts that are read ever take


class UnclearError(Exception):
    """Raised if packets don't tell which frames a decoder shows, or in which order."""


class BitReader:
    """Reads numbers from the bits of a NAL unit."""

    def __init__(self, data: bytes):
        if b"\0\0\3" in data:
            data = remove_emulation_prevention(data)
        self.left = 8 * len(data)
        self.value = int.from_bytes(data, "big")

    def take(self, bits: int) -> int:
        """Return the next bits as a number, coded as u(n)."""
        self.left -= bits
        if self.left < 0:
            raise UnclearError
        number = self.value >> self.left
        self.value -= number << self.left
        return number

    def take_ue(self) -> int:
        """Return the next number, coded as ue(v) (exponential Golomb code, 9.1)."""
        self.left = left = 2 * self.value.bit_length() - self.left - 1  # a number has as many zeros before its first 1
        if left < 0:
            raise UnclearError
        number = self.value >> left
        self.value -= number << left
        return number - 1

    def take_se(self) -> int:
        """Return the next signed number, coded as se(v)."""
        number = self.take_ue()
        return (number + 1) // 2 if number % 2 else -number // 2

    def skip_ue(self, count: int) -> None:
        """Skip numbers that are coded as ue(v) or se(v)."""
        for _ in range(count):
            self.take_ue()


@dataclass(frozen=True)
class H264Sequence:
    """What an H.264 sequence parameter set says of the order of frames (7.3.2.1.1)."""

    number: int
    colour_planes: bool
    frame_num_bits: int
    order_type: int  # pic_order_cnt_type
    order_bits: int  # of pic_order_cnt_lsb
    only_frames: bool  # frame_mbs_only_flag

    @classmethod
    def read(cls, unit: bytes) -> "H264Sequence":
        """Read a NAL unit. The order type 1, which encoders don't use, ends the reading early."""
        bits = BitReader(unit[1:_LARGEST_PARAMETER_SET])
        profile = bits.take(24) >> 16
        number = bits.take_ue()
        colour_planes = profile in _PROFILES_WITH_FORMAT and _take_format(bits)
        frame_num_bits = bits.take_ue() + 4
        order_type = bits.take_ue()
        if order_type not in (0, 2):
            raise UnclearError
        order_bits = bits.take_ue() + 4 if order_type == 0 else 0
        bits.take_ue()  # max_num_ref_frames
        bits.take(1)  # gaps_in_frame_num_value_allowed_flag
        bits.skip_ue(2)  # width and height
        return cls(number, colour_planes, frame_num_bits, order_type, order_bits, bool(bits.take(1)))

    @property
    def frame_nums(self) -> int:
        """The number of values of `frame_num`, which counts in circles."""
        return 1 << self.frame_num_bits


def _take_format(bits: BitReader) -> bool:
    """Skip the format of the samples in a sequence parameter set. Return `separate_colour_plane_flag`."""
    chroma_format = bits.take_ue()
    planes = chroma_format == 3 and bool(bits.take(1))
    bits.skip_ue(2)  # bit depths
    bits.take(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.take(1):
        for number in range(12 if chroma_format == 3 else 8):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return planes


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    """Skip a scaling list (7.3.2.1.1.1)."""
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.take_se()) % 256
        last = following or last


@dataclass(frozen=True)
class H264Parameters:
    """What an H.264 picture parameter set says of the slice header (7.3.2.2)."""

    number: int
    sequence: int
    has_bottom_order: bool  # bottom_field_pic_order_in_frame_present_flag

    @classmethod
    def read(cls, unit: bytes) -> "H264Parameters":
        """Read a NAL unit."""
        bits = BitReader(unit[1:_LARGEST_PARAMETER_SET])
        number, sequence, _ = bits.take_ue(), bits.take_ue(), bits.take(1)
        return cls(number, sequence, bool(bits.take(1)))


@dataclass(frozen=True)
class HevcSequence:
    """What an HEVC sequence parameter set says of the order of frames (7.3.2.2.1)."""

    number: int
    colour_planes: bool
    order_bits: int  # of slice_pic_order_cnt_lsb

    @classmethod
    def read(cls, unit: bytes) -> "HevcSequence":
        """Read a NAL unit."""
        bits = BitReader(unit[2:_LARGEST_PARAMETER_SET])
        bits.take(4)
        layers = bits.take(3)  # sps_max_sub_layers_minus1
        bits.take(1)
        _skip_profile(bits, layers)
        number = bits.take_ue()
        colour_planes = bits.take_ue() == 3 and bool(bits.take(1))
        bits.skip_ue(2)  # width and height
        if bits.take(1):
            bits.skip_ue(4)  # conformance window
        bits.skip_ue(2)  # bit depths
        return cls(number, colour_planes, bits.take_ue() + 4)


def _skip_profile(bits: BitReader, layers: int) -> None:
    """Skip profile_tier_level (7.3.3)."""
    bits.take(96)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)


@dataclass(frozen=True)
class HevcParameters:
    """What an HEVC picture parameter set says of the slice header (7.3.2.3.1)."""

    number: int
    sequence: int
    has_output_flag: bool
    extra_bits: int  # num_extra_slice_header_bits

    @classmethod
    def read(cls, unit: bytes) -> "HevcParameters":
        """Read a NAL unit."""
        bits = BitReader(unit[2:_LARGEST_PARAMETER_SET])
        number, sequence, _ = bits.take_ue(), bits.take_ue(), bits.take(1)
        return cls(number, sequence, bool(bits.take(1)), bits.take(3))

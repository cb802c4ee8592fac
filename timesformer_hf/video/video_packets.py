"""
What the packets of a video tell without decoding.

They tell which frames there are, when each is shown, and which are non-reference frames. They also tell where a decoder
can start and still give the same frames as one that started at the beginning.

A packet that the container marks as a key frame isn't always such a start. In H.264 the picture may be refreshed
gradually over the frames that follow. So the packet itself is inspected: it must contain an IDR picture, or a message
that every picture from it on is exact. (The names are those of ITU-T H.264, 7.4.1 and D.2.8, and H.265, 7.4.2.2.)
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


_START_CODE = b"\0\0\1"
_H264_SLICE, _H264_IDR, _H264_SEI, _H264_SPS, _H264_PPS = 1, 5, 6, 7, 8
_H264_WITHOUT_EFFECT = (_H264_SEI, 9, 12)  # no effect on other pictures: messages, delimiters, filler
_H264_PROFILES_WITH_FORMAT = (100, 110, 122, 244, 44)  # High and those above it
_SEI_RECOVERY_POINT = 6
_HEVC_PICTURES, _HEVC_RANDOM_ACCESS = range(32), range(16, 24)
_HEVC_NON_REFERENCES = range(0, 16, 2)  # within their temporal layer
_HEVC_PARAMETER_SETS = {32, 33, 34}
_HEVC_WITHOUT_EFFECT = (35, 38, 39, 40)
_MPEG_SEQUENCE_HEADER = _START_CODE + b"\xb3"
_MPEG4_PICTURE = _START_CODE + b"\xb6"
_MPEG4_LARGEST_EMPTY = 19  # a picture of up to this many bytes may be empty (FFmpeg's MAX_NVOP_SIZE)
# Codecs in which a marked key frame decodes alone, and no frame after it refers to a frame before it.
_SELF_CONTAINED_KEYS = ("vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "theora")


@dataclass(frozen=True)
class PacketScan:
    """
    The result of scanning the packets of a video.

    Attributes:
        pts: timestamps of the shown frames in order of display, in units of the stream's time base. `None` if the
            packets don't give the order of the frames: timestamps are missing or repeated, or a packet contains no
            frame or contains two.
        key_pts: timestamps of the key frames at which a decoder can start, in ascending order.
        num_frames: number of shown frames. `None` if the stream doesn't start with a key frame: its first frames can't
            be decoded, so the packets don't tell the number.
        decode_order: the timestamps in `pts`, in order of decoding.
    """

    pts: list[int] | None
    key_pts: list[int]
    num_frames: int | None
    decode_order: list[int]

    def key_before(self, pts: int) -> int:
        """Return the timestamp of the last key frame that is shown at or before `pts`, or of the first key frame."""
        return self.key_pts[max(bisect_right(self.key_pts, pts) - 1, 0)]


def scan_packets(packets: Iterable, stream) -> PacketScan:
    """Inspect every packet of the stream, without decoding it, and return the result."""
    inspect = PacketInspector(stream)
    shown, keys, unclear, starts_with_key = [], [], False, None
    for packet in packets:
        if packet.size == 0:  # the flush at the end
            continue
        is_first = starts_with_key is None
        starts_with_key = packet.is_keyframe if is_first else starts_with_key
        if packet.is_discard:  # cut off by an edit list: decoded, never shown
            unclear = True
            continue
        frames = inspect.count_shown(packet)
        if frames == 0:
            continue
        unclear |= frames is None
        shown.append(packet.pts)
        if is_first or (packet.is_keyframe and inspect.is_clean_start(packet)):
            keys.append(packet.pts)
    if not starts_with_key:
        return PacketScan(pts=None, key_pts=[], num_frames=None, decode_order=[])
    if None in shown or len(set(shown)) < len(shown) or unclear or not keys:
        return PacketScan(pts=None, key_pts=[], num_frames=len(shown), decode_order=[])
    return PacketScan(sorted(shown), sorted(keys), num_frames=len(shown), decode_order=shown)


class PacketInspector:
    """Looks into the packets of one stream. If it can't tell, the answer is no."""

    def __init__(self, stream):
        context = stream.codec_context
        self.codec = context.codec.canonical_name
        self.extradata = extradata = context.extradata or b""
        # An avcC or hvcC record gives the size of the length before each NAL unit. Other streams use start codes.
        record = extradata[:1] == b"\1" and len(extradata) > 22
        self.length_size = (extradata[{"h264": 4, "hevc": 21}[self.codec]] & 3) + 1 if record and self.has_nals else 0
        self.has_layers = not record or (extradata[21] >> 3) & 7 != 1  # HEVC's numTemporalLayers

    @property
    def has_nals(self) -> bool:
        """Whether the packets consist of NAL units."""
        return self.codec in ("h264", "hevc")

    @property
    def keeps_order(self) -> bool:
        """Whether an H.264 stream shows its frames in the order in which they are decoded."""
        units = (
            _split_by_start_code(memoryview(self.extradata)) if self.codec == "h264" and not self.length_size else ()
        )
        parameters = [bytes(unit) for unit in units if unit[0] & 31 == _H264_SPS and len(unit) > 1]
        return bool(parameters) and all(map(is_order_of_decoding, parameters))

    def count_shown(self, packet) -> int | None:
        """Return how many frames the packet shows, or `None` if that is unclear. In most codecs it is one."""
        if self.codec == "vp8":
            return memoryview(packet)[0] >> 4 & 1  # show_frame (RFC 6386, 9.1)
        # DivX and Xvid may pack a B-frame with the frame before it, and put an empty picture in its place.
        if self.codec == "mpeg4":
            alone = bytes(packet).count(_MPEG4_PICTURE) == 1 and packet.size > _MPEG4_LARGEST_EMPTY
            return 1 if alone else None
        return 1

    def is_clean_start(self, packet) -> bool:
        """Whether decoding from this key frame gives every frame that is shown from it on, exactly."""
        if self.has_nals:
            units = [bytes(unit) for unit in self.nal_units(packet)]
            return (_is_clean_h264_start if self.codec == "h264" else _is_clean_hevc_start)(units, not self.length_size)
        if self.codec in ("mpeg1video", "mpeg2video"):  # this header contains the tables for dequantisation
            return _MPEG_SEQUENCE_HEADER in bytes(packet)
        return self.codec in _SELF_CONTAINED_KEYS

    def is_non_reference(self, packet) -> bool:
        """Whether the packet contains a non-reference frame, so that leaving it out changes no other frame."""
        if self.codec == "h264":
            return _is_non_reference_h264(self.nal_units(packet))
        return self.codec == "hevc" and not self.has_layers and _is_non_reference_hevc(self.nal_units(packet))

    def nal_units(self, packet) -> Iterator[memoryview]:
        """Yield the NAL units of a packet, without their lengths or start codes."""
        data = memoryview(packet)
        return _split_by_length(data, self.length_size) if self.length_size else _split_by_start_code(data)


def _split_by_length(data: memoryview, length_size: int) -> Iterator[memoryview]:
    position = 0
    while position + length_size < len(data):
        start = position + length_size
        position = start + int.from_bytes(data[position:start], "big")
        if position > start:
            yield data[start:position]


def _split_by_start_code(data: memoryview) -> Iterator[memoryview]:
    whole = bytes(data)
    start = whole.find(_START_CODE) + 3
    while 3 <= start < len(whole):
        end = whole.find(_START_CODE, start)
        unit = data[start : end if end >= 0 else len(whole)]
        if len(unit):  # some encoders write a start code twice
            yield unit
        start = end + 3


def _is_clean_h264_start(units: list[bytes], needs_parameters: bool) -> bool:
    """
    Whether a decoder can start at these NAL units and give exact frames.

    With `needs_parameters`, they must contain the parameter sets. These are not in the header then, and a decoder would
    miss those in the packets that it doesn't get.
    """
    types = {unit[0] & 31 for unit in units}
    if needs_parameters and not {_H264_SPS, _H264_PPS} <= types:
        return False
    return _H264_IDR in types or any(_is_exact_recovery_point(unit) for unit in units if unit[0] & 31 == _H264_SEI)


def _is_exact_recovery_point(sei: bytes) -> bool:
    """Whether an SEI message says that pictures are exact at once: `recovery_frame_cnt` is 0, `exact_match_flag` 1."""
    message = sei[1:].replace(b"\0\0\3", b"\0\0")  # remove the bytes that prevent start codes
    while len(message) > 2:
        kind, message = _take_number(message)
        size, message = _take_number(message)
        if kind == _SEI_RECOVERY_POINT:
            return size > 0 and message[0] >= 0xC0  # each of the two is coded as one bit of 1
        message = message[size:]
    return False


def _take_number(message: bytes) -> tuple[int, bytes]:
    """Return the type or size at the start of a message, and the rest. Each leading byte of 255 adds 255."""
    rest = message.lstrip(b"\xff")
    return 255 * (len(message) - len(rest)) + (rest[0] if rest else 0), rest[1:]


def is_order_of_decoding(sps: bytes) -> bool:
    """Whether a sequence parameter set says that frames are shown in the order of decoding (7.3.2.1.1, 8.2.1.3)."""
    profile, bits = sps[1], "".join(f"{byte:08b}" for byte in sps[4:].replace(b"\0\0\3", b"\0\0"))
    _, bits = _take_exponential_golomb(bits)  # seq_parameter_set_id
    if profile in _H264_PROFILES_WITH_FORMAT:
        chroma_format, bits = _take_exponential_golomb(bits)
        bits = bits[1:] if chroma_format == 3 else bits  # separate_colour_plane_flag
        _, bits = _take_exponential_golomb(bits)  # bit_depth_luma_minus8
        _, bits = _take_exponential_golomb(bits)  # bit_depth_chroma_minus8
        if bits[1:2] != "0":  # seq_scaling_matrix_present_flag, behind qpprime_y_zero_transform_bypass_flag
            return False
        bits = bits[2:]
    _, bits = _take_exponential_golomb(bits)  # log2_max_frame_num_minus4
    return _take_exponential_golomb(bits)[0] == 2  # pic_order_cnt_type


def _take_exponential_golomb(bits: str) -> tuple[int, str]:
    """Return the number, coded as ue(v), at the start of some bits (9.1), and the rest of the bits."""
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1, bits[2 * zeros + 1 :]


def _is_clean_hevc_start(units: list[bytes], needs_parameters: bool) -> bool:
    types = [(unit[0] >> 1) & 63 for unit in units]
    if needs_parameters and not set(types) >= _HEVC_PARAMETER_SETS:
        return False
    pictures = [kind for kind in types if kind in _HEVC_PICTURES]
    return bool(pictures) and all(kind in _HEVC_RANDOM_ACCESS for kind in pictures)


def _is_non_reference_h264(units: Iterator[memoryview]) -> bool:
    """Whether `nal_ref_idc` is 0 in all slices of all fields."""
    slices = 0
    for unit in units:
        kind = unit[0] & 31
        if kind == _H264_SLICE and not unit[0] & 0x60:
            slices += 1
        elif kind not in _H264_WITHOUT_EFFECT:
            return False
    return slices > 0


def _is_non_reference_hevc(units: Iterator[memoryview]) -> bool:
    """
    Whether all slices are of non-reference pictures.

    The stream must have one temporal layer, because a picture of a higher layer could still refer to such a picture.
    """
    slices = 0
    for unit in units:
        kind = (unit[0] >> 1) & 63
        if kind in _HEVC_NON_REFERENCES and len(unit) > 1 and unit[1] & 7 == 1:  # nuh_temporal_id_plus1
            slices += 1
        elif kind not in _HEVC_WITHOUT_EFFECT:
            return False
    return slices > 0

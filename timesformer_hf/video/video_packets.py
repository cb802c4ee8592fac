"""
What the packets of a video tell without decoding.

They tell which frames there are, when each is shown, and which are non-reference frames. They also tell where a decoder
can start and still give the same frames as one that started at the beginning.

A packet that the container marks as a key frame isn't always such a start. In H.264 the picture may be refreshed
gradually over the frames that follow. So the packet itself is inspected: it must contain an IDR picture, or a message
that every picture from it on is exact. (The names are those of ITU-T H.264, 7.4.1 and D.2.8, and H.265, 7.4.2.2.)
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .av1_units import count_shown_av1
from .coded_headers import UnclearError
from .nal_units import size_of_lengths, split_by_length, split_by_start_code, split_messages
from .picture_order import Place, make_order


_H264_SLICE, _H264_IDR, _H264_SEI, _H264_SPS, _H264_PPS = 1, 5, 6, 7, 8
_H264_WITHOUT_EFFECT = (_H264_SEI, 9, 12)  # no effect on other pictures: messages, delimiters, filler
_SEI_RECOVERY_POINT = 6
_HEVC_PICTURES, _HEVC_RANDOM_ACCESS = range(32), range(16, 24)
_HEVC_NON_REFERENCES = range(0, 16, 2)  # within their temporal layer
_HEVC_PARAMETER_SETS = {32, 33, 34}
_HEVC_WITHOUT_EFFECT = (35, 38, 39, 40)
_MPEG_SEQUENCE_HEADER = b"\0\0\1\xb3"
# Codecs in which a marked key frame decodes alone, and no frame after it refers to a frame before it.
_SELF_CONTAINED_KEYS = ("vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "theora")


@dataclass(frozen=True)
class PacketScan:
    """
    The result of scanning the packets of a video.

    Attributes:
        pts: timestamps of the shown frames in order of display, in units of the stream's time base. `None` if they
            don't tell which frame comes first, second, ...: timestamps are missing or repeated, they contradict the
            order in which the decoder shows the pictures, or it is unclear which pictures it shows.
        key_pts: timestamps of the key frames at which a decoder can start, in ascending order.
        num_frames: number of frames that the packets promise.
        decode_order: the timestamps of all frames, in order of decoding. An edit list may hide some of them.
        is_exact: whether a decoder shows as many frames as promised. Otherwise only decoding tells the number.
        span: the time from the first frame to the last one, if it is known.
    """

    pts: list[int] | None
    key_pts: list[int]
    num_frames: int
    decode_order: list[int]
    is_exact: bool = True
    span: int | None = None

    def key_before(self, pts: int) -> int:
        """Return the timestamp of the last key frame that is shown at or before `pts`, or of the first key frame."""
        return self.key_pts[max(bisect_right(self.key_pts, pts) - 1, 0)]


def scan_packets(packets: Iterable, stream) -> PacketScan:
    """Inspect every packet of the stream, without decoding it, and return the result."""
    scanner = _Scanner(stream)
    for packet in packets:
        if packet.size:  # the flush at the end is empty
            scanner.add(packet)
    return scanner.finish()


_NONE = frozenset()


class _Frame(NamedTuple):
    """What a packet tells of its frame."""

    pts: int | None
    place: Place
    is_shown: bool
    is_start: bool  # whether a decoder can start here, with the tables that it has
    tables: frozenset  # which tables the packet contains


class _Scanner:
    """Collects what the packets of a stream promise."""

    def __init__(self, stream):
        self.context = stream.codec_context
        self.inspect = PacketInspector(stream)
        self.frames: list[_Frame] = []
        self.changing: set[tuple] = set()  # tables that differ from those in the header
        self.is_clear = True
        try:
            self.order = make_order(self.context, self.inspect.nal_units, stream.container.format.name)
        except UnclearError:
            self.is_clear = False

    def add(self, packet) -> None:
        """Inspect the next packet in order of decoding."""
        shown = self.inspect.count_shown(packet)
        if shown == 0:
            return
        is_key = packet.is_keyframe
        if shown is None or packet.is_corrupt or (is_key and self._changes_header(packet)):
            self.is_clear = False
        place, tables = self._place(packet)
        if tables:
            self.changing |= {name for name, content in tables.items() if self.order.known.get(name) != content}
        is_start = is_key and self.inspect.is_clean_start(packet)
        if not self.frames and not (is_key and (is_start or self.inspect.starts_at_marks)):
            self.is_clear = False
        names = frozenset(tables) if tables else _NONE
        self.frames.append(_Frame(packet.pts, place, not packet.is_discard, is_start, names))

    def _place(self, packet) -> tuple[Place, dict]:
        try:
            return self.order.place(packet) if self.is_clear else ((), {})
        except UnclearError:
            self.is_clear = False
            return (), {}

    def _changes_header(self, packet) -> bool:
        """Whether the container gives a new header for the packets from this key frame on."""
        if not packet.has_sidedata("new_extradata"):
            return False
        return bool(self.frames) or bytes(packet.get_sidedata("new_extradata")) != (self.context.extradata or b"")

    def finish(self) -> PacketScan:
        """Return what all packets together promise."""
        frames = [frame for frame in self.frames if frame.is_shown]
        shown, every = [frame.pts for frame in frames], [frame.pts for frame in self.frames]
        timed = bool(shown) and None not in every and len(set(every)) == len(every)
        in_order = timed and self.is_clear and self._is_in_order(sorted(frames))
        in_order_of_decoding = timed and every == sorted(every)
        is_clear = self.is_clear and bool(shown) and not self._starts_with_leading_frames() and self._fits_buffer()
        in_time = in_order and is_clear
        return PacketScan(
            pts=sorted(shown) if in_time else None,
            key_pts=sorted(self._find_keys()) if in_time else [],
            num_frames=len(shown),
            decode_order=every if in_time else [],
            is_exact=is_clear and (in_order or in_order_of_decoding or None in every),
            span=max(shown) - min(shown) if in_order or in_order_of_decoding else None,
        )

    def _starts_with_leading_frames(self) -> bool:
        """Whether frames are shown before the first one in order of decoding: a decoder may drop them."""
        first = self.frames[0].place
        return any(frame.is_shown and frame.place < first for frame in self.frames)

    def _fits_buffer(self) -> bool:
        """Whether an H.264 decoder waits long enough for the frames that are decoded late and shown early."""
        if self.inspect.codec != "h264":
            return True
        seen: list[Place] = []
        for frame in self.frames:
            insort(seen, frame.place)
            if seen[-1 - self.context.reorder_depth :][0] > frame.place:
                return False
        return True

    @staticmethod
    def _is_in_order(frames: list[_Frame]) -> bool:
        """Whether frames, sorted by timestamp, are in the order in which a decoder shows them."""
        return all(a.place < b.place for a, b in pairwise(frames))

    def _find_keys(self) -> Iterator[int]:
        """Yield the timestamps of the frames at which a decoder can start."""
        latest: Place = ()
        for number, frame in enumerate(self.frames):
            if number == 0 or (frame.is_start and self.changing <= frame.tables and latest < frame.place):
                yield frame.pts
            latest = max(latest, frame.place)


class PacketInspector:
    """Looks into the packets of one stream. If it can't tell, the answer is no."""

    def __init__(self, stream):
        context = stream.codec_context
        self.codec = context.codec.canonical_name
        extradata = context.extradata or b""
        self.length_size = size_of_lengths(self.codec, extradata)
        self.has_layers = not self.length_size or (extradata[21] >> 3) & 7 != 1  # HEVC's numTemporalLayers

    @property
    def has_nals(self) -> bool:
        """Whether the packets consist of NAL units."""
        return self.codec in ("h264", "hevc")

    @property
    def starts_at_marks(self) -> bool:
        """Whether a decoder starts at the first packet if the container marks it as a key frame."""
        return not self.has_nals and self.codec not in ("mpeg1video", "mpeg2video")

    def count_shown(self, packet) -> int | None:
        """Return how many frames the packet shows, or `None` if that is unclear. In most codecs it is one."""
        if self.codec == "vp8":
            return memoryview(packet)[0] >> 4 & 1  # show_frame (RFC 6386, 9.1)
        if self.codec == "vp9":
            shown = sum(map(_is_shown_vp9, _split_vp9(bytes(packet))))
            return shown if shown < 2 else None
        if self.codec == "av1":
            shown = count_shown_av1(memoryview(packet))
            return shown if shown < 2 else None
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

    def nal_units(self, packet, searched: int | None = None) -> Iterator[memoryview]:
        """Yield the NAL units in so many bytes of a packet, or all, without their lengths or start codes."""
        data = memoryview(packet)[:searched]
        return split_by_length(data, self.length_size) if self.length_size else split_by_start_code(data)


def _split_vp9(data: bytes) -> Iterator[bytes]:
    """Yield the frames of a VP9 packet. An index at its end gives their sizes (VP9 specification, annex B)."""
    count, width = (data[-1] & 7) + 1, (data[-1] >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if data[-1] >> 5 != 6 or index[0] != data[-1]:
        yield data
        return
    position = 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        yield data[position : position + size]
        position += size


def _is_shown_vp9(frame: bytes) -> bool:
    """Whether a VP9 frame is shown: `show_existing_frame` or `show_frame` (6.2)."""
    if not frame:
        return False
    bits = frame[0] << 1 if frame[0] >> 4 & 3 == 3 else frame[0]  # profile 3 has one bit more
    return bool(bits & 8 or bits & 2)


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
    exact = (payload[:1] >= b"\xc0" for kind, payload in split_messages(sei[1:]) if kind == _SEI_RECOVERY_POINT)
    return next(exact, False)  # each of the two is coded as one bit of 1


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

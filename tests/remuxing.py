"""Changed copies of small videos, without encoding them again: cuts, joins, other timestamps, other packets."""

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from clips import av

from timesformer_hf.video.coded_headers import BitReader
from timesformer_hf.video.nal_units import units_of_header


class Coded(NamedTuple):
    """A packet. The times are in seconds."""

    data: bytes
    pts: Fraction
    dts: Fraction
    key: bool

    def later(self, seconds: Fraction) -> "Coded":
        """The same packet at another time."""
        return self._replace(pts=self.pts + seconds, dts=self.dts + seconds)


TICK = Fraction(1, 90000)
FRAME = Fraction(1, 25)


def read_packets(path: Path) -> list[Coded]:
    """
    Every packet of the video, in order of decoding.

    Times of display that an AVI doesn't have are those of decoding. Times of decoding are made evenly spaced.
    """
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    pts = [(packet.dts if packet.pts is None else packet.pts) * packet.time_base for packet in packets]
    delay = max(early - late for early, late in zip(sorted(pts), pts, strict=True))
    return [
        Coded(bytes(packet), shown, decoded - delay, packet.is_keyframe)
        for packet, shown, decoded in zip(packets, pts, sorted(pts), strict=True)
    ]


def write_packets(path: Path, template: Path, packets: list[Coded]) -> Path:
    """Write packets into a file whose header is made from that of another file."""
    with av.open(str(template)) as source, av.open(str(path), "w") as target:
        copied = source.streams.video[0]
        stream = target.add_stream_from_template(copied, opaque=copied.codec_context.name == "libdav1d")
        for coded in packets:
            packet = av.Packet(coded.data)
            packet.time_base, packet.stream, packet.is_keyframe = TICK, stream, coded.key
            packet.pts, packet.dts = round(coded.pts / TICK), round(coded.dts / TICK)
            packet.duration = round(FRAME / TICK)  # without it, MP4 hides the last frame
            target.mux(packet)
    return path


def keys(packets: list[Coded]) -> list[int]:
    """The indices of the key frames."""
    return [i for i, packet in enumerate(packets) if packet.key]


def from_second_key(packets: list[Coded]) -> list[Coded]:
    """From the second key frame on, with the first packet at 0; pictures before it in time stay visible."""
    kept = packets[keys(packets)[1] :]
    return [packet.later(-min(kept[0].dts, *(p.pts for p in kept))) for packet in kept]


def from_second_key_on_screen(packets: list[Coded]) -> list[Coded]:
    """The same, but the key frame is at 0: what is shown before it gets times below 0."""
    kept = packets[keys(packets)[1] :]
    return [packet.later(-kept[0].pts) for packet in kept]


def shown_as_decoded(packets: list[Coded]) -> list[Coded]:
    """Each picture's time of display is that of decoding, as after `-fflags +genpts`."""
    return [packet._replace(pts=packet.dts) for packet in packets]


def one_time_wrong(packets: list[Coded]) -> list[Coded]:
    """One picture of the second group is shown two and a half frames late."""
    place = keys(packets)[1] + 4
    return [p._replace(pts=p.pts + FRAME * 5 / 2) if i == place else p for i, p in enumerate(packets)]


def jump_inside_a_group(packets: list[Coded]) -> list[Coded]:
    """From somewhere inside the second group on, everything is ten seconds later, whatever its order of display."""
    place = keys(packets)[1] + 4
    return [packet.later(Fraction(10)) if i >= place else packet for i, packet in enumerate(packets)]


def clock_goes_back(packets: list[Coded]) -> list[Coded]:
    """From the third key frame on, pictures are shown one second and a bit earlier. Times of decoding stay rising."""
    place = keys(packets)[2]
    packets = [packet._replace(dts=packet.dts - 10) for packet in packets]
    return [p._replace(pts=p.pts - Fraction("0.713")) if i >= place else p for i, p in enumerate(packets)]


def joined(first: list[Coded], second: list[Coded]) -> list[Coded]:
    """One after the other."""
    end = max(packet.pts for packet in first) + FRAME
    start = min(packet.pts for packet in second)
    shifted = [packet.later(end - start) for packet in second]
    gap = max(Fraction(0), first[-1].dts + TICK - shifted[0].dts)  # times of decoding must rise
    return first + [packet.later(gap) for packet in shifted]


def without_segments(picture: bytes, kinds: set[int]) -> bytes:
    """A JPEG picture without the segments of some kinds before its first scan."""
    kept, position = picture[:2], 2
    while picture[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(picture[position + 2 : position + 4], "big")
        if picture[position + 1] not in kinds:
            kept += picture[position:end]
        position = end
    return kept + picture[position:]


# --- NAL units


def split_lengths(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet of MP4 or Matroska."""
    while data:
        size = int.from_bytes(data[:4], "big")
        yield data[4 : 4 + size]
        data = data[4 + size :]


def with_lengths(units: list[bytes]) -> bytes:
    """A packet of NAL units."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def change_units(packets: list[Coded], change: Callable[[int, list[bytes]], list[bytes]]) -> list[Coded]:
    """Packets whose NAL units are changed: `change` takes the packet's number and its units."""
    return [
        packet._replace(data=with_lengths(change(i, list(split_lengths(packet.data)))))
        for i, packet in enumerate(packets)
    ]


def golomb(number: int) -> str:
    """A number as ue(v), in bits."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def pack_bits(bits: str) -> bytes:
    """Bits as bytes, filled up with zeros."""
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


def film_grain(codec: str) -> bytes:
    """A message that adds film grain to a picture and to those after it (H.264, D.1.21)."""
    fields = [(0, 1), (0, 2), (0, 1), (0, 2), (4, 4), (1, 1), (0, 1), (0, 1)]  # frequency filtering, luma only
    fields += [(0, 8), (2, 3), (0, 8), (255, 8)]  # one interval of all levels, three values
    bits = "".join(f"{value:0{size}b}" for value, size in fields) + golomb(2 * 80 - 1) + 2 * golomb(2 * 8 - 1)
    payload = pack_bits(bits + ("1" if codec == "hevc" else golomb(1)) + "1")  # until it is cancelled
    return (b"\x4e\x01" if codec == "hevc" else b"\x06") + bytes([19, len(payload)]) + payload + b"\x80"


def remove_usability(path: Path) -> None:
    """
    Remove the usability part (VUI) from the sequence parameter set of an H.264 MP4.

    It says for how many frames a decoder must wait. Without it, FFmpeg learns that from the pictures.
    """
    with av.open(str(path)) as container:
        (sps, _) = units_of_header("h264", container.streams.video[0].codec_context.extradata)
    bits = BitReader(sps[1:])
    size = bits.left
    assert bits.take(24) >> 16 == 100  # High profile
    bits.skip_ue(4)  # number and format
    assert bits.take(2) == 0  # no scaling lists
    bits.skip_ue(4)  # counters, as the order of display is by pic_order_cnt_lsb
    bits.take(1)
    bits.skip_ue(2)  # size
    bits.take(0 if bits.take(1) else 1)  # frames or fields
    bits.take(1)
    assert not bits.take(1)  # no cropping
    used = size - bits.left
    shorter = sps[:1] + pack_bits("".join(f"{byte:08b}" for byte in sps[1:])[:used] + "01")
    data = path.read_bytes()
    assert data.count(sps) == 1
    path.write_bytes(data.replace(sps, shorter.ljust(len(sps), b"\0")))


def field_packets(frames: int) -> list[Coded]:
    """
    An H.264 stream of 16x32 pixels in which each field has a packet of its own (PAFF).

    Every field is one macroblock of plain samples (I_PCM), of a grey level of its own.
    """
    level = f"{77:08b}{0:08b}{30:08b}"  # Main profile
    sps = level + golomb(0) + golomb(0) + golomb(0) + golomb(4) + golomb(1) + "0"  # 4 bits of frame_num, 8 of the order
    sps += golomb(0) + golomb(0) + "0" + "0" + "1" + "0" + "0" + "1"  # one macroblock wide; fields
    pps = golomb(0) + golomb(0) + "00" + golomb(0) * 3 + "000" + golomb(0) * 3 + "000" + "1"
    headers = [b"\x67" + pack_bits(sps), b"\x68" + pack_bits(pps)]
    packets = []
    for i in range(2 * frames):
        frame, is_bottom, is_idr = i // 2, i % 2, i % 10 == 0
        number, order = frame % 5, 2 * (frame % 5) + is_bottom
        bits = golomb(0) + golomb(7) + golomb(0) + f"{number:04b}" + "1" + str(is_bottom)
        bits += (golomb(0) if is_idr else "") + f"{order:08b}" + ("00" if is_idr else "0")
        bits += golomb(0) + golomb(25)  # slice_qp_delta; I_PCM
        samples = bytes([20 + 10 * i] * 256 + [128] * 128)
        unit = (b"\x65" if is_idr else b"\x61") + pack_bits(bits) + samples + b"\x80"
        data = b"".join(b"\0\0\0\1" + part for part in ([*headers, unit] if is_idr else [unit]))
        packets.append(Coded(data, i * FRAME / 2, i * FRAME / 2, is_idr))
    return packets


# --- MP4 boxes


def find_box(data: bytes, *names: bytes) -> tuple[int, int]:
    """Start and end of a box inside others."""
    start, end = 0, len(data)
    for name in names:
        while data[start + 4 : start + 8] != name:
            start += int.from_bytes(data[start : start + 4], "big")
            assert start < end, name
        end = start + int.from_bytes(data[start : start + 4], "big")
        start += 8
    return start - 8, end


TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def replace_box(data: bytes, names: tuple[bytes, ...], content: bytes) -> bytes:
    """The file with another content of a box. The sizes of the boxes around it are corrected."""
    start, end = find_box(data, *names)
    grown = bytearray(data[: start + 8] + content + data[end:])
    for depth in range(1, len(names) + 1):
        at, _ = find_box(data, *names[:depth])
        old = int.from_bytes(data[at : at + 4], "big")
        grown[at : at + 4] = (old + len(content) - (end - start - 8)).to_bytes(4, "big")
    return bytes(grown)


def box(data: bytes, *names: bytes) -> bytes:
    """The content of a box."""
    start, end = find_box(data, *names)
    return data[start + 8 : end]


def add_sample_description(path: Path, other: Path, first: int) -> None:
    """Let the packets of an MP4 from number `first` on have the header of another MP4."""
    data = path.read_bytes()
    entry = box(other.read_bytes(), *TABLES, b"stsd")[8:]
    sizes = struct.unpack(">3I", box(data, *TABLES, b"stsz")[:12])
    sizes = struct.unpack(f">{sizes[2]}I", box(data, *TABLES, b"stsz")[12:])
    (offset,) = struct.unpack(">I", box(data, *TABLES, b"stco")[8:12])
    offsets = [offset, offset + sum(sizes[:first])]
    chunks = struct.pack(">8I", 0, 2, 1, first, 1, 2, len(sizes) - first, 2)
    data = replace_box(data, (*TABLES, b"stsd"), struct.pack(">2I", 0, 2) + box(data, *TABLES, b"stsd")[8:] + entry)
    data = replace_box(data, (*TABLES, b"stsc"), chunks)
    path.write_bytes(replace_box(data, (*TABLES, b"stco"), struct.pack(">4I", 0, 2, *offsets)))


def set_display_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Write a display matrix into the header of an MP4's track."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", data, at, *(round(x * 65536) for x in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)

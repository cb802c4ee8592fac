"""
A plan for decoding wanted frames: which stretches of the video, by how many decoders, with how many threads each.

This is pure arithmetic on timestamps and numbers of packets. Work is measured in pixels that go through a decoder.
"""

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass

from .video_packets import PacketScan


# Decoding this many packets between targets costs less than restarting the decoder.
_SMALL_GAP = 2
# Stretches close to each other are joined up to this much work. More work can be shared among decoders.
MAX_JOINED_WORK = 64 * 1920 * 1080
# Starting threads and more decoders takes about as long as this much decoding.
WORTH_THREADS = 50e6
# On c cores a decoder is c ** 0.7 times as fast (measured: 1.65 on two): frames wait for their reference frames.
_GAIN_OF_CORES = 0.7
_MOST_THREADS = 16  # of one decoder; each thread keeps frames in memory


@dataclass(frozen=True)
class Stretch:
    """
    A run of packets that a decoder processes in one go.

    Attributes:
        key: timestamp of the key frame at which decoding starts.
        targets: timestamps of the wanted frames.
        first: index of the key frame among the packets.
        last: index of the last packet that is needed.
    """

    key: int
    targets: frozenset[int]
    first: int
    last: int

    @property
    def packets(self) -> int:
        """The number of packets."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class _Plan:
    """The stretches of each decoder, in the order of the file, and the number of threads of each decoder."""

    shares: list[list[Stretch]]
    threads: int


def make_plan(
    scan: PacketScan, indices: Sequence[int], frame_pixels: int, cores: int, shareable: bool, threaded: bool = True
) -> _Plan:
    """
    Return the plan with the shortest estimated time.

    Args:
        scan: what the packets of the video tell.
        indices: indices of the wanted frames.
        frame_pixels: width times height of a frame.
        cores: number of cores for decoding.
        shareable: whether several decoders can read the source at the same time.
        threaded: whether a decoder gains from threads.
    """
    stretches = join_close(find_stretches(scan, indices), MAX_JOINED_WORK // max(frame_pixels, 1))
    work = frame_pixels * sum(stretch.packets for stretch in stretches)
    if work < WORTH_THREADS or cores < 2:
        return _Plan([stretches], threads=1)
    candidates = [
        (share_out(stretches, decoders), cores // decoders if threaded else 1)
        for decoders in range(1, min(cores, len(stretches) if shareable else 1) + 1)
    ]
    shares, cores_each = min(candidates, key=lambda candidate: estimated_time(*candidate))
    return _Plan(shares, _count_threads(cores_each))


def find_stretches(scan: PacketScan, indices: Sequence[int]) -> list[Stretch]:
    """Return a stretch for each key frame that a target needs, in the order of the file."""
    place = {pts: number for number, pts in enumerate(scan.decode_order)}
    groups: dict[int, set[int]] = {}
    for pts in sorted({scan.pts[index] for index in indices}):
        groups.setdefault(scan.key_before(pts), set()).add(pts)
    return [
        Stretch(key, frozenset(targets), place[key], max(place[pts] for pts in targets))
        for key, targets in groups.items()
    ]


def join_close(stretches: list[Stretch], most_packets: int) -> list[Stretch]:
    """
    Join neighbouring stretches with hardly a packet between them, up to `most_packets` packets.

    Frames that are shown before a key frame may come after it in the file. Then the end of one stretch overlaps the
    next one, and decoding straight on avoids decoding packets twice.
    """
    joined: list[Stretch] = []
    for stretch in stretches:
        before = joined[-1] if joined else None
        if before and stretch.first - before.last <= 1 + _SMALL_GAP and stretch.last - before.first < most_packets:
            targets = before.targets | stretch.targets
            joined[-1] = Stretch(before.key, targets, before.first, max(before.last, stretch.last))
        else:
            joined.append(stretch)
    return joined


def share_out(stretches: list[Stretch], decoders: int) -> list[list[Stretch]]:
    """Share out the stretches, the longest first, each to the decoder with the fewest packets so far."""
    shares: list[list[Stretch]] = [[] for _ in range(decoders)]
    for stretch in sorted(stretches, key=lambda stretch: -stretch.packets):
        min(shares, key=_count_packets).append(stretch)
    return [sorted(share, key=lambda stretch: stretch.first) for share in shares]


def _count_packets(stretches: list[Stretch]) -> int:
    return sum(stretch.packets for stretch in stretches)


def estimated_time(shares: list[list[Stretch]], cores_each: int) -> float:
    """Return the time for decoding, in units of the time that a single thread needs for a packet."""
    return max(map(_count_packets, shares)) / cores_each**_GAIN_OF_CORES


def _count_threads(cores: int) -> int:
    """Return the number of threads of a decoder. It exceeds the cores, because some threads wait for others' frames."""
    return 1 if cores < 2 else min(2 * cores, _MOST_THREADS)


def choose_threads(frame_pixels: int, packets: int, cores: int) -> int:
    """Return the number of threads for decoding this many packets in order."""
    return 1 if frame_pixels * packets < WORTH_THREADS else _count_threads(cores)


def cores_for_decoding() -> int:
    """Return how many cores decoding may use: one in a worker process (for example of a data loader), else all."""
    return 1 if multiprocessing.parent_process() is not None else count_cores()


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

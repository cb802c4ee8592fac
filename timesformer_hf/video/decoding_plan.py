"""
Which stretches of a video are decoded for the wanted frames, by how many decoders, with how many threads each.

Pure arithmetic on timestamps and counts of packets. Work is counted in pixels that go through a decoder.
"""

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass

from .video_packets import PacketScan


# Between targets so many packets cost less than a new start of the decoder.
_SMALL_GAP = 2
# Stretches of targets close to each other are joined up to this work; longer ones can be shared among decoders.
JOINED = 64 * 1920 * 1080
# Starting threads and further decoders takes about the time of this much decoding.
WORTH_THREADS = 50e6
# One decoder is c ** 0.7 times as fast on c cores: frames wait for those that they refer to. (Measured: 1.65 on two.)
_GAIN_OF_CORES = 0.7
_MOST_THREADS = 16  # of one decoder: each holds frames


@dataclass(frozen=True)
class Stretch:
    """
    Packets that a decoder takes in one go.

    Attributes:
        key: timestamp of the frame at which it starts.
        targets: timestamps of the wanted frames.
        first: place of the key frame among the packets.
        last: place of the last packet that is needed.
    """

    key: int
    targets: frozenset[int]
    first: int
    last: int

    @property
    def packets(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class _Plan:
    """For each decoder its stretches, in the order of the file; and the threads of each decoder."""

    shares: list[list[Stretch]]
    threads: int


def make_plan(
    scan: PacketScan, indices: Sequence[int], frame_pixels: int, cores: int, shareable: bool, threaded: bool = True
) -> _Plan:
    """
    Args:
        frame_pixels: width times height.
        cores: what the machine has for it.
        shareable: whether several decoders can read the source at the same time.
        threaded: whether a decoder gains from threads.
    """
    stretches = join_close(find_stretches(scan, indices), JOINED // max(frame_pixels, 1))
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
    """One for each key frame that a target needs, in the order of the file."""
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
    Neighbors between which hardly a packet is left out become one.

    Frames that are shown before a key frame may come after it in the file: then the first one's end overlaps the
    second, and decoding straight on spares the repetition.
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
    """The longest first, each to the decoder that has the least so far."""
    shares: list[list[Stretch]] = [[] for _ in range(decoders)]
    for stretch in sorted(stretches, key=lambda stretch: -stretch.packets):
        min(shares, key=_count_packets).append(stretch)
    return [sorted(share, key=lambda stretch: stretch.first) for share in shares]


def _count_packets(stretches: list[Stretch]) -> int:
    return sum(stretch.packets for stretch in stretches)


def estimated_time(shares: list[list[Stretch]], cores_each: int) -> float:
    """In packets of a single thread."""
    return max(map(_count_packets, shares)) / cores_each**_GAIN_OF_CORES


def _count_threads(cores: int) -> int:
    """Of one decoder that has so many cores: some wait for the others' frames while the rest decode."""
    return 1 if cores < 2 else min(2 * cores, _MOST_THREADS)


def choose_threads(frame_pixels: int, packets: int, cores: int) -> int:
    """For decoding in order."""
    return 1 if frame_pixels * packets < WORTH_THREADS else _count_threads(cores)


def cores_for_decoding() -> int:
    """The cores that a decoder may use: one in a worker process, as data loaders start them, else all."""
    return 1 if multiprocessing.parent_process() is not None else count_cores()


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

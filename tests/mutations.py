"""Seeded damage to files: what transfer, storage and strangers do to them."""

from collections.abc import Iterator

import numpy as np


_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a damaged copy: one to four changes, more of them near the start, where headers are, than elsewhere."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if len(changed) > 8:
            _CHANGES[rng.integers(len(_CHANGES))](changed, rng)
    return bytes(changed)


def mutations(originals: dict[str, bytes], number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of the originals by turns, each with a name that says which and how often."""
    names = list(originals)
    for index in range(number):
        name = names[index % len(names)]
        yield f"{index}-{name}", mutate(originals[name], np.random.default_rng((seed, index)))


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Return a random place, in half of the cases near one of the two ends."""
    size = len(data)
    near = int(min(size, 2048) * rng.random())
    return (int(size * rng.random()), near, size - 1 - near, int(size * rng.random()))[rng.integers(4)]


def _flip_bits(data, rng) -> None:
    for _ in range(rng.integers(1, 20)):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _set_number(data, rng) -> None:
    place, width = _place(data, rng), int(rng.choice((1, 2, 4)))
    value = int(rng.choice(_EXTREMES)) & ((1 << 8 * width) - 1)
    data[place : place + width] = value.to_bytes(width, ("big", "little")[rng.integers(2)])


def _noise(data, rng) -> None:
    place = _place(data, rng)
    length = min(int(rng.integers(1, 200)), len(data) - place)
    data[place : place + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()


def _cut(data, rng) -> None:
    del data[int(len(data) * rng.random()) :]


def _remove(data, rng) -> None:
    place = _place(data, rng)
    del data[place : place + int(rng.integers(1, 300))]


def _repeat(data, rng) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + int(rng.integers(1, 300))]


def _zero(data, rng) -> None:
    place = _place(data, rng)
    length = min(int(rng.integers(1, 2000)), len(data) - place)
    data[place : place + length] = bytes(length)


_CHANGES = (_flip_bits, _flip_bits, _set_number, _set_number, _noise, _cut, _remove, _repeat, _zero)

"""Labels of data and of a model that are the same but for case and punctuation: `Air_Drumming` and `air drumming`."""

from collections import Counter
from collections.abc import Mapping, Sequence


def letters(name: str) -> str:
    """What of a label tells it from others."""
    return "".join(filter(str.isalnum, name)).casefold()


def match_names(names: Sequence[str], known: Mapping[int, str]) -> dict[str, int]:
    """
    The number of each of the names that is known. Case and punctuation don't matter where they don't have to tell two
    names on one side apart: neither `c++` nor `C` is taken for `c`.
    """
    numbers = {name: number for number, name in known.items()}
    alike = [Counter(map(letters, side)) for side in (set(names), numbers)]
    unique = {key for key in alike[0] if key and all(count[key] == 1 for count in alike)}
    loose = {letters(name): number for name, number in numbers.items() if letters(name) in unique}
    found = {name: numbers.get(name, loose.get(letters(name))) for name in names}
    return {name: number for name, number in found.items() if number is not None}

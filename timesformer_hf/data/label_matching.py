"""Matching of labels that differ only in case and punctuation, for example `Air_Drumming` and `air drumming`."""

from collections import Counter
from collections.abc import Mapping, Sequence


def normalized_name(name: str) -> str:
    """Return the letters and digits of a label, without case and punctuation."""
    return "".join(filter(str.isalnum, name)).casefold()


def match_names(names: Sequence[str], known: Mapping[int, str]) -> dict[str, int]:
    """
    Return the number in `known` of each name that matches. Names without a match are left out.

    Case and punctuation are ignored, unless two names on the same side differ only in them. So if `names` contains both
    `c++` and `C`, neither of them matches `c`.
    """
    numbers = {name: number for number, name in known.items()}
    alike = [Counter(map(normalized_name, side)) for side in (set(names), numbers)]
    unique = {key for key in alike[0] if key and all(count[key] == 1 for count in alike)}
    loose = {normalized_name(name): number for name, number in numbers.items() if normalized_name(name) in unique}
    found = {name: numbers.get(name, loose.get(normalized_name(name))) for name in names}
    return {name: number for name, number in found.items() if number is not None}

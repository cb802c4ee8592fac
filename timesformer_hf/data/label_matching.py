"""Matching of labels that differ only in case and white space, for example `Air_Drumming` and `air drumming`."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence


def normalized_name(name: str) -> str:
    """Return the letters and digits of a label, in lower case. They tell one published list of labels from another."""
    return "".join(filter(str.isalnum, name)).casefold()


def _fold_case(name: str) -> str:
    """Return a label in lower case, with one space for all white space. An underscore counts as white space."""
    return " ".join(name.replace("_", " ").casefold().split())


def match_names(names: Sequence[str], known: Mapping[int, str]) -> dict[str, int]:
    """
    Return the number of each name that is known.

    A name that is known exactly has that number. Of the others, case and white space don't matter, unless two names on
    one side then are the same: neither of them is found. So neither `+1` nor `1` is taken for `-1`.
    """
    numbers = {name: number for number, name in known.items()}
    loose_names, loose_known = _group(names, _fold_case), _group(numbers, _fold_case)
    found = {}
    for name in names:
        key = _fold_case(name)
        if name in numbers:
            found[name] = numbers[name]
        elif len(loose_names[key]) == len(loose_known[key]) == 1:
            found[name] = numbers[next(iter(loose_known[key]))]
    return found


def _group(names, key: Callable[[str], str]) -> defaultdict[str, set[str]]:
    """Return the names that have the same key, by key."""
    groups = defaultdict(set)
    for name in names:
        groups[key(name)].add(name)
    return groups

"""Matching of labels that differ only in case and white space, for example `Air_Drumming` and `air drumming`."""

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence


_MAX_NEAREST = 3


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


def find_label(name: str, id2label: Mapping[int, str]) -> int:
    """
    Return the number of the label with this name. Case, white space and underscores don't matter, unless two labels
    then are the same.

    Raises:
        ValueError: if the model has no such label. The message has the names that are most like it.
    """
    found = match_names([name], id2label)
    if name not in found:
        nearest = ", ".join(map(repr, _nearest_labels(name, list(id2label.values()))))
        raise ValueError(f"The model has no label {name!r}. The nearest of its {len(id2label)} labels: {nearest}")
    return found[name]


def _nearest_labels(name: str, labels: Sequence[str]) -> list[str]:
    """Return the three labels that are most like a name, the nearest first. A label that contains it comes first."""

    def similarity(label: str) -> tuple[bool, float]:
        one, other = normalized_name(name), normalized_name(label)
        return bool(one) and one in other, difflib.SequenceMatcher(None, one, other).ratio()

    return sorted(labels, key=similarity, reverse=True)[:_MAX_NEAREST]

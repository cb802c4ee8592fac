"""
Finds labels that a horizontal flip would exchange, for example `moves left` and `moves right`, in many languages.

It looks for a word for left in one label and the word of the same language for right in another label. A single
`turn left` among labels without a right is no such pair: its flipped clips look like no other class. Only whole words
count, so `copyright` and `bright` contain no right, and the idiom `all right` is left out. Words that are written
without spaces (Chinese, Japanese, Korean, Thai) count anywhere. Up and down don't matter, because no augmentation flips
vertically.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence


_IDIOMS = re.compile(r"\ball right\b")
_BOUNDED = {
    # words for left, or against the clock: words for right, or with the clock; as regular expressions of whole words
    r"left(ward|wards|hand|handed|most)?": r"right(ward|wards|hand|handed|most)?",
    r"(counter|anti|contra) ?clockwise|ccw": r"clockwise|cw",
    r"link(s\w*|e[rsnm]?)|nach links": r"recht(s\w*|e[rsnm]?)|nach rechts",  # German, Dutch
    r"gegen den uhrzeigersinn": r"(im|mit dem) uhrzeigersinn",
    r"linker\w*": r"rechter\w*",  # Dutch
    r"tegen de klok in": r"met de klok mee",
    r"gauches?": r"droite?s?",  # French
    r"anti ?horaire": r"horaire",
    r"izquierd[ao]s?": r"derech[ao]s?",  # Spanish
    r"anti ?horario": r"horario",  # Spanish, Portuguese
    r"sinistr[aoei]": r"destr[aoei]",  # Italian
    r"anti ?orario": r"orario",
    r"esquerd[ao]s?": r"direit[ao]s?",  # Portuguese
    r"(w )?lew[oaeyą]\w{0,2}": r"(w )?praw[oaeyą]\w{0,2}",  # Polish
    r"v?(do)?lev[oaey]\w{0,2}|nalevo": r"v?(do)?prav[oaey]\w{0,2}|napravo",  # Czech, Slovak, Croatian, Slovenian
    r"(в|с|на)?лев(о|а|ыи|ая|ое|ую|ои)": r"(в|с|на)?прав(о|а|ыи|ая|ое|ую|ои)",  # Russian
    r"против часовои( стрелки)?": r"по часовои( стрелке)?",
    r"(в|з|на)?лів(о|а|ии|е|у|оруч)": r"(в|с|на)?прав(о|а|ии|е|у|оруч)",  # Ukrainian, after й has lost its mark
    r"vanster": r"hoger",  # Swedish
    r"venstre": r"h(ø|o)y?re",  # Danish, Norwegian
    r"vasen|vasemm\w+": r"oike\w+",  # Finnish
    r"balra|bal": r"jobbra|jobb",  # Hungarian
    r"sol(a|dan)?": r"sag(a|dan)?",  # Turkish
    r"stanga": r"dreapta",  # Romanian
    r"αριστερ\w+": r"δεξι\w+",  # Greek
    r"kiri": r"kanan",  # Indonesian, Malay
    r"trai": r"phai",  # Vietnamese
    r"(ال)?يسار": r"(ال)?يمين",  # Arabic
    r"שמאלה?": r"ימינה?",  # Hebrew
}
_ANYWHERE = {
    "左": "右",  # Chinese, Japanese
    "逆时针|逆時針": "(?<!逆)(顺时针|順時針)",
    "反時計": "(?<!反)時計回",  # Japanese
    "왼쪽|좌측|좌회전": "오른쪽|우측|우회전",  # Korean
    "ซ้าย": "ขวา",  # Thai
    "बाए|बाई|बाय": "दाए|दाई|दाय",  # Hindi
}


def find_mirrored_labels(names: Sequence[str]) -> tuple[str, str] | None:
    """
    Return two labels that a horizontal flip would exchange, or `None` if no two labels name left and right.

    Example:
        `["jump", "moves left", "moves right"]` -> `("moves left", "moves right")`.
    """
    spaced = {name: _plain_words(name) for name in names}
    bounded = [(rf"\b({left})\b", rf"\b({right})\b") for left, right in _BOUNDED.items()]
    whole = {name: unicodedata.normalize("NFKC", name) for name in names}
    return _find_pair(spaced, bounded) or _find_pair(whole, _ANYWHERE.items())


def _find_pair(texts: Mapping[str, str], patterns: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return two labels whose texts match the patterns for left and for right."""
    for left, right in patterns:
        of_left = [name for name, text in texts.items() if re.search(left, text)]
        of_right = [name for name, text in texts.items() if re.search(right, re.sub(left, " ", text))]
        pairs = [(one, other) for one in of_left for other in of_right if one != other]
        if pairs:  # those that differ in nothing else, if there are any
            return max(pairs, key=lambda pair: re.sub(left, " ", texts[pair[0]]) == re.sub(right, " ", texts[pair[1]]))
    return None


def _plain_words(name: str) -> str:
    """Return a label as lower-case words with spaces between them, and letters without accents."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", unicodedata.normalize("NFC", name))  # turnLeft -> turn Left
    letters = unicodedata.normalize("NFKD", words.casefold())
    return _IDIOMS.sub(" ", "".join(letter for letter in letters if not unicodedata.combining(letter)))

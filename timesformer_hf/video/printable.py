"""Text for a terminal or a log, whatever a file name, a label or an error message contains."""


def printable(text, keep: str = "") -> str:
    r"""
    Return text on one line, in which no character controls a terminal.

    Escaped are control characters (also newlines), characters that change the direction of writing, and bytes of a file
    name that are not UTF-8: `"a\nb"` becomes `"a\\nb"`, and the byte 0xff `"\\xff"`.

    Args:
        text: anything that `str` takes.
        keep: characters that stay as they are, for example `"\n"`.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as os.fsdecode gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()

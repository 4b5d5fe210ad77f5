"""What a misspelt name may mean, and how text from elsewhere is shown."""

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The names that a misspelt word may mean.

    Args:
        word: As it was given.
        known: What there is.

    Returns:
        A question, with a space before it, or nothing.
    """
    names = list(known)
    group, _, short = word.rpartition(".")
    options = {name: name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == group}
    # `training.lr` is training.learning_rate, `training.rate` too.
    close = [name for name, option in options.items() if "".join(part[:1] for part in option.split("_")) == short]
    close = close or [name for name, option in options.items() if len(short) > 2 and short in option.split("_")]
    close = close or difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close[:3])}?" if close else ""


UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, colours or hides text, turns its direction, or has no bytes; but for tabs and line ends."""


def printable(text: str) -> str:
    r"""A text that a terminal shows as it is, whoever wrote it.

    Args:
        text: From a record, a file or a path.

    Returns:
        With control characters as their escapes, such as `\x1b`.
    """
    return UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)

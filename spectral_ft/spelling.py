"""What a misspelt name may mean."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The names that a misspelt word may mean.

    Args:
        word: As it was given.
        known: What there is.

    Returns:
        A question, with a space before it, or nothing.
    """
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""

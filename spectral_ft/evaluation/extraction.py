"""The answer in a response: the published rules, and a strict one beside each.

A published rule does what the released script does, quirks included. A strict one reads as a reader would, and gives
no answer where a reader would not. Each takes the text of a response and gives the answer as text, empty where there is
none. Known gaps of the strict ones: a fraction is two numbers, a number in words is none, the article A is a letter
where no answer is announced, and `not true` is true.

Source: LLM-Adapters, arXiv:2304.01933, `evaluate.py` and `commonsense_evaluate.py`.
"""

import re
from collections.abc import Sequence

RESPONSE_MARK = "### Response:"
INSTRUCTION_MARK = "### Instruction:"

_BODY = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?<![A-Za-z_\d.])(?:{_BODY})")
_ANNOUNCEMENT = re.compile(r"####|\banswer\s+is\b:?|\banswer:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_LETTER = re.compile(r"(?<![A-Za-z0-9'])[A-E](?![A-Za-z0-9'])")


def published_number(response: str) -> str:
    r"""The last number, every comma removed.

    Args:
        response: What the model wrote.

    Returns:
        The last `-?\d+\.?\d*`.
    """
    found = re.findall(r"-?\d+\.?\d*", _first_response(response).replace(",", ""))
    return found[-1] if found else ""


def strict_number(response: str) -> str:
    """The number that is announced as the answer, otherwise the last one.

    Announced is the first number behind the last `####`, `answer is` or `answer:` that has one in its sentence, behind
    the last equals sign there. A comma is removed between groups of three digits only, an exponent belongs to its
    number, digits behind a letter are no number, and a minus is a sign only where it touches its number (or the
    currency sign before it) and nothing to subtract from stands before it.

    Args:
        response: What the model wrote.

    Returns:
        The number, without thousands separators.
    """
    text = _own_response(response)
    for said in _announced(text):
        if found := _NUMBER.search(said.rpartition("=")[2]):
            return _signed(found)
    numbers = list(_NUMBER.finditer(text))
    return _signed(numbers[-1]) if numbers else ""


def published_letter(response: str) -> str:
    """The first capital A to E anywhere: "Because" answers B.

    Args:
        response: What the model wrote.

    Returns:
        The letter.
    """
    found = re.search(r"[A-E]", _first_response(response))
    return found[0] if found else ""


def strict_letter(response: str) -> str:
    """The A to E that is announced as the answer, otherwise the first one; each a word of its own.

    Announced is the first such letter behind the last `####`, `answer is` or `answer:` that has one in its sentence.

    Args:
        response: What the model wrote.

    Returns:
        The letter.
    """
    text = _own_response(response)
    for said in _announced(text):
        if found := _LETTER.search(said):
            return found[0]
    first = _LETTER.search(text)
    return first[0] if first else ""


def published_word(response: str, words: Sequence[str]) -> str:
    """The first of several words, in small letters, inside others too.

    Args:
        response: What the model wrote.
        words: Such as true and false.

    Returns:
        The word.
    """
    found = re.search("|".join(words), _first_response(response))
    return found[0] if found else ""


def strict_word(response: str, words: Sequence[str]) -> str:
    """The one of several words that stands in the response, by itself, in whatever letters.

    Args:
        response: What the model wrote.
        words: Such as true and false.

    Returns:
        The word in small letters; nothing where different ones stand there.
    """
    alone = rf"(?<!\w)(?:{'|'.join(words)})(?!\w)"
    found = {word.lower() for word in re.findall(alone, _own_response(response), re.IGNORECASE)}
    return found.pop() if len(found) == 1 else ""


def _first_response(text: str) -> str:
    # The released scripts split prompt and text at the mark and take what stands between the first two.
    return text.partition(RESPONSE_MARK)[0]


def _own_response(text: str) -> str:
    # A model that does not stop goes on with the next task of its training text.
    return _first_response(text).partition(INSTRUCTION_MARK)[0]


def _announced(text: str) -> list[str]:
    # What stands behind an announcement, to the end of its sentence; the last one first.
    return [_SENTENCE_END.split(said.strip())[0] for said in reversed(_ANNOUNCEMENT.split(text)[1:])]


def _signed(number: re.Match[str]) -> str:
    before = number.string[: number.start()].rstrip("$€£")
    digits = number[0].replace(",", "")
    if not before.endswith(("-", "−")):
        return digits
    left = before[:-1].removesuffix("$")
    subtracts = re.search(r"[\w)\]%.]$|\d\s+$", left)
    return digits if subtracts else f"-{digits}"

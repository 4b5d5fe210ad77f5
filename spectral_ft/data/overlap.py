"""Which training texts are test items: the same text, or nearly the same.

Exact: equal after folding. Case, spaces and punctuation go; letters and digits stay, and so do arithmetic signs
(`+ = < > ^ × ÷ %` anywhere, `- * /` between two digits), without which `12 + 3` would be `12 - 3`.

Near: the same problem in other words. Numbers are content, so both texts must hold the same multiset of numbers and of
signs; order is paraphrase, so words are compared as sets, by their Jaccard similarity. In a text with two numbers or
more names are paraphrase too: words that stand with a capital only, on either side, and third-person pronouns, are
left out. In any other text a name may be what is asked for, and stays. Words that more than half of the test items
share are the form in which they are asked, and are left out.

Candidates come from MinHash with banded locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining
of Massive Datasets, 3.4; by `datasketch`) over words stamped with the text's numbers, so that texts with other numbers
share nothing. Every candidate is verified on the words themselves: what is found is right, and a pair at the threshold
is missed with a probability of `(1 - NEAR ** ROWS) ** BANDS`, 5e-5.

Known gaps: numbers in words ("three") are words; pronouns are English; a paraphrase with other verbs, a text within a
longer one, and a translation are not found.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, NamedTuple

from tqdm import tqdm

from spectral_ft.types import Match

NEAR = 0.85
"""Least Jaccard similarity of near duplicates (docs/leakage.md has what other values find)."""
BANDS, ROWS = 21, 6
"""Of the signature; a pair of similarity s is a candidate with a probability of 1 - (1 - s^6)^21."""
LEAST_WORDS, LEAST_PARTS = 2, 4
"""Texts with fewer words that count, or fewer words, numbers and signs together, are compared exactly only."""
FORM_ITEMS = 10
"""In fewer test items the form in which they are asked cannot be told from what they ask, and counts."""
PROBLEM = 2
"""From so many numbers on a text is a problem about numbers, whose names are paraphrase."""
PRONOUNS = frozenset({"he", "she", "him", "her", "his", "hers", "himself", "herself"})

_SIGN = r"[+=<>^×÷%]|(?<=\d)\s*[-*/]\s*(?=\d)"
_FOLDED = re.compile(rf"[^\W_]+|{_SIGN}")
_SIGNS = re.compile(_SIGN)
_NUMBER = re.compile(r"(?<![^\W_])(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_WORD = re.compile(r"[^\W\d_][^\W_]*")


class Text(NamedTuple):
    """A text as it is compared."""

    folded: str
    stamp: tuple[str, ...]
    """Its numbers and signs, sorted; two texts with other stamps are no near duplicates."""
    is_problem: bool
    """Whether it has so many numbers that its names are paraphrase."""
    words: frozenset[str]
    """As written."""
    places: tuple[int, ...]
    """Where it stands."""


def fold(text: str) -> str:
    """A text without case, spaces and punctuation.

    Args:
        text: As it is asked.

    Returns:
        Its words, numbers and arithmetic signs, one space apart; empty where it has none.
    """
    return " ".join(part.strip() for part in _FOLDED.findall(text.casefold()))


def find_overlap(training: Sequence[str], tests: Mapping[str, Sequence[str]]) -> dict[str, tuple[Match, ...]]:
    """Compare a training set with test sets.

    Args:
        training: What each training row asks.
        tests: Name to what each test item asks.

    Returns:
        Name to matches, exact ones first. Each is of one text on either side, with all places, from 0, at which that
        text stands.
    """
    rows = _distinct(training)
    return {name: _matches(rows, _distinct(items), name=name) for name, items in tests.items()}


def _distinct(texts: Sequence[str]) -> dict[str, Text]:
    # By folded text; one of nothing but punctuation is no other's duplicate.
    places = defaultdict(list)
    for place, text in enumerate(texts):
        places[fold(text)].append(place)
    places.pop("", None)
    return {folded: _read(texts[own[0]], folded, tuple(own)) for folded, own in places.items()}


def _read(text: str, folded: str, places: tuple[int, ...]) -> Text:
    numbers = sorted(str(Decimal(found.replace(",", "")).normalize()) for found in _NUMBER.findall(text))
    signs = sorted(found.strip() for found in _SIGNS.findall(text))
    return Text(folded, (*numbers, *signs), len(numbers) >= PROBLEM, frozenset(_WORD.findall(text)), places)


def _matches(training: Mapping[str, Text], test: Mapping[str, Text], *, name: str) -> tuple[Match, ...]:
    exact = [
        Match("exact", 1.0, training[folded].places, item.places) for folded, item in test.items() if folded in training
    ]
    near = [
        Match("near", similarity, row.places, item.places)
        for row, item, similarity in _near(list(training.values()), list(test.values()), name=name)
    ]
    return (*exact, *sorted(near, key=lambda match: (-match.similarity, match.test, match.training)))


def _near(training: Sequence[Text], test: Sequence[Text], *, name: str) -> Iterator[tuple[Text, Text, float]]:
    from datasketch import MinHashLSH

    stamps = {item.stamp for item in test}
    rows = [row for row in training if row.stamp in stamps]  # the others have other numbers
    lower = {  # scripts without case included
        word for text in (*rows, *test) for word in text.words if not word[0].isupper()
    }
    items = [_content(item, lower) for item in test]
    frequency = Counter(word for words in items for word in words)
    form = {word for word, count in frequency.items() if count > len(items) / 2 and len(items) >= FORM_ITEMS}
    items = [words - form for words in items]
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    for place, signature in _signatures(zip(test, items, strict=True)):
        index.insert(place, signature)
    asked: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for item, words in zip(test, items, strict=True):
        asked[item.stamp] |= words
    possible = [(row, _content(row, lower) - form) for row in rows]
    # Likeness is at most the share of a row's words that any test item with its numbers has: most rows end here.
    possible = [(row, words) for row, words in possible if len(words & asked[row.stamp]) >= NEAR * len(words)]
    signatures = _signatures(possible)
    for place, signature in tqdm(
        signatures, desc=f"overlap with {name}", total=len(possible), unit="row", leave=False, disable=None
    ):
        row, words = possible[place]
        for candidate in index.query(signature):
            item, others = test[candidate], items[candidate]
            similarity = len(words & others) / len(words | others)
            if similarity >= NEAR and row.stamp == item.stamp and row.folded != item.folded:
                yield row, item, similarity


def _content(text: Text, lower: Set[str]) -> frozenset[str]:
    # The words that count: in a problem about numbers all but names.
    if not text.is_problem:
        return frozenset(map(str.casefold, text.words))
    known = (word.casefold() for word in text.words if word in lower or word.casefold() in lower)
    return frozenset(known) - PRONOUNS


def _signatures(texts: Iterable[tuple[Text, frozenset[str]]]) -> Iterator[tuple[int, Any]]:
    # Place and signature of every text that has enough to compare; the library takes one text for each that it gives.
    from datasketch import MinHash

    places = []

    def stamped() -> Iterator[list[bytes]]:
        for place, (text, words) in enumerate(texts):
            if len(words) >= LEAST_WORDS and len(words) + len(text.stamp) >= LEAST_PARTS:
                places.append(place)
                yield [" ".join((*text.stamp, word)).encode() for word in words]

    signatures = MinHash.generator(stamped(), num_perm=BANDS * ROWS)
    return ((places[-1], signature) for signature in signatures)

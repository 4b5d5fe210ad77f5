"""What arms answered to single items, for a reader who wants to know why two scores differ."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spectral_ft.reporting.difference_cell import difference_text, p_text
from spectral_ft.reporting.page.pairs import Pair
from spectral_ft.reporting.page.results import key_text, score_text
from spectral_ft.reporting.page.scores import Score
from spectral_ft.reporting.page.texts import NONE
from spectral_ft.reporting.page.views import Style
from spectral_ft.reporting.samples import sample_rows, samples_file

ITEMS = 25
"""Of one side of a pair, at most."""
PAGE_ITEMS = 600
"""Of all pairs of a page together, so that it stays below 2 MB."""
LETTERS = 400
"""Of an answer."""

Row = dict[str, Any]
Where = tuple[Path, str, str, int]
"""Of a row of samples: file, stage, extractor, item."""


@dataclass(frozen=True)
class Answer:
    """What one arm said."""

    text: str
    extracted: str
    right: str
    """In how many of its seeds it is right."""


@dataclass(frozen=True)
class Item:
    """One item and what both arms said."""

    id: int
    prompt_hash: str
    gold: str
    first: Answer
    other: Answer


@dataclass(frozen=True)
class Side:
    """The items that one arm has right and the other has not."""

    count: int
    items: tuple[Item, ...]
    """The clearest of them."""


@dataclass(frozen=True)
class PairView:
    """One task of two arms, as it is shown."""

    first: str
    other: str
    styles: tuple[Style, Style]
    """Of the arms; their numbers are what a choice of two is made by."""
    task: str
    scores: tuple[str, str]
    difference: str
    p: str
    only_first: Side
    only_other: Side
    over_seeds: bool


def pair_views(pairs: Sequence[Pair]) -> tuple[PairView, ...]:
    """Pairs with the answers to their items.

    Args:
        pairs: All of a page.

    Returns:
        One a pair; the more pairs, the fewer items of each.
    """
    most = max(1, min(ITEMS, PAGE_ITEMS // (2 * max(1, len(pairs)))))
    rows = _read({
        _where(score, item, right=right == (score is pair.first))
        for pair in pairs
        for ids, right in ((pair.only_first, True), (pair.only_other, False))
        for item in ids[:most]
        for score in (pair.first, pair.other)
    })
    return tuple(
        PairView(
            first=pair.first.arm.name,
            other=pair.other.arm.name,
            styles=(pair.first.arm.style, pair.other.arm.style),
            task=key_text(pair.key),
            scores=(score_text(pair.first), score_text(pair.other)),
            difference=difference_text(pair.found),
            p=p_text(pair.found.p_holm),
            only_first=_side(pair, pair.only_first, rows, most=most, first_is_right=True),
            only_other=_side(pair, pair.only_other, rows, most=most, first_is_right=False),
            over_seeds=max(pair.first.seeds, pair.other.seeds) > 1,
        )
        for pair in pairs
    )


def _side(pair: Pair, ids: Sequence[int], rows: Mapping[Where, Row], *, most: int, first_is_right: bool) -> Side:
    items = []
    for item in ids[:most]:
        one, two = (
            _answer(score, item, rows, right=right)
            for score, right in ((pair.first, first_is_right), (pair.other, not first_is_right))
        )
        gold = rows[_where(pair.first, item, right=first_is_right)].get("gold")
        items.append(Item(item, pair.first.prompts[item], clipped(gold), one, two))
    return Side(len(ids), tuple(items))


def _answer(score: Score, item: int, rows: Mapping[Where, Row], *, right: bool) -> Answer:
    row = rows[_where(score, item, right=right)]
    seeds = round(float(score.by_item[item].sum()))
    said = f"right in {seeds} of {score.seeds} seeds" if score.seeds > 1 else ("right" if seeds else "wrong")
    return Answer(clipped(row.get("response")), clipped(row.get("extracted")), said)


def _where(score: Score, item: int, *, right: bool) -> Where:
    # Of the first seed that answered as the arm is shown here; of the first of all where none did.
    answered = [bool(value) == right for value in score.by_item[item]]
    seed = answered.index(True) if True in answered else 0
    task, _, extractor = score.key
    return samples_file(score.runs[seed].folder, task), score.stage, extractor, item


def _read(wanted: Collection[Where]) -> dict[Where, Row]:
    # Each file once; of what may be many megabytes only what is shown stays in memory.
    found = {}
    for path in tqdm(dict.fromkeys(path for path, *_ in wanted), desc="answers", unit="file", leave=False):
        for row in sample_rows(path):
            where = (path, row["stage"], row["extractor"], row["id"])
            if where in wanted:
                found[where] = row
    return found


def clipped(value: Any) -> str:
    """A text that may be long.

    Args:
        value: Text, or None, or anything else that a sample may have.

    Returns:
        Its beginning, with the number of letters that are left out.
    """
    text = NONE if value is None else str(value)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}… ({len(text) - LETTERS:,} more letters)"

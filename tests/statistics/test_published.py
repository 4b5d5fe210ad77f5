"""The tables of docs/statistics.md; oracle: the code, and statsmodels' test of two shares."""

import re

import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from spectral_ft.statistics.detectable import minimal_detectable_difference
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "statistics.md").read_text()
PUBLISHED = {
    "AQuA": (254, 25.19, 18.9),
    "GSM8K": (1319, 39.65, 37.5),
    "MAWPS": (238, 84.03, 79.0),
    "SVAMP": (1000, 57.6, 52.1),
}
"""Items, and the percentages that were published for LoRA-AR and LoRA."""


def rows(heading: str) -> dict[str, list[float]]:
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\w+) \| (\d.*) \|$", section, flags=re.MULTILINE)
    return {name: [float(cell) for cell in cells.split("|")] for name, cells in found}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_of_detectable_differences_is_the_codes(name):
    items, question, *cells = rows("How wide things are")[name]
    assert items == PUBLISHED[name][0] and question == round(100 / items, 2)
    one = [minimal_detectable_difference(int(items), discordance=q) for q in (0.1, 0.2, 0.3)]
    more = [minimal_detectable_difference(int(items), discordance=0.2, seeds=k, between_seeds=0.01) for k in (3, 5)]
    assert cells == [round(100 * difference, 1) for difference in (*one, *more)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_scores_are_these_counts_and_z_follows_from_them(name):
    items, ours, theirs, z = rows("What the published scores say")[name]
    published = PUBLISHED[name]
    assert items == published[0]
    for count, percent in ((ours, published[1]), (theirs, published[2])):
        assert abs(count - percent / 100 * items) <= 0.5  # the nearest count
    assert round(proportions_ztest([ours, theirs], [items, items])[0], 1) == z


def test_none_of_the_four_stands_after_holm():
    table = rows("What the published scores say").values()
    found = [proportions_ztest([ours, theirs], [n, n])[1] for n, ours, theirs, _ in table]
    corrected = multipletests(found, method="holm")[1]
    assert f"p = {corrected.min():.3f}" in TEXT and corrected.min() > 0.05

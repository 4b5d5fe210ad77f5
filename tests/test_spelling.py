"""Oracle: words misspelt by eye."""

from spectral_ft.spelling import nearest


def test_the_nearest_names_are_asked_for():
    assert nearest("max_gen_tok", ["until", "max_gen_toks", "do_sample"]) == " Did you mean max_gen_toks?"
    assert nearest("num_bean", {"num_beams": 1, "num_beans": 2}) == " Did you mean num_beans or num_beams?"


def test_what_is_like_nothing_is_told_nothing():
    assert nearest("zzz", ["until", "do_sample"]) == nearest("until", []) == ""

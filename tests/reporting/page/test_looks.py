"""Colours and forms; oracle: the contrast ratio of WCAG 2.2, section 1.4.3, and a simulation of colour blindness.

Source of the simulation: Machado, Oliveira and Fernandes 2009, IEEE TVCG 15 (6) 1291, matrices of severity 1.
"""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest

from spectral_ft.reporting.page.heat_maps import STEPS
from spectral_ft.reporting.page.views import COLOURS, Style
from spectral_ft.reporting.page.writing import TEMPLATES

CSS = (TEMPLATES / "page.css").read_text()
LIGHT, DARK = (dict(re.findall(r"--(\w+): (#\w{6})", root)) for root in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL))
SIMULATED = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(colour):
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, two):
    bright, dim = sorted((float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_can_be_read(theme):
    letters = [("ink", "ground"), ("ink", "panel"), ("soft", "ground"), ("soft", "panel"), ("accent", "ground")]
    letters += [("ink", f"h{step}") for step in range(STEPS)]
    drawn = [(f"s{number}", "ground") for number in range(COLOURS)]
    faint = {pair: found for pair in letters + drawn if (found := contrast(*(theme[name] for name in pair))) < 4.5}
    assert faint == {}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_scale_goes_one_way(theme):
    light = [float(linear(theme[f"h{step}"]).mean()) for step in range(STEPS)]
    assert light in (sorted(light), sorted(light, reverse=True)) and len(set(light)) == STEPS


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIMULATED)
def test_colours_stay_apart(theme, sight):
    # Differences in OKLab; 0.02 is about what is just noticeable side by side, a line wants more.
    to_lms = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    to_lab = [
        [0.2104543, 0.7936178, -0.0040720],
        [1.9779985, -2.4285922, 0.4505937],
        [0.0259040, 0.7827718, -0.8086758],
    ]
    seen = [
        np.array(to_lab)
        @ np.cbrt(np.array(to_lms) @ np.clip(np.array(SIMULATED[sight]) @ linear(theme[f"s{n}"]), 0, 1))
        for n in range(COLOURS)
    ]
    near = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(range(COLOURS), 2)}
    assert min(near.values()) > 0.08, min(near, key=lambda pair: near[pair])


def test_no_two_of_many_arms_look_alike_and_neighbours_share_nothing():
    looks = [(Style(n).colour, Style(n).dash) for n in range(28)]
    assert len(set(looks)) == 28
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks))
    shapes = (TEMPLATES / "drawings.html.j2").read_text()
    assert shapes.count("form == ") == COLOURS - 1  # and one for the last

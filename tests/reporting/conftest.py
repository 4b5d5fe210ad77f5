"""What tests of drawings share."""

import warnings
from collections.abc import Iterator

import pytest
from matplotlib.axes import Axes

from spectral_ft.reporting import drawing


@pytest.fixture
def small_drawings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few pixels, and every warning of matplotlib an error: it warns of what it cannot draw."""
    monkeypatch.setattr(drawing, "DPI", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The panels of the figure, with what was drawn on them."""
    axes: list[Axes] = []
    imshow = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, *args, **named: axes.append(self) or imshow(self, *args, **named))
    return axes

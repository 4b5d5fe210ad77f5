"""A difference in the cell of a table."""

from spectral_ft.statistics.results import Difference


def value_text(value: float, *, shares: bool) -> str:
    """A mean.

    Args:
        value: In the unit of the metric.
        shares: Whether it is a share of right answers.

    Returns:
        Percent of a share, otherwise the number.
    """
    return f"{100 * value:.1f} %" if shares else f"{value:.3f}"


def difference_text(found: Difference) -> str:
    """A difference and its interval.

    Args:
        found: The difference.

    Returns:
        In points where it is of shares; with a star where it is less than one question.
    """
    scale, digits = (100, 1) if found.shares else (1, 3)
    shown, low, high = (f"{scale * number:+.{digits}f}" for number in (found.difference, found.low, found.high))
    return f"{shown} [{low}, {high}]{'*' if found.below_one_question else ''}"


def p_text(p: float | None) -> str:
    """A p-value.

    Args:
        p: In [0, 1]; None where it was not corrected.

    Returns:
        Three digits after the point, or that it is below; a dash for None.
    """
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"

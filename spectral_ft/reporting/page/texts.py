"""Numbers as the page writes them."""

from collections.abc import Sequence
from typing import Any

from spectral_ft.reporting.difference_cell import value_text

NONE = "-"
"""Where there is no number."""


def interval_text(value: float, low: float | None, high: float | None, *, shares: bool) -> str:
    """A value with its interval.

    Args:
        value: In the unit of the metric.
        low: Lower end; None without an interval.
        high: Upper end.
        shares: Whether it is a share of right answers.

    Returns:
        Percent of shares, otherwise the number.
    """
    shown = value_text(value, shares=shares)
    if low is None or high is None:
        return shown
    scale, digits = (100, 1) if shares else (1, 3)
    return f"{shown} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def memory_text(size: float) -> str:
    """Memory.

    Args:
        size: Bytes.

    Returns:
        In GiB.
    """
    return f"{size / 2**30:.2f} GiB"


def time_text(seconds: float) -> str:
    """A duration.

    Args:
        seconds: Of it.

    Returns:
        In seconds, minutes or hours.
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def option_text(value: Any) -> str:
    """The value of an option, as the command line would take it.

    Args:
        value: Of a resolved configuration.

    Returns:
        The text.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(option_text, value))}]"
    return str(value)


def joined(values: Sequence[str]) -> str:
    """Texts that may be all the same.

    Args:
        values: One a run.

    Returns:
        Each once, in their order.
    """
    return "; ".join(dict.fromkeys(values)) or NONE

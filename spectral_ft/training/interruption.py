"""Ctrl-C, SIGTERM and a closed terminal while a model trains: the step is finished and a checkpoint written first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from spectral_ft.processes import totals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Noted:
    """Whether somebody asked to stop."""

    number: int | None = None
    """Of the signal."""

    def by_all(self) -> int | None:
        """What any process of the run was asked; all get the same answer at the same step.

        Returns:
            The signal's number, or None.
        """
        asked = [float(self.number == number) for number in SIGNALS]
        return next((number for number, count in zip(SIGNALS, totals(asked), strict=True) if count), None)


@contextmanager
def signals_noted() -> Iterator[Noted]:
    """Note the first of these signals instead of stopping; the second one stops as usual.

    One that is ignored, as SIGHUP under `nohup`, stays ignored.

    Yields:
        What was noted. Outside the main thread, where signals cannot be caught, nothing ever is.
    """
    noted = Noted()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        noted.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    noted_ones = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in noted_ones}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

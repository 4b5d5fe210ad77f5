"""What the templates draw: values that are laid out already, in plain frozen types."""

from dataclasses import dataclass

COLOURS = 7
"""Colours, and forms of marks, of the stylesheet."""
DASHES = 4
"""Forms of lines; with the colours 28 arms look different, and no two arms next to one another share either."""


@dataclass(frozen=True)
class Style:
    """How an arm looks, in every chart: never by its colour alone."""

    number: int

    @property
    def colour(self) -> int:
        """Of the stylesheet."""
        return self.number % COLOURS

    @property
    def dash(self) -> int:
        """Of its lines."""
        return self.number % DASHES


@dataclass(frozen=True)
class Table:
    """Texts in rows; the first `words` columns are names, the others numbers."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    notes: tuple[str, ...] = ()
    """Sentences below it."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    """In the units of the drawing."""
    text: str


@dataclass(frozen=True)
class Mark:
    """A point, with its interval where it has one."""

    x: float
    y: float
    style: Style
    text: str
    """What it says when it is pointed at."""
    low: float | None = None
    """Where its interval begins, on the y axis."""
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A curve."""

    path: str
    """As the `d` of an SVG path."""
    style: Style | None
    """None: a guide, in the colour of the axes."""
    text: str


@dataclass(frozen=True)
class Chart:
    """Curves and points over two axes, in units of the drawing."""

    title: str
    description: str
    """For those who do not see it."""
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart."""

    label: str
    """Name, value and interval in one line that fits."""
    text: str
    """The same with the whole name."""
    style: Style
    at: float
    low: float | None
    high: float | None
    hollow: bool


@dataclass(frozen=True)
class IntervalChart:
    """Values with their intervals, one a row, in units of the drawing."""

    title: str
    description: str
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Cell:
    """One matrix, or several of one block and type, in a heat map."""

    text: str
    step: int | None
    """Of the scale, from 0; None where there is nothing to colour."""


@dataclass(frozen=True)
class HeatMap:
    """A number over module type and block."""

    caption: str
    blocks: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Module type and its cells, block by block."""
    scale: str
    """What the colours mean."""


@dataclass(frozen=True)
class Legend:
    """What an arm is called and looks like."""

    name: str
    style: Style


@dataclass(frozen=True)
class Section:
    """A part of the page, below one heading; what it does not have is empty."""

    id: str
    title: str
    lead: str = ""
    """One sentence."""
    charts: tuple[Chart, ...] = ()
    intervals: tuple[IntervalChart, ...] = ()
    legend: tuple[Legend, ...] = ()
    tables: tuple[Table, ...] = ()
    maps: tuple[HeatMap, ...] = ()
    folded: tuple[Table, ...] = ()
    """Tables that are opened when they are wanted."""
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What is missing, and why: sentences."""

"""The demo's time line in a terminal: one row a lane, unicode bars, plain where need be.

Pure: ``draw`` returns the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .demo_timeline import Span, Timeline, clock_text, tick_step

NAMES = 22  # columns at the left
# The rarer value wins a column in which both occur: nothing short gets lost.
_WEIGHT = ["", "Secondary", "A", "no", "Primary", "C", "yes"]


@dataclass(frozen=True)
class Ink:
    """How a terminal can draw."""

    unicode: bool = True
    colour: bool = True

    def bar(self, value: str) -> tuple[str, str]:
        """Character and colour (SGR) of a value."""
        strong, allowed, weak = ("█", "▓", "─") if self.unicode else ("#", "!", "-")
        return {
            "Primary": (strong, "34"),
            "Secondary": (weak, "2;34"),
            "C": ("C", "33"),
            "A": ("a", "2"),
            "yes": (allowed, "31"),
            "no": ("·" if self.unicode else ".", "2"),
            "": (" ", ""),
        }.get(value, ("━" if self.unicode else "=", "32"))

    def paint(self, text: str, colour: str) -> str:
        """``text`` in a colour, where there are colours."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour and colour and text.strip() else text


def _cells(entries: Sequence[Span], part: Span, columns: int) -> list[str]:
    """The value of each column."""
    step = (part.end - part.start) / columns
    cells = [""] * columns
    for span in entries:
        first = int((span.start - part.start) / step)
        last = int(-(-(span.end - part.start) // step))
        for column in range(max(0, first), min(columns, max(last, first + 1))):
            cells[column] = max(cells[column], span.value, key=_weight)
    return cells


def _weight(value: str) -> int:
    return _WEIGHT.index(value) if value in _WEIGHT else len(_WEIGHT)


def _row(cells: Sequence[str], ink: Ink) -> str:
    """Cells as text, one colour change a run."""
    out, start = "", 0
    for index in range(1, len(cells) + 1):
        if index == len(cells) or cells[index] != cells[start]:
            character, colour = ink.bar(cells[start])
            named = f" {cells[start]} " if character in "━=" else ""
            text = named if len(named) <= index - start else ""
            out += ink.paint(text.center(index - start, character), colour)
            start = index
    return out


def _axis(part: Span, columns: int) -> str:
    """The times below the lanes."""
    length = part.end - part.start
    step = tick_step(length, max(1, columns // 10))
    line = [" "] * (columns + 6)
    tick = -int(-part.start // step) * step
    while tick <= part.end:
        at = min(columns - 1, int((tick - part.start) / length * columns))
        line[at : at + len(clock_text(tick))] = clock_text(tick)
        tick += step
    return "".join(line).rstrip()


def _words(entries: Sequence[tuple[float, str]], part: Span, columns: int, pointer: str) -> list[str]:
    """Words at their times, in as many rows as they need."""
    rows: list[str] = []
    for at, text in sorted(entries):
        column = max(0, min(columns - 1, int((at - part.start) / (part.end - part.start) * columns)))
        word = pointer + text
        if column + len(word) > columns:
            word = text + pointer
            column = max(0, column + 1 - len(word))
        index = next((i for i, row in enumerate(rows) if len(row) < column), len(rows))
        rows[index : index + 1] = [(rows[index] if index < len(rows) else "").ljust(column) + word]
    return rows


def draw(timeline: Timeline, width: int, ink: Ink) -> list[str]:
    """All panels; ``width`` is the terminal's in columns."""
    columns = max(30, min(width, 160) - NAMES - 1)
    lines: list[str] = []
    for index, part in enumerate(timeline.panels()):
        lines += _panel(timeline, part, columns, ink, marks=index > 0)
    return lines


def _panel(timeline: Timeline, part: Span, columns: int, ink: Ink, marks: bool) -> list[str]:
    lines = ["", f"{part.value}  ({(part.end - part.start) / columns:.1f} s a column)"]
    pointer = "▾" if ink.unicode else "v"
    blank = " " * NAMES

    def lane(name: str, entries: Sequence[Span]) -> None:
        lines.append(name.ljust(NAMES) + _row(_cells(entries, part, columns), ink))

    def words(entries: list[tuple[float, str]]) -> None:
        lines.extend(blank + row for row in _words(entries, part, columns, pointer))

    if not marks:
        words([(s.start, s.value) for s in timeline.commands])
    if timeline.writes:
        lane("guest writes", timeline.writes)
    for host in timeline.hosts:
        here = [m for m in timeline.marks if m.host == host.host and part.start <= m.at <= part.end]
        if marks:
            words([(m.at, m.text) for m in here])
        lane(f"{host.host:6} role", host.role)
        lane(f"{host.host:6} protocol", host.protocol)
        lane(f"{host.host:6} two Primaries", host.permission)
    return [*lines, blank + _axis(part, columns)]


def legend(ink: Ink) -> str:
    """What the characters mean."""
    pairs = [("Primary", "Primary"), ("Secondary", "Secondary"), ("C", "protocol C"), ("A", "protocol A"),
             ("yes", "two Primaries allowed"), ("no", "not allowed")]  # fmt: skip
    return "   ".join(f"{ink.paint(ink.bar(v)[0] * 2, ink.bar(v)[1])} {text}" for v, text in pairs)

"""The demo's time line as data: roles, protocol and permission of both hosts over time.

Pure. All times of a ``Timeline`` are seconds since the demo's recording began;
demo_samples makes its parts out of what the hosts gave.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

# A host that gave no sample for so long isn't drawn in the state it had.
LONGEST_GAP = 3.0


@dataclass(frozen=True)
class Span:
    """From ``start`` to ``end`` this held."""

    start: float
    end: float
    value: str


@dataclass(frozen=True)
class Mark:
    """Something that happened on a host."""

    at: float
    host: str
    text: str


@dataclass(frozen=True)
class Lanes:
    """One host: its role, the protocol, and whether two Primaries are allowed; where it is known,
    what of a migration went on there."""

    host: str
    role: tuple[Span, ...]  # Primary, Secondary
    protocol: tuple[Span, ...]  # A, C, …
    permission: tuple[Span, ...]  # yes, no
    steps: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Timeline:
    """One run.

    ``commands`` are what was typed, ``writes`` on which host the guest writes
    (neither while it is handed over), ``closeups`` the parts worth a nearer look.
    """

    title: str
    end: float
    hosts: tuple[Lanes, ...]
    commands: tuple[Span, ...]
    marks: tuple[Mark, ...] = ()
    closeups: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()

    def panels(self) -> list[Span]:
        """What is drawn, one below the other: the whole, then the close-ups."""
        return [Span(0.0, self.end, self.title), *self.closeups]

    def to_json(self) -> str:
        """For ``from_json``: a run can be drawn again without running it again."""
        return json.dumps(asdict(self), indent=1)


def from_json(text: str) -> Timeline:
    """What ``to_json`` wrote."""

    def spans(entries: list[dict[str, object]]) -> tuple[Span, ...]:
        return tuple(Span(**entry) for entry in entries)  # type: ignore[arg-type]

    data = json.loads(text)
    lanes = ("role", "protocol", "permission", "steps")
    hosts = (Lanes(entry["host"], *(spans(entry.get(lane, [])) for lane in lanes)) for entry in data["hosts"])
    return Timeline(
        data["title"], data["end"], tuple(hosts), spans(data["commands"]),
        tuple(Mark(**entry) for entry in data["marks"]), spans(data["closeups"]), spans(data["writes"]),
    )  # fmt: skip


def spans(points: Iterable[tuple[float, str]], end: float, gap: float = LONGEST_GAP) -> tuple[Span, ...]:
    """Points (time, value) in order, as spans; each value lasts to the next point.

    After a point with no successor within ``gap`` seconds nothing is known; an
    empty value means that nothing is there.
    """
    found: list[Span] = []
    ordered = list(points)
    for index, (at, value) in enumerate(ordered):
        following = ordered[index + 1][0] if index + 1 < len(ordered) else end
        until = min(following, end) if following - at <= gap else at
        if not value or until <= at:
            continue
        if found and found[-1].value == value and found[-1].end >= at:
            found[-1] = Span(found[-1].start, until, value)
        else:
            found.append(Span(at, until, value))
    return tuple(found)


def shifted(timeline: Timeline, by: float) -> Timeline:
    """The same with ``by`` taken from every time, cut to [0, end]."""
    end = timeline.end - by

    def move(entries: Iterable[Span]) -> tuple[Span, ...]:
        cut = (Span(max(0.0, s.start - by), min(end, s.end - by), s.value) for s in entries)
        return tuple(s for s in cut if s.end > s.start)

    return Timeline(
        timeline.title,
        end,
        tuple(
            Lanes(h.host, move(h.role), move(h.protocol), move(h.permission), move(h.steps))
            for h in timeline.hosts
        ),
        move(timeline.commands),
        tuple(Mark(m.at - by, m.host, m.text) for m in timeline.marks if 0 <= m.at - by <= end),
        move(timeline.closeups),
        move(timeline.writes),
    )


def lasting(entries: Iterable[Span], value: str) -> float:
    """Seconds of a lane with this value."""
    return sum(s.end - s.start for s in entries if s.value == value)


def overlap(one: Iterable[Span], other: Iterable[Span], value: str) -> list[Span]:
    """When both lanes have this value."""
    theirs = [s for s in other if s.value == value]
    return [
        Span(max(a.start, b.start), min(a.end, b.end), value)
        for a in one if a.value == value
        for b in theirs if min(a.end, b.end) > max(a.start, b.start)
    ]  # fmt: skip


def tick_step(seconds: float, most: int) -> int:
    """Seconds between two ticks, a round number, for at most ``most`` of them."""
    for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600):
        if seconds / step <= most:
            return step
    return 1800


def clock_text(seconds: float) -> str:
    """``m:ss``."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"

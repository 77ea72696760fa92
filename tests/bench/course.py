"""The course of one migration, out of what both hosts gave: the same for xenhelper's and block-drbd's.

Pure, but for ``DomainEvents``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.lab import demo_samples as ds
from tests.lab import demo_svg
from tests.lab import demo_timeline as tl
from tests.lab.demo_timeline import Mark, Span
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.recording import Seen

from . import usage

RELEASED = "@releaseDomain"
PREPARE, PRECOPY, LAST, RECEIVE, ADD, REMOVE = (
    "prepare", "pre-copy", "last pass", "receive", "add", "remove",
)  # fmt: skip
_AROUND = 2.0  # seconds shown beside a hand-over
_FILE = "/run/bench-domains"
# the path of each event, stamped without a fork; the first of each comes at once
_WATCH = """\
xenstore-watch @introduceDomain @releaseDomain | while read -r what; do
    read -r up rest < /proc/uptime
    echo "$up $what"
done
"""


class DomainEvents:
    """When domains come and go on both hosts, a guest's suspension included (xenstored tells it as
    ``@releaseDomain``). ``with DomainEvents(lab) as events: …``, then ``read``."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __enter__(self) -> DomainEvents:
        self.lab.both(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        # a process group of its own: the watch, the shell that reads it, and theirs
        self.lab.both(lambda host: host.run(f"kill -s TERM -- -$(cat {_FILE}.pid)", check=False))

    @staticmethod
    def _start(host: Host) -> None:
        host.write(f"{_FILE}.sh", _WATCH)
        host.run(f"setsid sh {_FILE}.sh > {_FILE} 2>/dev/null < /dev/null & echo $! > {_FILE}.pid")

    def read(self) -> dict[str, list[tuple[float, str]]]:
        """By host's name: uptime and event."""
        texts = self.lab.both(lambda host: host.read(_FILE))
        return {host.name: events(text) for host, text in zip(self.lab.hosts, texts, strict=True)}


def events(text: str) -> list[tuple[float, str]]:
    """``UPTIME EVENT`` lines."""
    pairs = (line.split() for line in text.splitlines())
    return [(float(pair[0]), pair[1]) for pair in pairs if len(pair) == 2]


@dataclass(frozen=True)
class Move:
    """One migration as it was typed and seen, on the harness's clock."""

    vm: str
    source: str
    target: str
    start: float
    end: float  # xl was back
    settled: float  # its guest was seen writing there


@dataclass(frozen=True)
class Evidence:
    """All that one host gave; times are its own uptime."""

    seen: Seen
    events: Sequence[tuple[float, str]]
    tasks: Sequence[usage.Task]

    def span(self, kind: str, name: str, since: float) -> Span | None:
        """From the first start to the last end of this kind's processes, on the harness's clock."""
        clock = self.seen.clock
        found = [
            (clock.harness(task.began), clock.harness(task.ended))
            for task in self.tasks
            if usage.NAMED.get(task.name) == kind and task.began is not None and task.ended is not None
        ]
        found = [pair for pair in found if pair[0] >= since]
        return Span(min(a for a, _ in found), max(b for _, b in found), name) if found else None

    def journal(self, event: str, since: float) -> list[float]:
        """When a disk's event was logged, on the harness's clock."""
        times = (self.seen.clock.harness(e.up) for e in self.seen.entries if e.event == event and e.resource)
        return [at for at in times if at >= since]


def timeline(title: str, hosts: Sequence[Evidence], move: Move, always: bool) -> tl.Timeline:
    """From xl's start on. ``always``: two Primaries are allowed at all times, as the kernel said
    before; else the journal has the grant and its end."""
    by_name = {one.seen.host: one for one in hosts}
    source, target = by_name[move.source], by_name[move.target]
    add = target.span(usage.BLOCK, ADD, move.start)
    remove = source.span(usage.BLOCK, REMOVE, move.start)
    suspended = _suspended(source, move, add)
    quiet = ds.standstill(target.seen.samples, target.seen.clock, move.start, move.settled)
    allowed = _permission(hosts, move, always)
    steps = {
        move.source: _sending(source.span(usage.HELPER, PRECOPY, move.start), suspended, move),
        move.target: _kept(target.span(usage.HELPER, RECEIVE, move.start), add),
    }
    steps[move.source] += _kept(remove)
    end = move.settled
    lanes = tuple(
        tl.Lanes(
            one.seen.host,
            tl.spans(ds.role_points(one.seen.samples, one.seen.clock), end),
            tl.spans(ds.protocol_points(one.seen.samples, one.seen.clock), end),
            allowed,
            tuple(steps[one.seen.host]),
        )
        for one in hosts
    )
    marks = [Mark(suspended, move.source, "suspended")] if suspended is not None else []
    for one in hosts:
        # several disks: as long as any is open
        granted, closed = (one.journal(f"window-{what}", move.start) for what in ("granted", "closed"))
        marks += [Mark(at, one.seen.host, "granted") for at in granted[:1]]
        marks += [Mark(at, one.seen.host, "closed") for at in closed[-1:]]
    writes: tuple[Span, ...] = ()
    if quiet:
        marks += [
            Mark(quiet[0], move.target, f"last block from {move.source}"),
            Mark(quiet[1], move.target, "first block written here"),
        ]
        writes = (Span(move.start, quiet[0], move.source), Span(quiet[1], end, move.target))
    edges = [at for at in (suspended, *(quiet or ())) if at is not None]
    edges += [edge for span in _kept(add, remove) for edge in (span.start, span.end)]
    near = (Span(min(edges) - _AROUND, max(edges) + _AROUND, f"{title}: the hand-over"),) if edges else ()
    command = Span(move.start, move.end, f"xl migrate {move.vm} {move.target}")
    line = tl.Timeline(title, end, lanes, (command,), tuple(marks), near, writes)
    return tl.shifted(line, move.start)


def _kept(*spans: Span | None) -> list[Span]:
    return [span for span in spans if span is not None]


def _suspended(source: Evidence, move: Move, add: Span | None) -> float | None:
    """The guest's suspension: the last such event before the destination's ``add``, since the
    domain's own end fires the same one later."""
    until = add.start if add else move.end
    times = (source.seen.clock.harness(up) for up, what in source.events if what == RELEASED)
    return max((at for at in times if move.start < at < until), default=None)


def _sending(helper: Span | None, suspended: float | None, move: Move) -> list[Span]:
    if helper is None:
        return []
    found = [Span(move.start, helper.start, PREPARE)]
    if suspended is None or not helper.start < suspended < helper.end:
        return [*found, helper]
    return [*found, Span(helper.start, suspended, PRECOPY), Span(suspended, helper.end, LAST)]


def _permission(hosts: Sequence[Evidence], move: Move, always: bool) -> tuple[Span, ...]:
    """The same on both hosts: the source's change reaches the other in the same moment."""
    if always:
        return (Span(move.start, move.settled, "yes"),)
    granted = [at for one in hosts for at in one.journal("window-granted", move.start)]
    closed = [at for one in hosts for at in one.journal("window-closed", move.start)]
    if not granted:
        return (Span(move.start, move.settled, "no"),)
    # several disks: from the first grant to the last closing
    begun = min(granted)
    over = max((at for at in closed if at > begun), default=move.settled)
    spans = (Span(move.start, begun, "no"), Span(begun, over, "yes"), Span(over, move.settled, "no"))
    return tuple(span for span in spans if span.end > span.start)


def facts(line: tl.Timeline) -> dict[str, float]:
    """Seconds of each part, by what it is called on the page; absent where it wasn't seen."""
    lengths: dict[str, float] = {}
    for host in line.hosts:
        for span in host.steps:
            lengths[span.value] = lengths.get(span.value, 0) + span.end - span.start
    found = {f"`{step}`" if step in (ADD, REMOVE) else step: lengths.get(step) for step in
             (PREPARE, PRECOPY, LAST, ADD, REMOVE)}  # fmt: skip
    if len(line.writes) == 2:
        found["guest stands still"] = line.writes[1].start - line.writes[0].end
    one, other = (host.role for host in line.hosts)
    found["both Primary"] = _lasting(tl.overlap(one, other, "Primary"))
    found["two Primaries allowed"] = max(tl.lasting(host.permission, "yes") for host in line.hosts)
    found["whole `xl migrate`"] = _lasting(line.commands)
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _lasting(spans: Iterable[Span]) -> float:
    return sum(span.end - span.start for span in spans)


def picture(lines: Mapping[str, tl.Timeline]) -> str:
    """Both migrations whole, then both hand-overs, each pair on one scale."""
    longest = max(line.end for line in lines.values())
    panels = [(line, Span(0.0, longest, line.title), False) for line in lines.values()]
    near = [(line, line.closeups[0]) for line in lines.values() if line.closeups]
    length = max((part.end - part.start for _, part in near), default=0.0)
    panels += [(line, Span(part.start, part.start + length, part.value), True) for line, part in near]
    return demo_svg.page("One migration each: " + " and ".join(lines), panels)

"""Records both hosts while the demo runs: beside what recording.py sees, the permission."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import demo_samples as ds
from . import demo_timeline as tl
from . import measure, recording
from .host import Host
from .lab import Lab

_CHECKS = "/run/demo-permission"
# about once a second; the stamp is taken before the look, so a change is never dated too late by it
_LOOP = """\
tab=$(printf '\\t')
while :; do
    read -r up rest < /proc/uptime
    case $(drbdsetup show 2>/dev/null) in
        *"allow-two-primaries${tab}yes"*) echo "$up yes" ;;
        *) echo "$up no" ;;
    esac
    sleep 0.7
done
"""


@dataclass(frozen=True)
class Move:
    """One migration as it was typed and seen from here, on the harness's clock."""

    source: Host
    target: Host
    start: float
    end: float  # xl was back
    settled: float  # its guest was seen writing there


@dataclass
class Recorder:
    """``with Recorder(lab, minors) as recorder: …``, then ``timeline``."""

    lab: Lab
    minors: Sequence[int]
    commands: list[tl.Span] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        self._recording = recording.Recording(self.lab, self.minors)
        self._recording.__enter__()
        self.lab.both(self._start_checks)
        self.start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.lab.is_up:
            return  # interrupted: the loops ended with their hosts
        self._recording.__exit__()
        self.lab.both(lambda host: host.run(f"kill $(cat {_CHECKS}.pid)", check=False))
        self.end = time.monotonic()

    def _start_checks(self, host: Host) -> None:
        host.write(f"{_CHECKS}.sh", _LOOP)
        host.run(f"nohup sh {_CHECKS}.sh > {_CHECKS} 2>/dev/null </dev/null & echo $! > {_CHECKS}.pid")

    def timeline(self, title: str) -> tl.Timeline:
        """What was recorded, on one clock. Call after the ``with``."""
        seen = self._recording.seen()
        checks = [
            [(one.clock.harness(up), allowed) for up, allowed in ds.parse_checks(text)]
            for one, text in zip(seen, self.lab.both(lambda host: host.read(_CHECKS)), strict=True)
        ]
        return build(
            self,
            title,
            [one.samples for one in seen],
            [one.entries for one in seen],
            checks,
            [one.clock for one in seen],
        )


def _times(entries: Sequence[ds.Entry], clock: ds.Clock, event: str) -> list[float]:
    return [clock.harness(e.up) for e in entries if e.event == event and e.resource]


def build(
    recorder: Recorder,
    title: str,
    samples: Sequence[Sequence[measure.Sample]],
    entries: Sequence[Sequence[ds.Entry]],
    checks: Sequence[list[tuple[float, bool]]],
    clocks: Sequence[ds.Clock],
) -> tl.Timeline:
    """The time line out of what both hosts gave, in the lab's order of hosts."""
    end = recorder.end
    pairs = list(zip(entries, clocks, strict=True))
    granted = sorted(t for e, c in pairs for t in _times(e, c, "window-granted"))
    closed = sorted(t for e, c in pairs for t in _times(e, c, "window-closed"))
    lanes, marks = [], []
    for index, host in enumerate(recorder.lab.hosts):
        clock, seen = clocks[index], samples[index]
        own = _times(entries[index], clock, "window-granted")
        allowed = ds.permission_points(checks[index], granted, closed, own)
        lanes.append(
            tl.Lanes(
                host.name,
                tl.spans(ds.role_points(seen, clock), end),
                tl.spans(ds.protocol_points(seen, clock), end),
                tl.spans(allowed, end, gap=15.0),
            )
        )
        marks += ds.journal_marks(host.name, entries[index], clock)
    writes, still, closeups = _hand_overs(recorder, samples, clocks, lanes)
    line = tl.Timeline(
        title, end, tuple(lanes), tuple(recorder.commands),
        tuple(marks + still), tuple(closeups), tuple(writes),
    )  # fmt: skip
    return tl.shifted(line, recorder.start)


def _hand_overs(
    recorder: Recorder,
    samples: Sequence[Sequence[measure.Sample]],
    clocks: Sequence[ds.Clock],
    lanes: Sequence[tl.Lanes],
) -> tuple[list[tl.Span], list[tl.Mark], list[tl.Span]]:
    """Where the guest wrote when, the moments it stopped and began, and the parts to look at closely."""
    names = [host.name for host in recorder.lab.hosts]
    writes, marks, closeups = [], [], []
    since = None
    if recorder.moves:
        first = names.index(recorder.moves[0].source.name)
        began = ds.first_write(samples[first])
        since = clocks[first].harness(began) if began is not None else None
    for move in recorder.moves:
        at = names.index(move.target.name)
        quiet = ds.standstill(samples[at], clocks[at], move.start, move.settled)
        inside = [
            s for s in tl.overlap(lanes[0].permission, lanes[1].permission, "yes")
            if move.start <= s.start <= move.settled
        ]  # fmt: skip
        edges = [edge for s in inside for edge in (s.start, s.end)] + list(quiet or ())
        if edges:
            what = f"Hand-over {move.source.name} to {move.target.name}"
            closeups.append(tl.Span(min(edges) - 4, max(edges) + 4, what))
        if quiet is None:
            since = None
            continue
        marks += [
            tl.Mark(quiet[0], move.target.name, f"last block from {move.source.name}"),
            tl.Mark(quiet[1], move.target.name, "first block written here"),
        ]
        if since is not None:
            writes.append(tl.Span(since, quiet[0], move.source.name))
        since = quiet[1]
    if since is not None and recorder.moves:
        writes.append(tl.Span(since, recorder.end, recorder.moves[-1].target.name))
    return writes, marks, closeups

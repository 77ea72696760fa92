"""The demo's time line as data: roles, protocol and permission of both hosts over time.

Pure: samples and journal entries go in, spans on one clock come out. All times
of a ``Timeline`` are seconds since the demo's recording began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from .measure import Sample, quiet_span

PRIMARY, SECONDARY = "Primary", "Secondary"
# A host that gave no sample for so long isn't drawn in the state it had.
LONGEST_GAP = 3.0
# A look at the permission is stamped when it begins, and the two clocks agree to
# some hundredths of a second: the cause may be logged a little before the look.
_SLACK = 0.5


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
    """One host: its role, the protocol, and whether two Primaries are allowed."""

    host: str
    role: tuple[Span, ...]  # Primary, Secondary
    protocol: tuple[Span, ...]  # A, C, …
    permission: tuple[Span, ...]  # yes, no


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
    lanes = ("role", "protocol", "permission")
    hosts = (Lanes(entry["host"], *(spans(entry[lane]) for lane in lanes)) for entry in data["hosts"])
    return Timeline(
        data["title"], data["end"], tuple(hosts), spans(data["commands"]),
        tuple(Mark(**entry) for entry in data["marks"]), spans(data["closeups"]), spans(data["writes"]),
    )  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """One host's uptime against the harness's clock, looked at twice.

    Two looks, since an emulated host's clock needn't run at the same pace.
    """

    first: tuple[float, float]  # (the host's uptime, the harness's clock) in the same moment
    last: tuple[float, float]

    def harness(self, uptime: float) -> float:
        """The harness's clock when the host's uptime was so."""
        (up, here), (later_up, later_here) = self.first, self.last
        pace = (later_here - here) / (later_up - up) if later_up - up > 1 else 1.0
        return here + (uptime - up) * pace


def closest_look(looks: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """(uptime, harness's clock) from looks (before, uptime, after): of the quickest one."""
    before, uptime, after = min(looks, key=lambda look: look[2] - look[0])
    return uptime, (before + after) / 2


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


def _looks(samples: Iterable[Sample]) -> list[list[Sample]]:
    """One list a look: drbd-sample stamps all minors of one look alike."""
    found: list[list[Sample]] = []
    for sample in samples:
        if found and found[-1][0].up == sample.up:
            found[-1].append(sample)
        else:
            found.append([sample])
    return found


def role_points(samples: Iterable[Sample], clock: Clock) -> list[tuple[float, str]]:
    """Primary while any disk is: with several disks that shows the longest overlap."""
    return [
        (clock.harness(look[0].up), PRIMARY if any(s.role == PRIMARY for s in look) else look[0].role)
        for look in _looks(samples)
    ]


def protocol_points(samples: Iterable[Sample], clock: Clock) -> list[tuple[float, str]]:
    """The last letter of those set: C while any disk is at C."""
    return [(clock.harness(look[0].up), max(s.protocol for s in look)) for look in _looks(samples)]


def in_sync_at(samples: Iterable[Sample]) -> float | None:
    """Uptime when the first sync was over; None where the samples hold none."""
    syncing = False
    for look in _looks(samples):
        now = any(s.connection in ("SyncSource", "SyncTarget") for s in look)
        if syncing and not now and all(s.connection == "Connected" for s in look):
            return look[0].up
        syncing = syncing or now
    return None


def permission_points(
    checks: Sequence[tuple[float, bool]],
    granted: Sequence[float],
    closed: Sequence[float],
    own: Sequence[float] = (),
) -> list[tuple[float, str]]:
    """Allowed or not, from slow looks at the kernel and the exact times in the journals.

    ``checks`` (time, allowed) come about once a second; ``granted`` and ``closed``
    are both hosts' journal entries: a change between two looks is put where the
    journal has it. ``own`` are the grants of this very host: one that was taken
    back between two looks is drawn too.
    """
    points: list[tuple[float, str]] = []
    for index, (at, allowed) in enumerate(checks):
        before = checks[index - 1] if index else None
        if before is not None and before[1] != allowed:
            known = [t for t in (granted if allowed else closed) if before[0] - _SLACK < t <= at]
            if known:
                # several disks: from the first grant to the last closing
                exact = min(known) if allowed else max(known)
                points.append((max(exact, before[0] + 0.001), _yes(allowed)))
        elif before is not None and not allowed:
            points += _between(before[0], at, own, closed)
        points.append((at, _yes(allowed)))
    return points


def _between(
    start: float, end: float, own: Sequence[float], closed: Sequence[float]
) -> list[tuple[float, str]]:
    begun = [t for t in own if start < t < end]
    over = [t for t in closed if begun and begun[0] < t < end]
    return [(begun[0], "yes"), (over[-1], "no")] if over else []


def _yes(allowed: bool) -> str:
    return "yes" if allowed else "no"


def parse_checks(text: str) -> list[tuple[float, bool]]:
    """``UPTIME yes|no`` lines of the permission loop."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1] in ("yes", "no"):
            found.append((float(words[0]), words[1] == "yes"))
    return found


@dataclass(frozen=True)
class Entry:
    """One entry of the product's journal; ``up`` is the host's uptime."""

    up: float
    event: str
    message: str
    resource: str = ""


def parse_journal(text: str) -> list[Entry]:
    """``journalctl -o json`` as entries, at the time when each was sent.

    A busy journald takes an entry in later than it was sent; the difference is
    known on its wall clock (systemd.journal-fields(7)).
    """
    found = []
    for line in text.splitlines():
        try:
            fields = json.loads(line)
            up = int(fields["__MONOTONIC_TIMESTAMP"])
            taken, sent = (
                int(fields.get(name, 0)) for name in ("__REALTIME_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
            )
        except (ValueError, KeyError, TypeError):
            continue
        late = taken - sent if sent and 0 <= taken - sent < 10_000_000 else 0
        event, message, resource = (
            str(fields.get(name, "")) for name in ("XENHELPER_EVENT", "MESSAGE", "XENHELPER_RESOURCE")
        )
        found.append(Entry((up - late) / 1e6, event, message, resource))
    return found


# the journal's events that are worth a mark, and what it says
_WORDS = {"window-open": "protocol C", "window-granted": "granted", "added": "add", "removed": "remove",
          "window-closed": "closed", "refused": "refused", "failed": "failed"}  # fmt: skip


def journal_marks(host: str, entries: Iterable[Entry], clock: Clock, apart: float = 8.0) -> list[Mark]:
    """One mark for each kind of event, where several disks give the same within ``apart`` s."""
    found: list[Mark] = []
    for entry in sorted(entries, key=lambda e: e.up):
        text = _WORDS.get(entry.event)
        at = clock.harness(entry.up)
        # the shim's last word, by VM, repeats the closing of each disk
        if text is None or (entry.event == "window-closed" and not entry.resource):
            continue
        if not any(m.text == text and at - m.at < apart for m in found):
            found.append(Mark(at, host, text))
    return found


def standstill(
    samples: Sequence[Sample], clock: Clock, start: float, end: float
) -> tuple[float, float] | None:
    """The guest's standstill as its destination saw it: last block from there, first block here.

    Longest over its disks, between two moments of the harness's clock. None
    where no disk changed hands then.
    """
    found = []
    for minor in sorted({s.minor for s in samples}):
        part = [s for s in samples if s.minor == minor and start <= clock.harness(s.up) <= end]
        quiet = quiet_span(part)
        if quiet:
            found.append((clock.harness(quiet[0]), clock.harness(quiet[1])))
    return max(found, key=lambda pair: pair[1] - pair[0], default=None)


def first_write(samples: Iterable[Sample]) -> float | None:
    """Uptime when a disk was first written from this host; None where none was."""
    before: dict[int, Sample] = {}
    for sample in samples:
        old = before.setdefault(sample.minor, sample)
        if sample.written - sample.received > old.written - old.received:
            return sample.up
    return None


def shifted(timeline: Timeline, by: float) -> Timeline:
    """The same with ``by`` taken from every time, cut to [0, end]."""
    end = timeline.end - by

    def move(entries: Iterable[Span]) -> tuple[Span, ...]:
        cut = (Span(max(0.0, s.start - by), min(end, s.end - by), s.value) for s in entries)
        return tuple(s for s in cut if s.end > s.start)

    return Timeline(
        timeline.title,
        end,
        tuple(Lanes(h.host, move(h.role), move(h.protocol), move(h.permission)) for h in timeline.hosts),
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

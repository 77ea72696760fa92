"""Out of two hosts' samples and journals: points and marks on the harness's clock.

Pure. A point is (time, value), for ``demo_timeline.spans``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .demo_timeline import Mark
from .measure import Sample, quiet_span

PRIMARY = "Primary"
# A look at the permission is stamped when it begins, and the two clocks agree to
# some hundredths of a second: the cause may be logged a little before the look.
_SLACK = 0.5


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
    """A grant and its closing that both fall between two looks."""
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

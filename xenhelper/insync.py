"""When each disk was last in sync, kept durably on this host, for the day the other is lost.

``/var/lib/xenhelper/in_sync/RESOURCE`` holds the last moment at which this host saw the
resource connected and UpToDate on both sides. xenhelper-watch looks every few seconds and
writes once a minute and at the loss. A dead link shows as connected until DRBD notices,
so that much is taken off: the time may be a minute and a bit too old, never too new.
"""

import time

from xenhelper import paths, statefile
from xenhelper.errors import XenhelperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenhelper.drbd.proc import State

EVERY = 60.0  # seconds between durable notes while all is well
NOTICED = 15.0  # seconds until DRBD has noticed a dead link: ping-int 10, ping-timeout 3 (resfile.py)
FORM = "%Y-%m-%dT%H:%M:%SZ"

# seconds; both moments are of this host's own clock
_SKEW = 5.0


def path(resource: str) -> str:
    """Where the last moment of ``resource`` is kept."""
    return f"{paths.STATE}/in_sync/{resource}"


def stamp(when: float) -> str:
    """``when`` (seconds since 1970) in UTC, as it stands in records."""
    return time.strftime(FORM, time.gmtime(when))


def seconds(text: str) -> "float | None":
    """The reverse of :func:`stamp`; None when ``text`` isn't such a time.

    By hand: strptime() imports locale, re and datetime, which costs a handler of DRBD's as
    much as all its work.
    """
    if len(text) != 20 or not (text[:4] + text[5:7] + text[8:10]).isdecimal():
        return None
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    clock = (text[11:13], text[14:16], text[17:19])
    if not all(part.isdecimal() for part in clock) or not 1 <= month <= 12:
        return None
    # days since 1970 of the proleptic Gregorian calendar: years begin in March
    if month < 3:
        year, month = year - 1, month + 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719469
    hours, minutes, rest = (int(part) for part in clock)
    found = float(days * 86400 + hours * 3600 + minutes * 60 + rest)
    # a day, hour or sign that there isn't comes out as another time
    return found if stamp(found) == text else None


def last(resource: str) -> "float | None":
    """Seconds since 1970 at which ``resource`` was last seen in sync; None: never here."""
    try:
        record = statefile.read(path(resource)) or {}
    except XenhelperError:
        return None
    return seconds(record.get("at", ""))


def write(resource: str, when: float, seen: str) -> None:
    """Note ``when`` durably, unless a later moment stands there, which a clock that was
    ahead then may not keep for ever. ``seen``: why now."""
    before = last(resource)
    if before is None or when > before or ahead(before):
        statefile.write(path(resource), {"resource": resource, "at": stamp(when), "seen": seen})


def ahead(moment: float) -> bool:
    """Whether ``moment`` (seconds since 1970) has yet to come: this host's clock was changed
    since, and nobody knows how long ago it was."""
    return moment > time.time() + _SKEW


def note(resource: str) -> None:
    """In sync at this moment; written when the note there is older than a minute."""
    now = time.time() - NOTICED
    before = last(resource)
    if before is None or now - before >= EVERY or before > now:
        write_over(resource, now)


def write_over(resource: str, when: float) -> None:
    """Note ``when`` whatever stands there (a clock that was put back, too)."""
    statefile.write(path(resource), {"resource": resource, "at": stamp(when), "seen": "in sync"})


class Tracker:
    """The watcher's memory between two looks."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._written: dict[str, float] = {}

    def tick(
        self, states: "Mapping[int, State]", records: "Mapping[str, Mapping[str, str]]", now: float
    ) -> None:
        """One look at /proc/drbd, at ``now`` (seconds since 1970)."""
        for name, record in records.items():
            minor = record.get("minor", "")
            state = states.get(int(minor)) if minor.isdecimal() else None
            if state is not None and state.talks and state.disk == state.peer_disk == "UpToDate":
                self._seen[name] = now
                if abs(now - self._written.get(name, 0.0)) >= EVERY:
                    write_over(name, now - NOTICED)
                    self._written[name] = now
            elif name in self._seen:
                write(name, self._seen.pop(name) - NOTICED, "lost")
                self._written.pop(name, None)

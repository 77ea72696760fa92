"""Whose turn it is, and for how long: pure decisions over records and the clock."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from xenhelper import insync
from xenhelper.drbd import events
from xenhelper.verify.results import PARTIAL, Result

DAY = 86400.0


def open_until(now: datetime, hours: tuple[int, int]) -> datetime | None:
    """Until when comparing may go on that begins ``now`` (local time); None: not now.

    ``hours``: first and last hour of the day; the same twice: always, a day at a time.
    """
    first, last = hours
    if first == last:
        return now + timedelta(days=1)
    inside = first <= now.hour < last if first < last else now.hour >= first or now.hour < last
    if not inside:
        return None
    end = now.replace(hour=last % 24, minute=0, second=0, microsecond=0)
    return end if end > now else end + timedelta(days=1)


def mine(record: Mapping[str, str], state: events.Resource | None) -> bool:
    """Whether this host's timer compares it: where the VM runs, which is where changes of
    it begin; the lower host name while it runs nowhere."""
    if state is None or not state.connected:
        return False
    if state.role == events.PRIMARY or state.peer_role == events.PRIMARY:
        return state.role == events.PRIMARY
    return record.get("host", "") < record.get("peer", "")


def due(
    records: Mapping[str, Mapping[str, str]],
    kernel: Mapping[str, events.Resource],
    results: Mapping[str, Result | None],
    every_days: int,
    now: float,
) -> list[str]:
    """Names of the resources whose turn it is, the begun and the longest waiting first."""
    if every_days == 0:
        return []
    waiting = []
    for name, record in records.items():
        if not mine(record, kernel.get(name)):
            continue
        result = results.get(name)
        whole = (insync.seconds(result.whole_at) if result is not None else None) or 0.0
        begun = result is not None and result.state == PARTIAL
        if begun or now - whole >= every_days * DAY or whole > now + DAY:
            waiting.append((not begun, whole, name))
    return [name for _, _, name in sorted(waiting)]

"""The alerts' records: raise, clear, read. See xenhelper.alerts."""

import fcntl
import os
import time

from xenhelper import log, paths, statefile
from xenhelper.alerts import bell
from xenhelper.errors import Busy, XenhelperError

INFO, WARNING, ERROR, CRITICAL = "info", "warning", "error", "critical"
SEVERITIES = (INFO, WARNING, ERROR, CRITICAL)
RAISED, OVER = "raised", "over"

QUEUE, KEPT = "queue", "kept"
# how many of its last risings a record remembers: enough to tell one that flaps
REMEMBERED = 10
_PRIORITY = {INFO: log.NOTICE, WARNING: log.WARNING, ERROR: log.ERROR, CRITICAL: log.ERROR}
_LOCK_SECONDS = 5.0
# seconds between a look and what is made of it, at the most
_LOOKS_OLD = 60.0
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.:")
_FORM = "%Y-%m-%dT%H:%M:%SZ"


def raise_(
    kind: str,
    key: str,
    what: str,
    do: str = "",
    vm: str = "",
    resource: str = "",
    severity: str = WARNING,
    again: bool = False,
    as_of: float = float("inf"),
) -> bool:
    """Something is wrong: queue an alert, unless it is raised already. Returns whether it
    is news: not raised before, graver than before, or (``again``) in other words.

    ``as_of``: when it was seen (seconds since 1970); what somebody has ended since then
    isn't raised by an older look.

    ``what`` is one line that tells it to somebody who sees nothing else, ``do`` what to
    type next. Raises XenhelperError or OSError when it can't be stored.
    """
    if severity not in SEVERITIES:
        raise XenhelperError(f"{severity!r} is no severity of an alert")
    what, do = _line(what), _line(do)
    with Lock():
        old = read(kind, key)
        active = old is not None and old["state"] == RAISED
        # no look is that old: a clock that was ahead when it ended must not hide what is true
        if old is not None and not active and 0 <= changed(old) - as_of < _LOOKS_OLD:
            return False
        if active and old is not None:
            graver = SEVERITIES.index(severity) > SEVERITIES.index(old.get("severity", INFO))
            if not graver and not (again and (what, do) != (old.get("what"), old.get("do"))):
                return False
        now = time.time()
        record = dict(old or {})
        for name in ("over_at", "over_what"):
            record.pop(name, None)
        times = [] if active else [f"{now:.0f}"]
        record |= {
            "kind": kind,
            "key": key,
            "severity": severity,
            "vm": vm,
            "resource": resource,
            "what": what,
            "do": do,
            "state": RAISED,
            "since": record["since"] if active else _stamp(now),
            "times": ",".join([*record.get("times", "").split(","), *times][-REMEMBERED:]).strip(","),
        }
        _store(record, now)
    log.event(
        "alert", what + (f"; {do}" if do else ""), _PRIORITY[severity], vm=vm, resource=resource, alert=kind
    )
    return True


def clear(kind: str, key: str, what: str = "") -> bool:
    """It is over: queue word of that, unless it isn't raised. ``what``: how it ended.

    Returns whether it was raised. Costs a stat or two where it wasn't.
    """
    if not _exists(kind, key):
        return False
    with Lock():
        record = read(kind, key)
        if record is None or record["state"] != RAISED:
            return False
        now = time.time()
        record |= {"state": OVER, "over_at": _stamp(now), "over_what": _line(what)}
        _store(record, now)
    log.event(
        "alert-over",
        f"over: {record['what']}" + (f"; {_line(what)}" if what else ""),
        log.NOTICE,
        vm=record.get("vm", ""),
        resource=record.get("resource", ""),
        alert=kind,
    )
    return True


def try_raise(
    kind: str,
    key: str,
    what: str,
    do: str = "",
    vm: str = "",
    resource: str = "",
    severity: str = WARNING,
    as_of: float = float("inf"),
) -> None:
    """:func:`raise_` where the alert is beside the point of what is being done."""
    try:
        raise_(kind, key, what, do, vm, resource, severity, as_of=as_of)
    except (XenhelperError, OSError) as error:
        log.event("failed", f"an alert isn't stored: {error}", log.ERROR, vm=vm, resource=resource)


def try_clear(kind: str, key: str, what: str = "") -> None:
    """:func:`clear`, the same way."""
    try:
        clear(kind, key, what)
    except (XenhelperError, OSError) as error:
        log.event("failed", f"the end of an alert isn't stored: {error}", log.ERROR)


def active() -> "list[dict[str, str]]":
    """Every alert that is raised now, the oldest first."""
    found = [record for record in all_records() if record["state"] == RAISED]
    return sorted(found, key=lambda record: (record["since"], record["kind"], record["key"]))


def is_active(kind: str, key: str) -> bool:
    """Whether this one is raised now."""
    record = read(kind, key)
    return record is not None and record["state"] == RAISED


def all_records() -> "list[dict[str, str]]":
    """Every record, told or not, raised or over; one that can't be read is passed over."""
    found: "dict[str, dict[str, str]]" = {}
    for folder in (KEPT, QUEUE):
        for name in statefile.names(path(folder)):
            record = load(path(folder, name))
            if record is not None:
                found[name] = record
    return list(found.values())


def queued() -> "list[dict[str, str]]":
    """Records of which some channel has something to be told yet."""
    found = (load(path(QUEUE, name)) for name in statefile.names(path(QUEUE)))
    return [record for record in found if record is not None]


def read(kind: str, key: str) -> "dict[str, str] | None":
    """The record, told or not; None when there never was such an alert."""
    name = filename(kind, key)
    return load(path(QUEUE, name)) or load(path(KEPT, name))


def path(folder: str, name: str = "") -> str:
    """Where the records of ``folder`` are, or one of them."""
    return f"{paths.STATE}/alerts/{folder}" + (f"/{name}" if name else "")


def filename(kind: str, key: str) -> str:
    """``KIND.KEY`` with what a file's name can't hold written as %XX."""
    if not kind or not all(c.islower() or c == "-" for c in kind):
        raise XenhelperError(f"{kind!r} is no kind of alert")
    safe = "".join(c if c in _PLAIN else "".join(f"%{b:02X}" for b in c.encode()) for c in key)
    if not key or not key.isprintable() or len(safe) > 200:
        raise XenhelperError(f"{key[:80]!r} can't be an alert's key")
    return f"{kind}.{safe}"


class Lock:
    """Held while a record is changed, which takes a moment. Raises Busy."""

    def __enter__(self) -> "Lock":
        os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(f"{paths.LOCKS}/alerts", flags, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(self._fd)
                    raise Busy(f"the alerts are locked for over {_LOCK_SECONDS:g} s") from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _store(record: "dict[str, str]", now: float) -> None:
    """A change: it is to be told. The queue's record counts where both are there."""
    record["seq"] = str(int(record.get("seq", "0")) + 1)
    if record["state"] == RAISED:
        record["raised_seq"] = record["seq"]
    record["changed"] = f"{now:.2f}"
    name = filename(record["kind"], record["key"])
    statefile.write(path(QUEUE, name), record)
    statefile.remove(path(KEPT, name))
    bell.ring()


def changed(record: "dict[str, str]") -> float:
    """When the record last changed, in seconds since 1970; 0 where that can't be read."""
    try:
        return float(record.get("changed", ""))
    except ValueError:
        return 0.0


def _exists(kind: str, key: str) -> bool:
    name = filename(kind, key)
    return os.path.exists(path(QUEUE, name)) or os.path.exists(path(KEPT, name))


def load(where: str) -> "dict[str, str] | None":
    """None for one that isn't there, or that nobody could do anything with."""
    try:
        record = statefile.read(where)
    except (XenhelperError, OSError):
        return None
    if record is None or not {"kind", "key", "state", "seq", "since", "what"} <= record.keys():
        return None
    return record if record["seq"].isdecimal() else None


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:2000].strip()


def _stamp(now: float) -> str:
    return time.strftime(_FORM, time.gmtime(now))

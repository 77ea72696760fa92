"""The barrier: after it, no write that was acknowledged at protocol A is still unsent.

Protocol A acknowledges a write once it is handed to the network, and a request's mode is
fixed when it is queued. So after switching to C the source waits until no request from
before the switch is left; then everything acknowledged so far is in the TCP stream, and
whatever the source sends next on the same stream (two-primaries yes) arrives behind it.
"""

import os
import time

from xenhelper import paths
from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, Refused
from xenhelper.run import run

# seconds: ages are counted in ticks of the kernel's clock
_GRAIN = 0.02
_SUMMARY = "/sys/kernel/debug/drbd/resources/{}/in_flight_summary"


def oldest_write_ms(text: str) -> "int | None":
    """Age in ms of the oldest application write in ``in_flight_summary``, None if none.

    The rows stand under "oldest application requests", tab-separated under a heading
    that names the columns ``rw`` and ``start`` (age in ms; drbd_debugfs.c). A write of
    protocol A stays listed until its barrier is acknowledged, so this is on the safe side.
    """
    oldest = None
    columns: "list[str] | None" = None
    inside = False
    for line in text.splitlines():
        if line.startswith("oldest application requests"):
            inside = True
            continue
        if not inside:
            continue
        words = line.split("\t")
        if columns is None:
            columns = words
            continue
        if len(words) < len(columns) or not words[0].strip().isdecimal():
            continue
        row = dict(zip(columns, words, strict=False))
        age = row.get("start", "").strip()
        if row.get("rw", "").strip() == "W" and age.isdecimal() and len(age) < 20:
            oldest = int(age) if oldest is None else max(oldest, int(age))
    return oldest


def unconfirmed_since(name: str, switched: float) -> bool:
    """Whether a write from before ``switched`` (monotonic seconds) is in DRBD's transfer
    log: in flight, or acknowledged at protocol A and not confirmed by the peer yet."""
    looked = time.monotonic()  # before the ages are read: a pause in between must not count
    try:
        with open(paths.ROOT + _SUMMARY.format(name), encoding="ascii", errors="replace") as summary:
            age = oldest_write_ms(summary.read())
    except OSError:
        return False  # no debugfs: nothing to go by
    return age is not None and looked - age / 1000 <= switched + _GRAIN


def drain(name: str, minor: int, switched: float, seconds: float) -> None:
    """Wait until no write from before ``switched`` (monotonic seconds) is in flight.

    Then ``resume-io`` on the device, which isn't suspended: it holds new requests,
    waits until none is in flight and lets go. It can't be interrupted and holds DRBD's
    netlink lock, hence first the wait, then a child that is abandoned when it hangs.
    Raises Refused when ``seconds`` aren't enough or the peer is lost meanwhile.
    """
    deadline = time.monotonic() + seconds
    # without debugfs resume-io alone must do, bounded below
    while unconfirmed_since(name, switched):
        _check(name)
        if time.monotonic() > deadline:
            raise Refused(f"{name}: writes stay in flight, the link is too slow or stuck", "try again later")
        time.sleep(0.05)
    try:
        run(["drbdsetup", "resume-io", str(minor)], timeout=max(1.0, deadline - time.monotonic()))
    except CommandFailed as error:
        if error.status is not None:
            raise
        raise Refused(
            f"{name}: its writes don't drain", "the link is too slow or stuck; try again later"
        ) from error
    _check(name)


def quiet(name: str, seconds: float) -> events.Resource:
    """Wait until the application has no request in flight, seen twice in a row.

    Twice, since a suspended guest's backend may just be taking the next requests from
    the ring. Raises Refused.
    """
    deadline = time.monotonic() + seconds
    seen = 0
    while True:
        resource = _check(name)
        seen = seen + 1 if resource.upper_pending == 0 else 0
        if seen == 2:
            return resource
        if time.monotonic() > deadline:
            raise Refused(f"{name}: {resource.upper_pending} requests are still in flight", "try again later")
        time.sleep(0.02)


def _check(name: str) -> events.Resource:
    resource = events.one(name)
    if resource is None or not resource.in_sync:
        raise Refused(
            f"{name}: not Connected and UpToDate on both hosts ({resource})", "see `xenhelper status`"
        )
    return resource


def debugfs_there() -> bool:
    """Whether the kernel shows DRBD's requests (debugfs mounted)."""
    return os.path.isdir(paths.ROOT + "/sys/kernel/debug/drbd/resources")

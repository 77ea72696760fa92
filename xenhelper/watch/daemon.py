"""The watcher's loop: within seconds of a start it finds a domain beneath DRBD, it notes
durably when each disk was last in sync, and it calls the reconciler when hosts meet."""

import time

from xenhelper import beneath, insync, intents, log
from xenhelper.drbd import events, proc
from xenhelper.errors import XenhelperError
from xenhelper.watch import rounds
from xenhelper.watch.wake import SpinGuard, Waker

# seconds: a look costs a few reads over one socket, and 10 s are promised
EVERY = 4.0
LISTEN_AGAIN = 60.0
# what lasts is said again, for whoever reads only the newest entries
SAY_AGAIN = 3600.0


class Watcher:
    """Remembers what it has said."""

    def __init__(self) -> None:
        self._said: dict[beneath.Finding, float] = {}
        self._trouble = ""
        self._tracker = insync.Tracker()
        self._rounds = rounds.Rounds()

    def look_at_disks(self, domains_changed: bool) -> bool:
        """Note which disks are in sync, and when one no longer is. /proc/drbd costs no fork.

        Returns whether the reconciler should come now.
        """
        try:
            states, records = proc.read()[1], beneath.records()
            self._tracker.tick(states, records, time.time())
            open_change = bool(intents.all_open()) if domains_changed else False
        except (OSError, XenhelperError) as error:
            log.event("failed", f"watch: {error}", log.WARNING)
            return False
        return self._rounds.look(states, records, domains_changed, open_change, time.monotonic())

    def look(self) -> list[beneath.Finding]:
        """One look; logs what is new. Returns what was logged."""
        try:
            found = beneath.scan()
        except XenhelperError as error:
            if str(error) != self._trouble:
                log.event("failed", f"watch: {error}", log.WARNING)
            self._trouble = str(error)
            return []
        self._trouble = ""
        self._said = {finding: when for finding, when in self._said.items() if finding in found}
        now = time.monotonic()
        fresh = [finding for finding in found if now - self._said.get(finding, -SAY_AGAIN) >= SAY_AGAIN]
        for finding in fresh:
            self._said[finding] = now
            log.event(
                "beneath",
                f"{finding.what()}; {finding.do(_state(finding.resource))}",
                log.ERROR,
                vm=finding.vm,
                resource=finding.resource,
                volume=finding.volume,
                domain=finding.domain,
            )
        return fresh


def _state(resource: str) -> events.Resource | None:
    try:
        return events.one(resource)
    except XenhelperError:
        return None


def serve() -> int:
    """For ever; returns only when it should be started afresh."""
    watcher, waker, guard = Watcher(), Waker(), SpinGuard()
    listened = -LISTEN_AGAIN
    changed = False
    while not guard.spins():
        if not waker.alive() and time.monotonic() - listened >= LISTEN_AGAIN:
            listened = time.monotonic()
            waker.start()
        if watcher.look_at_disks(changed):
            rounds.start()
        watcher.look()
        changed = waker.event.wait(EVERY)
        waker.event.clear()
        time.sleep(0.5)  # a create changes many keys in a row: one look for all of them
    log.event("failed", "watch: pyxs spins; starting afresh", log.WARNING)
    return 1

"""The watcher's loop. It sleeps until DRBD or xenstore ring, or something is due; then it
looks, raises and clears alerts, notes durably which disks are in sync, and calls the
reconciler when hosts meet. While nothing happens it wakes once a minute.
"""

import os
import time

from xenhelper import beneath, config, dead, insync, log, metrics, paths
from xenhelper.alerts import bell
from xenhelper.drbd import events
from xenhelper.errors import XenhelperError
from xenhelper.tuning import keep as read_ahead
from xenhelper.watch import judge, look, notify, rounds, tell
from xenhelper.watch.bells import Bells
from xenhelper.watch.wake import SpinGuard
from xenhelper.watch.world import World

# seconds: in_sync notes, systemd's watchdog (a third of WatchdogSec)
IDLE = 60.0
# while a bell is out of order; 10 s are promised for a domain beneath DRBD
EVERY = 4.0
# a create changes many keys in a row: one look for all of them
TOGETHER = 0.5
# what the reconciler has put right is looked at then: no bell rings for its files
ROUND_TAKES = 15.0
# a bell that belongs to what was seen has rung by then
RINGS_WITHIN = 5.0
# what lasts is said again, for whoever reads only the newest entries of the journal
SAY_AGAIN = 3600.0


class Watcher:
    """Remembers what it has said, and how long things last."""

    def __init__(self) -> None:
        self._said: dict[beneath.Finding, float] = {}
        self._trouble = ""
        self._tracker = insync.Tracker()
        self._rounds = rounds.Rounds()
        self._patience = tell.Patience()
        self._config: config.Config | None = None
        self._stamp: object = None
        self._unwritten = ""
        self._round_done = 0.0
        self._coming = False
        self.seen: object = None

    def look(self, domains_changed: bool = False) -> float:
        """One look and all that follows from it. Returns seconds until the next one."""
        try:
            world, trouble = look.world(time.time())
        except (XenhelperError, OSError) as error:
            self._tell_trouble(str(error))
            return EVERY
        self._tell_trouble(trouble)
        if world.backends is not None:
            # what xenstore rings for; a domain's name is elsewhere
            self.seen = frozenset((disk.domid, disk.devid, disk.device) for disk in world.backends)
        now = time.monotonic()
        try:
            # now, and not with the round that this rings for: the link may be gone again by then
            dead.met(world.states, world.records)
            self._tracker.tick(world.states, world.records, world.now)
        except (XenhelperError, OSError) as error:
            log.event("failed", f"watch: {error}", log.WARNING)
        if self._rounds.look(world.states, world.records, domains_changed, bool(world.intents), now):
            rounds.start()
            self._round_done = now + ROUND_TAKES
        self.say_beneath(world.beneath)
        read_ahead.look(world.records.values())
        # a host that shuts down takes its resources down, and that is nobody's trouble
        if os.path.exists(paths.STOPPING):
            return IDLE
        after_round = self._round_done - now if self._round_done > now else IDLE
        return min(self._alerts(world, now), self._rounds.due_in(now), after_round, IDLE)

    def _alerts(self, world: World, now: float) -> float:
        settings = self._settings()
        self._metrics(world, settings)
        keep = set(judge.FROM_XENSTORE) if world.backends is None else set()
        if settings is None:
            keep |= {"stale", "unreplicated"}
        wanted = judge.wanted(world, settings, lambda finding: finding.do(_state(finding.resource)))
        step = self._patience.step(wanted, world.raised, keep, now)
        coming = step.again < float("inf")
        if coming and not self._coming:
            # the sender reads a changed configuration while it is seen whether this lasts
            bell.ring()
        self._coming = coming
        tell.act(step, world)
        due = judge.due(world, settings.alerts.stale_minutes) - world.now if settings else float("inf")
        return min(step.again, due)

    def _metrics(self, world: World, settings: config.Config | None) -> None:
        path = settings.textfile if settings is not None else ""
        if not path or not os.path.isdir(os.path.dirname(path)):
            return
        try:
            metrics.write(metrics.render(metrics.families(world, metrics.read(world))), path)
            self._unwritten = ""
        except OSError as error:
            if str(error) != self._unwritten:
                log.event("failed", f"watch: metrics: {error}", log.WARNING)
            self._unwritten = str(error)

    def _settings(self) -> config.Config | None:
        """The configuration, read anew when its file is another."""
        try:
            status = os.stat(paths.CONFIG)
            stamp: object = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._stamp, self._config = stamp, None
                self._config = config.load()
        except (XenhelperError, OSError) as error:
            log.event("failed", f"watch: {error}", log.WARNING)
        return self._config

    def say_beneath(self, found: "tuple[beneath.Finding, ...]") -> list[beneath.Finding]:
        """Log what is new of domains beneath DRBD. Returns what was logged."""
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

    def _tell_trouble(self, text: str) -> None:
        if text and text != self._trouble:
            log.event("failed", f"watch: {text}", log.WARNING)
        self._trouble = text


def _state(resource: str) -> events.Resource | None:
    try:
        return events.one(resource)
    except XenhelperError:
        return None


def serve() -> int:
    """For ever; returns only when it should be started afresh."""
    watcher, bells, guard = Watcher(), Bells(), SpinGuard()
    ring = False
    deaf_at: float | None = None
    first = True
    while not guard.spins():
        both = bells.keep_up()
        before = watcher.seen
        wait = watcher.look(ring)
        notify.say("READY=1\nWATCHDOG=1" if first else "WATCHDOG=1")
        now = time.monotonic()
        if ring or first:
            deaf_at = None
        elif both and watcher.seen != before and deaf_at is None:
            deaf_at = now + RINGS_WITHIN  # it will ring any moment, or it is deaf
        elif deaf_at is not None and now >= deaf_at:
            log.event("failed", "watch: xenstore's events don't come; starting afresh", log.WARNING)
            return 1
        first = False
        if not both:
            wait = min(wait, EVERY)
        if deaf_at is not None:
            wait = min(wait, max(0.0, deaf_at - now))
        rang = bells.wait(wait)
        if any(rang):
            time.sleep(TOGETHER)
            again = bells.wait(0.0)
            rang = (rang[0] or again[0], rang[1] or again[1])
        ring = rang[1]
    log.event("failed", "watch: it spins; starting afresh", log.WARNING)
    return 1

"""One resource compared: begun when nothing stands in the way, limited in speed, watched,
stopped in time, its result kept.

The VM's lock is held only for the moment of the start, so that neither the reconciler nor
a migration waits for hours; who begins a change stops the comparison (``stop``), and it
goes on afterwards where it was.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from xenhelper import alerts, beneath, intents, log, names, paths, statefile
from xenhelper.drbd import events, proc, verbs
from xenhelper.errors import Busy, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.verify import kernel, results, stop
from xenhelper.verify.results import CLEAN, DIFFERS, PARTIAL, Result

EVERY = 1.0  # seconds between two looks
SAVE = 60.0  # seconds between two durable notes of how far it has come
PATIENCE = 1800.0  # seconds that it waits for a migration, say, before it gives up
_MISSES = 100  # starts that were forestalled, each after five seconds
# bytes that are compared again after a stop: answers that were under way don't count
_AGAIN = 8 << 20


@dataclass(frozen=True)
class Limits:
    """``rate`` in bytes a second; ``until``: a moment of the monotonic clock, None: no end.
    ``patient``: wait for what passes (a change under way, another host's verify)."""

    rate: int
    until: float | None = None
    patient: bool = True

    def over(self) -> bool:
        """Whether the time is up."""
        return self.until is not None and time.monotonic() >= self.until


def hindrance(name: str, state: events.Resource | None, changes: list[str], peer_busy: bool) -> str:
    """Why ``name`` can't be compared now; '' when it can. ``changes``: kinds of the VM's
    open intents. Pure."""
    if state is None:
        return f"{name} isn't up on this host"
    if not state.connected:
        return f"{name} is {state.connection}, not Connected"
    if not state.in_sync:
        return f"{name} isn't UpToDate on both hosts ({state.disk}/{state.peer_disk})"
    if changes:
        return f"{name}: a change of its VM ({', '.join(changes)}) is under way"
    if peer_busy:
        return f"{name}: the other host is at work on its VM"
    if state.replication in stop.RUNNING:
        return f"{name} is being compared already"
    if state.replication != "Established":
        return f"{name} syncs ({state.replication})"
    return ""


def passing(state: events.Resource | None) -> bool:
    """Whether waiting may help: the disks are well, somebody is just at work."""
    return state is not None and state.in_sync


def run(record: dict[str, str], limits: Limits, show: Callable[[int, int], None], resume: bool) -> Result:
    """Compare ``record``'s resource; goes on where an earlier one was stopped if ``resume``.
    ``show`` is told how many bytes of how many are compared, about each second.

    The caller holds :func:`stop.lock`. Raises Refused, or Busy when it can't begin now.
    """
    name = names.check_resource(record["resource"])
    if os.path.exists(f"{stop.marks()}/{name}"):
        stop.here(name)  # left by one that was killed: nobody else of this host is at it now
    job = _Job(record, limits, show, resume)
    try:
        while not job.finished and not limits.over():
            job.wait_for_turn()
            if limits.over():
                break
            job.round()
    finally:
        if job.result.until:
            results.share(job.result, record["peer"])
    _report(name, job.result)
    return job.result


class _Job:
    """What is known while it goes on."""

    def __init__(
        self, record: dict[str, str], limits: Limits, show: Callable[[int, int], None], resume: bool
    ) -> None:
        self.name, self.vm, self.peer = record["resource"], record["vm"], record["peer"]
        self.limits, self.show = limits, show
        self.minor = int(record["minor"])
        self.begun_at = 0
        self.misses = 0
        self.finished = False
        before = results.read(self.name)
        if resume and before is not None and before.state == PARTIAL:
            self.result = replace(before, by=record["host"], until="")
        else:
            whole = before.whole_at if before is not None else ""
            self.result = Result(
                self.name, self.vm, PARTIAL, record["host"], results.now(), "", 0, 0, 0, whole_at=whole
            )

    def wait_for_turn(self) -> None:
        """Until nothing stands in the way. Raises Refused when that can't be waited for."""
        deadline = time.monotonic() + (PATIENCE if self.limits.patient else 0.0)
        while True:
            state = events.one(self.name)
            why = hindrance(self.name, state, _changes(self.vm), self._peer_busy())
            why = why or elsewhere(self.name, proc.read()[1], beneath.records())
            if not why:
                return
            if not passing(state):
                raise Refused(why, "see `xenhelper status`; verify it once it is well")
            if time.monotonic() >= deadline:
                raise Busy(why, "try again later")
            if self.limits.over():
                return
            time.sleep(5.0)

    def _peer_busy(self) -> bool:
        from xenhelper.peer import client

        try:
            return bool(client.ask(self.peer, "busy", {"vm": self.vm}, timeout=25.0).get("busy"))
        except PeerUnreachable as error:
            raise Refused(
                f"{self.name}: {self.peer} can't be asked whether it is at work on {self.vm}: {error.what}",
                f"check {self.peer}",
            ) from error
        except PeerFailed:
            return True

    def round(self) -> None:
        """Begin, watch until it ends or has to, and note what was found."""
        log_ = kernel.Log()
        try:
            state = self._begin()
            if state is None:
                self.misses += 1
                if self.misses > _MISSES:
                    raise Busy(f"{self.name}: somebody stays at work on {self.vm}", "try again later")
                return
            try:
                self._watch(log_)
            finally:
                self._end(log_, state)
        finally:
            log_.close()

    def _begin(self) -> events.Resource | None:
        """Under the VM's lock, so that no change begins between the look and the start.
        None: something came between."""
        try:
            held = intents.lock(self.vm, wait=5.0, who="verify")
        except Refused:
            return None
        try:
            state = events.one(self.name)
            if state is None or hindrance(self.name, state, _changes(self.vm), False):
                return None
            self.result = replace(self.result, size=state.size)
            statefile.write(f"{stop.marks()}/{self.name}", {"pid": str(os.getpid())})
            verbs.sync_rate(state.minor, max(250, self.limits.rate // 1024))
            self.begun_at = self.result.position
            verbs.verify(state.minor, self.result.position // kernel.SECTOR, state.size // kernel.SECTOR)
            return state
        finally:
            os.close(held)

    def _watch(self, log_: kernel.Log) -> None:
        saved, records = time.monotonic(), beneath.records()
        while True:
            time.sleep(EVERY)
            log_.read()
            text = proc.text()  # no fork: this goes on for hours
            states = proc.parse(text)[1]
            mine = states.get(self.minor)
            if mine is None or mine.connection != stop.SOURCE:
                return
            if self.limits.over() or elsewhere(self.name, states, records):
                return
            progress = proc.progress(text).get(self.minor)
            if progress is not None:
                begun = self.result.size - self.begun_at
                self._note(log_, self.begun_at + int(begun * progress.percent / 100))
            if time.monotonic() - saved >= SAVE:
                saved = time.monotonic()
                results.write(replace(self.result, until=results.now()))

    def _note(self, log_: kernel.Log, position: int) -> None:
        """How far it has come, as far as is certain, and what was found until there."""
        said = kernel.parse(log_.lines, self.minor)
        self._found(said)
        at = max(self.result.position, min(position, self.result.size) - _AGAIN)
        self.result = replace(self.result, position=at)
        self.show(at, self.result.size)

    def _found(self, said: kernel.Said) -> None:
        ranges = kernel.merged([*self.result.ranges, *said.ranges])
        self.result = replace(self.result, ranges=ranges, differing=sum(length for _, length in ranges))

    def _end(self, log_: kernel.Log, state: events.Resource) -> None:
        """Whatever happened: it runs no longer, at full speed again, and its result is known."""
        try:
            stop.here(self.name)
        finally:
            stop.full_speed(self.name, self.vm)
        deadline = time.monotonic() + 3.0
        while not (said := kernel.parse(log_.read(), state.minor)).done and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(EVERY / 4)  # how far it came is logged a moment after that it is done
        said = kernel.parse(log_.read(), state.minor)
        self._found(said)
        if not said.done:
            self.result = replace(self.result, until=results.now())
            raise XenhelperError(
                f"{self.name}: the kernel's log doesn't say how far the comparison came",
                "see `dmesg`, then verify it again",
            )
        if said.reached is not None:
            at = max(self.result.position, min(said.reached, state.size) - _AGAIN)
            self.result = replace(self.result, position=at, until=results.now())
            return
        self.finished = True
        outcome = DIFFERS if self.result.differing else CLEAN
        when = results.now()
        self.result = replace(self.result, state=outcome, position=state.size, until=when, whole_at=when)


def _changes(vm: str) -> list[str]:
    return [intent.get("kind", "?") for intent in intents.all_open() if intent.get("vm") == vm]


def elsewhere(name: str, states: Mapping[int, proc.State], records: Mapping[str, Mapping[str, str]]) -> str:
    """'' or why another comparison goes first: the disks of two would be read at once, and
    when both hosts began at the same moment the lower name goes on. Pure."""

    def now(resource: str) -> str:
        minor = records.get(resource, {}).get("minor", "")
        state = states.get(int(minor)) if minor.isdecimal() else None
        return state.connection if state is not None else ""

    runs = now(name) == stop.SOURCE
    for other, record in records.items():
        first = not runs or record.get("peer", "") < record.get("host", "")
        if other != name and now(other) == stop.TARGET and first:
            return f"{name}: {record.get('peer', 'the other host')} compares {other} at this moment"
    return ""


def _report(name: str, result: Result) -> None:
    priority = log.WARNING if result.differing else log.INFO
    log.event(
        "verify",
        f"{name}: {results.tell(result)}",
        priority,
        vm=result.vm,
        resource=name,
        state=result.state,
        differing_bytes=str(result.differing),
    )
    try:
        _alert(name, result)
    except (XenhelperError, OSError) as error:
        log.event("failed", f"{name}: the alert couldn't be stored: {error}", log.WARNING, resource=name)


def _alert(name: str, result: Result) -> None:
    """Once for one state of affairs, by the host that compared; results.write clears it."""
    if result.differing:
        alerts.raise_(
            "verify",
            name,
            f"{name}: both copies aren't the same: {results.tell(result)}",
            "find out which host's blocks are right, then "
            f"`xenhelper verify {result.vm} --repair --good HOST`",
            vm=result.vm,
            resource=name,
            severity=alerts.ERROR,
            again=True,
        )


def check_known(name: str) -> dict[str, str]:
    """The record of ``name``. Raises XenhelperError."""
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or not {"vm", "peer", "host", "minor"} <= record.keys():
        raise XenhelperError(f"{name}: its record isn't whole", f"see {paths.RESOURCES}/{name}")
    return record

"""xenhelper-alert.service: tells every channel what it hasn't been told.

It is a process of its own, so the watcher never waits for a channel, and whatever dies, what
is on disk is told later; systemd starts it when the queue isn't empty and it doesn't run. It
stays, with all loaded that a channel in use needs: to start Python and read the libraries for
mail and HTTP takes a busy host longer than to tell. While nothing is to be told it sleeps
(bell.py). A channel that fails is tried again, later and later, while the others go on. What
a channel has taken is noted at once; killed between the two it is sent again, with the same
id.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenhelper import config, insync, log, paths, statefile
from xenhelper.alerts import bell, channels, decide, message, store
from xenhelper.alertsettings import Alerts
from xenhelper.errors import XenhelperError

# seconds between two looks: with nothing to be told; at a changed configuration while something
# is; the shortest
_IDLE, _LOOK, _SHORTEST = 60.0, 5.0, 0.05
# seconds that a record of what is over is kept: whether an alert flaps is read from it
KEEP = 24 * 3600.0

Start = Callable[[Callable[[], None]], None]


def _thread(body: Callable[[], None]) -> None:
    threading.Thread(target=body, daemon=True).start()


@dataclass
class Channel:
    """One way to tell, and how it has gone lately."""

    name: str
    failures: int = 0
    next_try: float = 0.0
    busy: bool = False


class Sender:
    """``clock`` gives seconds since 1970; ``start`` runs a channel's sending beside the rest."""

    def __init__(self, clock: Callable[[], float] = time.time, start: Start = _thread) -> None:
        self._clock = clock
        self._start = start
        self._stamp: object = None
        self.settings = Alerts()
        self.channels: dict[str, Channel] = {}

    def run(self, wait: Callable[[float], None]) -> None:
        """For ever. ``wait`` until the bell rings or so many seconds have passed."""
        while True:
            again = self.round()
            if again is None:
                _forget_old(self._clock())
            wait(_IDLE if again is None else again)

    def round(self) -> float | None:
        """Tell what is due. Returns seconds until the next look unless the bell rings before
        that, None when all is told."""
        self._configure()
        _set_aside_broken()
        now = self._clock()
        records = store.queued()
        wait = _LOOK
        for channel in self.channels.values():
            if not channel.busy:
                wait = min(wait, self._tell(channel, records, now))
        if not any(channel.busy for channel in self.channels.values()):
            _keep(list(self.channels))
        return max(wait, _SHORTEST) if statefile.names(store.path(store.QUEUE)) else None

    def _configure(self) -> None:
        """The channels as the file names them now: a fault in it is mended while we try."""
        try:
            status = os.stat(paths.CONFIG)
            stamp: object = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError:
            stamp = ""
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.settings = config.load().alerts
        except XenhelperError as error:
            log.event("failed", f"alerts go to root by local mail only: {error}", log.ERROR)
            self.settings = Alerts()
        names = channels.configured(self.settings)
        if not names:
            log.event("note", "alerts are told to nobody: no channel in [alerts] can be used", log.WARNING)
        self.channels = {name: self.channels.get(name) or Channel(name) for name in names}
        for channel in self.channels.values():
            channel.next_try = 0.0
        for record in store.active():
            if record["kind"] == "channel" and record["key"] not in names:
                store.clear("channel", record["key"], "no longer used")

    def _tell(self, channel: Channel, records: list[dict[str, str]], now: float) -> float:
        """Start to tell it what is due. Returns seconds until it has something to be told,
        infinite when there is nothing, or when its thread rings."""
        if now < channel.next_try:
            return channel.next_try - now
        words = []
        for record in records:
            word = decide.word(record, channel.name)
            if word is None:
                continue
            if record["kind"] == "channel" and record["key"] == channel.name:
                _mark([(record, word)], channel.name)  # not by itself
            else:
                words.append((record, word))
        first = min((word.at for _, word in words), default=float("inf"))
        if now < first:
            return first - now
        # what is all but due goes with it: one message in place of two
        due = [(record, word) for record, word in words if now >= word.at - decide.GATHER]
        allowance = _allowance(channel.name, now, self.settings.per_hour)
        if allowance.left < 1:
            channel.next_try = now + allowance.wait(self.settings.per_hour)
            return channel.next_try - now
        channel.busy = True
        self._start(lambda: self._send(channel, due, allowance))
        return float("inf")

    def _send(
        self, channel: Channel, due: list[tuple[dict[str, str], decide.Word]], allowance: decide.Allowance
    ) -> None:
        """In the channel's thread: send, note it. Never raises."""
        try:
            made = message.message(
                os.uname().nodename,
                self._clock(),
                [message.notice(record, word.manner, os.uname().nodename) for record, word in due],
            )
            module: Any = channels.module(channel.name)
            try:
                module.send(made, self.settings)
            except Exception as error:
                self._failed(channel, due, error)
                return
            _mark(due, channel.name)
            statefile.write(
                _sent(channel.name), {"left": f"{allowance.left - 1:.3f}", "at": f"{allowance.at:.0f}"}
            )
            channel.failures = 0
            store.clear("channel", channel.name, "it takes messages again")
        except Exception as error:  # a full disk, say: what was sent may be sent again
            log.event("failed", f"alerts by {channel.name}: {error}", log.ERROR)
            channel.next_try = self._clock() + decide.back_off(2)
        finally:
            channel.busy = False
            bell.ring()

    def _failed(
        self, channel: Channel, due: list[tuple[dict[str, str], decide.Word]], error: Exception
    ) -> None:
        now = self._clock()
        channel.failures += 1
        channel.next_try = now + decide.back_off(channel.failures)
        said = str(error) or type(error).__name__
        if channel.failures in (1, decide.FAILURES_TO_TELL):
            log.event(
                "alert-unsent",
                f"alerts by {channel.name}: {said}; tried again",
                log.WARNING,
                alert=channel.name,
            )
        old = [pair for pair in due if now - float(pair[0].get("changed", now)) > decide.GIVE_UP]
        if old:
            _mark(old, channel.name)
            for record, _ in old:
                log.event(
                    "alert-unsent",
                    f"alerts by {channel.name}: given up after a day: {record['what']}",
                    log.ERROR,
                    vm=record.get("vm", ""),
                    resource=record.get("resource", ""),
                    alert=channel.name,
                )
        if channel.failures >= decide.FAILURES_TO_TELL:
            store.raise_(
                "channel",
                channel.name,
                f"alerts don't get out by {channel.name}: {said}",
                "mend [alerts] or what it names; `xenhelper alert --test` tries it",
            )


def _mark(pairs: list[tuple[dict[str, str], decide.Word]], channel: str) -> None:
    """Note durably what the channel has been told; a change since then stays to be told."""
    for record, word in pairs:
        name = store.filename(record["kind"], record["key"])
        with store.Lock():
            now = store.load(store.path(store.QUEUE, name))
            if now is not None:
                statefile.write(
                    store.path(store.QUEUE, name),
                    decide.told(now, channel, int(record["seq"]), word.flapping),
                )


def _keep(names: list[str]) -> None:
    """Take from the queue what every channel has been told."""
    for record in store.queued():
        if decide.is_told(record, names):
            name = store.filename(record["kind"], record["key"])
            with store.Lock():
                now = store.load(store.path(store.QUEUE, name))
                if now is not None and decide.is_told(now, names):
                    _move(name)


def _move(name: str) -> None:
    os.makedirs(store.path(store.KEPT), mode=0o700, exist_ok=True)
    os.rename(store.path(store.QUEUE, name), store.path(store.KEPT, name))
    statefile.sync_folder(store.path(store.KEPT))
    statefile.sync_folder(store.path(store.QUEUE))


def _set_aside_broken() -> None:
    """A file in the queue that is no record would keep it from ever being empty."""
    folder = store.path(store.QUEUE)
    for name in statefile.names(folder):
        with store.Lock():
            if os.path.exists(f"{folder}/{name}") and store.load(f"{folder}/{name}") is None:
                log.event(
                    "failed", f"{folder}/{name} is no alert; moved to {store.path(store.KEPT)}", log.ERROR
                )
                _move(name)


def _forget_old(now: float) -> None:
    """Records of what has long been over, and broken ones."""
    folder = store.path(store.KEPT)
    for name in statefile.names(folder):
        with store.Lock():
            record = store.load(f"{folder}/{name}")
            if record is None or (
                record["state"] == store.OVER and now - float(record.get("changed", "0")) > KEEP
            ):
                statefile.remove(f"{folder}/{name}")


def _allowance(channel: str, now: float, per_hour: int) -> decide.Allowance:
    try:
        record = statefile.read(_sent(channel)) or {}
        old = decide.Allowance(float(record["left"]), float(record["at"]))
    except (XenhelperError, KeyError, ValueError):
        old = decide.Allowance(float(per_hour), now)
    return old.now(now, per_hour)


def _sent(channel: str) -> str:
    return f"{paths.STATE}/alerts/sent/{channel}"


def test(settings: Alerts, host: str, now: float) -> dict[str, str]:
    """Send a test by each channel now. Channel -> '' or why it failed."""
    record = {
        "kind": "test",
        "key": "test",
        "seq": "1",
        "severity": store.INFO,
        "what": f"test from {host}: alerts of xenhelper arrive here",
        "do": "nothing",
        "since": insync.stamp(now),
    }
    made = message.message(host, now, [message.notice(record, message.RAISED, host)])
    found = {}
    for name in channels.configured(settings):
        try:
            channels.module(name).send(made, settings)
            found[name] = ""
        except (XenhelperError, OSError) as error:
            found[name] = str(error) or type(error).__name__
    return found

"""What a guest was told is written, and at which protocol: kept outside of the hosts.

A host that loses its power loses the end of its logs, so the harness follows the guest's
console and DRBD's state as they come. From both it knows which blocks were certainly
acknowledged at protocol C; those may never be missing again.
"""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import guest, measure
from .guest import BootReport
from .host import Host
from .lab import Lab

STEP_MS = 200
# seconds: the guest speaks once a second, and its words and the samples come by two pipes
SETTLED = 1.0
EARLY = 1.5


@dataclass(frozen=True)
class Told:
    """One status line: up to this number the guest's writes were acknowledged."""

    at: float  # seconds of the harness's clock
    disk: str
    acked: int


@dataclass(frozen=True)
class Seen:
    """One look at one minor of the host on which those lines were printed."""

    at: float
    minor: int
    state: tuple[str, str, str]  # connection, role, protocol


SYNCHRONOUS = ("Connected", "Primary", "C")


def spans(samples: Iterable[Seen], minor: int) -> list[tuple[float, float]]:
    """From when to when every look showed a connected Primary at protocol C."""
    found: list[tuple[float, float]] = []
    inside = False
    for sample in samples:
        if sample.minor != minor:
            continue
        if sample.state == SYNCHRONOUS:
            found[-1:] = [(found[-1][0], sample.at)] if inside else [*found[-1:], (sample.at, sample.at)]
        inside = sample.state == SYNCHRONOUS
    return found


def certain(told: Iterable[Told], samples: Sequence[Seen], disk: str, minor: int) -> int:
    """The highest number that was certainly acknowledged at protocol C; 0 for none.

    A number counts when the guest named it well inside of a span, above what it had
    named in the same span before: those were acknowledged earlier, perhaps at A.
    """
    best = 0
    lines = [line for line in told if line.disk == disk]
    for begin, end in spans(samples, minor):
        inside = [line.acked for line in lines if begin + SETTLED < line.at < end - EARLY]
        if len(inside) > 1 and inside[-1] > inside[0]:
            best = max(best, inside[-1])
    return best


def last(told: Iterable[Told]) -> dict[str, int]:
    """The highest number that each disk was told."""
    found: dict[str, int] = {}
    for line in told:
        found[line.disk] = max(line.acked, found.get(line.disk, 0))
    return found


def missing(told: Mapping[str, int], boots: Iterable[BootReport]) -> dict[str, int]:
    """Acknowledged blocks per disk that a boot didn't find (the worst of the boots)."""
    found: dict[str, int] = {}
    for boot in boots:
        found[boot.disk] = max(found.get(boot.disk, 0), told.get(boot.disk, 0) - boot.full)
    return {disk: count for disk, count in found.items() if count > 0}


class Witness:
    """Follows one guest on both hosts: ``with Witness(lab, "web1", {"xvda": 1000}) as seen``."""

    def __init__(self, lab: Lab, name: str, minors: Mapping[str, int]) -> None:
        self._lab = lab
        self._name = name
        self._minors = dict(minors)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.told: dict[str, list[Told]] = {host.name: [] for host in lab.hosts}
        self.seen: dict[str, list[Seen]] = {host.name: [] for host in lab.hosts}
        self.wrong: list[str] = []
        self._booted = math.inf

    def __enter__(self) -> Witness:
        numbers = " ".join(str(minor) for minor in self._minors.values())
        for host in self._lab.hosts:
            self._follow(
                host,
                f"cd {guest.LOGS}; exec tail -q -n 0 -F guest-{self._name}.log "
                f"guest-{self._name}--incoming.log 2>/dev/null",
                self._console,
            )
            self._follow(host, f"exec drbd-sample {STEP_MS} {numbers}", self._sample)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=30)

    def _follow(self, host: Host, command: str, take: Callable[[Host, float, str], None]) -> None:
        process = host.start(command)
        self._processes.append(process)

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                text = line.decode(errors="replace").replace("\r", "")
                take(host, time.monotonic(), text)

        threading.Thread(target=read, daemon=True).start()

    def _console(self, host: Host, at: float, text: str) -> None:
        if guest.boots(text):
            self._booted = min(self._booted, at)
        if " WRONG " in text or " failed pos=" in text:
            self.wrong.append(f"{host.name}: {text.strip()}")
        for disk, report in guest.statuses(text).items():
            self.told[host.name].append(Told(at, disk, report.acked))

    def _sample(self, host: Host, at: float, text: str) -> None:
        for sample in measure.parse(text):
            state = (sample.connection, sample.role, sample.protocol)
            self.seen[host.name].append(Seen(at, sample.minor, state))

    def _before_boot(self, host: str) -> list[Told]:
        return [line for line in self.told[host] if line.at < self._booted]

    def acknowledged(self) -> dict[str, int]:
        """The highest number each disk was told on either host, before any new boot."""
        return last([line for host in self.told for line in self._before_boot(host)])

    def synchronous(self) -> dict[str, int]:
        """The highest number of each disk that was certainly acknowledged at protocol C."""
        return {
            disk: max(certain(self._before_boot(h), list(self.seen[h]), disk, minor) for h in self.told)
            for disk, minor in self._minors.items()
        }

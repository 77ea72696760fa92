"""Both hosts watched while something goes on: DRBD's samples, the product's journal, their clocks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from . import demo_samples as ds
from . import measure
from .host import Host
from .lab import Lab

_CLOCK = "while read -r line; do read -r up rest < /proc/uptime; echo $up; done"


def look_at_clock(host: Host, looks: int = 8) -> tuple[float, float]:
    """The host's uptime and the harness's clock in the same moment, to some hundredths of a second."""
    found = []
    with subprocess.Popen(
        host.ssh_command(_CLOCK), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(looks):
            before = time.monotonic()
            process.stdin.write(b"\n")
            line = process.stdout.readline()
            found.append((before, float(line), time.monotonic()))
    return ds.closest_look(found)


@dataclass(frozen=True)
class Seen:
    """What one host gave; all times are its own uptime, which ``clock`` turns into the harness's."""

    host: str
    clock: ds.Clock
    samples: Sequence[measure.Sample]
    entries: Sequence[ds.Entry]


class Recording:
    """``with Recording(lab, minors) as recording: …``, then ``seen``."""

    def __init__(self, lab: Lab, minors: Sequence[int]) -> None:
        self.lab = lab
        self._samplers = [measure.Sampler(host, minors) for host in lab.hosts]

    def __enter__(self) -> Recording:
        self._first = self.lab.both(look_at_clock)
        self._cursors = self.lab.both(
            lambda host: host.out("journalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p'")
        )
        for sampler in self._samplers:
            sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for sampler in self._samplers:
            sampler.__exit__()

    def seen(self) -> list[Seen]:
        """In the lab's order of hosts. Call after the ``with``."""
        last = self.lab.both(look_at_clock)
        return [
            Seen(
                host.name,
                ds.Clock(first, later),
                measure.parse(sampler.text()),
                ds.parse_journal(_journal(host, cursor)),
            )
            for host, first, later, sampler, cursor in zip(
                self.lab.hosts, self._first, last, self._samplers, self._cursors, strict=True
            )
        ]


def _journal(host: Host, cursor: str) -> str:
    return host.run(f"journalctl -q -t xenhelper -o json --after-cursor='{cursor}'", check=False).out

"""Downtime and windows of a migration, from samples of /proc/drbd on one host.

All times are of that host's own clock (seconds since its boot): the guest's
stands still while it is suspended, and two hosts' clocks don't agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .host import Host

STEP_MS = 50


@dataclass(frozen=True)
class Sample:
    """One look at one minor."""

    up: float
    minor: int
    connection: str
    role: str
    peer_role: str
    protocol: str
    received: int  # KiB that came over the link (nr)
    written: int  # KiB written to the local disk (dw)


@dataclass(frozen=True)
class Migration:
    """What the samples of one minor say about one incoming migration, in seconds."""

    downtime: float | None  # last block received to first block written locally
    both_primary: float
    protocol_c: float
    samples: int
    longest_gap: float  # between two samples: how exact the rest is


def parse(text: str) -> list[Sample]:
    """Samples out of drbd-sample's output; lines of an absent minor are left out."""
    found = []
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "nr" not in fields or "dw" not in fields or "proto" not in fields:
            continue
        role, _, peer = fields["ro"].partition("/")
        found.append(
            Sample(
                float(fields["up"]), int(fields["minor"]), fields["cs"], role, peer,
                fields["proto"], int(fields["nr"]), int(fields["dw"]),
            )
        )  # fmt: skip
    return found


def _lasting(samples: Sequence[Sample], holds: Iterable[bool]) -> float:
    flags = list(holds)
    return sum(
        after.up - before.up for before, after, flag in zip(samples, samples[1:], flags, strict=False) if flag
    )


def quiet_span(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """Uptimes of the last block received and the first block written locally.

    A received block raises ``nr`` at once and ``dw`` when it is on disk; a
    local one raises ``dw`` alone, so it makes their difference smaller than it
    ever was. None where the samples hold no such change of hands.
    """
    last = None
    for index in range(1, len(samples)):
        if samples[index].received != samples[index - 1].received:
            last = index
    if last is None:
        return None
    quiet = min(s.received - s.written for s in samples[: last + 1])
    for sample in samples[last + 1 :]:
        if sample.role == "Primary" and sample.received - sample.written < quiet:
            return samples[last].up, sample.up
    return None


def downtime(samples: Sequence[Sample]) -> float | None:
    """From the last block received to the first block written locally, in seconds."""
    quiet = quiet_span(samples)
    return quiet[1] - quiet[0] if quiet else None


def summarise(samples: Sequence[Sample]) -> Migration:
    """Figures for one minor. Precondition: all samples are of one minor, in order."""
    gaps = [b.up - a.up for a, b in zip(samples, samples[1:], strict=False)]
    return Migration(
        downtime(samples),
        _lasting(samples, (s.role == s.peer_role == "Primary" for s in samples)),
        _lasting(samples, (s.protocol == "C" for s in samples)),
        len(samples),
        max(gaps, default=0.0),
    )


class Sampler:
    """Runs drbd-sample on a host: ``with Sampler(bob, [1000]) as sampler: …``."""

    def __init__(self, host: Host, minors: Sequence[int], step_ms: int = STEP_MS) -> None:
        self.host = host
        self.minors = list(minors)
        self._step = step_ms
        self._file = "/run/drbd-samples"

    def __enter__(self) -> Sampler:
        minors = " ".join(str(minor) for minor in self.minors)
        self.host.run(
            f"nohup drbd-sample {self._step} {minors} > {self._file} 2>&1 </dev/null & "
            f"echo $! > {self._file}.pid"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.host.run(f"kill $(cat {self._file}.pid)", check=False)

    def text(self) -> str:
        """The samples as they were written."""
        return self.host.read(self._file)

    def results(self) -> dict[int, Migration]:
        """Figures by minor."""
        samples = parse(self.text())
        return {minor: summarise([s for s in samples if s.minor == minor]) for minor in self.minors}

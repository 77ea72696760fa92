"""What the checks get: this host's facts, and those of one peer."""

from dataclasses import dataclass

from xenhelper.doctor.facts import Facts


@dataclass(frozen=True)
class Pair:
    """``there`` is None when the peer gave no facts. ``offset``: seconds that its clock is
    ahead, None when it can't be told."""

    here: Facts
    there: Facts | None
    peer: str
    offset: float | None = None

    @property
    def both(self) -> list[Facts]:
        """Those that there are, this host first."""
        return [self.here] if self.there is None else [self.here, self.there]

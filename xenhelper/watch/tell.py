"""From what ought to be raised to what is: raise what has lasted, clear what is over.

What is raised is on disk; only how long something has lasted is in memory, so a watcher
that starts afresh waits a few seconds once more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from xenhelper import alerts
from xenhelper.watch import judge
from xenhelper.watch.world import Key, Wanted, World

# seconds that something must be gone before it is over: a handler of DRBD raises an alert
# before the kernel shows why
OVER_AFTER = 3.0


@dataclass(frozen=True)
class Step:
    """What is due now, and in how many seconds to look again (infinite: nothing waits)."""

    raise_: tuple[Wanted, ...]
    clear: tuple[Key, ...]
    again: float


class Patience:
    """Remembers since when each alert is wanted, or isn't any more; ``now`` in seconds of
    one clock."""

    def __init__(self) -> None:
        self._wanted: dict[Key, float] = {}
        self._gone: dict[Key, float] = {}

    def step(self, wanted: Iterable[Wanted], raised: Iterable[Key], keep: Iterable[str], now: float) -> Step:
        """``keep``: kinds of which nothing is known at the moment."""
        by_key = {(one.kind, one.key): one for one in wanted}
        self._wanted = {key: self._wanted.get(key, now) for key in by_key}
        gone = [key for key in raised if key not in by_key and key[0] in judge.KINDS and key[0] not in keep]
        self._gone = {key: self._gone.get(key, now) for key in gone}
        waits = {key: self._wanted[key] + one.settles - now for key, one in by_key.items()}
        ends = {key: since + OVER_AFTER - now for key, since in self._gone.items()}
        there = set(raised)
        later = [left for key, left in waits.items() if left > 0 and key not in there]
        later += [left for left in ends.values() if left > 0]
        return Step(
            tuple(one for key, one in by_key.items() if waits[key] <= 0),
            tuple(key for key, left in ends.items() if left <= 0),
            min(later, default=float("inf")),
        )


def act(step: Step, world: World) -> None:
    """Raise and clear. What is raised already costs a read."""
    for one in step.raise_:
        if one.what:
            alerts.try_raise(
                one.kind,
                one.key,
                one.what,
                one.do,
                vm=one.vm,
                resource=one.resource,
                severity=one.severity,
                as_of=world.now,
            )
    for kind, key in step.clear:
        alerts.try_clear(kind, key, judge.ended(world, kind, key))

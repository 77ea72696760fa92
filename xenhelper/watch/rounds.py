"""When the reconciler is wanted before its timer: two hosts met again or parted for good,
or domains changed while a change of ours is open.

A whole round costs a process and a few forks, so it waits until things have settled, and
comes once for all that happened together.
"""

from collections.abc import Mapping

from xenhelper import log
from xenhelper.drbd.proc import State
from xenhelper.errors import XenhelperError
from xenhelper.run import run

# seconds: both hosts' handlers have run; a hand-over has got on; between two rounds
CONNECTION_SETTLES = 3.0
DOMAINS_SETTLE = 10.0
APART = 20.0
_MET, _ALONE, _TRYING = "met", "alone", "trying"


class Rounds:
    """Remembers each resource's connection."""

    def __init__(self) -> None:
        self._links: dict[str, str] = {}
        self._due: float | None = None
        self._last = -APART

    def look(
        self,
        states: Mapping[int, State],
        records: Mapping[str, Mapping[str, str]],
        domains_changed: bool,
        open_change: bool,
        now: float,
    ) -> bool:
        """Whether a round is due at ``now`` (seconds of one clock), after this look at the
        kernel's ``states`` by minor. ``open_change``: an intent is on record here."""
        links = {name: _link(states, record) for name, record in records.items()}
        for name, link in links.items():
            before = self._links.get(name)
            if before is not None and link != before and link != _TRYING:
                self._soon(now + CONNECTION_SETTLES)
        self._links = links
        if domains_changed and open_change:
            self._due = None
            self._soon(now + DOMAINS_SETTLE)
        if self._due is None or now < self._due:
            return False
        self._due, self._last = None, now
        return True

    def due_in(self, now: float) -> float:
        """Seconds until a round is due; infinite when none is."""
        return float("inf") if self._due is None else max(0.0, self._due - now)

    def _soon(self, when: float) -> None:
        if self._due is None:
            self._due = max(when, self._last + APART)


def _link(states: Mapping[int, State], record: Mapping[str, str]) -> str:
    minor = record.get("minor", "")
    state = states.get(int(minor)) if minor.isdecimal() else None
    if state is None or state.connection == "StandAlone":
        return _ALONE
    return _MET if state.talks else _TRYING


def start() -> None:
    """Have systemd start a round; it runs one at a time."""
    try:
        run(["systemctl", "start", "--no-block", "xenhelper-reconcile.service"], timeout=20)
    except XenhelperError as error:
        log.event("failed", f"watch: {error}", log.WARNING)

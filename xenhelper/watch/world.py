"""What the watcher sees of its host at one moment, and what it makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xenhelper.beneath import Backend, Finding
from xenhelper.drbd.proc import State

Key = tuple[str, str]
# seconds that most things must last; what passes through more states than a connection
# does, longer, and 10 s until it is told are promised
LASTS = 3.5


@dataclass(frozen=True)
class Wanted:
    """An alert that ought to be raised once it has lasted ``settles`` seconds."""

    kind: str
    key: str
    severity: str
    what: str
    do: str
    vm: str
    resource: str = ""
    settles: float = 2.0


@dataclass(frozen=True)
class World:
    """This host at one moment. ``states`` by minor; ``backends`` None when xenstore can't
    be read; ``intents`` each with ``age`` in seconds; ``locked`` are VMs that somebody is at
    work on; ``in_sync`` seconds since 1970 by resource; ``verified`` where a verify found
    differences, in words; ``raised`` the alerts there are."""

    now: float
    states: Mapping[int, State]
    records: Mapping[str, Mapping[str, str]]
    backends: tuple[Backend, ...] | None = None
    domains: tuple[str, ...] = ()
    beneath: tuple[Finding, ...] = ()
    intents: tuple[Mapping[str, str], ...] = ()
    locked: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()
    taken_over: frozenset[str] = frozenset()
    in_sync: Mapping[str, float] = field(default_factory=dict)
    verified: Mapping[str, str] = field(default_factory=dict)
    raised: frozenset[Key] = frozenset()

    def state(self, name: str) -> State | None:
        """The kernel's state of a resource of ours, None when it isn't up."""
        minor = self.records[name].get("minor", "")
        return self.states.get(int(minor)) if minor.isdecimal() else None

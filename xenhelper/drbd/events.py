"""What the kernel says of each resource, from one ``drbdsetup events2 --now --statistics``.

The line format is drbdsetup(8)'s; DRBD 8.4 kernels through drbd-utils 9 print the same
objects with fewer keys. Sizes come in KiB there and are bytes here. One resource that is
connected is read from /proc/drbd instead, which costs no fork.
"""

from xenhelper import paths, statefile
from xenhelper.drbd import proc
from xenhelper.errors import XenhelperError
from xenhelper.run import run

CONNECTED = "Connected"
PRIMARY = "Primary"
SECONDARY = "Secondary"
UP_TO_DATE = "UpToDate"
CONSISTENT = "Consistent"
# disk states of a peer that can't be promoted without us (drbd.h: below DUnknown)
OUTDATED_OR_WORSE = (
    "Outdated",
    "Inconsistent",
    "Diskless",
    "Failed",
    "Attaching",
    "Negotiating",
    "Detaching",
)


class Resource:
    """One resource (one volume, one peer) as the kernel has it now.

    ``size`` and ``out_of_sync`` are bytes, ``done_percent`` is None unless a resync
    runs, ``upper_pending`` counts requests of the application that aren't answered yet,
    ``lower_pending`` those of the local disk. ``protocol``: empty where nothing but events2 was
    asked, which doesn't say.
    """

    __slots__ = (
        "connection",
        "disk",
        "done_percent",
        "lower_pending",
        "minor",
        "name",
        "out_of_sync",
        "peer_disk",
        "peer_name",
        "peer_role",
        "protocol",
        "replication",
        "role",
        "size",
        "suspended",
        "upper_pending",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.minor = -1
        self.role = "Unknown"
        self.disk = "Diskless"
        self.connection = "StandAlone"
        self.peer_role = "Unknown"
        self.peer_disk = "DUnknown"
        self.protocol = ""
        self.replication = "Off"
        self.peer_name = ""
        self.upper_pending = 0
        self.lower_pending = 0
        self.out_of_sync = 0
        self.done_percent: "float | None" = None
        self.size = 0
        self.suspended = False

    @property
    def connected(self) -> bool:
        """Whether both ends agree that they talk."""
        return self.connection == CONNECTED

    @property
    def in_sync(self) -> bool:
        """Connected and UpToDate on both sides."""
        return self.connected and self.disk == UP_TO_DATE and self.peer_disk == UP_TO_DATE

    def __repr__(self) -> str:
        return f"<{self.name} {self.connection} {self.role}/{self.peer_role} {self.disk}/{self.peer_disk}>"


def parse(text: str) -> "dict[str, Resource]":
    """Resources by name from events2 output; unknown lines and keys are passed over."""
    found: "dict[str, Resource]" = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or words[0] not in ("exists", "create", "change"):
            continue
        keys = dict([word.split(":", 1) for word in words[2:] if ":" in word])
        name = keys.get("name")
        if not name:
            continue
        resource = found.get(name)
        if resource is None:
            resource = found[name] = Resource(name)
        _apply(resource, words[1], keys)
    return found


def _apply(resource: Resource, kind: str, keys: "dict[str, str]") -> None:
    if kind == "resource":
        resource.role = keys.get("role", resource.role)
        resource.suspended = keys.get("suspended", "no") != "no"
    elif kind == "connection":
        resource.connection = keys.get("connection", resource.connection)
        resource.peer_role = keys.get("role", resource.peer_role)
        resource.peer_name = keys.get("conn-name", resource.peer_name)
    elif kind == "device":
        resource.minor = _number(keys.get("minor"), resource.minor)
        resource.disk = keys.get("disk", resource.disk)
        resource.size = _number(keys.get("size"), 0) * 1024
        resource.upper_pending = _number(keys.get("upper-pending"), 0)
        resource.lower_pending = _number(keys.get("lower-pending"), 0)
    elif kind == "peer-device":
        resource.replication = keys.get("replication", resource.replication)
        resource.peer_disk = keys.get("peer-disk", resource.peer_disk)
        resource.out_of_sync = _number(keys.get("out-of-sync"), 0) * 1024
        done = keys.get("done")
        if done is not None:
            try:
                resource.done_percent = float(done)
            except ValueError:
                resource.done_percent = None


def _number(text: "str | None", default: int) -> int:
    # at most a 64 bit number's digits: int() of thousands of them raises
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else default


def snapshot(resource: str = "", timeout: float = 10.0) -> "dict[str, Resource]":
    """The kernel's resources (or only the named one) now. Raises CommandFailed.

    A resource that isn't up is missing from the answer; that is no error.
    """
    argv = ["drbdsetup", "events2", "--now", "--statistics"]
    if resource:
        argv.append(resource)
    # 10: no such resource (8.4 prints nothing and exits so when it isn't up)
    result = run(argv, timeout=timeout, ok=(0, 10) if resource else (0,))
    return parse(result.stdout)


def one(name: str, timeout: float = 10.0) -> "Resource | None":
    """The named resource now, or None when it isn't up. Raises CommandFailed."""
    return _connected(name) or snapshot(name, timeout).get(name)


def _connected(name: str) -> "Resource | None":
    """The same without a fork, of a resource of ours that is connected and at rest."""
    try:
        record = statefile.read(f"{paths.RESOURCES}/{name}")
    except (OSError, XenhelperError):
        return None
    minor = _number(record.get("minor"), -1) if record else -1
    state = proc.connected(name, minor) if minor >= 0 else None
    if state is None:
        return None
    found = Resource(name)
    found.minor = minor
    found.role, found.peer_role = state.role, state.peer_role
    found.disk, found.peer_disk = state.disk, state.peer_disk
    # what events2 calls them; the name of a connection says nothing in 8.4
    found.connection, found.replication, found.peer_name = CONNECTED, "Established", "peer"
    found.protocol, found.suspended = state.protocol, state.suspended
    found.out_of_sync = state.out_of_sync
    found.upper_pending, found.lower_pending = state.upper_pending, state.lower_pending
    found.size = proc.size(minor)
    return found

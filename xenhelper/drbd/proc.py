"""/proc/drbd of DRBD 8.4: the module's version and each minor's state, without a fork."""

import os
import time

from xenhelper import paths
from xenhelper.errors import Refused
from xenhelper.run import run

# what the rules here were tested with; 9 has another state model (roles per resource,
# fencing per connection, another metadata format)
TESTED = "8.4"


class State:
    """One configured minor: connection, roles and disk states, as in /proc/drbd;
    ``out_of_sync`` in bytes; ``upper_pending`` and ``lower_pending`` count requests of the
    application and of the local disk."""

    __slots__ = (
        "connection", "disk", "lower_pending", "out_of_sync", "peer_disk", "peer_role", "protocol",
        "role", "suspended", "upper_pending",
    )  # fmt: skip

    def __init__(self, connection: str, roles: str, disks: str, protocol: str = "", flags: str = "") -> None:
        self.connection = connection
        self.role, _, self.peer_role = roles.partition("/")
        self.disk, _, self.peer_disk = disks.partition("/")
        self.protocol = protocol
        self.suspended = flags.startswith("s")
        self.out_of_sync = 0
        self.upper_pending = 0
        self.lower_pending = 0

    @property
    def talks(self) -> bool:
        """Whether both ends are connected, resync or not."""
        return self.connection == "Connected" or self.connection.startswith(
            ("Sync", "PausedSync", "Verify", "WFBitMap", "WFSync", "StartingSync", "Ahead", "Behind")
        )


def parse(text: str) -> "tuple[str, dict[int, State]]":
    """(version, state by minor); a minor without anything configured is left out."""
    version, states = "", {}
    last: "State | None" = None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["version:"] and len(words) > 1:
            version = words[1]
        elif len(words) >= 4 and words[0].endswith(":") and words[0][:-1].isdecimal() and len(words[0]) < 20:
            keys = dict(word.split(":", 1) for word in words[1:4] if ":" in word)
            last = None
            if "ro" in keys and "ds" in keys:
                # a connection without settings (StandAlone) leaves the protocol blank
                protocol, flags = ["", "", *words[4:]][-2:]
                last = states[int(words[0][:-1])] = State(
                    keys.get("cs", "Unknown"), keys["ro"], keys["ds"], protocol, flags
                )
        elif last is not None and words and words[-1].startswith("oos:"):
            for word in words:
                key, _, value = word.partition(":")
                if value.isdecimal() and len(value) < 20:
                    if key == "oos":
                        last.out_of_sync = int(value) * 1024
                    elif key == "ap":
                        last.upper_pending = int(value)
                    elif key == "lo":
                        last.lower_pending = int(value)
    return version, states


def connected(name: str, minor: int) -> "State | None":
    """Resource ``name``'s one volume, which has ``minor``, while it is Connected and neither a
    resync nor a comparison runs. None for any other state, and where this kernel doesn't say
    so: then drbdsetup is to be asked.

    No fork, and no wait for DRBD's lock, which drbdsetup takes. The kernel copies the state
    first and reads the counters after it (drbd_proc.c), as it does for events2.
    """
    link = f"{paths.ROOT}/sys/kernel/debug/drbd/minors/{minor}"
    wanted = f"../resources/{name}/volumes/0"
    try:
        # before and after: a minor may be given to another resource in between
        if os.readlink(link) != wanted:
            return None
        whole = text()
        if os.readlink(link) != wanted:
            return None
    except OSError:
        return None
    if not whole.startswith(f"version: {TESTED}."):
        return None
    begin = whole.find(f"\n{minor:2d}: cs:Connected ") + 1
    end = whole.find("\n", whole.find("\n", begin) + 1)
    lines = whole[begin:end]
    # the second line is whole, so its counters are there
    return parse(lines)[1].get(minor) if begin and end > 0 and " oos:" in lines else None


def size(minor: int) -> int:
    """The device's bytes, as the kernel has them now; 0 when there is none."""
    try:
        with open(f"{paths.ROOT}/sys/block/drbd{minor}/size", encoding="ascii") as file:
            sectors = file.read().strip()
    except OSError:
        return 0
    return int(sectors) * 512 if sectors.isdecimal() and len(sectors) < 20 else 0


class Progress:
    """How a resync or comparison goes: ``percent`` done, bytes a second, seconds that are
    left at that speed (None: stalled, or not said)."""

    __slots__ = ("left", "percent", "rate")

    def __init__(self, percent: float, rate: int, left: "int | None") -> None:
        self.percent = percent
        self.rate = rate
        self.left = left


def progress(text: str) -> "dict[int, Progress]":
    """By minor, from /proc/drbd (drbd_proc.c): ``sync'ed: 5.0%`` or ``verified: 5.0%``, then
    ``finish: H:MM:SS speed: K (average)`` in KiB a second with grouped thousands."""
    import re

    found: "dict[int, Progress]" = {}
    minor = -1
    for line in text.splitlines():
        if begun := re.match(r"\s*(\d+): cs:", line):
            minor = int(begun[1])
        if (done := re.search(r"(?:sync'ed|verified):\s*([\d.]+)%", line)) and minor >= 0:
            found[minor] = Progress(float(done[1]), 0, None)
        if (ends := re.search(r"finish: (\d+):(\d+):(\d+) speed: ([\d,]+)", line)) and minor in found:
            hours, minutes, seconds = (int(part) for part in ends.groups()[:3])
            found[minor].rate = int(ends[4].replace(",", "")) * 1024
            if "(stalled)" not in line:
                found[minor].left = hours * 3600 + minutes * 60 + seconds
    return found


def text() -> str:
    """/proc/drbd as it is; '' while the module isn't loaded."""
    try:
        with open(paths.ROOT + "/proc/drbd", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def read() -> "tuple[str, dict[int, State]]":
    """The same of this host now; version '' while the module isn't loaded."""
    return parse(text())


def minors() -> "set[int]":
    """Every minor that the kernel knows, configured or left over."""
    found = set(read()[1])
    try:
        listed = os.listdir(paths.ROOT + "/sys/block")
    except OSError:
        listed = []
    found.update(int(name[4:]) for name in listed if name.startswith("drbd") and name[4:].isdecimal())
    return found


def require_module() -> str:
    """Load the module if need be and return its version. Raises Refused when there is
    none, or one of a major version that this was never tested with."""
    version = read()[0]
    host = os.uname().nodename
    if not version:
        run(["modprobe", "drbd"], timeout=20, ok=None)
        version = read()[0]
    if not version:
        raise Refused(f"{host}: the kernel has no DRBD module", f"install one for {os.uname().release}")
    if not version.startswith(TESTED + "."):
        raise Refused(
            f"{host}: DRBD {version} in the kernel isn't tested yet", f"use the kernel's own {TESTED}"
        )
    return version


def wait_connected(wanted: "list[int]", seconds: float) -> "list[int]":
    """Wait until all minors talk to their peer; returns those that don't by then."""
    deadline = time.monotonic() + seconds
    while True:
        states = read()[1]
        missing = [minor for minor in wanted if minor not in states or not states[minor].talks]
        if not missing or time.monotonic() >= deadline:
            return missing
        time.sleep(0.1)

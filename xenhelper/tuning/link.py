"""How fast the replication link is and how much memory dom0 has: what resync settings
follow from (xenhelper/drbd/knobs.py)."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xenhelper import paths
from xenhelper.config import Config, Peer
from xenhelper.drbd import knobs
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning.blockdev import read

_NET = paths.ROOT + "/sys/class/net"


def facts(settings: Config, peer: Peer) -> dict[str, int]:
    """``speed``: Mbit/s of this host's device towards ``peer``; ``memory``: dom0's MiB.
    0 where it isn't known."""
    speed = settings.tuning.link_speed or device_speed(device_of(peer.local_replication))
    return {"speed": speed, "memory": memory_mib()}


def for_pair(here: Mapping[str, Any], there: Mapping[str, Any]) -> knobs.Knobs:
    """The knobs that suit both hosts: of two known numbers the lesser."""

    def least(key: str) -> int:
        known = [value for value in (here.get(key), there.get(key)) if type(value) is int and value > 0]
        return min(known, default=0)

    return knobs.for_link(least("speed"), least("memory"))


def for_disk(made: knobs.Knobs, granularity: int) -> knobs.Knobs:
    """The same for a disk that is thin on both hosts (room.granularity)."""
    return replace(made, rs_discard_granularity=granularity)


def device_of(address: str) -> str:
    """The network device that has this address, '' if none or unknown."""
    try:
        said = json.loads(run(["ip", "-json", "address", "show", "to", address], timeout=5).stdout or "[]")
        return next((str(one["ifname"]) for one in said if one.get("ifname")), "")
    except (XenhelperError, ValueError, TypeError):
        return ""


def device_speed(device: str, depth: int = 3) -> int:
    """Mbit/s that the device says; of a bridge or VLAN, what the slowest device below it
    says. 0 when nobody does (virtual ones don't)."""
    if not device or "/" in device or not depth:
        return 0
    said = read(f"{_NET}/{device}/speed")
    if said.isdecimal() and 0 < int(said) < 1_000_000:
        return int(said)
    try:
        below = [name[6:] for name in os.listdir(f"{_NET}/{device}") if name.startswith("lower_")]
    except OSError:
        return 0
    return min(filter(None, (device_speed(name, depth - 1) for name in below)), default=0)


def memory_mib() -> int:
    """What dom0 has, in MiB."""
    return meminfo().get("MemTotal", 0) // 1024


def meminfo() -> dict[str, int]:
    """/proc/meminfo in KiB."""
    found = {}
    try:
        with open(paths.ROOT + "/proc/meminfo", encoding="ascii") as file:
            for line in file:
                key, _, rest = line.partition(":")
                words = rest.split()
                if words and words[0].isdecimal():
                    found[key] = int(words[0])
    except OSError:
        pass
    return found

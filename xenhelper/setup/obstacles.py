"""What is in the way of two hosts' work with xenhelper, and isn't setup's to change."""

import glob
import re
from typing import Any

from xenhelper import paths
from xenhelper.xen import vmconfig

# a disk as block-drbd takes it: drbd:RES,xvda,w or script=block-drbd (xl-disk-configuration(5))
_BY_HAND = re.compile(r"""["']\s*drbd:|script\s*=\s*(?:/etc/xen/scripts/)?block-drbd\b""")
_DRBD_SERVICE = (
    "/etc/systemd/system/multi-user.target.wants/drbd.service",
    "/etc/rc2.d/S[0-9][0-9]drbd",
)
_MAX_CONFIG = 100 * 1024


def warnings(host: str) -> list[str]:
    """A line for each thing that somebody should know of."""
    found = []
    if any(glob.glob(paths.ROOT + pattern) for pattern in _DRBD_SERVICE):
        found.append(
            f"{host}: drbd.service is enabled: at boot it may wait without end for a host that is down "
            "(wfc-timeout 0); xenhelper brings its own resources up: `systemctl disable drbd.service` "
            "unless others need it"
        )
    found += [
        f"{host}: {path} has disks replicated by hand for block-drbd, which xenhelper leaves alone; with "
        f"the VM shut down, `xenhelper convert {path}` takes them over, their data as it is"
        for path in by_hand()
    ]
    return found


def by_hand() -> list[str]:
    """Paths of VM configs with disks that somebody replicates by hand."""
    found = []
    for path in sorted(glob.glob(paths.ROOT + "/etc/xen/*.cfg")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_CONFIG)
        except OSError:
            continue
        if names_by_hand(text):
            found.append(path.removeprefix(paths.ROOT))
    return found


def names_by_hand(text: str) -> bool:
    """Whether a config's text has such a disk; where our block ends it, that alone counts."""
    counts = text[max(0, text.rfind(vmconfig.BEGIN)) :]
    return any(_BY_HAND.search(line) for line in counts.splitlines() if not line.lstrip().startswith("#"))


def link(device: str) -> dict[str, int]:
    """``mtu`` in bytes and ``speed`` in Mbit/s (0: unknown, as of a bridge) of a network device."""
    return {key: max(0, _number(f"/sys/class/net/{device}/{key}")) for key in ("mtu", "speed")}


def _number(path: str) -> int:
    try:
        with open(paths.ROOT + path, encoding="ascii") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return 0


def of_link(here: dict[str, Any], there: dict[str, Any], names: tuple[str, str]) -> list[str]:
    """What two ends of the replication link don't have in common, or lack. Pure."""
    found = []
    mtus, speeds = (here.get("mtu"), there.get("mtu")), (here.get("speed"), there.get("speed"))
    if all(mtus) and mtus[0] != mtus[1]:
        found.append(
            f"the replication link has MTU {mtus[0]} on {names[0]} and {mtus[1]} on {names[1]}: large "
            "packets get lost without a word; make them the same"
        )
    slowest = min((speed for speed in speeds if isinstance(speed, int) and speed), default=0)
    if 0 < slowest < 1000:
        found.append(
            f"the replication link runs at {slowest} Mbit/s: a migration waits for what the guest writes"
        )
    return found

"""The other side: a VM whose disks an administrator replicated by hand for block-drbd.

Protocol C and two Primaries allowed at all times, which is what block-drbd's users have.
"""

from __future__ import annotations

from tests.lab import product, scenario
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.wait import wait_until

VM = "hand"
# beside what xenhelper gives out itself
DISKS = {"xvda": (2000, 7700, 64), "xvdb": (2001, 7701, 32)}
RESOURCES = [f"{VM}-{vdev}" for vdev in DISKS]
MINORS = [minor for minor, _, _ in DISKS.values()]
CONFIG = f"/etc/xen/{VM}.cfg"


def config() -> str:
    """As web1's, with block-drbd's disks."""
    lines = scenario.WEB1.replace('"web1"', f'"{VM}"').splitlines()
    disks = ", ".join(f"'script=block-drbd,vdev={vdev},access=rw,target={VM}-{vdev}'" for vdev in DISKS)
    return "\n".join([*(line for line in lines if not line.startswith("disk")), f"disk = [{disks}]", ""])


def resource_file() -> str:
    """One resource a disk, as drbd.conf(5) shows it."""
    parts = []
    for vdev, (minor, port, _) in DISKS.items():
        hosts = "".join(
            f"  on {host} {{ device /dev/drbd_{VM}-{vdev} minor {minor}; disk /dev/vg0/{VM}-{vdev}; "
            f"meta-disk /dev/vg0/{VM}-{vdev}_meta; address 10.99.0.{number}:{port}; }}\n"
            for number, host in ((1, "alice"), (2, "bob"))
        )
        parts.append(
            f"resource {VM}-{vdev} {{\n  net {{ protocol C; allow-two-primaries yes; }}\n{hosts}}}\n"
        )
    return "".join(parts)


def build(lab: Lab) -> None:
    """Both disks in sync on both hosts, Secondary; the config on both."""
    lab.both(_prepare)
    wait_until(lambda: _connected(lab.alice), 60, "the resources made by hand to connect")
    for minor in MINORS:  # both volumes hold zeros
        lab.alice.run(f"drbdsetup new-current-uuid --clear-bitmap {minor}")
    product.wait_in_sync(lab.alice, *RESOURCES)


def _connected(host: Host) -> bool:
    text = host.read("/proc/drbd")
    return all(f"{minor}: cs:Connected" in text for minor in MINORS)


def _prepare(host: Host) -> None:
    host.write(f"/etc/drbd.d/{VM}.res", resource_file())
    host.write(CONFIG, config())
    for vdev, (_, _, size) in DISKS.items():
        host.run(
            f"lvcreate -q -y -Wy -L {size}M -n {VM}-{vdev} vg0; "
            f"lvcreate -q -y -Wy -L 4M -n {VM}-{vdev}_meta vg0; "
            f"dd if=/dev/zero of=/dev/vg0/{VM}-{vdev}_meta bs=1M count=4 oflag=direct status=none; "
            f"modprobe drbd; drbdadm --force create-md {VM}-{vdev}; drbdadm up {VM}-{vdev}",
            timeout=180,
        )

"""Which Debian release the lab's hosts run, and the packages that makes."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One Debian release that the lab can boot."""

    name: str
    xen: str  # the upstream version in Debian's package names

    @property
    def packages(self) -> list[str]:
        """What is in the hosts' image before the product comes."""
        return [
            "systemd-sysv", "udev", "dbus", "kmod", "procps", "psmisc",
            "linux-image-amd64",
            f"xen-hypervisor-{self.xen}-amd64", f"xen-utils-{self.xen}",
            "xen-utils-common", "xenstore-utils", "qemu-system-xen",
            "drbd-utils", "lvm2", "thin-provisioning-tools", "e2fsprogs",
            "openssh-server", "openssh-client", "iproute2", "iputils-ping",
            "bridge-utils", "nftables", "socat", "strace", "lsof", "python3",
        ]  # fmt: skip


# What the product depends on. These come from the repository inside the
# image, when apt installs the product; everything *they* depend on is in the
# image already, since unpacking thirty packages in emulation takes minutes.
PRODUCT_DEPENDENCIES = [
    "python3-pyxs", "python3-configobj", "python3-systemd", "python3-libvirt",
]  # fmt: skip

RELEASES = {
    "trixie": Release("trixie", "4.20"),
    "bookworm": Release("bookworm", "4.17"),
}


def current() -> Release:
    """The release asked for by ``RELEASE`` in the environment (trixie)."""
    name = os.environ.get("RELEASE") or "trixie"
    if name not in RELEASES:
        raise SystemExit(f"RELEASE={name}: known are {', '.join(RELEASES)}")
    return RELEASES[name]

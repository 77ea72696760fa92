"""[tuning] and [read_ahead] of the configuration."""

import fnmatch
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """What the administrator asks for; 0 or empty leaves a thing as it is, unless said.

    ``dom0_memory`` MiB; ``dom0_cpus`` as xl takes them; ``md_resync`` KiB/s, least and
    most; ``link_speed`` Mbit/s (0: what the device says); ``guest_read_ahead`` KiB (0: by
    topology); ``read_ahead``: (pattern of VM or VM/vdev, KiB), the first that fits counts.
    """

    dom0_memory: int = 0
    dom0_weight: int = 1024
    dom0_cpus: str = ""
    md_resync: tuple[int, int] = (10_000, 500_000)
    md_stripe_cache: bool = True
    tcp_buffers: bool = True
    link_speed: int = 0
    guest_read_ahead: int = 0
    pci_passthrough: bool = False
    read_ahead: tuple[tuple[str, int], ...] = ()

    def read_ahead_of(self, vm: str, vdev: str) -> int:
        """What is asked for this disk, in KiB; 0 when nothing is."""
        for pattern, kib in self.read_ahead:
            if fnmatch.fnmatchcase(f"{vm}/{vdev}" if "/" in pattern else vm, pattern):
                return kib
        return self.guest_read_ahead


def build(parsed: Any) -> Tuning:
    """From the checked configuration."""
    section = parsed["tuning"]
    return Tuning(
        dom0_memory=section["dom0_memory"],
        dom0_weight=section["dom0_weight"],
        dom0_cpus=section["dom0_cpus"],
        md_resync=(section["md_resync"][0], section["md_resync"][1]),
        md_stripe_cache=section["md_stripe_cache"] == "yes",
        tcp_buffers=section["tcp_buffers"] == "yes",
        link_speed=section["link_speed"],
        guest_read_ahead=section["guest_read_ahead"],
        pci_passthrough=section["pci_passthrough"] == "yes",
        read_ahead=tuple(parsed["read_ahead"].items()),
    )

"""The two cables between the hosts: cut, heal, shape.

``link`` is the replication link (eth0), ``path`` the second one (eth1).
"""

from __future__ import annotations

from collections.abc import Sequence

from . import qemu
from .host import Host

DEVICES = {"link": "eth0", "path": "eth1"}


def cut(hosts: Sequence[Host], cable: str) -> None:
    """Pull the cable: both hosts that are on see the carrier go."""
    for host in hosts:
        if host.is_on:
            qemu.monitor(host.machine, f"set_link nic-{cable} off")


def heal(hosts: Sequence[Host], cable: str) -> None:
    """Plug the cable in again; shaping stays."""
    for host in hosts:
        if host.is_on:
            qemu.monitor(host.machine, f"set_link nic-{cable} on")


def shape(hosts: Sequence[Host], cable: str, rate_mbit: float, delay_ms: float) -> None:
    """Slow the cable down: ``delay_ms`` each way, so twice that a round trip."""
    # The queue holds what the rate sends in a second or two, as a router's does.
    limit = max(100, int(rate_mbit * 1e6 / 8 / 1500 * (1 + delay_ms / 1000) * 2))
    for host in hosts:
        host.run(
            f"tc qdisc replace dev {DEVICES[cable]} root netem "
            f"rate {rate_mbit:g}mbit delay {delay_ms:g}ms limit {limit}"
        )


def silence(hosts: Sequence[Host], cable: str) -> None:
    """Lose every packet while the carrier stays, as when a switch between dies."""
    for host in hosts:
        host.run(f"tc qdisc replace dev {DEVICES[cable]} root netem loss 100%")


def unshape(hosts: Sequence[Host], cable: str) -> None:
    """Take shaping and silence off; a host that is off has lost them."""
    for host in hosts:
        if host.is_on:
            host.run(f"tc qdisc del dev {DEVICES[cable]} root 2>/dev/null || true")

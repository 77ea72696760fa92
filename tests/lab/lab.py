"""The two hosts together: up, down, layers, cables, logs."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from . import image, link, qemu, release
from .host import Host

T = TypeVar("T")


class LabError(Exception):
    """The lab can't do what was asked; one plain line."""


class Lab:
    """Two hosts on one image. A lab that runs already is attached to."""

    def __init__(self, which: release.Release | None = None, xen_options: str = "") -> None:
        self.release = which or release.current()
        folder = image.CACHE / f"lab-{self.release.name}-{image.key(self.release)}"
        self.folder = folder
        options = xen_options or os.environ.get("LAB_XEN") or qemu.XEN_OPTIONS
        base = int(os.environ.get("LAB_SSH_PORT") or 22800)
        self.alice, self.bob = (
            Host(
                qemu.Machine(
                    name, number, folder / name, image.directory(self.release),
                    base + number, options,
                )
            )
            for number, name in ((1, "alice"), (2, "bob"))
        )  # fmt: skip
        self.hosts = (self.alice, self.bob)
        self._lock: int | None = None

    def host(self, name: str) -> Host:
        """The host called so. Raises LabError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r}: there are alice and bob")

    def both(self, action: Callable[[Host], T]) -> list[T]:
        """Do something on both hosts at once; results in order alice, bob."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(action, self.hosts))

    @property
    def is_up(self) -> bool:
        """Whether both hosts are on."""
        return all(host.is_on for host in self.hosts)

    def take_lock(self) -> None:
        """Make sure that this is the only lab that runs on this machine.

        The lock is inherited by the QEMUs started from here, so it lasts as
        long as they do. Raises LabError where another lab holds it.
        """
        if self._lock is not None or any(host.is_on for host in self.hosts):
            return
        image.CACHE.mkdir(parents=True, exist_ok=True)
        lock = os.open(image.CACHE / "running.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise LabError("another lab runs on this machine (python3 -m tests.lab status --all)") from error
        os.set_inheritable(lock, True)
        self._lock = lock

    def boot(self) -> None:
        """Boot both from new disks, volume groups made."""
        image.build(self.release)
        self.take_lock()
        for host in self.hosts:
            host.power_off()
            qemu.make_disks(host.machine)
        self.both(lambda host: host.power_on())
        self.both(lambda host: host.run("vgcreate -q vg0 /dev/vdb && vgcreate -q vg1 /dev/vdc"))

    def down(self) -> None:
        """Switch both off. Their snapshots stay."""
        for host in self.hosts:
            host.power_off()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, tag: str) -> None:
        """Save both hosts, stopped in the same moment, and let them go on."""
        for host in self.hosts:
            host.run("sync")
            host.disconnect()
        self._stop()
        for host in self.hosts:
            qemu.monitor(host.machine, f"delvm {tag}")
        self.both(lambda host: qemu.save(host.machine, tag))
        self._cont()

    def load(self, tag: str) -> None:
        """Put both hosts back to a snapshot; a host that is off comes on with it."""
        self.take_lock()
        for host in self.hosts:
            host.disconnect()
            if host.is_on:
                qemu.monitor(host.machine, "stop")
        self.both(lambda host: self._load_one(host, tag))
        self.heal()
        self._cont()
        self.both(lambda host: host.wait_for_ssh(120))

    @staticmethod
    def _load_one(host: Host, tag: str) -> None:
        if host.is_on:
            qemu.load(host.machine, tag)
        else:
            qemu.start(host.machine, snapshot=tag)

    def _stop(self) -> None:
        for host in self.hosts:
            qemu.monitor(host.machine, "stop")

    def _cont(self) -> None:
        for host in self.hosts:
            qemu.monitor(host.machine, "cont")

    def snapshots(self) -> set[str]:
        """The snapshots that both hosts have."""
        have = [set(qemu.snapshots(host.machine)) for host in self.hosts]
        return have[0] & have[1]

    def reset(self, layer: str = "booted") -> None:
        """Both hosts as they were when this layer was made; makes it if need be."""
        from . import layers

        layers.ensure(self, layer)

    def cut_link(self) -> None:
        """Pull the replication cable; the second path stays."""
        link.cut(self.hosts, "link")

    def heal_link(self) -> None:
        """Plug the replication cable in again."""
        link.heal(self.hosts, "link")

    def cut_second_path(self) -> None:
        """Pull the cable over which the hosts reach each other beside replication."""
        link.cut(self.hosts, "path")

    def heal(self) -> None:
        """Plug both cables in again."""
        for cable in link.DEVICES:
            link.heal(self.hosts, cable)

    def shape_link(self, rate_mbit: float, delay_ms: float = 0) -> None:
        """Slow the replication link; ``delay_ms`` is one way."""
        link.shape(self.hosts, "link", rate_mbit, delay_ms)

    def silence_link(self) -> None:
        """Lose everything on the replication link, the carrier stays."""
        link.silence(self.hosts, "link")

    def unshape(self) -> None:
        """Full speed again."""
        link.unshape(self.hosts, "link")

    def collect(self, target: Path) -> list[Path]:
        """Every log of both hosts, as files under ``target``."""
        from . import logcheck

        return logcheck.collect(self, target)

    def deb(self) -> Path:
        """The product as its users get it. Raises LabError where it isn't built."""
        found = sorted(Path("dist").glob("xenhelper_*_all.deb"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise LabError("no dist/xenhelper_*_all.deb: run `make deb` first")
        return found[-1]


def build_product() -> None:
    """``make deb``, quietly."""
    subprocess.run(["make", "-s", "deb"], check=True)

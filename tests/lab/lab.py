"""The hosts together, two of them or three: up, down, layers, cables, logs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from . import hub, image, link, qemu, release
from .host import Host

T = TypeVar("T")


class LabError(Exception):
    """The lab can't do what was asked; one plain line."""


class Lab:
    """Two hosts on one image, and a third where a layer asks for it (``hosts``). A lab that runs
    already is attached to."""

    def __init__(self, which: release.Release | None = None, xen_options: str = "") -> None:
        self.release = which or release.current()
        folder = image.CACHE / f"lab-{self.release.name}-{image.key(self.release)}"
        self.folder = folder
        options = xen_options or os.environ.get("LAB_XEN") or qemu.XEN_OPTIONS
        base = int(os.environ.get("LAB_SSH_PORT") or 22800)
        self.alice, self.bob, self.carol = (
            Host(
                qemu.Machine(
                    name, number, folder / name, image.directory(self.release),
                    base + number, options,
                )
            )
            for number, name in ((1, "alice"), (2, "bob"), (3, "carol"))
        )  # fmt: skip
        self.everyone = (self.alice, self.bob, self.carol)
        self.hosts: tuple[Host, ...] = self.everyone[:2]

    def use(self, number: int) -> None:
        """From now on it has so many hosts: with two their cables are direct, with three there
        is a switch. Those that run take it up when they are started anew."""
        for host in self.everyone[number:]:
            host.disconnect()
            qemu.stop(host.machine)
        if number == 2:
            hub.stop(self.folder)
        else:
            qemu.lengthen_queues()
            hub.start(self.folder, list(qemu.CABLES), [host.machine.number for host in self.everyone])
        for host in self.everyone:
            host.machine = replace(host.machine, hub=number > 2)
        self.hosts = self.everyone[:number]

    def host(self, name: str) -> Host:
        """The host called so. Raises LabError."""
        for host in self.everyone:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r}: there are {', '.join(host.name for host in self.everyone)}")

    def both(self, action: Callable[[Host], T]) -> list[T]:
        """Do something on all hosts at once; results in order alice, bob."""
        return _each(self.hosts, action)

    @property
    def is_up(self) -> bool:
        """Whether both hosts are on."""
        return all(host.is_on for host in self.hosts)

    def check_alone(self) -> None:
        """Raises LabError where another lab runs on this machine."""
        for other in sorted(qemu.running_elsewhere(self.folder)):
            raise LabError(f"another lab runs on this machine: {other}")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Nobody else brings this machine's lab to another state meanwhile.

        Raises LabError, naming who has it.
        """
        image.CACHE.mkdir(parents=True, exist_ok=True)
        with (image.CACHE / "in-use").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise LabError(f"the lab is in use by {lock.read().strip()}") from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()}: {' '.join(sys.argv)}"[:200])
            lock.flush()
            yield

    def boot(self) -> None:
        """Boot both from new disks, volume groups made."""
        image.build(self.release)
        self.check_alone()
        for host in self.hosts:
            host.power_off()
            qemu.make_disks(host.machine)
        self.both(lambda host: host.power_on())
        self.both(lambda host: host.run("vgcreate -q vg0 /dev/vdb && vgcreate -q vg1 /dev/vdc"))

    def down(self) -> None:
        """Switch both off. Their snapshots stay."""
        for host in self.everyone:
            host.disconnect()
        _each(self.everyone, lambda host: qemu.stop(host.machine))
        hub.stop(self.folder)

    def save(self, tag: str) -> None:
        """Save both hosts, stopped in the same moment, and let them go on."""
        for host in self.hosts:
            host.run("sync")
            host.disconnect()
        self._stop()
        for _ in range(100):
            if not any(qemu.in_guest(host.machine) for host in self.hosts):
                break
            self._cont()
            time.sleep(0.1)
            self._stop()
        else:
            raise LabError("all hosts never were out of their guests: no snapshot can be taken")
        for host in self.hosts:
            qemu.monitor(host.machine, f"delvm {tag}")
        self.both(lambda host: qemu.save(host.machine, tag))
        self._cont()

    def load(self, tag: str, hosts: Sequence[Host] = ()) -> None:
        """Put all hosts (or just these) back to a snapshot, in new QEMU processes.

        A snapshot loaded in the running QEMU would make the hosts' clocks jump
        by the time since it was taken: QEMU never lets the TSC go back.
        """
        self.check_alone()
        hosts = hosts or self.hosts
        for host in hosts:
            host.disconnect()
        _each(hosts, lambda host: qemu.stop(host.machine))
        _each(hosts, lambda host: qemu.start(host.machine, snapshot=tag))
        self.heal()
        self._cont(hosts)
        _each(hosts, lambda host: host.wait_for_ssh(120))

    def _stop(self) -> None:
        for host in self.hosts:
            qemu.monitor(host.machine, "stop")

    def _cont(self, hosts: Sequence[Host] = ()) -> None:
        for host in hosts or self.hosts:
            qemu.monitor(host.machine, "cont")

    def snapshots(self) -> set[str]:
        """The snapshots that all hosts have."""
        return set.intersection(*(set(qemu.snapshots(host.machine)) for host in self.hosts))

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
        return newest_deb()


def _each(hosts: Sequence[Host], action: Callable[[Host], T]) -> list[T]:
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(action, hosts))


def newest_deb() -> Path:
    """The last .deb that was built. Raises LabError."""
    found = sorted(Path("dist").glob("xenhelper_*_all.deb"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise LabError("no dist/xenhelper_*_all.deb: run `make deb` first")
    return found[-1]


def build_product() -> None:
    """``make deb``, quietly."""
    subprocess.run(["make", "-s", "deb"], check=True)

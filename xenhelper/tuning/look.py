"""Read what items.decide() decides from: Xen, sysctls, md, the devices of this host."""

import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from xenhelper import paths
from xenhelper.config import Config
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning import blockdev, items, link
from xenhelper.tuning.blockdev import Segment, read
from xenhelper.tuning.items import Array, Device, Host
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

T = TypeVar("T")
_SYSCTLS = ("dev.raid.speed_limit_min", "dev.raid.speed_limit_max", *items.TCP)


def host(
    settings: Config, records: Mapping[str, Mapping[str, str]], known: Mapping[str, tuple[Segment, ...]]
) -> Host:
    """All of it. What can't be read is in ``errors``, by the item's name."""
    errors: list[tuple[str, str]] = []

    def tried(name: str, ask: Callable[[], T], default: T) -> T:
        try:
            return ask()
        except XenhelperError as error:
            errors.append((name, str(error)))
            return default

    xen = is_dom0()
    asked = settings.tuning
    meminfo = link.meminfo()
    used = (meminfo.get("MemTotal", 0) - meminfo.get("MemAvailable", 0)) // 1024
    scheduler, weight, cpus = "", None, ""
    if xen and asked.dom0_weight:
        scheduler = tried("dom0 weight", scheduler_name, "")
        weight = tried("dom0 weight", lambda: dom0_weight(scheduler), None)
    if xen and asked.dom0_cpus:
        cpus = tried("dom0 CPUs", dom0_cpus, "")
    memory = tried("dom0 memory", dom0_memory, 0) if xen and asked.dom0_memory else link.memory_mib()
    return Host(
        xen=xen,
        memory=memory,
        memory_used=used,
        memory_max=tried("dom0 memory", _memory_max, 0) if xen and asked.dom0_memory else 0,
        scheduler=scheduler,
        weight=weight,
        cpus=cpus,
        online_cpus=tried("dom0 CPUs", _cpu_count, 0) if xen and asked.dom0_cpus else 0,
        sysctls={key: sysctl(key) for key in _SYSCTLS},
        arrays=arrays(),
        devices=tuple(devices(records, known)),
        errors=tuple(errors),
    )


def is_dom0() -> bool:
    """Whether this is Xen's first domain. Systemd 252 (Debian 12) gives a unit that is kept off
    the cgroups a /proc of its own, without xenfs: there the feature XENFEAT_dom0 tells
    (xen/include/public/features.h, bit 11)."""
    if "control_d" in read(paths.ROOT + "/proc/xen/capabilities"):
        return True
    try:
        return bool(int(read(paths.ROOT + "/sys/hypervisor/properties/features"), 16) >> 11 & 1)
    except ValueError:
        return False


def _xl(*words: str) -> str:
    return run([domains.real_xl(), *words], timeout=15).stdout


def dom0_memory() -> int:
    """MiB, by ``xl list``: what Xen says, not what Linux does."""
    return parse_memory(_xl("list", "0"))


def parse_memory(text: str) -> int:
    """From ``xl list 0``: ``Domain-0  0  768  1  r-----  12.3``. Raises XenhelperError."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and words[0] == "Domain-0" and words[2].isdecimal():
            return int(words[2])
    raise XenhelperError("`xl list 0` doesn't show dom0")


def _memory_max() -> int:
    """MiB up to which dom0 can grow in this boot; 0 when it isn't said."""
    with Xenstore() as store:
        said = store.read("/local/domain/0/memory/static-max") or ""
    # without dom0_mem's max it is a number beyond any machine (libxl_mem.c)
    return int(said) // 1024 if said.isdecimal() and int(said) < 1 << 34 else 0


def scheduler_name() -> str:
    """``credit2``, ``credit``, …"""
    return _xl("info", "xen_scheduler").strip()


def dom0_weight(scheduler: str) -> int | None:
    """dom0's weight under the scheduler that runs; None when it has none."""
    command = items.SCHEDULERS.get(scheduler)
    return parse_weight(_xl(command, "-d", "0")) if command else None


def parse_weight(text: str) -> int | None:
    """From ``xl sched-credit2 -d 0``: ``Domain-0  0  256  0``."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "Domain-0" and words[2].isdecimal():
            return int(words[2])
    return None


def dom0_cpus() -> str:
    """The hard affinity of dom0's virtual CPUs when all have the same, else ``mixed``."""
    return parse_affinity(_xl("vcpu-list", "0"))


def parse_affinity(text: str) -> str:
    """From ``xl vcpu-list 0``: ``Domain-0  0  0  0  r--  9.1  0-1 / all``."""
    found = {
        match[1].strip()
        for line in text.splitlines()
        if line.startswith("Domain-0 ") and (match := re.search(r"\d\s+(\S+)\s+/\s+\S+\s*$", line))
    }
    return found.pop() if len(found) == 1 else "mixed"


def _cpu_count() -> int:
    said = _xl("info", "nr_cpus").strip()
    return int(said) if said.isdecimal() else 0


def sysctl(key: str) -> str:
    """Its value, '' when there is no such one."""
    return " ".join(read(f"{paths.ROOT}{items.PROC}/{key.replace('.', '/')}").split())


def arrays() -> tuple[Array, ...]:
    """This host's md arrays."""
    found = []
    base = paths.ROOT + "/sys/block"
    for name in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        folder = f"{base}/{name}/md"
        if not os.path.isdir(folder):
            continue
        members = (read(folder + "/raid_disks").split() or ["0"])[0]
        cache = read(folder + "/stripe_cache_size")
        found.append(
            Array(
                name,
                read(folder + "/level"),
                int(members) if members.isdecimal() else 0,
                int(cache) if cache.isdecimal() else 0,
            )
        )
    return tuple(found)


def devices(
    records: Mapping[str, Mapping[str, str]], known: Mapping[str, tuple[Segment, ...]]
) -> list[Device]:
    """Arrays, replicated volumes and their DRBD devices: what backups and checks in dom0
    read sequentially. Guests' reads pass these by."""
    found = []
    for array in arrays():
        folder = f"{paths.ROOT}/sys/block/{array.name}"
        stripes = blockdev.md_array(os.path.realpath(folder))
        geometry = blockdev.Geometry(stripes, read(folder + "/queue/rotational") != "0")
        found += _device(array.name, array.name, geometry)
    for _, record in sorted(records.items()):
        found += of_record(record, known)
    return found


def of_record(record: Mapping[str, str], known: Mapping[str, tuple[Segment, ...]]) -> list[Device]:
    """A replicated disk's volume and its DRBD device, as far as they are there."""
    volume = record.get("volume", "")
    geometry = blockdev.of(volume, known)
    found = _device(volume, blockdev.kernel_name(volume), geometry)
    if record.get("minor", "").isdecimal():
        found += _device(f"/dev/drbd_{record.get('resource', '')}", f"drbd{record['minor']}", geometry)
    return found


def _device(label: str, name: str, geometry: blockdev.Geometry) -> list[Device]:
    now = read(f"{paths.ROOT}/sys/block/{name}/queue/read_ahead_kb") if name else ""
    if not now.isdecimal():
        return []
    return [Device(label, name, int(now), geometry.read_ahead_kib, geometry.why)]

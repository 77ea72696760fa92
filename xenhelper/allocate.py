"""Names, minors and ports that are free on both hosts of a disk.

:func:`survey` reads what one host uses: the kernel's minors, every resource file, what
open intents reserve, our records, and local TCP ports. :func:`choose` is pure. Between
a survey and the intents that reserve its outcome both hosts' leases are held.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xenhelper import intents, moved, names, paths, statefile
from xenhelper.drbd import proc, resfile, resscan
from xenhelper.errors import XenhelperError

_MAX_ALIKE = 1000


@dataclass(frozen=True)
class Survey:
    """What is in use on one host: resource names that begin like the VM's, and minors
    and ports within the ranges asked for."""

    names: frozenset[str]
    minors: frozenset[int]
    ports: frozenset[int]


@dataclass(frozen=True)
class Slot:
    """What one disk gets."""

    vdev: str
    resource: str
    minor: int
    port: int


def choose(
    vm: str,
    vdevs: Sequence[str],
    surveys: Iterable[Survey],
    minors: tuple[int, int],
    ports: tuple[int, int],
) -> list[Slot]:
    """A slot for each vdev, each number the lowest that no survey has. Ranges include
    both ends. Raises XenhelperError when one is used up."""
    surveys = list(surveys)
    used_names = set().union(*(survey.names for survey in surveys))
    used_minors = set().union(*(survey.minors for survey in surveys))
    used_ports = set().union(*(survey.ports for survey in surveys))
    slots = []
    for vdev in vdevs:
        name = _free_name(vm, vdev, used_names)
        minor = lowest(minors, used_minors, "minor")
        port = lowest(ports, used_ports, "port")
        used_names.add(name)
        used_minors.add(minor)
        used_ports.add(port)
        slots.append(Slot(vdev, name, minor, port))
    return slots


def _free_name(vm: str, vdev: str, used: set[str]) -> str:
    """The contract's name, or one with a number in it when another VM or a foreign
    resource has that (``a.b`` and ``a_b`` map to one)."""
    for number in range(1, _MAX_ALIKE):
        name = names.resource_name(vm if number == 1 else f"{vm}_{number}", vdev)
        if name not in used:
            return name
    raise XenhelperError(f"{vm}: no resource name is free for {vdev}", "rename the VM")


def lowest(bounds: tuple[int, int], used: set[int], what: str) -> int:
    for number in range(bounds[0], bounds[1] + 1):
        if number not in used:
            return number
    raise XenhelperError(
        f"no {what} between {bounds[0]} and {bounds[1]} is free on both hosts",
        f"widen `{what}s` in {paths.CONFIG} on both",
    )


def survey(
    vm: str, minors: tuple[int, int], ports: tuple[int, int], mine: str = "", host: str = ""
) -> Survey:
    """What this host uses, as far as it matters for ``vm``. ``mine``: the id of a
    replicate intent whose own reservations don't count."""
    scan = resscan.scan_host(host or os.uname().nodename)
    used_names, used_minors, used_ports = set(scan.names), set(scan.minors), set(scan.ports)
    for name in statefile.names(paths.RESOURCES):
        if name in scan.names:
            continue  # its numbers stand in its resource file
        used_names.add(name)
        record = statefile.read(f"{paths.RESOURCES}/{name}") or {}
        _add(used_minors, record.get("minor"))
        _add(used_ports, record.get("port"))
    for intent in intents.all_open():
        if intent.get("kind") not in ("replicate", "replace") or intent.get("id") == mine:
            continue
        for resource in json.loads(intent.get("plan") or "{}").get("resources", ()):
            used_names.add(str(resource["resource"]))
            used_minors.add(int(resource["minor"]))
            used_ports.add(int(resource["port"]))
    used_minors |= proc.minors()
    # a host that was replaced while it was away still tries these when it is back
    used_ports |= local_ports() | moved.ports()
    stem = vm.replace(".", "_")
    return Survey(
        frozenset(name for name in used_names if name.startswith(stem)),
        frozenset(number for number in used_minors if minors[0] <= number <= minors[1]),
        frozenset(number for number in used_ports if ports[0] <= number <= ports[1]),
    )


def _add(numbers: set[int], text: str | None) -> None:
    if text is not None and text.isdecimal() and len(text) < 20:
        numbers.add(int(text))


def local_ports() -> set[int]:
    """Local TCP ports in any state (/proc/net/tcp, tcp6: the address ends in :HEX)."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{paths.ROOT}/proc/net/{name}", encoding="ascii", errors="replace") as file:
                next(file, None)
                for line in file:
                    words = line.split(None, 2)
                    if len(words) > 1:
                        found.add(int(words[1].rpartition(":")[2], 16))
        except (OSError, ValueError):
            continue
    return found


def beneath(host: str, skip_vm: str = "") -> dict[str, str]:
    """Volume path (as written in a resource file) -> resource, for every file on this
    host but the one of ``skip_vm``."""
    skip = resfile.path(skip_vm) if skip_vm else ""
    return resscan.scan_host(host, skip).volumes

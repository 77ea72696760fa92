"""Whether both hosts have come to rest after a fault, and what is still wrong if not."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from . import product
from .host import Host
from .lab import Lab
from .product import Net

# Emulated hosts are that much slower than the ones that the promise of 120 s is about.
SLOWNESS = float(os.environ.get("XENHELPER_LAB_SLOWNESS") or 3)
PROMISED = 120.0

# Brackets, so that no pattern finds the shell that runs it. The destination's `xl
# migrate-receive` stays: it watches over the domain from then on.
_LOOK = """
for r in {resources}; do echo "== show $r"; drbdsetup show $r; done
echo '== domains'; timeout 20 xl list | tail -n +2 | awk '{{print $2, $1, $5}}'
echo '== kernel'; cat /proc/drbd
echo '== intents'; ls -A /var/lib/xenhelper/intents 2>/dev/null
echo '== marks'; cd /run/xenhelper && ls -d crash-at* granted/* asking/* 2>/dev/null
echo '== work'; pgrep -af '[x]l-plugin|[x]l migrate |[b]lock-xenhelper|[l]ibxl-save-helper'
echo '== backends'; xenstore-list backend/vbd 2>/dev/null
echo '== temporary'; find /var/lib/xenhelper /etc/drbd.d /etc/xen -name '.*' -type f
true
"""


@dataclass(frozen=True)
class View:
    """What one host shows; ``domains``: id, name and xl's letters of each but dom0."""

    host: str
    nets: dict[str, Net] = field(default_factory=dict)
    domains: tuple[tuple[int, str, str], ...] = ()
    kernel: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # connection, role, disks
    left: tuple[str, ...] = ()


def view(host: Host, resources: Sequence[str]) -> View:
    """Look at a host, by one command."""
    out = host.run(_LOOK.format(resources=" ".join(resources)), check=False).out
    return parse(host.name, out)


def parse(host: str, text: str) -> View:
    """The answer of ``_LOOK``."""
    sections = (part.partition("\n") for part in re.split(r"^== ", text, flags=re.M)[1:])
    parts = {title.strip(): body for title, _, body in sections}
    nets = {
        title.removeprefix("show "): product.net_of(body)
        for title, body in parts.items()
        if title.startswith("show ") and body.strip()
    }
    domains = []
    for line in parts.get("domains", "").splitlines():
        words = line.split()
        if len(words) == 3 and words[0].isdigit() and words[0] != "0":
            domains.append((int(words[0]), words[1], words[2]))
    kernel = {
        int(minor): (connection, role, disks)
        for minor, connection, role, disks in re.findall(
            r"^\s*(\d+): cs:(\S+) ro:(\S+) ds:(\S+)", parts.get("kernel", ""), re.M
        )
    }
    left = [f"intent {name}" for name in parts.get("intents", "").split()]
    left += [f"mark {name}" for name in parts.get("marks", "").split()]
    left += [f"process {line}" for line in parts.get("work", "").splitlines() if line]
    left += [f"file {name}" for name in parts.get("temporary", "").split()]
    living = {str(domid) for domid, _, _ in domains} | {"0"}
    left += [
        f"backend of domain {number}, which is gone"
        for number in parts.get("backends", "").split()
        if number not in living
    ]
    return View(host, nets, tuple(domains), kernel, tuple(left))


def running(views: Iterable[View], vm: str) -> list[str]:
    """The hosts on which the VM runs: under its own name, not paused, suspended or dying."""
    return [
        seen.host
        for seen in views
        for _, name, letters in seen.domains
        if name == vm and not set(letters) & set("pscd")
    ]


def odd(views: Iterable[View], vm: str) -> list[str]:
    """Domains of the VM under a migration's name or not running, and any without a name."""
    own = re.compile(rf"{re.escape(vm)}(--incoming|--migratedaway)?")
    found = []
    for seen in views:
        for _, name, letters in seen.domains:
            stuck = own.fullmatch(name) and (name != vm or set(letters) & set("pscd"))
            if stuck or name == "(null)":
                found.append(f"{name} ({letters}) on {seen.host}")
    return found


def judge(views: Sequence[View], vm: str, minors: dict[str, int]) -> list[str]:
    """What isn't as promised; empty once both hosts are at rest. Pure."""
    where = running(views, vm)
    wrong = [] if len(where) == 1 else [f"{vm} runs on {' and '.join(where) or 'no host'}"]
    wrong += odd(views, vm)
    for seen in views:
        for resource, minor in minors.items():
            if seen.nets.get(resource) != Net("A", False):
                wrong.append(f"{resource} on {seen.host}: {seen.nets.get(resource)}")
            connection, role, disks = seen.kernel.get(minor, ("down", "-/-", ""))
            wanted = "Primary" if where == [seen.host] else "Secondary"
            if (connection, disks) != ("Connected", "UpToDate/UpToDate"):
                wrong.append(f"{resource} on {seen.host}: {connection} {disks}")
            if role.split("/")[0] != wanted:
                wrong.append(f"{resource} on {seen.host}: {role}, not {wanted}")
        wrong += [f"left on {seen.host}: {what}" for what in seen.left]
    return wrong


@dataclass(frozen=True)
class Rest:
    """How it ended: where the VM runs, after how long; what is left for a person."""

    where: list[str]
    seconds: float
    wrong: list[str]


def wait(lab: Lab, vm: str, minors: dict[str, int], promised: float = PROMISED) -> Rest:
    """Until both hosts are at rest, for ``promised`` seconds of hosts that aren't emulated.

    Raises AssertionError at once when the VM is ever seen running twice.
    """
    began = time.monotonic()
    end = began + promised * SLOWNESS
    calm = 0
    while True:
        looked = time.monotonic()
        views = lab.both(lambda host: view(host, list(minors)))
        where = running(views, vm)
        assert len(where) < 2, f"{vm} runs on both hosts"
        wrong = judge(views, vm, minors)
        # twice in a row: a window that is just being closed may pass once
        calm = 0 if wrong else calm + 1
        if calm == 2 or time.monotonic() > end:
            return Rest(where, time.monotonic() - began, wrong)
        time.sleep(max(2, 2 * (time.monotonic() - looked)))


def alerts(lab: Lab, vm: str) -> list[str]:
    """What both hosts tell a person about the VM: lines that name a command."""
    command = f"journalctl -q -t xenhelper -p warning -o cat -n 300 | grep -F '{vm}'"
    found = []
    for host in lab.hosts:
        lines = host.run(command, check=False).out.splitlines()
        found += [f"{host.name}: {line}" for line in lines if re.search(r"`(xl|xenhelper) ", line)]
    return found

"""What a host's processes cost while something goes on: CPU time and memory, by what they are for.

host/usage.c counts: the kernel's own word on each task that ends, however short it lived, and
/proc on those that live on.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import product
from tests.lab.guestimage import compile_static
from tests.lab.host import Host
from tests.lab.lab import Lab

from .hooks import NotMeasured

_SOURCE = Path(__file__).parent / "host" / "usage.c"
_PROGRAM, _FILE = "/root/bench-usage", "/run/bench-usage"
# what Xen says of dom0's CPU time is asked for outside of what is counted
_START = f"""
@REAL@ list 0 | awk 'NR == 2 {{print $6}}'
rm -f {_FILE}
nohup {_PROGRAM} > {_FILE} 2>&1 < /dev/null & echo $! > {_FILE}.pid
tries=0
until grep -qE '^(ready|error)' {_FILE}; do
    tries=$((tries + 1)); [ $tries -lt 200 ] || exit 1; sleep 0.2
done
! grep '^error' {_FILE} >&2
"""
_STOP = f"""
pid=$(cat {_FILE}.pid)
kill -TERM $pid
while kill -0 $pid 2>/dev/null; do sleep 0.2; done
@REAL@ list 0 | awk 'NR == 2 {{print $6}}'
"""
REST = "everything else"
XL, HELPER, QEMU, SSH = "xl", "libxl-save-helper", "QEMU", "ssh, sshd"
BLOCK, VIF = "block scripts and what they start", "vif script"
OURS, DRBD = "xenhelper, with its ssh", "drbdsetup, drbdadm"
KERNEL_DRBD, KERNEL_XEN = "DRBD's kernel threads", "Xen's kernel threads"
DAEMONS = "xenstored, xenconsoled"
GROUPS = (XL, HELPER, QEMU, SSH, BLOCK, VIF, OURS, DRBD, KERNEL_DRBD, KERNEL_XEN, DAEMONS, REST)
# the kernel keeps 15 letters of a name
NAMED = {
    "xl": XL, "libxl-save-help": HELPER, "qemu-system-xen": QEMU, "qemu-system-i38": QEMU,
    "ssh": SSH, "sshd": SSH, "sshd-session": SSH, "sshd-auth": SSH,
    "block-xenhelper": BLOCK, "block-drbd": BLOCK, "vif-bridge": VIF,
    # the shim becomes python3 before it is itself
    "python3": OURS, "xenhelper": OURS, "peer-link": OURS, "peer-serve": OURS, "drbd-event": OURS,
    "fence-peer": OURS,
    "drbdsetup": DRBD, "drbdadm": DRBD, "drbdmeta": DRBD,
    "xenstored": DAEMONS, "oxenstored": DAEMONS, "xenconsoled": DAEMONS,
}  # fmt: skip
_KERNEL_XEN = re.compile(r"xenbus|xenwatch|xen-|\d+\.xvd|vif\d")
_KTHREADD = 2


@dataclass(frozen=True)
class Task:
    """One process, threads added up, in what was measured."""

    pid: int
    ppid: int
    name: str
    cpu: float  # seconds
    peak_kib: int
    began: float | None = None  # the host's uptime; None: before, or it isn't known
    ended: float | None = None  # None: it lives on


@dataclass(frozen=True)
class Usage:
    """One host. ``above`` are the processes that the counting itself was typed in."""

    tasks: tuple[Task, ...]
    above: frozenset[int]
    seconds: float
    ticks: float  # CPU seconds by /proc/stat, which in emulation misses ticks
    memory_kib: int  # less available at the lowest than at the start


@dataclass(frozen=True)
class Group:
    """Processes of one kind."""

    cpu: float  # seconds, of all
    peak_mib: float  # of the largest
    count: int


@dataclass(frozen=True)
class Costs:
    """What one host spent."""

    seconds: float
    dom0: float  # CPU seconds by Xen
    ticks: float
    tasks: float  # CPU seconds of all processes and kernel threads
    memory_mib: float
    groups: Mapping[str, Group]


def parse(text: str) -> Usage:
    """The program's output. Raises NotMeasured where it broke off or the kernel dropped something."""
    lines = [_fields(line) for line in text.splitlines()]
    marks = {kind: fields for kind, fields in lines if kind in ("begin", "end", "memory")}
    if len(marks) != 3:
        raise NotMeasured(f"what processes cost is incomplete: {text[-200:]!r}")
    if int(marks["end"]["lost"]):
        raise NotMeasured(f"the kernel dropped {marks['end']['lost']} messages on processes that ended")
    over = next(index for index, (kind, _) in enumerate(lines) if kind == "end")
    before = {int(f["pid"]): f for kind, f in lines[:over] if kind == "lives"}
    after = {int(f["pid"]): f for kind, f in lines[over:] if kind == "lives"}
    ended: dict[int, list[dict[str, str]]] = {}
    for kind, fields in lines:
        if kind == "ended" and int(fields["tgid"]) not in after:
            ended.setdefault(int(fields["tgid"]), []).append(fields)
    tasks = [_living(fields, before.get(pid)) for pid, fields in after.items()]
    tasks += [_gone(threads, before.get(pid)) for pid, threads in ended.items()]
    above, pid = set(), int(marks["begin"]["self"])
    while pid in before and pid not in above and pid > 1:
        above.add(pid)
        pid = int(before[pid]["ppid"])
    first, last = (_busy(fields["cpu"]) for kind, fields in lines if kind == "stat")
    memory = int(marks["memory"]["available"]) - int(marks["memory"]["least"])
    seconds = float(marks["end"]["up"]) - float(marks["begin"]["up"])
    # sshd's listener is everybody's
    above -= {p for p in above if before[p]["ppid"] == "1" and before[p]["comm"] == "sshd"}
    return Usage(tuple(tasks), frozenset(above), seconds, last - first, memory)


def _fields(line: str) -> tuple[str, dict[str, str]]:
    kind, _, rest = line.partition(" ")
    if kind == "stat":
        return kind, {"cpu": rest}
    rest, mark, name = rest.partition("comm=")
    found = dict(word.split("=", 1) for word in rest.split() if "=" in word)
    return kind, found | ({"comm": name} if mark else {})


def _busy(line: str) -> float:
    """Seconds of /proc/stat's ``cpu`` line but for idle, iowait, steal and guests' (proc(5))."""
    user, nice, system, _, _, interrupt, softly = (int(word) for word in line.split()[1:8])
    return (user + nice + system + interrupt + softly) / 100


def _living(fields: Mapping[str, str], before: Mapping[str, str] | None) -> Task:
    micros = int(fields["cpu"]) - int(before["cpu"] if before else 0)
    return Task(
        int(fields["pid"]), int(fields["ppid"]), fields["comm"], max(0, micros) / 1e6, int(fields["peak"])
    )


def _gone(threads: Sequence[Mapping[str, str]], before: Mapping[str, str] | None) -> Task:
    leader = next((t for t in threads if t["pid"] == t["tgid"]), threads[-1])
    micros = sum(int(t["cpu"]) for t in threads) - int(before["cpu"] if before else 0)
    return Task(
        int(leader["tgid"]),
        int(leader["ppid"]),
        leader["comm"],
        max(0, micros) / 1e6,
        max(int(t["peak"]) for t in threads),
        None if before else float(leader["up"]) - int(leader["lived"]) / 1e6,
        max(float(t["up"]) for t in threads),
    )


def grouped(usage: Usage) -> dict[str, list[Task]]:
    """Each task's kind: by its name, else its parent's. Every task is in one."""
    known = {task.pid: task for task in usage.tasks}
    peers = _peer_ssh(known)
    found: dict[str, list[Task]] = {name: [] for name in GROUPS}
    for task in usage.tasks:
        found[_kind(task, known, usage.above, peers)].append(task)
    return found


def _kind(task: Task, known: Mapping[int, Task], above: Iterable[int], peers: Iterable[int]) -> str:
    seen: set[int] = set()
    while task.pid not in seen:
        seen.add(task.pid)
        if task.pid in above:
            return REST
        if task.pid in peers:
            return OURS
        if _KTHREADD in (task.pid, task.ppid):
            if task.name.startswith("drbd"):
                return KERNEL_DRBD
            return KERNEL_XEN if _KERNEL_XEN.match(task.name) else REST
        if task.name in NAMED:
            return NAMED[task.name]
        if task.ppid not in known:
            return REST
        task = known[task.ppid]
    return REST


def _peer_ssh(known: Mapping[int, Task]) -> set[int]:
    """The ssh of xenhelper's own connection: below peer-link, and above peer-serve but for
    sshd's listener."""
    found = {
        task.pid for task in known.values()
        if task.name == "ssh" and task.ppid in known and known[task.ppid].name == "peer-link"
    }  # fmt: skip
    for task in known.values():
        while task.name == "peer-serve" or task.pid in found:
            parent = known.get(task.ppid)
            if parent is None or parent.ppid <= 1 or not parent.name.startswith(("sshd", "sh", "bash")):
                break
            found.add(parent.pid)
            task = parent
    return found


def costs(usage: Usage, dom0: float) -> Costs:
    """The host's table; ``dom0``: CPU seconds that Xen gave it meanwhile."""
    groups = {}
    for name, tasks in grouped(usage).items():
        if tasks:
            peak = max(task.peak_kib for task in tasks) / 1024
            cpu = sum(task.cpu for task in tasks)
            groups[name] = Group(round(cpu, 2), round(peak, 1), sum(task.ended is not None for task in tasks))
    total = sum(task.cpu for task in usage.tasks)
    return Costs(
        round(usage.seconds, 1), round(dom0, 1), round(usage.ticks, 1), round(total, 1),
        round(usage.memory_kib / 1024, 1), groups,
    )  # fmt: skip


def install(lab: Lab) -> None:
    """The program on both hosts."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "usage")
        compile_static(_SOURCE, program)
        for host in lab.hosts:
            host.put(program, _PROGRAM)
            host.run(f"chmod 755 {_PROGRAM}")


class Meter:
    """``with Meter(lab) as meter: …``, then ``read``. Precondition: installed."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __enter__(self) -> Meter:
        self._before = self.lab.both(lambda host: _dom0(host, _START))
        return self

    def __exit__(self, *_: object) -> None:
        self._after = self.lab.both(lambda host: _dom0(host, _STOP))

    def read(self) -> dict[str, tuple[Usage, Costs]]:
        """By host's name. Raises NotMeasured."""
        found = {}
        for host, before, after in zip(self.lab.hosts, self._before, self._after, strict=True):
            usage = parse(host.read(_FILE))
            found[host.name] = usage, costs(usage, after - before)
        return found


def _dom0(host: Host, script: str) -> float:
    return float(host.out(script.replace("@REAL@", product.real_xl(host)), timeout=120))

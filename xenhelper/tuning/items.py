"""What a host should be like: one Item for each thing, decided from what was read. Pure.

An item that is as it should be has no steps. One that can't be is told, and doesn't stop
the others.
"""

from dataclasses import dataclass

from xenhelper.tuning.settings import Tuning

SYS, PROC = "/sys", "/proc/sys"


@dataclass(frozen=True)
class Write:
    """Put ``text`` into a file of /proc or /sys."""

    path: str
    text: str


@dataclass(frozen=True)
class Call:
    """Run a program; ``xl`` stands for Xen's own."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """``now`` and ``wanted`` as people read them; ``why``, and ``how`` it is set.
    ``trouble``: why it can't be as wanted, with the remedy."""

    name: str
    now: str
    wanted: str
    why: str
    how: str
    steps: tuple[Write | Call, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Array:
    """An md array: sysfs name, level, members, stripe cache in pages a member (0: none)."""

    name: str
    level: str
    members: int
    cache: int


@dataclass(frozen=True)
class Device:
    """A device whose dom0 read-ahead is ours to set; KiB. ``label`` is what people call
    it, ``name`` what the kernel does."""

    label: str
    name: str
    now: int
    wanted: int
    why: str


@dataclass(frozen=True)
class Host:
    """What was read of this host. Memory in MiB (0: unknown), CPU lists as xl shows them,
    ``weight`` None where it can't be read; ``sysctls`` by name, values as they stand."""

    xen: bool = True
    memory: int = 0
    memory_used: int = 0
    memory_max: int = 0
    scheduler: str = ""
    weight: int | None = None
    cpus: str = ""
    online_cpus: int = 0
    sysctls: dict[str, str] | None = None
    arrays: tuple[Array, ...] = ()
    devices: tuple[Device, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


# MiB that dom0 keeps above what it uses
HEADROOM = 512
# xl list rounds, and a balloon stops a little off
MEMORY_SLACK = 8
SCHEDULERS = {"credit": "sched-credit", "credit2": "sched-credit2"}
TCP = ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")


def decide(host: Host, asked: Tuning) -> list[Item]:
    """Every item, in the order in which they are applied."""
    found = []
    errors = dict(host.errors)
    if host.xen:
        for name, make in (("dom0 memory", _memory), ("dom0 weight", _weight), ("dom0 CPUs", _cpus)):
            item = make(host, asked)
            if item is not None:
                reason = errors.get(name, "")
                found.append(
                    Item(item.name, "?", item.wanted, item.why, item.how, (), reason) if reason else item
                )
    found += _md(host, asked)
    found += _tcp(host, asked)
    found += [read_ahead(device) for device in host.devices]
    return found


def _memory(host: Host, asked: Tuning) -> Item | None:
    if not asked.dom0_memory:
        return None
    floor = host.memory_used + HEADROOM
    target = max(asked.dom0_memory, floor)
    why = "[tuning] dom0_memory"
    if target > asked.dom0_memory:
        why += f" is {asked.dom0_memory}; dom0 uses {host.memory_used} MiB, and {HEADROOM} more are kept free"
    how = f"xl mem-set 0 {target}m"
    trouble = ""
    if host.memory_max and target > host.memory_max + MEMORY_SLACK:
        trouble = (
            f"dom0 can't have more than {host.memory_max} MiB in this boot; "
            f"`xenhelper tune --write` gives Xen dom0_mem={target}M for the next"
        )
    near = abs(host.memory - target) <= MEMORY_SLACK
    steps = () if near or trouble else (Call(("xl", "mem-set", "0", f"{target}m")),)
    return Item("dom0 memory", f"{host.memory} MiB", f"{target} MiB", why, how, steps, trouble)


def _weight(host: Host, asked: Tuning) -> Item | None:
    if not asked.dom0_weight:
        return None
    weight, command = str(asked.dom0_weight), SCHEDULERS.get(host.scheduler, "")
    why = "guests' disks are served by dom0: it mustn't wait behind them"
    now = f"{host.weight if host.weight is not None else '?'} ({host.scheduler or '?'})"
    if not command:
        trouble = (
            f"scheduler {host.scheduler or '?'} has no weights; `sched=credit2` on Xen's command line has"
        )
        return Item("dom0 weight", now, weight, why, "", (), trouble)
    steps = () if host.weight == asked.dom0_weight else (Call(("xl", command, "-d", "0", "-w", weight)),)
    return Item(
        "dom0 weight", now, f"{weight} ({host.scheduler})", why, f"xl {command} -d 0 -w {weight}", steps
    )


def _cpus(host: Host, asked: Tuning) -> Item | None:
    if not asked.dom0_cpus:
        return None
    wanted = cpu_set(asked.dom0_cpus)
    how, trouble = f"xl vcpu-pin 0 all {asked.dom0_cpus}", ""
    if host.online_cpus and max(wanted) >= host.online_cpus:
        trouble = f"this host has CPUs 0 to {host.online_cpus - 1} only; correct [tuning] dom0_cpus"
    same = wanted == (set(range(host.online_cpus)) if host.cpus == "all" else cpu_set(host.cpus))
    steps = () if same or trouble else (Call(("xl", "vcpu-pin", "0", "all", asked.dom0_cpus)),)
    return Item("dom0 CPUs", host.cpus or "?", asked.dom0_cpus, "[tuning] dom0_cpus", how, steps, trouble)


def cpu_set(text: str) -> set[int]:
    """The CPUs of ``0-1,4``; none of what isn't such a list."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), min(int(last or first), 65535) + 1))
    return found


def _md(host: Host, asked: Tuning) -> list[Item]:
    found = []
    low, high = asked.md_resync
    if host.arrays:
        for key, value, why in (
            ("dev.raid.speed_limit_min", low, "a rebuild gets on beside busy guests"),
            ("dev.raid.speed_limit_max", high, "a rebuild may use what idle disks can do"),
        ):
            if value:
                found.append(_sysctl(host, key, str(value), why))
    for array in host.arrays:
        if array.cache and asked.md_stripe_cache:
            found.append(_stripe_cache(array, host.memory))
    return found


def stripe_cache(members: int, memory_mib: int) -> int:
    """Pages a member: the largest power of two from md's 256 to 4096 that keeps an array's
    cache (pages x 4 KiB x members, md.rst) within a 32nd of dom0's memory."""
    size = 4096
    while size > 256 and (memory_mib <= 0 or size * 4 * members > memory_mib * 1024 // 32):
        size //= 2
    return size


def _stripe_cache(array: Array, memory_mib: int) -> Item:
    size = max(array.cache, stripe_cache(array.members, memory_mib))
    path = f"{SYS}/block/{array.name}/md/stripe_cache_size"
    why = f"whole stripes are gathered before {array.level} writes; {size * 4 * array.members // 1024} MiB"
    steps = () if size == array.cache else (Write(path, str(size)),)
    return Item(f"{array.name} stripe cache", str(array.cache), str(size), why, path, steps)


def _tcp(host: Host, asked: Tuning) -> list[Item]:
    if not asked.tcp_buffers:
        return []
    # KiB a connection at most: 16 MiB, in a small dom0 a 64th of its memory
    most = min(16 << 20, max(4 << 20, (host.memory or 1024) * (1 << 20) // 64))
    found = []
    for key in TCP:
        now = (host.sysctls or {}).get(key, "")
        words = [int(word) for word in now.split() if word.isdecimal()]
        if len(words) != 3:
            continue
        wanted = [max(had, want) for had, want in zip(words, (4096, 1 << 20, most), strict=True)]
        text = " ".join(str(value) for value in wanted)
        found.append(_sysctl(host, key, text, "the replication link's TCP window may fill the line"))
    return found


def _sysctl(host: Host, key: str, value: str, why: str) -> Item:
    path = f"{PROC}/{key.replace('.', '/')}"
    now = " ".join((host.sysctls or {}).get(key, "").split())
    if not now:
        return Item(key, "?", value, why, f"sysctl {key}", (), f"{path} isn't there")
    steps = () if now == value else (Write(path, value),)
    return Item(key, now, value, why, f"sysctl {key}", steps)


def read_ahead(device: Device) -> Item:
    """dom0's read-ahead of one device."""
    path = f"{SYS}/block/{device.name}/queue/read_ahead_kb"
    steps = () if device.now == device.wanted else (Write(path, str(device.wanted)),)
    name = f"{device.label} read-ahead"
    return Item(name, f"{device.now} KiB", f"{device.wanted} KiB", device.why, path, steps)

"""Logs of both hosts: collect them, and find in them what must never be there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .host import Host
    from .lab import Lab

# name -> pattern. A test that expects one says so by name:
# @pytest.mark.expects("split-brain").
BAD = {
    "warning": re.compile(r"\bWARNING: (CPU|possible)"),
    "bug": re.compile(r"\bBUG: |kernel BUG at|\bOops\b|general protection fault"),
    "hung": re.compile(r"blocked for more than|soft lockup|hung_task"),
    "assert": re.compile(r"drbd.*ASSERT"),
    # A side that was Primary alone and wrote nothing (a destination whose link went before it
    # had the guest): DRBD takes the other side's data by itself (resfile.py, after-sb-…).
    "split-brain-solved": re.compile(r"Split-Brain detected, .*automatically solved"),
    "split-brain": re.compile(r"^(?!.*(initial-split-brain|automatically solved)).*split.?brain", re.I),
    "traceback": re.compile(r"Traceback \(most recent call last\)"),
    "wrong-block": re.compile(r"^XH xvd\w WRONG ", re.M),
    "io-error": re.compile(r"(Buffer )?I/O error on dev|Remounting filesystem read-only"),
    "python-crash": re.compile(r"Fatal Python error|^(?!.*xen-qemu-system).*segfault at", re.M),
    # Debian's dom0 QEMU, which no PVH guest uses, dies so now and then when the host shuts down
    "qemu-crash": re.compile(r"xen-qemu-system\S*: segfault at"),
}
# Lines that match a pattern and mean nothing.
HARMLESS = [
    re.compile(r"after-split-brain|after-sb-|split-brain \"|handler.*split-brain="),
    # comes before DRBD says whether it solved it
    re.compile(r"/sbin/drbdadm initial-split-brain"),
]

# Where a host's logs are; the kernel's log is in the journal.
JOURNAL = "journalctl -b all --no-pager -o short-precise 2>/dev/null || journalctl --no-pager"
FILES = "/var/log/xen /var/log/xenhelper /var/log/libvirt"
# Not xenstored-access.log: it repeats what all others write.
LOGS = "find /var/log/xen /var/log/xenhelper -name '*.log' ! -name 'xenstored-access*' 2>/dev/null"


@dataclass(frozen=True)
class Mark:
    """How far a host's logs were. Kept here: the host may lose its power."""

    cursor: str
    sizes: dict[str, int]
    serial: int


def mark(host: Host) -> Mark:
    """Remember how far the host's logs are, for ``problems``."""
    out = host.out(
        "journalctl -q --no-pager -n 0 --show-cursor | sed -n 's/^-- cursor: //p'; "
        f"{LOGS} -exec stat -c '%s %n' {{}} + || true"
    )
    cursor, *files = out.splitlines()
    sizes = {name: int(size) for size, name in (line.split(" ", 1) for line in files)}
    return Mark(cursor, sizes, host.machine.serial_log.stat().st_size)


def serial_mark(host: Host) -> Mark:
    """The same of a host that may be off: its serial console only, for ``consoles``."""
    log = host.machine.serial_log
    return Mark("", {}, log.stat().st_size if log.exists() else 0)


def new_text(host: Host, since: Mark) -> str:
    """What the host has logged since: serial console, journal, files."""
    with host.machine.serial_log.open("rb") as serial:
        serial.seek(since.serial)
        text = serial.read().decode(errors="replace")
    if host.is_on:
        skip = "".join(f"[{shlex.quote(name)}]={size} " for name, size in since.sizes.items())
        script = (
            f"journalctl -q --no-pager --after-cursor={shlex.quote(since.cursor)}; "
            f"declare -A skip=({skip}); {LOGS} | while read -r f; do "
            'tail -c +$((${skip[$f]:-0} + 1)) "$f"; done'
        )
        text += "\n" + host.run(f"bash -c {shlex.quote(script)}", timeout=180).out
    return text.replace("\r", "")


def consoles(lab: Lab, marks: Sequence[Mark]) -> str:
    """What kernels have said since: the hosts' consoles, and their guests' where the host
    still answers."""
    text = ""
    for host, since in zip(lab.hosts, marks, strict=True):
        with host.machine.serial_log.open("rb") as serial:
            serial.seek(since.serial)
            text += serial.read().decode(errors="replace")
        if host.is_on:
            try:
                text += host.run("tail -q -c 20000 /var/log/xen/console/guest-*.log", 60, check=False).out
            except (Exception, subprocess.SubprocessError):
                continue  # it doesn't answer: its own console has said why
    return text.replace("\r", "")


def find(text: str, expected: Iterable[str] = ()) -> list[str]:
    """Lines that match a pattern which isn't expected, each with its name."""
    patterns = {name: p for name, p in BAD.items() if name not in set(expected)}
    found = []
    for line in text.splitlines():
        for name, pattern in patterns.items():
            if pattern.search(line) and not any(h.search(line) for h in HARMLESS):
                found.append(f"{name}: {line.strip()}")
                break
    return found


def problems(lab: Lab, marks: Sequence[Mark], expected: Iterable[str] = ()) -> list[str]:
    """What either host has logged since its mark and mustn't have."""
    found = []
    for host, since in zip(lab.hosts, marks, strict=True):
        lines = find(new_text(host, since), expected)
        found += [f"{host.name}: {line}" for line in dict.fromkeys(lines)]
    return found


def collect(lab: Lab, target: Path) -> list[Path]:
    """Serial console, kernel log, journal and Xen's logs of both hosts as files."""
    target.mkdir(parents=True, exist_ok=True)
    written = []

    def keep(name: str, text: str) -> None:
        path = target / name
        path.write_text(text)
        written.append(path)

    for host in lab.hosts:
        serial = host.machine.serial_log
        if serial.exists():
            keep(f"{host.name}-serial.log", serial.read_text(errors="replace")[-400_000:])
        if not host.is_on:
            continue
        for name, command in (
            ("journal", JOURNAL),
            ("dmesg", "dmesg"),
            ("xl", f"for f in $(find {FILES} -type f 2>/dev/null); do echo \"== $f\"; "
                   "tail -c 60000 $f; done"),
            ("state", "xl list; cat /proc/drbd; drbdsetup show; drbdsetup events2 --now "
                      "--statistics; lvs -a -o +tags; xenstore-ls -fp; ls -lR /etc/drbd.d; "
                      "ps -f --ppid 2 -p 2 -N --forest"),
        ):  # fmt: skip
            try:
                keep(f"{host.name}-{name}.log", host.run(command, 180, check=False).out)
            except (Exception, subprocess.SubprocessError) as error:
                keep(f"{host.name}-{name}.log", f"could not be read: {error}\n")
                break  # it doesn't answer any more: three minutes for each of the rest are too much
    return written


def tail(paths: Iterable[Path], lines: int = 40) -> str:
    """The ends of collected logs, for a failing test's output."""
    parts = []
    for path in paths:
        text = path.read_text(errors="replace").splitlines()
        parts.append(f"===== {path.name} (last {lines} of {len(text)} lines)")
        parts += text[-lines:]
    return "\n".join(parts)

"""Logs of both hosts: collect them, and find in them what must never be there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
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
    "split-brain": re.compile(r"split.?brain", re.I),
    "traceback": re.compile(r"Traceback \(most recent call last\)"),
    "wrong-block": re.compile(r"^XH xvd\w WRONG ", re.M),
    "io-error": re.compile(r"(Buffer )?I/O error on dev|Remounting filesystem read-only"),
    "python-crash": re.compile(r"Fatal Python error|segfault at"),
}
# Lines that match a pattern and mean nothing.
HARMLESS = [
    re.compile(r"after-split-brain|after-sb-|split-brain \"|handler.*split-brain="),
]

# Where a host's logs are; the kernel's log is in the journal.
JOURNAL = "journalctl -b all --no-pager -o short-precise 2>/dev/null || journalctl --no-pager"
FILES = "/var/log/xen /var/log/xenhelper /var/log/libvirt"
SINCE = "/run/lab-test-start"


def mark(host: Host) -> None:
    """Remember how far the host's logs are, for ``problems``."""
    host.run(
        f"journalctl -q --no-pager -n 0 --show-cursor | sed -n 's/^-- cursor: //p' > {SINCE}; "
        "find /var/log/xen -name '*.log' -exec wc -c {} + > /run/lab-test-sizes"
    )


def _new_text(host: Host) -> str:
    """What was logged since ``mark``; everything where the host has booted since."""
    return host.run(
        f"if [ -s {SINCE} ]; then journalctl -q --no-pager --after-cursor=\"$(cat {SINCE})\"; "
        "else journalctl -q --no-pager -b; fi; "
        "for f in $(find /var/log/xen -name '*.log'); do "
        "  from=$(awk -v f=$f '$2 == f {print $1}' /run/lab-test-sizes 2>/dev/null); "
        "  [ $(stat -c %s $f) = \"$from\" ] || { echo \"== $f\"; tail -c +$((${from:-0} + 1)) $f; }; "
        "done",
        timeout=180,
    ).out.replace("\r", "")  # fmt: skip


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


def problems(lab: Lab, expected: Iterable[str] = ()) -> list[str]:
    """What either host has logged since ``mark`` and mustn't have."""
    found = []
    for host in lab.hosts:
        if host.is_on:
            text = _new_text(host)
        else:
            text = host.machine.serial_log.read_text(errors="replace")[-100_000:]
        found += [f"{host.name}: {line}" for line in find(text, expected)]
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
    return written


def tail(paths: Iterable[Path], lines: int = 60) -> str:
    """The ends of collected logs, for a failing test's output."""
    parts = []
    for path in paths:
        text = path.read_text(errors="replace").splitlines()
        parts.append(f"===== {path.name} (last {lines} of {len(text)} lines)")
        parts += text[-lines:]
    return "\n".join(parts)

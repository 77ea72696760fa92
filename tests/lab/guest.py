"""The integrity guest as the harness sees it: its console, and what it reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .host import Host
from .wait import wait_until

LOGS = "/var/log/xen/console"
_STATUS = re.compile(r"^XH (xvd\w) (seq=.*up=[\d.]+)\s*$", re.M)
_BOOT = re.compile(r"^XH (xvd\w) boot max=(\d+) full=(\d+) holes=(\d+) found=(\d+)", re.M)
_VERIFY = re.compile(r"^XH (xvd\w) verify wrong=(\d+) checked=(\d+)", re.M)


@dataclass(frozen=True)
class DiskReport:
    """One status line of one disk. Numbers count 4 KiB blocks since its boot."""

    disk: str
    seq: int  # the number last given to a write
    acked: int  # the number last acknowledged
    read: int  # blocks read back
    wrong: int  # of these, not what was acknowledged
    werr: int  # failed writes (each is tried again)
    rerr: int
    up: float  # the guest's uptime, s


@dataclass(frozen=True)
class BootReport:
    """What a disk's ring held when the guest booted."""

    disk: str
    max: int  # the highest number found
    full: int  # up to this number nothing is missing
    holes: int  # numbers missing between full and max
    found: int


def statuses(text: str) -> dict[str, DiskReport]:
    """The last status line of each disk in a console's text."""
    found: dict[str, DiskReport] = {}
    for disk, rest in _STATUS.findall(text):
        pairs = dict(word.split("=") for word in rest.split())
        up = float(pairs.pop("up"))
        found[disk] = DiskReport(disk, up=up, **{k: int(v) for k, v in pairs.items()})
    return found


def boots(text: str) -> list[BootReport]:
    """Every boot report in a console's text, oldest first."""
    return [BootReport(disk, *(int(number) for number in rest)) for disk, *rest in _BOOT.findall(text)]


def since(before: Sequence[BootReport], now: Sequence[BootReport]) -> list[BootReport]:
    """The reports in ``now`` that aren't those of ``before``. A host that loses its power
    may lose the end of its console's log with it, so counting wouldn't do."""
    same = 0
    while same < min(len(before), len(now)) and before[same] == now[same]:
        same += 1
    return list(now[same:])


class Guest:
    """A running (or once running) guest on one host."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name

    def on(self, host: Host) -> Guest:
        """The same guest on another host."""
        return Guest(host, self.name)

    def domid(self) -> int | None:
        """Its domain id; None where it doesn't run on this host."""
        result = self.host.run(f"xl domid '{self.name}'", check=False)
        return int(result.out) if result.ok else None

    def console(self) -> str:
        """All that it ever printed on this host.

        xenconsoled names the file by the domain's name when it first sees it:
        after a migration that is NAME--incoming. The newer file comes last.
        """
        names = f"'guest-{self.name}.log' 'guest-{self.name}--incoming.log'"
        text = self.host.run(
            f'cd {LOGS} && ls -tr {names} 2>/dev/null | while read -r f; do cat "$f"; done',
            check=False,
        ).out
        return text.replace("\r", "")

    def status(self) -> dict[str, DiskReport]:
        """The newest report of each disk on this host's console."""
        return statuses(self.console())

    def boots(self) -> list[BootReport]:
        """What each boot on this host found on the disks."""
        return boots(self.console())

    def wrong_lines(self) -> list[str]:
        """Every wrong block, failed write or unusable disk that it printed here."""
        words = (" WRONG ", " failed pos=", " unusable ", " too small")
        return [
            line for line in self.console().splitlines()
            if line.startswith("XH ") and any(word in line for word in words)
        ]  # fmt: skip

    def send(self, command: str) -> None:
        """Type a command on its console; README.md lists them."""
        self.host.run(
            f"id=$(xl domid '{self.name}') && "
            f"tty=$(xenstore-read /local/domain/$id/console/tty) && "
            f"printf '%s\\n' '{command}' > \"$tty\""
        )

    def wait_line(self, pattern: str, timeout: float = 60, after: int = 0) -> re.Match[str]:
        """Wait for a line on its console, beyond the first ``after`` characters."""
        compiled = re.compile(pattern, re.M)
        return wait_until(
            lambda: compiled.search(self.console()[after:]),
            timeout, f"{pattern!r} on the console of {self.name}", every=0.7,
        )  # fmt: skip

    def wait_writing(self, disks: int, timeout: float = 180, beyond: int = 0) -> None:
        """Wait until so many disks acknowledge more blocks than ``beyond``."""

        def writing() -> bool:
            now = self.status()
            return len(now) >= disks and all(d.acked > beyond for d in now.values())

        wait_until(writing, timeout, f"{self.name} writing on {disks} disks", every=0.7)

    def wait_progress(self, timeout: float = 60) -> None:
        """Wait until every disk has acknowledged more than when this was called."""
        before = self.status()

        def moved() -> bool:
            now = self.status()
            return bool(now) and all(
                now[disk].acked != old.acked or now[disk].up < old.up for disk, old in before.items()
            )

        wait_until(moved, timeout, f"{self.name} to write on", every=0.7)

    def verify(self, timeout: float = 300) -> dict[str, tuple[int, int]]:
        """Have it read back all it knows; per disk, wrong and checked blocks."""
        seen = len(self.console())
        disks = len(self.status())
        self.send("verify")

        def answers() -> dict[str, tuple[int, int]] | None:
            found = {d: (int(w), int(c)) for d, w, c in _VERIFY.findall(self.console()[seen:])}
            return found if len(found) >= disks else None

        result = wait_until(answers, timeout, f"{self.name} to verify", every=0.7)
        assert result is not None
        return result

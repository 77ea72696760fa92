"""What the kernel says while it compares: which ranges differ, how far it has come.

DRBD counts differing blocks, and names them only in its log, from where they are read:
/dev/kmsg (Documentation/ABI/testing/dev-kmsg). Sectors are of 512 bytes.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from xenhelper import paths

SECTOR = 512
_OUT = re.compile(r"drbd(\d+): Out of sync: start=(\d+), size=(\d+) \(sectors\)")
_REACHED = re.compile(r"drbd(\d+): Online Verify reached sector (\d+)")
_DONE = re.compile(r"drbd(\d+): Online verify +done ")


@dataclass(frozen=True)
class Said:
    """``ranges``: (first byte, length in bytes) of what differs, merged and in order.
    ``reached``: the byte at which it was stopped, None if it came to its end. ``done``:
    whether it has ended, at its end or before."""

    ranges: tuple[tuple[int, int], ...] = ()
    reached: int | None = None
    done: bool = False


def parse(lines: Iterable[str], minor: int) -> Said:
    """What the kernel's log lines say of ``minor``."""
    ranges, reached, done = [], None, False
    for line in lines:
        if (found := _OUT.search(line)) and int(found[1]) == minor:
            ranges.append((int(found[2]) * SECTOR, int(found[3]) * SECTOR))
        elif (found := _REACHED.search(line)) and int(found[1]) == minor:
            reached = int(found[2]) * SECTOR
        elif (found := _DONE.search(line)) and int(found[1]) == minor:
            done = True
    return Said(merged(ranges), reached, done or reached is not None)


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same bytes in as few ranges as there can be, in order."""
    found: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if found and start <= found[-1][0] + found[-1][1]:
            end = max(found[-1][0] + found[-1][1], start + length)
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, length))
    return tuple(found)


class Log:
    """The kernel's log from now on. ``lost``: it ran over, and lines are missing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.lost = False
        try:
            self._fd = os.open(paths.ROOT + "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = -1
            self.lost = True

    def read(self) -> list[str]:
        """All lines of DRBD since the beginning."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:
                self.lost = True  # overwritten before it was read; the next read goes on
                continue
            except OSError:
                break  # nothing more now
            if not record:
                break
            line = record.decode("utf-8", "replace").partition(";")[2].partition("\n")[0]
            if "drbd" in line:
                self.lines.append(line)
        return self.lines

    def close(self) -> None:
        """Done with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

"""What the emulator's fault (tests/lab/again.py) has spoilt is measured once more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.lab import logcheck
from tests.lab.again import emulator_fault
from tests.lab.host import CommandFailed, CommandTimedOut
from tests.lab.lab import Lab, LabError
from tests.lab.qemu import QemuError
from tests.lab.wait import TimedOut

from .hooks import NotMeasured

# what ends one measurement, and no other
FAILURES = (
    LabError, NotMeasured, CommandFailed, CommandTimedOut, TimedOut, QemuError, AssertionError, OSError,
    subprocess.SubprocessError,
)  # fmt: skip
LOGS = Path("build/bench-logs")
GOES = 3

T = TypeVar("T")


def unspoilt(lab: Lab, work: Callable[[], T], anew: Callable[[], object]) -> T:
    """What ``work`` returns; when it fails and a console shows the emulator's fault since it
    began, once more, after ``anew``. Any other failure is raised, with the hosts' logs kept."""
    for go in range(1, GOES + 1):
        marks = lab.both(logcheck.mark)
        try:
            return work()
        except FAILURES as error:
            fault = emulator_fault(logcheck.consoles(lab, marks))
            if not fault or go == GOES:
                lab.collect(LOGS)
                print(f"bench: logs: {LOGS}", file=sys.stderr, flush=True)
                raise
            print(f"bench: the emulator's fault, once more: {fault} ({error})", file=sys.stderr, flush=True)
            anew()
    raise AssertionError("each go returns or raises")

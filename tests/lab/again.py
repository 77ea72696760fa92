"""A case of the lab that an emulator's fault has spoilt is run once more.

QEMU without KVM now and then gives a register another's value; the kernel that meets it
panics (a host's, or a guest's). Its flags prove it: bits 22 to 31 of RFLAGS are always zero
on a processor (AMD64 Architecture Programmer's Manual, volume 2, 3.1.6), and no kernel can
set them. Any other panic, and a second one, is a failure.
"""

from __future__ import annotations

import re
import sys

import pytest
from _pytest.runner import runtestprotocol

_FLAGS = re.compile(r"\bE?FLAGS: ([0-9a-f]{8})\b")
_RESERVED = 0xFFC00000
ATTRIBUTE = "emulator_fault"


def emulator_fault(text: str) -> str:
    """The line that shows flags which no processor has; '' where there is none."""
    for line in text.splitlines():
        found = _FLAGS.search(line)
        if found and int(found[1], 16) & _RESERVED:
            return line.strip()
    return ""


@pytest.hookimpl
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """As pytest's own (runner.py), with one more go. The ``lab`` fixture notes the fault."""
    if item.get_closest_marker("lab") is None:
        return None
    hooks = item.ihook
    hooks.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    fault = getattr(item, ATTRIBUTE, "")
    if fault and any(report.failed for report in reports):
        print(f"\n{item.nodeid}: the emulator's fault, once more: {fault}", file=sys.__stderr__, flush=True)
        setattr(item, ATTRIBUTE, "")
        item._initrequest()  # type: ignore[attr-defined]
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        hooks.pytest_runtest_logreport(report=report)
    hooks.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True

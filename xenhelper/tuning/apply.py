"""Set what items.decide() found, each item on its own."""

import os
import time
from collections.abc import Mapping

from xenhelper import log, paths, statefile
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning import blockdev, items, look, probes
from xenhelper.tuning.blockdev import read
from xenhelper.tuning.items import MEMORY_SLACK, Call, Item, Write
from xenhelper.xen import domains

# seconds for the balloon to reach its target
_REACH = 60.0
READ_AHEAD = paths.RUN + "/read-ahead"


def apply(found: list[Item], dry_run: bool = False) -> tuple[list[str], list[str]]:
    """(what was changed, or would be; what couldn't be), a line each."""
    changed, failed = [], []
    for item in found:
        if item.trouble:
            failed.append(f"{item.name}: {item.trouble}")
        if not item.steps:
            continue
        try:
            if not dry_run:
                for step in item.steps:
                    _take(step)
                if item.name == "dom0 memory":
                    _reached(int(item.wanted.split()[0]))
            changed.append(f"{item.name}: {item.now} becomes {item.wanted} ({item.why})")
        except (OSError, XenhelperError) as error:
            failed.append(f"{item.name}: {error}")
    for line in changed if not dry_run else ():
        log.event("note", f"tune: {line}")
    for line in failed if not dry_run else ():
        log.event("failed", f"tune: {line}", log.WARNING)
    return changed, failed


def _take(step: Write | Call) -> None:
    if isinstance(step, Call):
        program = domains.real_xl() if step.argv[0] == "xl" else step.argv[0]
        run([program, *step.argv[1:]], timeout=30)
        return
    fd = os.open(paths.ROOT + step.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, step.text.encode() + b"\n")
    finally:
        os.close(fd)


def _reached(mib: int) -> None:
    """Wait until Xen says that dom0 has its memory. Raises XenhelperError."""
    deadline = time.monotonic() + _REACH
    while True:
        now = look.dom0_memory()
        if abs(now - mib) <= MEMORY_SLACK:
            return
        if time.monotonic() > deadline:
            raise XenhelperError(
                f"dom0 has {now} MiB of {mib} after {_REACH:g} s",
                "Xen has no more free (`xl info free_memory`): set it before guests start",
            )
        time.sleep(0.5)


def adopted(record: Mapping[str, str]) -> None:
    """A disk that becomes replicated now: what tune() would do for its two devices at the
    next boot. Never a reason for a create to fail."""
    try:
        found = [items.read_ahead(device) for device in look.of_record(record, blockdev.tables())]
        for item in found:
            for step in item.steps:
                _take(step)
        leave_for_udev(found, prune=False)
        probes.mark(record.get("volume", ""))
    except (OSError, XenhelperError) as error:
        log.event("note", f"{record.get('resource')}: not tuned in dom0: {error}", log.WARNING)


def leave_for_udev(found: list[Item], prune: bool = True) -> None:
    """Note each device's read-ahead where udev/59-xenhelper.rules finds it when the device
    appears or changes; device-mapper's by their own names, which outlast a number.
    ``prune``: these are all devices, and what else is noted goes."""
    wanted = {}
    for item in found:
        if not item.name.endswith(" read-ahead"):
            continue
        name = item.how.split("/")[3]
        if name.startswith("dm-"):
            name = read(f"{paths.ROOT}/sys/block/{name}/dm/name")
        if name and "/" not in name:
            wanted[name] = item.wanted.split()[0]
    os.makedirs(READ_AHEAD, mode=0o755, exist_ok=True)
    for name, kib in wanted.items():
        path, text = f"{READ_AHEAD}/{name}", f"XENHELPER_READ_AHEAD={kib}\n"
        if read(path) != text.strip():
            statefile.write_atomically(path, text.encode(), 0o644)
    for name in statefile.names(READ_AHEAD) if prune else ():
        if name not in wanted:
            statefile.remove(f"{READ_AHEAD}/{name}")

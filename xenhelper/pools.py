"""Thin pools that hold replicated disks: how full they are, and when that is told.

A pool that runs full holds up the writes of every volume in it, and fails them a minute later.
LVM's own monitoring grows one only where lvm.conf's ``thin_pool_autoextend_threshold`` says so.
The reconciler looks in its rounds, which come anyway; nothing wakes up for this.
"""

import glob
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xenhelper import paths, statefile

KIND = "pool"
# hundredths of a per cent, of data or metadata
NEARLY, FULL = 8000, 9500
# seconds between two looks; a round of the reconciler comes each minute
EVERY = 280.0
_STAMP = "/pools"
# device-mapper's name of an active pool's device (lvm2, lib/activate/dev_manager.c)
_MARK = "-tpool"


def look(records: Iterable[Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """The active pools that hold data or metadata of these resources, by VG/POOL: ``data`` and
    ``metadata`` in hundredths of a per cent, ``size`` in bytes, ``zeroes``. Raises CommandFailed."""
    from xenhelper import volumes

    known = volumes.volumes()
    used = {record.get(key, "") for record in records for key in ("volume", "meta")}
    holding = {f"{one.group}/{one.pool}" for one in known if one.pool and one.path in used}
    return {
        pool.full_name: {
            "data": pool.filled,
            "metadata": pool.meta_filled or 0,
            "size": pool.size,
            "zeroes": pool.zeroes,
        }
        for pool in known
        if pool.kind == volumes.POOL and pool.full_name in holding and pool.filled is not None
    }


def trouble(host: str, name: str, facts: Mapping[str, Any]) -> tuple[bool, str, str] | None:
    """(whether it is grave, what is wrong, what to type) of a pool that fills up; None when it
    doesn't. Pure."""
    data, metadata = int(facts["data"]), int(facts["metadata"])
    if max(data, metadata) < NEARLY:
        return None
    full = [f"{part} {value / 100:.1f} %" for part, value in (("data", data), ("metadata", metadata))]
    what = f"{host}: thin pool {name} fills up ({', '.join(full)}): a full one fails the writes of all in it"
    more = []
    if data >= NEARLY:
        more.append(f"`lvextend --size +{max(4, int(facts['size']) >> 22)}M {name}`")
    if metadata >= NEARLY:
        more.append(f"`lvextend --poolmetadatasize +64M {name}`")
    group = name.partition("/")[0]
    return (
        max(data, metadata) >= FULL,
        what,
        f"on {host}: {' and '.join(more)} (`vgs {group}` shows what the group has; `fstrim` in a guest gives "
        "back what it deleted)",
    )


def note(records: Sequence[Mapping[str, str]]) -> None:
    """For the reconciler: alerts of pools here are raised and end. Forks nothing on a host that
    has no active pool. Raises XenhelperError."""
    from xenhelper import alerts

    stamp = paths.RUN + _STAMP
    found: dict[str, dict[str, Any]] = {}
    if records and active():
        if not _due(stamp):
            return
        statefile.write(stamp, {"looked": f"{time.time():.0f}"})
        found = look(records)
    elif not os.path.exists(stamp):
        return
    else:
        statefile.remove(stamp)
    for name, facts in found.items():
        bad = trouble(os.uname().nodename, name, facts)
        if bad is not None:
            severity = alerts.ERROR if bad[0] else alerts.WARNING
            alerts.try_raise(KIND, name, bad[1], bad[2], severity=severity)
        else:
            alerts.try_clear(KIND, name, f"data {facts['data'] / 100:.1f} %")
    for alert in alerts.active():
        if alert["kind"] == KIND and alert["key"] not in found:
            alerts.try_clear(KIND, alert["key"], "it holds no replicated disk any more")


def active() -> bool:
    """Whether device-mapper has a thin pool, by sysfs."""
    for path in glob.glob(f"{paths.ROOT}/sys/block/dm-*/dm/uuid"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                if file.read().strip().endswith(_MARK):
                    return True
        except OSError:
            continue  # gone this moment
    return False


def _due(stamp: str) -> bool:
    try:
        age = time.time() - os.stat(stamp).st_mtime
    except OSError:
        return True
    return not 0 <= age < EVERY

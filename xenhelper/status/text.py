"""status for a person: by VM, one line a disk, then what to look at."""

from typing import Any

from xenhelper import units
from xenhelper.status import more

# SGR codes (ECMA-48) by severity
_COLOURS = {"warning": "33", "error": "31", "critical": "1;31"}


def render(answer: dict[str, Any], colour: bool = False) -> str:
    """Several lines, without one at the end. ``colour``: for a terminal."""
    lines = []
    pairs = several_peers(answer)
    for vm in answer["vms"]:
        lines.append(f"{vm['name']}  {where(vm, pairs)}")
        rows = [_row(disk) for disk in vm["disks"]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
        for row, disk in zip(rows, vm["disks"], strict=True):
            lines.append(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
            lines += [f"    {line}" for line in _below(disk)]
    if not answer["vms"]:
        lines.append("no VM is replicated on this host")
    for intent in answer["intents"]:
        state = "under way" if intent["working"] else "interrupted"
        if intent.get("host"):
            state = f"on record on {intent['host']}"
        lines.append(f"{intent.get('vm')}: {intent.get('kind')} {state} since {intent.get('since')}")
    for problem in answer["problems"]:
        severity = problem["severity"]
        code = _COLOURS.get(severity) if colour else None
        shown = f"\033[{code}m{severity}\033[0m" if code else severity
        lines.append(f"{shown}: {problem['what']}")
        if problem["do"]:
            lines.append(f"  do: {problem['do']}")
    return "\n".join(lines)


def several_peers(answer: dict[str, Any]) -> bool:
    """Whether these VMs are on more than one pair of hosts, so that each one's is to be said."""
    return len({disk["peer"] for vm in answer["vms"] for disk in vm["disks"]}) > 1


def where(vm: dict[str, Any], pair: bool = False) -> str:
    """Where it runs, in words; with ``pair``, who has the other copy, too."""
    if vm["migrating_to"]:
        told = f"on {vm['runs_on'] or '?'}, migrating to {vm['migrating_to']}"
    else:
        told = f"on {vm['runs_on']}" if vm["runs_on"] else "not running, or where isn't known"
    peers = sorted({disk["peer"] or "?" for disk in vm["disks"]})
    return f"{told}; replicated with {', '.join(peers)}" if pair and peers else told


def _row(disk: dict[str, Any]) -> list[str]:
    # of a sync that goes on the line below tells how far it is
    percent = None if disk.get("activity_percent") is not None else disk["sync_percent"]
    return [
        disk["vdev"],
        disk["volume"],
        units.size(disk["size_bytes"] or 0),
        disk["connection"],
        f"{disk['role']}/{disk['peer_role']}",
        f"{disk['disk_state']}/{disk['peer_disk_state']}",
        f"protocol {disk['protocol']}" + (", two Primaries allowed" if disk["two_primaries"] else ""),
        "" if percent is None or percent == 100.0 else f"{percent:.1f} % in sync",
    ]


def _below(disk: dict[str, Any]) -> list[str]:
    """What goes on with a disk, and what is odd."""
    found = []
    if disk.get("activity"):
        found.append(activity(disk))
    last = disk.get("last_verify")
    if last:
        found.append(f"compared {last['at']}: {last['told']}")
    otherwise = more.disagrees(disk)
    if otherwise:
        found.append(otherwise)
    return found


def activity(disk: dict[str, Any]) -> str:
    """A resync or comparison in words: how far, how fast, how long still."""
    name = disk["activity"]
    peer = disk["peer"]
    known = {
        "SyncSource": f"syncs from here to {peer}",
        "SyncTarget": f"syncs from {peer}",
        "PausedSyncS": f"its sync to {peer} waits for another",
        "PausedSyncT": f"its sync from {peer} waits for another",
        "VerifyS": f"is compared with {peer}",
        "VerifyT": f"is compared with {peer}, by {peer}",
    }
    words = [known.get(name, name)]
    if disk["activity_percent"] is not None:
        words.append(f"{disk['activity_percent']:.1f} %")
    rate = disk["activity_bytes_per_second"]
    if rate:
        words.append(f"{rate / units.MIB:.1f} MiB/s")
    if disk["activity_seconds_left"] is not None:
        words.append(f"{_span(disk['activity_seconds_left'])} left")
    return ", ".join(words)


def _span(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02} h" if seconds >= 3600 else f"{seconds // 60 + 1} min"

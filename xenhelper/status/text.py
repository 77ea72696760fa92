"""status for a person: by VM, one line a disk, then what to look at."""

from typing import Any

from xenhelper import units


def render(answer: dict[str, Any]) -> str:
    """Several lines, without one at the end."""
    lines = []
    for vm in answer["vms"]:
        lines.append(f"{vm['name']}  {_where(vm)}")
        rows = [_row(disk) for disk in vm["disks"]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
        for row in rows:
            lines.append(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
    if not answer["vms"]:
        lines.append("no VM is replicated on this host")
    for intent in answer["intents"]:
        state = "under way" if intent["working"] else "interrupted"
        lines.append(f"{intent.get('vm')}: {intent.get('kind')} {state} since {intent.get('since')}")
    for problem in answer["problems"]:
        lines.append(f"{problem['severity']}: {problem['what']}")
        if problem["do"]:
            lines.append(f"  do: {problem['do']}")
    return "\n".join(lines)


def _where(vm: dict[str, Any]) -> str:
    if vm["migrating_to"]:
        return f"on {vm['runs_on'] or '?'}, migrating to {vm['migrating_to']}"
    return f"on {vm['runs_on']}" if vm["runs_on"] else "not running, or where isn't known"


def _row(disk: dict[str, Any]) -> list[str]:
    percent = disk["sync_percent"]
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

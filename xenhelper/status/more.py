"""What status tells beyond the states: how a resync goes, when both copies were compared, how
the other host sees it. Pure; each key is added to the contract's, none is changed."""

from typing import Any

from xenhelper.drbd import events
from xenhelper.status.read import World
from xenhelper.verify import results

COMPARING = ("VerifyS", "VerifyT")
_VIEW = ("connection", "role", "disk_state", "protocol")


def about(world: World, disk: dict[str, Any], state: events.Resource | None) -> dict[str, Any]:
    """The further keys of one disk: ``activity`` (DRBD's word, None when idle), its
    ``activity_percent``, ``activity_bytes_per_second`` and ``activity_seconds_left``,
    ``last_verify`` and ``peer_view`` (None: unknown)."""
    busy = state.replication if state and state.replication not in ("Off", "Established") else None
    going = world.progress.get(disk["minor"]) if busy and disk["minor"] is not None else None
    result = world.verified.get(disk["resource"])
    view = world.views.get(disk["resource"])
    return {
        "activity": busy,
        "activity_percent": going.percent if going else None,
        "activity_bytes_per_second": going.rate if going else None,
        "activity_seconds_left": going.left if going else None,
        "last_verify": _last(result) if result else None,
        "peer_view": {key: str(view.get(key, "")) for key in _VIEW} if view else None,
    }


def _last(result: results.Result) -> dict[str, Any]:
    return {
        "at": result.until,
        "state": result.state,
        "differing_bytes": result.differing,
        "whole_at": result.whole_at or None,
        "told": results.tell(result),
    }


def disagrees(disk: dict[str, Any]) -> str:
    """'' or how the other host sees it, where that isn't what this one sees of it."""
    view = disk.get("peer_view")
    if not view:
        return ""
    apart = disk["connection"] == "Connected" and view["connection"] in ("StandAlone", "WFConnection")
    if not apart and (view["role"], view["disk_state"]) == (disk["peer_role"], disk["peer_disk_state"]):
        return ""
    return f"{disk['peer']} sees it {view['connection']}, its own side {view['role']}, {view['disk_state']}"


def differing(vm: str, disk: dict[str, Any]) -> tuple[str, str]:
    """(what, what to do) for copies that are known to differ."""
    told = (disk.get("last_verify") or {}).get("told", "")
    what = f"{disk['out_of_sync_bytes']} bytes differ between both hosts"
    return (
        what + (f" (compared {disk['last_verify']['at']}: {told})" if told else ""),
        f"find out which host's blocks are right, then `xenhelper verify {vm} --repair --good HOST`",
    )

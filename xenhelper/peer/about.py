"""Answers to "who are you": versions, volume groups, running domains."""

import os
import time
from typing import Any

from xenhelper import __version__, paths


def _read(path: str) -> str:
    try:
        with open(paths.ROOT + path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """This host's name and the versions of what matters between two hosts; '' when absent."""
    xen = [_read(f"/sys/hypervisor/version/{part}") for part in ("major", "minor")]
    return {
        "version": __version__,
        "host": os.uname().nodename,
        "kernel": os.uname().release,
        "drbd": _read("/sys/module/drbd/version"),
        "xen": ".".join(xen) if all(xen) else "",
    }


def serve_here(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``here``: this host is alive."""
    return {}


def serve_hello(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Versions, this host's clock (seconds since 1970), and whom it takes the asker for."""
    return {**versions(), "you": peer, "time": time.time()}


def serve_facts(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Versions, volume groups, and thin pools (room.from_json)."""
    from xenhelper import room, volumes
    from xenhelper.setup import host

    groups = host.volume_groups()
    return {**versions(), "volume_groups": groups, "pools": room.told(volumes.volumes(), groups)}


def serve_status(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """The domains here, in any state, by name as xl shows it; how this host sees the
    resources that it shares with the asker; its intents."""
    from xenhelper import beneath, intents
    from xenhelper.drbd import proc
    from xenhelper.xen import domains

    listed = domains.listing()
    states = proc.read()[1]
    shared = {name: record for name, record in beneath.records().items() if record.get("peer") == peer}
    seen = {}
    for name, record in shared.items():
        state = states.get(int(record["minor"])) if record.get("minor", "").isdecimal() else None
        seen[name] = {
            "connection": state.connection if state else "Unconfigured",
            "role": state.role if state else "Unknown",
            "disk_state": state.disk if state else "Unconfigured",
            "protocol": state.protocol if state else "",
        }
    vms = {record.get("vm") for record in shared.values()}
    return {
        "host": os.uname().nodename,
        "resources": seen,
        "intents": [intent for intent in intents.all_open() if intent.get("vm") in vms],
        "domains": [{"name": d.name, "uuid": d.uuid, "state": d.state} for d in listed],
    }

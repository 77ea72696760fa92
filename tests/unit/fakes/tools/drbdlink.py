"""Both hosts' kernels: who is connected with whom, and what a resync brings about."""

import os
from typing import Any

from .state import HOSTS, WORLD, load, save

GENERATION = [0x1000, 0, 0x20, 0]


def linked(state: Any, host: str, name: str) -> Any:
    """The peer's end of a resource that both hosts have up with the same settings."""
    there = linked_host(state, host, name)
    return state[there][name] if there else None


def linked_host(state: Any, host: str, name: str) -> str:
    keys = ("port", "secret")
    item = state[host][name]
    for other in HOSTS:
        peer = state.get(other, {}).get(name)
        if other == host or peer is None or peer.get("alone") or item.get("alone"):
            continue
        if all(peer[key] == item[key] for key in keys) and (WORLD / "apart").exists() is False:
            return other
    return ""


def kernel(state: Any) -> None:
    """Connect what can talk, and write both hosts' /proc/drbd."""
    for host in HOSTS:
        lines = ["version: 8.4.11 (api:1/proto:86-101)", "srcversion: 0", ""]
        for name, item in sorted(state.get(host, {}).items()):
            peer = linked(state, host, name)
            if peer and "UpToDate" in (item["disk"], peer["disk"]) and not (WORLD / "nosync").exists():
                if item["disk"] != peer["disk"]:
                    synced(item, peer)
                    fill(host, item, linked_host(state, host, name), peer)
                item["disk"] = peer["disk"] = "UpToDate"
            roles = f"{item['role']}/{peer['role'] if peer else 'Unknown'}"
            disks = f"{item['disk']}/{peer['disk'] if peer else 'DUnknown'}"
            link = "Connected" if peer else "StandAlone" if item.get("alone") else "WFConnection"
            lines.append(f"{item['minor']}: cs:{link} ro:{roles} ds:{disks} A r-----")
            lines.append("    ns:0 nr:0 dw:0 dr:0 oos:0")
        proc = WORLD / host / "proc"
        proc.mkdir(parents=True, exist_ok=True)
        (proc / ".drbd").write_text("\n".join(lines) + "\n")
        (proc / ".drbd").rename(proc / "drbd")
    save("drbd.json", state)


def fill(one: str, item: Any, two: str, peer: Any) -> None:
    """The target's volume, if it is thin, has all of its blocks after a sync, or those only that
    the source has, where DRBD could leave out what is zero."""
    ends = [(one, item), (two, peer)]
    (source, good), (target, new) = ends if item["disk"] == "UpToDate" else ends[::-1]
    theirs = load(f"{target}.lvm.json", {})["volumes"]
    had = load(f"{source}.lvm.json", {})["volumes"].get(good["volume"].removeprefix("/dev/"), {})
    volume = theirs.get(new["volume"].removeprefix("/dev/"), {})
    if volume.get("pool"):
        volume["used"] = had.get("used", volume["size"]) if new.get("thin") else volume["size"]
        save(f"{target}.lvm.json", load(f"{target}.lvm.json", {}) | {"volumes": theirs})


def synced(one: Any, two: Any) -> None:
    """The source's bitmap UUID goes to its history; the target is of its generation."""
    source, target = (one, two) if one["disk"] == "UpToDate" else (two, one)
    current, _, first, _ = source.get("gi", GENERATION)
    source["gi"] = [current, 0, int.from_bytes(os.urandom(7), "big") & ~1, first]
    target["gi"] = [current, 0, 0, 0]

"""The VM web1 on the hosts of fake tools, and how it stands there."""

from pathlib import Path
from typing import Any

from tests.unit.fakes.hosts import GIB, World

WEB1 = """\
# web1
name = "web1"
memory = 128
disk = ['phy:/dev/vg0/web1-root,xvda,w',   # system
        'phy:/dev/vg0/web1-swap,xvdb,w']
"""
DISKS = {"vg0/web1-root": 2 * GIB, "vg0/web1-swap": GIB}


def web1(folder: Path) -> World:
    """alice has web1's volumes and config, bob nothing."""
    made = World(folder)
    made.lvm("alice", {"vg0": 16 * GIB, "vg1": 4 * GIB}, DISKS)
    made.write("alice", "etc/xen/web1.cfg", WEB1)
    return made


def config_of(world: World, host: str = "alice", name: str = "web1") -> str:
    return f"/etc/xen/{name}.cfg"


def records(world: World, host: str) -> dict[str, dict[str, str]]:
    folder = world.folder / host / "var/lib/xenhelper/resources"
    found = {}
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        found[path.name] = dict(line.split("=", 1) for line in path.read_text().splitlines())
    return found


def state(world: World) -> dict[str, Any]:
    """All that must be as before when a create was refused or undone."""
    found: dict[str, Any] = {"drbd": [world.drbd("alice"), world.drbd("bob")]}
    for host in ("alice", "bob"):
        found[host] = world.volumes(host)
        # what nobody can see: folders for next time, the drbdadm configuration's
        found[host + "-files"] = {
            name: text for name, text in world.files(host).items() if not name.endswith("xenhelper.conf")
        }
    return found


def check_complete(world: World, vm: str = "web1", disks: "dict[str, str] | None" = None) -> None:
    disks = disks or {"xvda": "web1-root", "xvdb": "web1-swap"}
    for host in ("alice", "bob"):
        assert not list((world.folder / host / "var/lib/xenhelper/intents").glob("*"))
        for vdev, volume in disks.items():
            record = records(world, host)[f"{vm}-{vdev}"]
            assert record["volume"] == f"/dev/vg0/{volume}" and record["host"] == host
            assert f"xenhelper.resource={vm}-{vdev}" in world.volumes(host)[f"vg0/{volume}"]["tags"]
            up = world.drbd(host)[f"{vm}-{vdev}"]
            assert (up["role"], up["disk"]) == ("Secondary", "UpToDate")
            assert up["minor"] == int(record["minor"]) and up["port"] == int(record["port"])
    assert world.read("alice", f"etc/drbd.d/{vm}.res") == world.read("bob", f"etc/drbd.d/{vm}.res")
    for volume in disks.values():
        sizes = {world.volumes(host)[f"vg0/{volume}"]["size"] for host in ("alice", "bob")}
        assert len(sizes) == 1
    path = f"etc/xen/{vm}.cfg"
    assert world.read("alice", path) == world.read("bob", path)
    assert world.read("alice", path).count("script=block-xenhelper") == len(disks)

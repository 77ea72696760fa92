"""``replicate --from-peer``: the lost half is made anew, and only that."""

from pathlib import Path

import pytest

from tests.unit.fakes import hosts
from tests.unit.fakes.hosts import GIB, World

VOLUMES = ("web1", "web1_xhmeta")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """web1 with two disks, replicated; bob lost the volumes of the first."""
    made = hosts.replicated(tmp_path / "world")
    made.lose("bob", "web1-xvda", [f"vg0/{name}" for name in VOLUMES])
    made.reset_calls()
    return made


def test_what_is_lost_is_made_and_filled(world: World) -> None:
    res = world.read("bob", "etc/drbd.d/web1.res")
    other = world.volumes("bob")["vg0/web1-b"]
    dry = world.run("bob", "cli", "replicate", "web1", "--from-peer", "--dry-run")
    assert dry.returncode == 0 and "would make web1-xvda: /dev/vg0/web1 of 2.0 GiB" in dry.stdout, dry.stderr
    assert "vg0/web1" not in world.volumes("bob")
    done = world.run("bob", "cli", "replicate", "/etc/xen/web1.cfg", "--from-peer")
    assert done.returncode == 0, done.stderr
    assert world.volumes("bob")["vg0/web1"]["size"] == 2 * GIB
    assert world.volumes("bob")["vg0/web1-b"] == other
    assert world.read("bob", "etc/drbd.d/web1.res") == res
    assert world.drbd("bob")["web1-xvda"]["disk"] == "UpToDate"  # the fake syncs at once
    assert not list((world.folder / "bob/var/lib/xenhelper/intents").glob("*"))
    again = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert again.returncode == 3 and "no volume of it is missing on bob" in again.stderr
    assert world.run("bob", "create", "/etc/xen/web1.cfg").returncode == 0


def test_half_of_it_there_is_left_alone(world: World) -> None:
    import json

    path = world.folder / "bob.lvm.json"
    state = json.loads(path.read_text())
    state["volumes"]["vg0/web1"] = {"size": 2 * GIB, "tags": []}
    path.write_text(json.dumps(state))
    refused = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert refused.returncode == 3 and "/dev/vg0/web1 is here, and its other half isn't" in refused.stderr
    assert json.loads(path.read_text()) == state


def test_a_peer_without_a_good_copy_is_no_source(world: World) -> None:
    text = world.read("alice", "proc/drbd").replace("ds:UpToDate", "ds:Outdated")
    world.write("alice", "proc/drbd", text)
    refused = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert refused.returncode == 3 and "alice's copy is Outdated, not a good one" in refused.stderr
    assert "vg0/web1" not in world.volumes("bob")


@pytest.mark.parametrize("step", ["lvcreate", "drbdmeta", "drbdadm"])
def test_a_failure_leaves_nothing_and_a_kill_is_gone_on_from(world: World, step: str) -> None:
    before = world.volumes("bob"), world.read("bob", "etc/drbd.d/web1.res")
    world.fault(f"fail bob {step}")
    failed = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert failed.returncode == 1, failed.stdout
    world.reset_calls()
    assert (world.volumes("bob"), world.read("bob", "etc/drbd.d/web1.res")) == before
    assert not list((world.folder / "bob/var/lib/xenhelper/intents").glob("*"))
    world.fault(f"power bob {step}")
    assert world.run("bob", "cli", "replicate", "web1", "--from-peer").returncode != 0
    world.reset_calls()
    (world.folder / "bob.off").unlink()
    done = world.run("bob", "cli", "replicate", "web1", "--from-peer")
    assert done.returncode == 0, done.stderr
    assert world.drbd("bob")["web1-xvda"]["disk"] == "UpToDate"
    assert world.read("bob", "etc/drbd.d/web1.res") == before[1]

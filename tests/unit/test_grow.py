"""Grow: sizes as typed, room on both hosts, and the whole story with every step killed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.fakes.hosts import GIB, World
from xenhelper import growth
from xenhelper.errors import Refused, UsageError, XenhelperError

MIB = 1 << 20
EXTENT = 4 * MIB
SIDE = growth.Side("alice", "/dev/vg0/a", 2 * GIB, "/dev/vg0/a_xhmeta", EXTENT, EXTENT, 10 * GIB, EXTENT)


@pytest.mark.parametrize(
    ("text", "size", "extents", "wanted"),
    [
        ("+10G", 2 * GIB, (EXTENT, EXTENT), 12 * GIB),
        ("20G", 2 * GIB, (EXTENT, EXTENT), 20 * GIB),
        ("20GiB", 2 * GIB, (EXTENT, EXTENT), 20 * GIB),
        ("1.5t", 2 * GIB, (EXTENT, EXTENT), 3 << 39),
        ("+1m", 2 * GIB, (EXTENT, EXTENT), 2 * GIB + EXTENT),
        ("+5M", 12 * MIB, (EXTENT, 6 * MIB), 24 * MIB),
    ],
)
def test_sizes_are_lvms_in_whole_extents_of_both(
    text: str, size: int, extents: "tuple[int, int]", wanted: int
) -> None:
    assert growth.wanted(text, size, extents) == wanted


@pytest.mark.parametrize(
    "text", ["", "10", "+", "-5G", "5g5", "1e3G", "+0G", "0M", "9999999999999G", "5 G", "٣G"]
)
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        growth.wanted(text, GIB, (EXTENT, EXTENT))


def test_room_is_looked_at_on_both_hosts_metadata_included() -> None:
    growth.check("r", 2 * GIB, 12 * GIB, (SIDE, SIDE))
    with pytest.raises(Refused, match=r"on bob has 10239 MiB free, but 10240 MiB"):
        growth.check("r", 2 * GIB, 12 * GIB, (SIDE, replace(SIDE, host="bob", free=10 * GIB - MIB)))
    # 4 MiB of metadata cover 126 GiB and a bit
    big = replace(SIDE, size=126 * GIB, free=2 * GIB)
    assert growth.meta_target(big, 126 * GIB) == EXTENT
    assert growth.meta_target(big, 128 * GIB) == 2 * EXTENT
    with pytest.raises(Refused, match=r"2048 MiB free, but 2052 MiB"):
        growth.check("r", 126 * GIB, 128 * GIB, (big, big))
    # a thin volume takes from its pool as it is written
    growth.check("r", 2 * GIB, 64 * GIB, (replace(SIDE, kind="V"), replace(SIDE, kind="V")))
    with pytest.raises(Refused, match="has a snapshot"):
        growth.check("r", 2 * GIB, 3 * GIB, (replace(SIDE, kind="o"), SIDE))
    with pytest.raises(Refused, match="isn't made smaller"):
        growth.check("r", 2 * GIB, GIB, (SIDE, SIDE))


def test_what_the_peer_says_of_its_volumes_is_checked() -> None:
    assert growth.side_from_json(SIDE.to_json()) == SIDE
    for change in ({"size": -1}, {"extent": 0}, {"free": "much"}, {"free": True}):
        with pytest.raises(XenhelperError):
            growth.side_from_json({**SIDE.to_json(), **change})
    with pytest.raises(XenhelperError):
        growth.side_from_json({"host": "bob"})


# the story


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1": 2 * GIB})
    made.write("alice", "etc/xen/web1.cfg", "name='web1'\ndisk=['phy:/dev/vg0/web1,xvda,w']\n")
    assert made.run("alice", "create", "/etc/xen/web1.cfg").returncode == 0
    made.reset_calls()
    return made


def check_grown(world: World, size: int) -> None:
    for host in ("alice", "bob"):
        assert world.volumes(host)["vg0/web1"]["size"] == size
        assert world.drbd(host)["web1-xvda"]["size"] == size
        assert world.drbd(host)["web1-xvda"]["role"] == "Secondary"
        record = world.read(host, "var/lib/xenhelper/resources/web1-xvda")
        assert f"size_bytes={size}\n" in record
        assert not list((world.folder / host / "var/lib/xenhelper/intents").glob("*"))
    assert "grown" not in world.read("alice", "var/lib/xenhelper/resources/web1-xvda")


def test_both_hosts_and_the_records_follow(world: World) -> None:
    before = world.volumes("alice"), world.volumes("bob")
    dry = world.run("alice", "cli", "grow", "web1", "xvda", "+1G", "--dry-run")
    assert dry.returncode == 0 and "would: web1-xvda from 2.0 GiB to 3.0 GiB" in dry.stdout
    assert (world.volumes("alice"), world.volumes("bob")) == before
    done = world.run("bob", "cli", "grow", "web1", "xvda", "+1G")
    assert done.returncode == 0, done.stderr
    check_grown(world, 3 * GIB)
    again = world.run("alice", "cli", "grow", "web1", "xvda", "3G")
    assert "has that size already" in again.stdout
    # the file is the same one, and a later create finds all as it should be
    assert world.run("alice", "create", "/etc/xen/web1.cfg").returncode == 0


def test_killed_after_each_change_and_typed_again(world: World) -> None:
    size = 2 * GIB + 64 * MIB
    assert world.run("alice", "cli", "grow", "web1", "xvda", "+64M").returncode == 0
    lines = (world.folder / "log").read_text().splitlines()
    changes = [line for line in lines if re.search("lvextend|primary|resize|secondary", line)]
    assert len(changes) == 5
    for line in changes:
        world.reset_calls()
        world.fault(f"{line.split()[0]} kill-after")
        size += 64 * MIB
        assert world.run("alice", "cli", "grow", "web1", "xvda", "+64M").returncode != 0, line
        world.reset_calls()
        again = world.run("alice", "cli", "grow", "web1", "xvda", "+64M")
        assert again.returncode == 0, again.stderr
        check_grown(world, size)


def test_what_the_reconciler_finished_is_not_added_again(world: World) -> None:
    (world.folder / "resync").touch()
    waits = world.run("alice", "cli", "grow", "web1", "xvda", "+1G")
    assert waits.returncode == 0 and "once its resync is through (37 % done)" in waits.stdout
    assert world.drbd("alice")["web1-xvda"]["size"] == 2 * GIB
    other = world.run("alice", "cli", "grow", "web1", "xvda", "+2G")
    assert other.returncode == 3 and "xenhelper grow web1 xvda +1G" in other.stderr
    there = world.run("bob", "cli", "grow", "web1", "xvda", "+1G")
    assert there.returncode == 3 and "type it on alice" in there.stderr
    assert world.run("bob", "recover", "web1").stdout.strip() == ""
    assert world.run("alice", "recover", "web1").stdout.strip() == ""
    (world.folder / "resync").unlink()
    assert "has 3.0 GiB now" in world.run("alice", "recover", "web1").stdout
    said = world.run("alice", "cli", "grow", "web1", "xvda", "+1G")
    assert said.returncode == 0 and re.search(
        r"was interrupted, and finished at \S+: it has 3.0 GiB", said.stdout
    )
    check_grown(world, 3 * GIB)
    assert world.run("alice", "cli", "grow", "web1", "xvda", "+1G").returncode == 0
    check_grown(world, 4 * GIB)


def test_a_peer_without_room_changes_nothing(world: World) -> None:
    world.lvm("bob", {"vg0": 16 * GIB}, {})
    refused = world.run("alice", "cli", "grow", "web1", "xvda", "+1G")
    assert refused.returncode == 1 and "there is no volume /dev/vg0/web1 on bob" in refused.stderr
    assert world.volumes("alice")["vg0/web1"]["size"] == 2 * GIB
    assert not list((world.folder / "alice/var/lib/xenhelper/intents").glob("*"))


def test_a_failure_on_the_peer_takes_the_intent_back(world: World) -> None:
    world.fault("fail bob lvextend")
    failed = world.run("alice", "cli", "grow", "web1", "xvda", "+1G")
    assert failed.returncode == 1 and "lvextend" in failed.stderr
    world.reset_calls()
    for host in ("alice", "bob"):
        assert not list((world.folder / host / "var/lib/xenhelper/intents").glob("*"))
        assert world.volumes(host)["vg0/web1"]["size"] == 2 * GIB


def test_only_the_peer_of_a_disk_may_have_it_grown(world: World) -> None:
    import subprocess
    import sys

    from tests.unit.fakes import hosts

    def ask(peer: str, size: int, resource: str = "web1-xvda") -> str:
        request = f'{{"vm": "web1", "resource": "{resource}", "id": "ab", "size": {size}}}'
        argv = [sys.executable, hosts.__file__, "bob", "verb", peer, "grow-volumes"]
        done = subprocess.run(argv, env=world.env("bob"), input=request, capture_output=True, text=True)
        return done.stdout

    assert "isn't replicated between carol and bob" in ask("carol", 3 * GIB)
    assert "isn't replicated" in ask("alice", 3 * GIB, "web1-xvdz")
    for size in (GIB, 3 * GIB + 7, 1 << 61):
        assert "can't become" in ask("alice", size)
    state = world.volumes("bob")["vg0/web1"]["tags"]
    world.edit_volume("bob", "vg0/web1", tags=[])
    assert "isn't marked as web1-xvda's" in ask("alice", 3 * GIB)
    world.edit_volume("bob", "vg0/web1", tags=state)
    assert world.volumes("bob")["vg0/web1"]["size"] == 2 * GIB

"""Forget, and a package that goes, as whole stories on two hosts of fake tools (fakes/hosts.py)."""

from pathlib import Path

import pytest

from tests.unit.fakes.hosts import World
from tests.unit.fakes.web1 import DISKS, WEB1, config_of, records, state, web1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return web1(tmp_path / "world")


@pytest.mark.parametrize("delete", [False, True])
def test_forget_gives_everything_back(world: World, delete: bool) -> None:
    before = state(world)
    assert world.run("alice", "create", config_of(world)).returncode == 0
    running = world.folder / "bob.domains"
    running.write_text("web1")
    refused = world.run("alice", "cli", "forget", "web1")
    assert refused.returncode == 3 and "runs on" in refused.stderr
    running.unlink()
    complete = state(world)
    dry = world.run("alice", "cli", "forget", "web1", "--dry-run")
    assert dry.returncode == 0 and state(world) == complete
    option = ["--delete-peer-volumes"] if delete else []
    done = world.run("alice", "cli", "forget", "web1", *option)
    assert done.returncode == 0, done.stderr
    after = state(world)
    assert after["alice"] == before["alice"] and after["alice-files"] == before["alice-files"]
    assert after["drbd"] == [{}, {}]
    assert set(after["bob"]) == (set() if delete else set(DISKS))
    assert after["bob-files"]["etc/xen/web1.cfg"] == WEB1
    assert not [name for name in after["bob-files"] if name.startswith("var/")]


def test_forget_all_leaves_out_what_runs_and_says_so(world: World) -> None:
    before = state(world)
    assert world.run("alice", "create", config_of(world)).returncode == 0
    for words in ((), ("web1", "--all")):
        assert world.run("alice", "cli", "forget", *words).returncode == 2
    running = world.folder / "bob.domains"
    running.write_text("web1")
    complete = state(world)
    refused = world.run("alice", "cli", "forget", "--all")
    assert refused.returncode == 3 and "runs on bob" in refused.stderr
    assert state(world) == complete
    running.unlink()
    done = world.run("alice", "cli", "forget", "--all")
    assert done.returncode == 0, done.stderr
    assert state(world)["alice-files"] == before["alice-files"]
    assert world.run("alice", "cli", "forget", "--all").returncode == 0


def test_forget_never_deletes_the_better_copy(world: World) -> None:
    (world.folder / "nosync").touch()
    assert world.run("alice", "create", config_of(world)).returncode == 0
    complete = state(world)
    done = world.run("bob", "cli", "forget", "web1", "--delete-peer-volumes")
    assert done.returncode == 3 and "may be the better one" in done.stderr
    assert state(world) == complete


def _installed(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    for host in ("alice", "bob"):
        world.write(host, "etc/xenhelper/xenhelper.conf", "")


def test_a_package_that_goes_leaves_plain_disks_on_both(world: World) -> None:
    _installed(world)
    done = world.run("alice", "cli", "removal")
    assert done.returncode == 0, done.stderr
    for host in ("alice", "bob"):
        assert not records(world, host) and world.drbd(host) == {}
    assert world.read("alice", "etc/xen/web1.cfg") == WEB1


def test_a_package_that_goes_alone_frees_only_what_is_current(world: World) -> None:
    _installed(world)
    (world.folder / "bob.off").touch()
    done = world.run("alice", "cli", "removal")
    assert "bob keeps its copy of web1" in done.stdout
    assert world.read("alice", "etc/xen/web1.cfg") == WEB1 and not records(world, "alice")
    assert set(DISKS) <= set(world.volumes("alice"))
    # bob was never the one that ran it, and its peer is gone: its config keeps saying so
    (world.folder / "alice.off").touch()
    done = world.run("bob", "cli", "removal")
    assert done.returncode == 0 and "web1 stays as it is" in done.stdout
    assert "alice may have the current data" in done.stdout
    assert "block-xenhelper" in world.read("bob", "etc/xen/web1.cfg") and records(world, "bob")


def test_a_package_that_goes_where_the_data_is_not(world: World) -> None:
    """Running on the other host, or an older copy: bob's config must not start it."""
    _installed(world)
    shown = world.folder / "bob/proc/drbd"
    good = shown.read_text()
    for roles, disks in (
        ("Secondary/Primary", "UpToDate/UpToDate"),
        ("Secondary/Secondary", "Outdated/UpToDate"),
    ):
        shown.write_text(good.replace("Secondary/Secondary", roles).replace("UpToDate/UpToDate", disks))
        complete = state(world)
        done = world.run("bob", "cli", "removal")
        assert done.returncode == 0 and "web1 stays as it is" in done.stdout, done.stdout + done.stderr
        assert state(world) == complete
    # the link is down here, and the other host says that it runs there
    shown.write_text(good)
    world.write(
        "bob",
        "var/lib/xenhelper/vms/web1",
        world.read("bob", "var/lib/xenhelper/vms/web1").replace("last_ran=alice", "last_ran=bob"),
    )
    (world.folder / "alice.domains").write_text("web1")
    done = world.run("bob", "cli", "removal")
    assert done.returncode == 0 and "web1 stays as it is: web1 runs on alice" in done.stdout
    assert records(world, "bob") and records(world, "alice")


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("point", (2, 5, 9))
def test_a_removal_killed_half_way_goes_on(world: World, point: int, off: bool) -> None:
    _installed(world)
    world.reset_calls()
    if off:
        (world.folder / "bob.off").touch()
    world.fault(f"{point} kill-after")
    world.run("alice", "cli", "removal")
    world.reset_calls()
    again = world.run("alice", "cli", "removal")
    assert again.returncode == 0, again.stderr
    assert world.read("alice", "etc/xen/web1.cfg") == WEB1 and not records(world, "alice")
    assert world.drbd("alice") == {} and set(world.volumes("alice")) == set(DISKS)
    assert not list((world.folder / "alice/var/lib/xenhelper").rglob("*-web1"))


def test_a_removal_that_can_not_be_finished_says_so(world: World) -> None:
    _installed(world)
    world.fault("fail alice lvremove")
    done = world.run("alice", "cli", "removal")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 3 and len(lines) == 2, done.stderr
    assert "web1 isn't a plain VM again: lvremove" in lines[0] and "remove the package again" in lines[1]
    world.reset_calls()
    assert world.run("alice", "cli", "removal").returncode == 0
    assert world.read("alice", "etc/xen/web1.cfg") == WEB1 and not records(world, "alice")

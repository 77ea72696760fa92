"""``replicate --libvirt`` and ``forget`` as whole stories, on two hosts of fake tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from xenhelper.virt import definition

XML = (Path(__file__).parent / "captured/libvirt/pvh.xml").read_text()
ROOT, SWAP = "/dev/vg0/web1-root", "/dev/vg0/web1-swap"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1-root": 2 * GIB, "vg0/web1-swap": GIB})
    put(made, "alice", {"web1": {"xml": XML}})
    put(made, "bob", {})
    return made


def put(world: World, host: str, domains: "dict[str, Any]") -> None:
    (world.folder / f"{host}.libvirt.json").write_text(json.dumps({"domains": domains}))


def defined(world: World, host: str) -> "dict[str, Any]":
    found: "dict[str, Any]" = json.loads((world.folder / f"{host}.libvirt.json").read_text())["domains"]
    return found


def on(world: World, host: str) -> list[str]:
    return [disk.path for disk in definition.parse(defined(world, host)["web1"]["xml"]).disks]


def check_adopted(world: World) -> None:
    for host in ("alice", "bob"):
        assert on(world, host) == ["/dev/drbd1000", "/dev/drbd1001", "/srv/iso/debian.iso"], host
        assert definition.same_but_for_disks(defined(world, host)["web1"]["xml"], XML), host
        record = world.read(host, "var/lib/xenhelper/vms/web1")
        assert "config=libvirt:web1\n" in record and "resources=web1-xvda,web1-xvdb" in record
        assert not list((world.folder / host / "var/lib/xenhelper/intents").glob("*"))
        kept = definition.parse(world.read(host, "var/lib/xenhelper/originals/web1"))
        assert [disk.path for disk in kept.disks][:2] == [ROOT, SWAP]
        assert world.drbd(host)["web1-xvda"]["role"] == "Secondary"


def test_a_stopped_domain_is_adopted_and_given_back(world: World) -> None:
    dry = world.run("alice", "cli", "replicate", "--libvirt", "web1", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "becomes resource web1-xvda, minor 1000" in dry.stdout and "is a CD-ROM" in dry.stdout
    assert on(world, "alice")[0] == ROOT and not world.drbd("alice")

    done = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert done.returncode == 0, done.stderr
    assert "xvda: replicated with bob as web1-xvda" in done.stdout
    check_adopted(world)
    assert "systemctl reload libvirtd.service" in (world.folder / "log").read_text()

    again = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert again.returncode == 0 and "nothing was to be set up" in again.stdout, again.stderr
    there = world.run("bob", "cli", "replicate", "--libvirt", "web1")
    assert there.returncode == 0, there.stderr
    check_adopted(world)

    gone = world.run("bob", "cli", "forget", "web1")
    assert gone.returncode == 0, gone.stderr
    for host in ("alice", "bob"):
        assert on(world, host)[:2] == [ROOT, SWAP]
        assert definition.exchanged(defined(world, host)["web1"]["xml"], {}) == definition.exchanged(XML, {})
        assert not world.drbd(host)


@pytest.mark.parametrize("host", ["alice", "bob"])
def test_it_goes_on_where_libvirt_failed(world: World, host: str) -> None:
    world.fault(f"fail {host} defineXML")
    done = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert done.returncode == 1 and "libvirt" in done.stderr
    assert on(world, "alice")[0] == ROOT
    world.reset_calls()
    assert world.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    check_adopted(world)


@pytest.mark.parametrize("when", ["kill", "kill-after"])
@pytest.mark.parametrize("host", ["alice", "bob"])
def test_it_goes_on_where_it_was_killed(world: World, tmp_path: Path, host: str, when: str) -> None:
    assert world.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    log = (world.folder / "log").read_text().splitlines()
    number = next(line.split()[0] for line in log if line.split()[1:3] == [host, "defineXML"])
    other = World(tmp_path / "other")
    other.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1-root": 2 * GIB, "vg0/web1-swap": GIB})
    put(other, "alice", {"web1": {"xml": XML}})
    put(other, "bob", {})
    other.fault(f"{number} {when}")
    assert other.run("alice", "cli", "replicate", "--libvirt", "web1").returncode != 0
    other.reset_calls()
    assert other.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    check_adopted(other)


OTHER = XML.replace("9bd0a8a6", "753dac86")


@pytest.mark.parametrize(
    ("host", "domains", "says"),
    [
        ("alice", {}, "libvirt has no domain web1 defined"),
        ("alice", {"web1": {"xml": XML, "active": True}}, "web1 runs at libvirt"),
        ("alice", {"web1": {"xml": XML, "saved": True}}, "has an image of its memory"),
        ("bob", {"web1": {"xml": OTHER}}, "another domain web1"),
        ("bob", {"web1": {"xml": XML, "active": True}}, "web1 runs at libvirt"),
    ],
)
def test_what_is_refused_changes_nothing(
    world: World, host: str, domains: "dict[str, Any]", says: str
) -> None:
    put(world, host, domains)
    done = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert done.returncode in (1, 3) and says in done.stderr, done.stderr
    assert defined(world, host) == domains
    assert not world.drbd("alice") and not world.drbd("bob")


def test_without_libvirt_it_says_what_is_missing(world: World) -> None:
    (world.folder / "bob.libvirt.json").unlink()
    done = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert done.returncode == 3 and "libvirt-daemon-driver-xen" in done.stderr
    (world.folder / "alice.libvirt.json").unlink()
    done = world.run("alice", "cli", "replicate", "--libvirt", "web1")
    assert done.returncode == 1 and "libvirt has no xen:///system on this host" in done.stderr
    assert not world.drbd("alice")


def test_a_vm_has_one_definition(world: World) -> None:
    assert world.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    world.write("alice", "etc/xen/web1.cfg", f"name='web1'\ndisk=['phy:{ROOT},xvda,w']\n")
    done = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert done.returncode == 3 and "web1 is defined at libvirt" in done.stderr
    check_adopted(world)


def test_forget_without_libvirt_leaves_the_definition(world: World) -> None:
    assert world.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    (world.folder / "alice.libvirt.json").unlink()
    gone = world.run("alice", "cli", "forget", "web1")
    assert gone.returncode == 0 and "its definition at libvirt stays on DRBD's devices" in gone.stderr
    assert on(world, "bob")[0] == ROOT and not world.drbd("alice")


def test_a_definition_must_be_of_the_vm_that_is_shared(world: World) -> None:
    assert world.run("alice", "cli", "replicate", "--libvirt", "web1").returncode == 0
    good = defined(world, "bob")["web1"]["xml"]
    for xml, says in (
        (good.replace("<name>web1<", "<name>web2<"), "isn't the definition of web1"),
        (good.replace("/dev/drbd1000", "/dev/vg0/web1-root"), "isn't its own"),
        (good.replace("/dev/drbd1000", "/dev/x").replace("/dev/drbd1001", "/dev/y"), "isn't the definition"),
        ("<domain/>", "names no domain"),
    ):
        process = world.start("bob", "verb", "alice", "virt-define")
        out, err = process.communicate(json.dumps({"vm": "web1", "xml": xml}), timeout=600)
        assert says in json.loads(out)["error"], err
    assert defined(world, "bob")["web1"]["xml"] == good


def test_takeover_says_how_libvirts_vm_is_started(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from xenhelper import destination, paths, statefile, takeover
    from xenhelper.drbd.events import Resource
    from xenhelper.virt import adopt

    monkeypatch.setattr(paths, "VMS", str(world.folder / "vms"))
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "config": "libvirt:web1"})
    monkeypatch.setattr(adopt, "memory_kib", lambda vm: {"web1": 524288}[vm])
    monkeypatch.setattr(
        destination, "xen_info", lambda: {"free_memory": "1024", "xen_commandline": "dom0_mem=1G"}
    )
    said: list[str] = []
    copy = takeover.Copy("web1-xvda", 1000, Resource("web1-xvda"), 0.0)
    takeover._next({"web1": [(copy, takeover.PERMIT)]}, said.append)
    assert said == ["start them in this order:", "  virsh start web1"]

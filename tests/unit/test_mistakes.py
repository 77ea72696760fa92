"""Lost volumes and files, new addresses, disks full or read-only: each its own line."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import hosts
from tests.unit.fakes.hosts import GIB, World
from xenhelper import (
    config,
    described,
    forget,
    grow,
    insync,
    intents,
    lost,
    provision,
    readdress,
    rebuild,
    replicate_peer,
    statefile,
    takeover,
    volumes,
)
from xenhelper.drbd import resfile
from xenhelper.drbd.knobs import Knobs
from xenhelper.errors import CommandFailed, Refused, XenhelperError
from xenhelper.plan import Disk, Plan

RECORD = {
    "resource": "web1-xvda",
    "vm": "web1",
    "vdev": "xvda",
    "minor": "1000",
    "port": "7800",
    "volume": "/dev/vg0/web1",
    "meta": "/dev/vg0/web1_xhmeta",
    "host": "alice",
    "peer": "bob",
    "address": "ipv4:10.99.0.1:7800",
    "peer_address": "ipv4:10.99.0.2:7800",
    "peer_volume": "/dev/vg1/web1",
    "size_bytes": str(GIB),
    "protocol": "A",
    "secret": "0" * 32,
}


def volume(
    name: str, resource: str = "web1-xvda", device: "tuple[int, int] | None" = (254, 1)
) -> volumes.Volume:
    tags = volumes.tags_for("web1", resource, 1000, 7800)
    return volumes.Volume("vg0", name, GIB, tags, False, device)


def test_a_volume_that_is_not_where_it_was() -> None:
    path = RECORD["volume"]
    meta = volume("web1_xhmeta")
    said = str(lost.explain(RECORD, path, [meta, volume("other", "web2-xvda"), volume("old")]))
    assert "called /dev/vg0/old now" in said and "`lvrename vg0/old web1`" in said
    assert "`lvchange -ay vg0/web1`" in str(lost.explain(RECORD, path, [meta, volume("web1", device=None)]))
    assert "no volume bears its tag" in str(lost.explain(RECORD, path, [meta]))
    assert "bob has the data" in str(lost.explain(RECORD, path, [meta]))
    assert lost.explain(RECORD, path, [meta, volume("web1")]) is None
    assert "called /dev/vg0/old_xhmeta now" in str(
        lost.explain(RECORD, RECORD["meta"], [volume("web1"), volume("old_xhmeta")])
    )
    # made by hand, and converted: metadata under any name, or inside
    by_hand = RECORD | {"meta": "/dev/vg0/m1", "taken_over": "yes"}
    tags = (*volume("x").tags, volumes.META_TAG)
    moved = volumes.Volume("vg0", "m2", GIB, tags, False, (254, 2))
    assert "called /dev/vg0/m2 now" in str(lost.explain(by_hand, "/dev/vg0/m1", [volume("web1"), moved]))
    assert "no volume bears its tag" in str(lost.explain(by_hand, path, [moved]))
    assert lost.missing({"meta": "internal"}) == ""
    assert rebuild.by_vm([moved]) == {}


def test_a_clock_that_was_ahead_makes_no_data_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insync.paths, "STATE", str(tmp_path))
    now = 1_800_000_000.0
    monkeypatch.setattr(insync.time, "time", lambda: now + 10_800)
    insync.write("web1-xvda", now + 10_800, "ok")
    monkeypatch.setattr(insync.time, "time", lambda: now)
    copy = takeover._copy(RECORD, {})
    assert copy.as_of == 0.0
    insync.write("web1-xvda", now, "ok")
    assert insync.last("web1-xvda") == now and takeover._copy(RECORD, {}).as_of == now


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "make room there"), (errno.EROFS, "mount -o remount,rw"), (errno.EIO, "Input/output")],
)
def test_a_record_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = str(tmp_path / "intents/grow-web1")
    statefile.write(path, {"a": "1"})

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(statefile.os, "fsync", fail)
    with pytest.raises(XenhelperError, match=r"grow-web1 can't be written: ") as caught:
        statefile.write(path, {"a": "2"})
    assert words in str(caught.value)
    monkeypatch.undo()
    assert statefile.read(path) == {"a": "1"} and os.listdir(tmp_path / "intents") == ["grow-web1"]


def test_removing_nothing_is_no_error_on_a_read_only_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(statefile.os, "unlink", fail)
    statefile.remove(str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(XenhelperError, match="can't be removed: Read-only"):
        statefile.remove(str(tmp_path / "file"))


def test_a_read_only_file_system_is_told_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.statvfs
    lvm = str(tmp_path / "lvm")

    def statvfs(path: str) -> os.statvfs_result:
        found = list(real(path))
        found[8] |= os.ST_RDONLY if path == lvm else 0  # f_flag
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(provision.paths, "STATE", str(tmp_path))
    monkeypatch.setattr(provision.paths, "DRBD_D", str(tmp_path / "drbd.d"))
    monkeypatch.setattr(provision.paths, "LVM", lvm)
    monkeypatch.setattr(provision.proc, "require_module", lambda: "8.4.11")
    monkeypatch.setattr(replicate_peer, "domains_of", lambda vm: [])
    provision.require_able()  # what isn't there yet is no hindrance
    os.mkdir(lvm)
    for look in (
        provision.require_able,
        lambda: forget.check("web1", {}),
        lambda: grow._side({"resource": "web1-xvda"}),
    ):
        with pytest.raises(Refused, match=r"lvm can't be written: Read-only.*mount -o remount,rw"):
            look()


def settings(**changes: Any) -> config.Config:
    peer = config.Peer("bob", "192.168.1.2", "10.97.0.2", "10.97.0.1", {"vg0": "vg1"})
    values: dict[str, Any] = {
        "host": "alice",
        "management": "192.168.1.1",
        "replication": "10.97.0.1",
        "peers": {"bob": peer},
        "volume_groups": ("vg0",),
        "exclude_volumes": (),
        "exclude_vms": (),
        "shared_volumes": (),
        "ports": (7800, 7999),
        "minors": (1000, 1999),
        "protocol": "A",
    }
    return config.Config(**{**values, **changes})


def test_new_addresses_are_given_to_that_peers_resources_only() -> None:
    peer = settings().peers["bob"]
    other = {**RECORD, "resource": "x", "peer": "carol"}
    due = readdress.due(peer, {"web1-xvda": dict(RECORD), "x": other})
    assert list(due) == ["web1-xvda"]
    assert due["web1-xvda"] == {
        **RECORD,
        "address": "ipv4:10.97.0.1:7800",
        "peer_address": "ipv4:10.97.0.2:7800",
    }
    assert readdress.due(peer, due) == {}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """web1-xvda at its old addresses, its link's settings tuned; what was brought up."""
    for name in ("RESOURCES", "INTENTS", "LOCKS", "DRBD_D"):
        monkeypatch.setattr(readdress.paths, name, str(tmp_path / name.lower()))
    up: list[str] = []
    monkeypatch.setattr(readdress.config, "load", settings)
    monkeypatch.setattr(readdress.domains, "migrating", lambda vm: False)
    monkeypatch.setattr(readdress.bringup, "up", lambda vm, name: up.append(name))
    statefile.write(f"{readdress.paths.RESOURCES}/web1-xvda", RECORD)
    tuned = resfile.with_knobs(resfile.render("web1", rebuild.entries([RECORD])), Knobs(c_max_rate=2048))
    statefile.write_atomically(resfile.path("web1"), tuned.encode())
    return up


def test_resources_follow_their_addresses_and_keep_the_rest(alone: list[str]) -> None:
    before = Path(resfile.path("web1")).read_text()
    line = ["replicate web1 from 10.97.0.1 to 10.97.0.2"]
    assert readdress.here("bob", dry=True) == line
    assert Path(resfile.path("web1")).read_text() == before and alone == []
    assert readdress.here("bob") == line and alone == ["web1-xvda"]
    assert Path(resfile.path("web1")).read_text() == before.replace("10.99.0.", "10.97.0.")
    assert readdress.here("bob") == [] and alone == ["web1-xvda"]


def test_what_could_not_follow_does_so_when_setup_runs_again(
    alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(resfile.path("web1")).read_text()
    intents.write("grow", "web1")
    with pytest.raises(Refused, match="web1: a grow isn't finished"):
        readdress.here("bob")
    assert Path(resfile.path("web1")).read_text() == before
    intents.remove("grow", "web1")

    def fail(vm: str, name: str) -> None:
        raise XenhelperError("drbdadm failed")

    with monkeypatch.context() as broken:
        broken.setattr(readdress.bringup, "up", fail)
        with pytest.raises(XenhelperError, match="drbdadm failed"):
            readdress.here("bob")
    assert len(readdress.here("bob")) == 1 and alone == ["web1-xvda"]


def test_the_settings_of_the_link_are_kept() -> None:
    slow, slower = Knobs(c_max_rate=20 * 1024), Knobs(c_max_rate=2 * 1024)
    record = {**RECORD, "knobs": json.dumps(slow.to_json())}
    text = resfile.render("web1", rebuild.entries([record]))
    assert resfile.knobs(text) == {"web1-xvda": slow}
    # what was tuned since stands in the file
    tuned = resfile.with_knobs(text, slower)
    assert resfile.render("web1", rebuild.entries([record], tuned)) == tuned
    assert rebuild.entries([RECORD])[0].knobs == Knobs()
    for broken in ({"secret": "no"}, {"minor": "x"}, {"knobs": '{"c_max_rate": 0}'}, {"knobs": "[]"}):
        with pytest.raises(XenhelperError, match="web1-xvda"):
            resfile.render("web1", rebuild.entries([{**record, **broken}]))


def told_by_bob(**changes: Any) -> dict[str, Any]:
    disk = Disk("xvda", "web1-xvda", 1000, 7800, GIB, "vg1", "vg0", "web1", "0" * 32, 0, 0, False)
    theirs = Plan("ab", "web1", "bob", "10.97.0.2", "alice", "10.97.0.1", "A", (disk,))
    answer = {"plan": theirs.to_json(), "disks": {"web1-xvda": "UpToDate"}, "config": "/dev/null"}
    return {**answer, "text": "", "sha256": "", "last_ran": "bob", **changes}


def test_what_the_peer_tells_is_checked() -> None:
    told = described.checked(settings(), "web1", "bob", told_by_bob())
    assert (told.plan.host, told.plan.disks[0].group, told.states) == (
        "alice",
        "vg0",
        {"web1-xvda": "UpToDate"},
    )
    elsewhere = told_by_bob(config="/etc/passwd", text="name = 'web1'\n")
    assert described.checked(settings(), "web1", "bob", elsewhere).config == ""
    plan = told_by_bob()["plan"]
    moved = {**plan, "address": "10.99.0.2"}
    fresh = {**plan, "resources": [{**plan["resources"][0], "fresh": True, "meta_size": 1 << 22}]}
    for changes in (
        {"plan": moved},
        {"plan": {**plan, "vm": "web2"}},
        {"plan": {**plan, "peer": "carol"}},
        {"plan": {**fresh, "resources": [{**fresh["resources"][0], "peer_meta_size": 1 << 22}]}},
        {"plan": None},
        {"disks": []},
        {"sha256": "x\ny"},
        {"last_ran": "a b"},
        {"text": 5},
    ):
        with pytest.raises(XenhelperError):
            described.checked(settings(), "web1", "bob", told_by_bob(**changes))


def test_another_host_name_is_said() -> None:
    config.check_name(settings(), "alice")
    with pytest.raises(XenhelperError, match="are for alice, and this host is called alicia now"):
        config.check_name(settings(), "alicia")


# on two hosts of fake tools


@pytest.fixture
def world(tmp_path: Path) -> World:
    return hosts.replicated(tmp_path / "world")


def test_a_deleted_resource_file_is_rendered_from_the_records(world: World) -> None:
    before = world.read("alice", "etc/drbd.d/web1.res")
    (world.folder / "alice/etc/drbd.d/web1.res").unlink()
    assert world.run("alice", "resfile", "web1").stdout.strip() == "True"
    assert world.read("alice", "etc/drbd.d/web1.res") == before
    assert world.run("alice", "resfile", "web1").stdout.strip() == "False"


def test_a_reinstalled_host_gets_all_back_from_tags_and_peer(world: World) -> None:
    kept = {name: text for name, text in world.files("bob").items() if "web1" in name}
    for name in kept:
        (world.folder / "bob" / name).unlink()
    dry = world.run("bob", "cli", "reconcile", "--from-volumes", "--dry-run")
    assert dry.returncode == 0 and "records of web1-xvda, web1-xvdb" in dry.stdout, dry.stderr
    assert not [name for name in world.files("bob") if "web1" in name]
    done = world.run("bob", "cli", "reconcile", "--from-volumes")
    assert done.returncode == 0, done.stderr
    found = {name: text for name, text in world.files("bob").items() if "web1" in name}
    assert found.keys() == kept.keys()
    for name, text in kept.items():
        own = {line for line in text.splitlines() if not line.startswith(("run=", "created="))}
        assert own <= set(found[name].splitlines()), name
    assert "nothing is missing" in world.run("bob", "cli", "reconcile", "--from-volumes").stdout
    assert world.run("bob", "create", "/etc/xen/web1.cfg").returncode == 0


def test_tags_that_contradict_the_peer_are_refused_and_nothing_is_written(world: World) -> None:
    for name in [name for name in world.files("bob") if "web1" in name]:
        (world.folder / "bob" / name).unlink()
    tags = world.volumes("bob")["vg0/web1"]["tags"]
    changed = [tag.replace("minor=1000", "minor=1007") for tag in tags]
    world.edit_volume("bob", "vg0/web1", tags=changed)
    failed = world.run("bob", "cli", "reconcile", "--from-volumes")
    assert failed.returncode == 1 and "alice says minor 1000" in failed.stderr
    world.edit_volume("bob", "vg0/web1", tags=[])
    failed = world.run("bob", "cli", "reconcile", "--from-volumes")
    assert failed.returncode == 1 and "no volume is marked so" in failed.stderr
    assert not [name for name in world.files("bob") if "web1" in name]


def test_volumes_without_our_whole_tags_are_nobodys() -> None:
    whole = volume("web1")
    other = volumes.Volume("vg0", "x", GIB, ("xenhelper.vm=web1", "xenhelper.resource=web1-xvdb"))
    odd = volumes.Volume("vg0", "y", GIB, tuple(tag.replace("web1", "../x") for tag in whole.tags))
    found = rebuild.by_vm([whole, other, odd, volume("web1_xhmeta"), volumes.Volume("vg0", "z", GIB)])
    assert {vm: [item.volume.name for item in items] for vm, items in found.items()} == {"web1": ["web1"]}


def test_a_disk_taken_out_of_the_config_is_told_of(world: World) -> None:
    path = world.folder / "alice/etc/xen/web1.cfg"
    text = path.read_text()
    path.write_text(text.replace(", 'phy:/dev/vg0/web1-b,xvdb,w'", ""))
    done = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert done.returncode == 0, done.stderr
    assert "/dev/vg0/web1-b (disk xvdb) isn't in its config any more" in done.stderr
    again = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert again.returncode == 0 and again.stderr == ""


def test_a_disk_taken_out_is_told_of_where_another_is_added_too(world: World) -> None:
    volumes_file = world.folder / "alice.lvm.json"
    state = json.loads(volumes_file.read_text())
    state["volumes"]["vg0/web1-c"] = {**state["volumes"]["vg0/web1-b"], "tags": []}
    volumes_file.write_text(json.dumps(state))
    path = world.folder / "alice/etc/xen/web1.cfg"
    path.write_text(path.read_text().replace("web1-b,xvdb,w", "web1-c,xvdc,w"))
    done = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert done.returncode == 0, done.stderr
    assert "xvdc" in done.stdout + done.stderr
    assert "/dev/vg0/web1-b (disk xvdb) isn't in its config any more" in done.stderr


def test_a_renamed_volume_names_its_tag(world: World) -> None:
    path = world.folder / "alice.lvm.json"
    state = json.loads(path.read_text())
    state["volumes"]["vg0/old"] = state["volumes"].pop("vg0/web1")
    path.write_text(json.dumps(state))
    (world.folder / "alice/dev/vg0/web1").rename(world.folder / "alice/dev/vg0/old")
    (world.folder / "alice/proc/drbd").write_text("version: 8.4.11 (api:1/proto:86-101)\n")
    refused = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert refused.returncode == 3 and "called /dev/vg0/old now" in refused.stderr
    assert "lvrename vg0/old web1" in refused.stderr


def test_a_volume_that_is_not_active_is_said_where_a_known_vm_comes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lab's: drbdsetup-84 attach exits 20 for it, which tells nobody anything."""

    def adm(vm: str, *words: str, timeout: float) -> None:
        raise CommandFailed(["drbdadm", "up"], 1, "attach terminated with exit code 20", 60)

    record = {"resource": "web1-xvda", "vm": "web1", "minor": "1000", "volume": "/dev/vg0/web1"}
    monkeypatch.setattr(provision.paths, "RESOURCES", str(tmp_path / "records"))
    monkeypatch.setattr(provision.paths, "ROOT", str(tmp_path))
    statefile.write(str(tmp_path / "records/web1-xvda"), record)
    monkeypatch.setattr(provision.proc, "read", lambda: ("", {}))
    monkeypatch.setattr(provision.proc, "require_module", lambda: None)
    monkeypatch.setattr(provision.bringup, "adm", adm)
    monkeypatch.setattr(provision.bringup, "mark_minor", lambda minor: None)
    tagged = volumes.Volume("vg0", "web1", GIB, ("xenhelper.resource=web1-xvda",))
    monkeypatch.setattr(volumes, "volumes", lambda: [tagged])
    with pytest.raises(Refused) as refused:
        provision.resources_up("web1")
    assert str(refused.value) == "web1-xvda: /dev/vg0/web1 isn't active; `lvchange -ay vg0/web1`"
    (tmp_path / "dev/vg0").mkdir(parents=True)
    (tmp_path / "dev/vg0/web1").touch()
    with pytest.raises(CommandFailed, match="exit code 20"):
        provision.resources_up("web1")


def test_a_file_for_other_hosts_is_said_before_drbdadm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xenhelper.drbd import bringup

    monkeypatch.setattr(bringup.paths, "DRBD_D", str(tmp_path))
    (tmp_path / "web1.res").write_text('resource "r" {\n    on "alicia" {\n    }\n    on "bob" {\n    }\n}\n')
    with pytest.raises(XenhelperError, match="web1.res is for alicia and bob, and this host is called"):
        bringup.adm("web1", "adjust", "r")


def test_refused_is_what_contradicting_volumes_are() -> None:
    disk = Disk("xvda", "web1-xvda", 1000, 7800, GIB, "vg0", "vg1", "web1", "0" * 32, 0, 0, False)
    here = Plan("ab", "web1", "alice", "10.99.0.1", "bob", "10.99.0.2", "A", (disk,))
    tagged = rebuild.by_vm([volume("web1")])["web1"]
    rebuild.check(here, tagged)
    with pytest.raises(Refused, match="lvrename"):
        rebuild.check(here, rebuild.by_vm([volume("renamed")])["web1"])

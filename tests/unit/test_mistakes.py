"""Lost volumes and files, new addresses, disks full or read-only: each its own line."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from xenhelper import config, insync, lost, statefile, takeover, volumes
from xenhelper.errors import XenhelperError

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


def test_another_host_name_is_said() -> None:
    config.check_name(settings(), "alice")
    with pytest.raises(XenhelperError, match="are for alice, and this host is called alicia now"):
        config.check_name(settings(), "alicia")


# on two hosts of fake tools


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1": 2 * GIB, "vg0/web1-b": GIB})
    disks = "disk=['phy:/dev/vg0/web1,xvda,w', 'phy:/dev/vg0/web1-b,xvdb,w']"
    made.write("alice", "etc/xen/web1.cfg", f"name='web1'\n{disks}\n")
    assert made.run("alice", "create", "/etc/xen/web1.cfg").returncode == 0
    made.reset_calls()
    return made


def test_a_disk_taken_out_of_the_config_is_told_of(world: World) -> None:
    path = world.folder / "alice/etc/xen/web1.cfg"
    text = path.read_text()
    path.write_text(text.replace(", 'phy:/dev/vg0/web1-b,xvdb,w'", ""))
    done = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert done.returncode == 0, done.stderr
    assert "/dev/vg0/web1-b (disk xvdb) isn't in its config any more" in done.stderr
    again = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert again.returncode == 0 and again.stderr == ""


def test_a_renamed_volume_names_its_tag(world: World) -> None:
    import json

    path = world.folder / "alice.lvm.json"
    state = json.loads(path.read_text())
    state["volumes"]["vg0/old"] = state["volumes"].pop("vg0/web1")
    path.write_text(json.dumps(state))
    (world.folder / "alice/dev/vg0/web1").rename(world.folder / "alice/dev/vg0/old")
    (world.folder / "alice/proc/drbd").write_text("version: 8.4.11 (api:1/proto:86-101)\n")
    refused = world.run("alice", "create", "/etc/xen/web1.cfg")
    assert refused.returncode == 3 and "called /dev/vg0/old now" in refused.stderr
    assert "lvrename vg0/old web1" in refused.stderr


def test_a_file_for_other_hosts_is_said_before_drbdadm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xenhelper.drbd import bringup

    monkeypatch.setattr(bringup.paths, "DRBD_D", str(tmp_path))
    (tmp_path / "web1.res").write_text('resource "r" {\n    on "alicia" {\n    }\n    on "bob" {\n    }\n}\n')
    with pytest.raises(XenhelperError, match="web1.res is for alicia and bob, and this host is called"):
        bringup.adm("web1", "adjust", "r")

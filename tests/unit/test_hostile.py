"""What a peer, a guest or a local user can't have: each was possible, or might become so."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from xenhelper import config, errors, paths, statefile, vmfile
from xenhelper.errors import XenhelperError
from xenhelper.peer import messages

WEB1 = 'name = "web1"\nmemory = 128\ndisk = ["phy:/dev/vg0/web1-root,xvda,w"]\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.lvm("alice", {"vg0": 16 * GIB, "vg1": 4 * GIB}, {"vg0/web1-root": 2 * GIB})
    made.write("alice", "etc/xen/web1.cfg", WEB1)
    assert made.run("alice", "create", "/etc/xen/web1.cfg").returncode == 0
    return made


def verb(world: World, name: str, args: dict[str, Any]) -> dict[str, Any]:
    """What bob answers alice."""
    process = world.start("bob", "verb", "alice", name)
    out, err = process.communicate(json.dumps(args), timeout=60)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def commit(**more: Any) -> dict[str, Any]:
    text = WEB1 + "# more\n"
    return {"vm": "web1", "id": "", "config": "/etc/xen/web1.cfg", "text": text, "expected": "", **more}


def test_a_peer_puts_a_config_only_where_configs_are(world: World) -> None:
    for path in (
        "boot/grub/grub.cfg",
        "etc/default/grub.d/x.cfg",
        "etc/cloud/cloud.cfg.d/9.cfg",
        "var/a/b.cfg",
    ):
        world.write("bob", path, "GRUB_DEFAULT=0\n")
        said = verb(world, "replicate-commit", commit(config=f"/{path}"))
        assert "isn't a place for a VM's config" in json.dumps(said), path
        assert world.read("bob", path) == "GRUB_DEFAULT=0\n"
        look = {"vm": "web1", "groups": [], "volumes": [], "files": [], "bridges": [], "tidy": False}
        assert "GRUB" not in json.dumps(verb(world, "replicate-look", {**look, "config": f"/{path}"}))


def test_a_peer_neither_reads_nor_replaces_another_vms_config(world: World) -> None:
    other = 'name = "db1"\nvncpasswd = "hush"\n'
    world.write("bob", "etc/xen/db1.cfg", other)
    look = {"vm": "web1", "groups": [], "volumes": [], "files": [], "bridges": [], "tidy": False}
    said = verb(world, "replicate-look", {**look, "config": "/etc/xen/db1.cfg"})
    assert "hush" not in json.dumps(said) and "sha256" in json.dumps(said)
    from xenhelper.xen import vmconfig

    said = verb(
        world, "replicate-commit", commit(config="/etc/xen/db1.cfg", expected=vmconfig.checksum(other))
    )
    assert "isn't the config of web1" in json.dumps(said)
    assert world.read("bob", "etc/xen/db1.cfg") == other


def test_what_a_peer_says_of_numbers_is_looked_at_again(world: World) -> None:
    """A plan whose names are another resource's: undoing it would stop that one."""
    before = world.drbd("bob")
    taken = before["web1-xvda"]
    plan = {
        "id": "1f", "vm": "web2", "host": "alice", "address": "10.99.0.1", "peer": "bob",
        "peer_address": "10.99.0.2", "protocol": "A",
        "resources": [
            {
                "vdev": "xvda", "resource": "web2-xvda", "minor": taken["minor"], "port": 7999, "size": GIB,
                "group": "vg0", "peer_group": "vg0", "name": "web2-root", "secret": "ab" * 16,
                "meta_size": 1 << 22, "peer_meta_size": 1 << 22,
            }
        ],
    }  # fmt: skip
    said = verb(world, "replicate-prepare", {"plan": plan, "token": "x"})
    assert "isn't free" in json.dumps(said)
    plan["resources"][0].update(minor=1500, fresh=False)  # type: ignore[index]
    assert "not a disk of web2" in json.dumps(verb(world, "replicate-prepare", {"plan": plan, "token": "x"}))
    assert world.drbd("bob") == before and not (world.folder / "bob/etc/drbd.d/web2.res").exists()


def test_vdevs_and_hosts_of_a_commit_are_checked(world: World) -> None:
    for more in ({"vdevs": {"web1-xvda": "x\ry=z"}}, {"vdevs": {"db1-xvda": "xvda"}}, {"last_ran": "a b"}):
        said = verb(world, "replicate-commit", {**commit(), **more})
        assert "ok" not in said, more


def test_a_copy_goes_only_while_both_hosts_see_another(world: World) -> None:
    shown = world.folder / "bob/proc/drbd"
    shown.write_text(shown.read_text().replace("UpToDate/UpToDate", "UpToDate/Inconsistent"))
    said = verb(world, "replicate-forget", {"vm": "web1", "delete": True, "dry": False})
    assert "isn't in sync on both hosts" in json.dumps(said)
    assert "vg0/web1-root" in world.volumes("bob")


def test_a_record_is_split_at_its_newlines_only(tmp_path: Path) -> None:
    path = str(tmp_path / "window-web1")
    record = {"uuid": "a\rresources=db1-xvda\x0b\u2028source=mallory", "source": "bob"}
    statefile.write(path, record)
    assert statefile.read(path) == record
    with pytest.raises(XenhelperError, match="too long"):
        statefile.write(path, {"a": "x" * 70000})
    assert statefile.read(path) == record


def test_no_number_that_compares_as_nothing() -> None:
    for line in (b'{"deadline": NaN}', b'{"deadline": Infinity}'):
        with pytest.raises(XenhelperError):
            messages.decode(line)
    with pytest.raises(XenhelperError):
        messages.encode({"deadline": float("nan")})


def test_what_a_peer_says_does_not_steer_a_terminal() -> None:
    error = errors.PeerFailed("web1 runs\x1b]0;owned\x07 here\x9b2J", "type \x1b[8m`rm`")
    assert str(error).isprintable() and "\x1b" not in error.do


def test_a_closed_configuration_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fence_command may hold a management board's password."""
    path = tmp_path / "xenhelper.conf"
    monkeypatch.setattr(config, "load", lambda where: None)
    config.store("a\n", str(path))
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    config.store("b\n", str(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_place_that_others_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("srv/vms", "home/joe", "root/.config", "etc/xen/scripts"):
        (tmp_path / name).mkdir(parents=True)
    assert vmfile.storable("/srv/vms/web1.cfg") and vmfile.storable("/etc/xen/web1.cfg")
    assert not vmfile.storable("/root/.config/web1.cfg")
    assert not vmfile.storable("/etc/xen/scripts/web1.cfg") and not vmfile.storable("/etc/xen/xl.conf")
    (tmp_path / "srv").chmod(0o777)
    assert not vmfile.storable("/srv/vms/web1.cfg")
    if os.geteuid() == 0:
        os.chown(tmp_path / "home/joe", 1000, 1000)
        assert not vmfile.storable("/home/joe/web1.cfg")

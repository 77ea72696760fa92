"""guest-install: only into a VM that is off, and never past its file system's edge."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from xenhelper import intents, paths, statefile
from xenhelper.cli import main
from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.run import Result
from xenhelper.tuning import guest_install, guest_write
from xenhelper.xen.domains import Domain


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("DEVNAME=/dev/drbd1000\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n", "ext4"),
        ("DEVNAME=/dev/drbd1000\nTYPE=xfs\n", "xfs"),
        ("PTTYPE=gpt\n", "it has partitions"),
        ("TYPE=LVM2_member\n", "LVM2_member isn't a file system that xenhelper writes to"),
        ("", "no file system"),
    ],
)
def test_what_blkid_says(said: str, kind: str) -> None:
    assert guest_write.file_system(said) == kind


class Mounts:
    """mount and umount in a folder: the guest's file system is a folder, too."""

    def __init__(self, guest: Path, place: Path, kind: str = "ext4") -> None:
        self.guest, self.place, self.kind = guest, place, kind
        self.calls: list[list[str]] = []

    def run(self, argv: list[str], **_: Any) -> Result:
        self.calls.append(argv)
        if argv[0] == "blkid":
            return Result(0, f"TYPE={self.kind}\n", "")
        if argv[0] == "mount":
            self.place.rmdir()
            self.place.symlink_to(self.guest)
        if argv[0] == "umount":
            self.place.unlink()
            self.place.mkdir()
        return Result(0, "", "")

    def how(self) -> list[str]:
        return [argv[argv.index("-o") + 1] for argv in self.calls if argv[0] == "mount"]


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "guest"
    for folder in ("etc/systemd/system", "var/lib/dpkg", "var/cache"):
        (root / folder).mkdir(parents=True)
    (root / "etc/debian_version").write_text("13.1\n")
    (root / "var/lib/dpkg/status").touch()
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    (tmp_path / "deb").write_bytes(b"package")
    return root


@pytest.fixture
def mounts(guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounts:
    fake = Mounts(guest, tmp_path / "run/guest")
    monkeypatch.setattr(guest_write, "run", fake.run)
    return fake


def test_the_package_and_its_unit_are_left(guest: Path, mounts: Mounts, tmp_path: Path) -> None:
    for _ in range(2):  # a second run replaces what the first left
        assert guest_write.write("/dev/drbd1000", str(tmp_path / "deb")) == ""
    assert (guest / "var/cache/xenhelper/xenhelper-guest.deb").read_bytes() == b"package"
    unit = guest / "etc/systemd/system/xenhelper-guest-install.service"
    assert "dpkg --install" in unit.read_text() and stat.S_IMODE(unit.stat().st_mode) == 0o644
    link = guest / "etc/systemd/system/multi-user.target.wants/xenhelper-guest-install.service"
    assert os.readlink(link) == "../xenhelper-guest-install.service"
    for how in mounts.how():
        assert how.endswith("nodev,nosuid,noexec,nosymfollow")
    assert [how.split(",")[0] for how in mounts.how()[:2]] == ["ro", "rw"], (
        "looked at before it is written to"
    )
    assert mounts.calls[-1][0] == "umount"


@pytest.mark.parametrize("mark", guest_write.MARKS)
def test_what_isnt_a_debian_root_is_only_looked_at(
    guest: Path, mounts: Mounts, tmp_path: Path, mark: str
) -> None:
    path = guest / mark
    path.rename(guest / "away")
    path.symlink_to(guest / "away")  # a link isn't taken for it either
    assert mark in guest_write.write("/dev/drbd1000", str(tmp_path / "deb"))
    assert [how.split(",")[:2] for how in mounts.how()] == [["ro", "noload"]]
    assert not (guest / "var/cache/xenhelper").exists()


@pytest.mark.parametrize("folder", ["var/cache", "var", "etc/systemd/system/multi-user.target.wants"])
def test_no_link_of_the_guests_is_followed(guest: Path, mounts: Mounts, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = guest / folder
    if path.exists():
        path.rename(guest / "moved")
    path.symlink_to(outside)
    if folder == "var":  # its marks would be missed first
        (outside / "lib/dpkg").mkdir(parents=True)
        (outside / "lib/dpkg/status").touch()
    with pytest.raises(XenhelperError, match="can't be used"):
        guest_write.write("/dev/drbd1000", str(tmp_path / "deb"))
    assert not any(path.is_file() and path.name != "status" for path in outside.rglob("*"))
    assert mounts.calls[-1][0] == "umount"


def test_a_file_that_is_a_link_is_replaced_not_followed(guest: Path, mounts: Mounts, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dom0's")
    (guest / "etc/systemd/system/xenhelper-guest-install.service").symlink_to(victim)
    assert guest_write.write("/dev/drbd1000", str(tmp_path / "deb")) == ""
    assert victim.read_text() == "dom0's"


def test_by_hand_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readlink", lambda path: "mnt:[1]")
    assert main.main(["guest-write", "/dev/drbd1000"]) == 3


class Host:
    """What guest-install finds, and what it did."""

    def __init__(self) -> None:
        self.here: list[Domain] = []
        self.there: Any = []
        self.done: list[str] = []
        self.answers = {1000: "no file system", 1001: ""}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host()
    for name in ("RESOURCES", "INTENTS", "LOCKS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    for minor, vdev in ((1000, "xvda"), (1001, "xvdb")):
        record = {"vm": "web1", "vdev": vdev, "resource": f"web1-{vdev}", "peer": "bob", "minor": str(minor)}
        statefile.write(f"{paths.RESOURCES}/web1-{vdev}", record)

    def ask(*_: Any, **__: Any) -> dict[str, Any]:
        if fake.there is None:
            raise PeerUnreachable("no answer")
        return {"domains": fake.there}

    def one(name: str) -> events.Resource:
        state = events.Resource(name)
        state.minor = {"web1-xvda": 1000, "web1-xvdb": 1001}[name]
        state.role = state.peer_role = "Secondary"
        state.disk = state.peer_disk = "UpToDate"
        state.connection, state.replication = "Connected", "Established"
        return state

    module = guest_install
    monkeypatch.setattr(module.domains, "find", lambda vm: fake.here)
    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(module.events, "one", one)
    monkeypatch.setattr(module.verbs, "primary", lambda minor: fake.done.append(f"primary {minor}"))
    monkeypatch.setattr(
        module, "_write", lambda minor: fake.done.append(f"write {minor}") or fake.answers[minor]
    )
    monkeypatch.setattr(module.stepdown, "step_down", lambda name, *_: fake.done.append(f"down {name}"))
    monkeypatch.setattr(module.steady, "close", lambda name, protocol: fake.done.append(f"{protocol} {name}"))
    return fake


def test_each_disk_is_tried_and_given_back(host: Host) -> None:
    assert "xvdb" in guest_install.run("web1")
    assert host.done == [
        "primary 1000", "write 1000", "down web1-xvda", "A web1-xvda",
        "primary 1001", "write 1001", "down web1-xvdb", "A web1-xvdb",
    ]  # fmt: skip


def test_where_no_disk_is_it_the_other_way_is_named(host: Host) -> None:
    host.answers[1001] = "it has partitions"
    with pytest.raises(XenhelperError, match=r"xvda: no file system; xvdb: it has partitions.*apt install"):
        guest_install.run("web1")


def test_a_dry_run_promotes_nothing(host: Host) -> None:
    assert "web1-xvda, web1-xvdb" in guest_install.run("web1", dry_run=True)
    assert host.done == []


def test_a_vm_that_isnt_off_is_refused(host: Host) -> None:
    host.here = [Domain(3, "web1", "r-----", "u")]
    with pytest.raises(Refused, match="runs here"):
        guest_install.run("web1")
    host.here, host.there = [], [{"name": "web1"}]
    with pytest.raises(Refused, match="runs on bob"):
        guest_install.run("web1")
    host.there = None
    with pytest.raises(Refused, match="isn't known"):
        guest_install.run("web1")
    host.there = []
    statefile.write(f"{paths.INTENTS}/window-web1", {"kind": "window", "vm": "web1"})
    with pytest.raises(Refused, match="isn't finished"):
        guest_install.run("web1")
    assert host.done == []
    with pytest.raises(XenhelperError, match="not replicated"):
        guest_install.run("web2")
    os.close(intents.lock("web1", wait=0.0))


def test_a_mount_that_fails_still_gives_the_disk_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(minor: int) -> str:
        raise XenhelperError("can't be written")

    monkeypatch.setattr(guest_install, "_write", broken)
    with pytest.raises(XenhelperError):
        guest_install.run("web1")
    assert host.done == ["primary 1000", "down web1-xvda", "A web1-xvda"]


def test_what_the_child_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def child(argv: list[str], **_: Any) -> Result:
        started.append(argv)
        if len(started) == 1:
            return Result(guest_write.NOT_A_ROOT, "it has partitions\n", "")
        raise CommandFailed(argv, 1, "xenhelper: mount failed\n", 1)

    monkeypatch.setattr(guest_install, "run_program", child)
    assert guest_install._write(1000) == "it has partitions"
    assert started[0][:2] == ["unshare", "--mount"] and started[0][-1] == "/dev/drbd1000"
    with pytest.raises(XenhelperError, match="mount failed"):
        guest_install._write(1000)

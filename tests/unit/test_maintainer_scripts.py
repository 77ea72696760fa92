"""Removing the package: never under a running VM's disks, and nothing of others goes."""

import os
import subprocess
from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.tuning import bootfiles
from xenhelper.tuning.settings import Tuning

ROOT = Path(__file__).parents[2]
OURS = '/local/domain/0/backend/vbd/3/51712/script = "/etc/xen/scripts/block-xenhelper"   (n0,r3)'
OTHER = '/local/domain/0/backend/vbd/4/51712/script = "/etc/xen/scripts/block"'


class Host:
    """A folder that stands in for / and programs that note how they were called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shim = path / "usr/local/sbin/xl"
        self.shim.parent.mkdir(parents=True)
        (path / "proc").mkdir()
        (path / "proc/capabilities").write_text("control_d\n")
        (path / "run").mkdir()
        (path / "wants").mkdir()
        self.program("systemctl", 'echo "$*" >> "$LOG"')
        self.program("xenstore-read", "echo web1")
        self.backends("")

    def program(self, name: str, body: str) -> None:
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)

    def backends(self, lines: str) -> None:
        self.program("xenstore-ls", f"cat <<'E'\n{lines}\nE")

    def run(self, script: str, *args: str) -> "subprocess.CompletedProcess[str]":
        text = (ROOT / "debian" / f"xenhelper.{script}").read_text()
        for real, fake in {
            "/proc/xen/capabilities": "proc/capabilities",
            "/usr/local/sbin/xl": "usr/local/sbin/xl",
            "/etc/systemd/system/*.wants": "wants",
            "/run/systemd/system": "run",
            "/root/.ssh/authorized_keys": "authorized_keys",
            "/etc/lvm/lvmlocal.conf": "lvmlocal.conf",
            "/etc/xen/xl.conf": "xl.conf",
            "/etc/default/grub.d": "grub.d",
            "/etc/xenhelper": "conf",
            "/run/xenhelper": "run/xenhelper",
            "/var/lib/xenhelper": "state",
            "/var/lib/prometheus": "prometheus",
        }.items():
            text = text.replace(real, str(self.path / fake))
        environment = {"PATH": f"{self.path}:/usr/bin:/bin", "LOG": str(self.path / "log")}
        return subprocess.run(
            ["sh", "-c", text, script, *args], env=environment, capture_output=True, text=True
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_removal_is_refused_while_a_vm_runs_on_our_disks(host: Host) -> None:
    host.backends(f"{OTHER}\n{OURS}")
    os.symlink("/usr/lib/xenhelper/xl", host.shim)
    done = host.run("prerm", "remove")
    assert done.returncode == 1
    assert "web1" in done.stderr
    assert host.shim.is_symlink() and not (host.path / "log").exists()


@pytest.mark.parametrize("args", [("upgrade", "0.2.0"), ("failed-upgrade", "0.1.0")])
def test_an_upgrade_touches_nothing(host: Host, args: tuple[str, ...]) -> None:
    host.backends(OURS)
    os.symlink("/usr/lib/xenhelper/xl", host.shim)
    assert host.run("prerm", *args).returncode == 0
    assert host.shim.is_symlink() and not (host.path / "log").exists()


def test_removal_takes_the_link_and_stops_the_units(host: Host) -> None:
    host.backends(OTHER)
    os.symlink("/usr/lib/xenhelper/xl", host.shim)
    os.symlink("/x", host.path / "wants/xenhelper-peer@bob.service")
    assert host.run("prerm", "remove").returncode == 0
    assert not host.shim.is_symlink()
    log = (host.path / "log").read_text()
    assert "disable --quiet xenhelper-peer@bob.service" in log
    # nothing of ours stays loaded; this one's stop leaves the resources up (test_boot.py)
    assert "stop xenhelper-resources.service xenhelper-tune.service" in log


def _with_a_record(host: Host, removal: str) -> None:
    host.backends(OTHER)
    os.symlink("/usr/lib/xenhelper/xl", host.shim)
    (host.path / "state/resources").mkdir(parents=True)
    (host.path / "state/resources/web1-xvda").touch()
    host.program("xenhelper", f'echo "xenhelper $*" >> "$LOG"; {removal}')


def test_removal_has_each_vm_given_its_plain_disks_first(host: Host) -> None:
    _with_a_record(host, "echo keep /dev/vg0/web1")
    done = host.run("prerm", "remove")
    assert done.returncode == 0 and "keep /dev/vg0/web1" in done.stdout
    log = (host.path / "log").read_text()
    assert log.startswith("xenhelper removal\n"), "the peer's link was stopped first"
    assert not host.shim.is_symlink()


@pytest.mark.parametrize(
    ("removal", "words"), [("echo why >&2; exit 3", "why"), ("exit 124", "over 30 minutes")]
)
def test_a_vm_that_would_not_start_keeps_the_package(host: Host, removal: str, words: str) -> None:
    _with_a_record(host, removal)
    done = host.run("prerm", "remove")
    assert done.returncode == 1 and words in done.stderr and "not removed" in done.stderr
    # nothing is taken away: the VM starts as before, and the same command goes on
    assert host.shim.is_symlink()
    assert (host.path / "log").read_text() == "xenhelper removal\n"


def test_nothing_replicated_and_a_broken_program(host: Host) -> None:
    _with_a_record(host, "exit 1")
    (host.path / "state/resources/web1-xvda").unlink()
    assert host.run("prerm", "remove").returncode == 0
    assert not host.shim.is_symlink()


def test_figures_go_with_the_host(host: Host) -> None:
    files = [host.path / "prometheus/node-exporter/xenhelper.prom", host.path / "mine/x.prom"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    (host.path / "conf").mkdir()
    (host.path / "conf/xenhelper.conf").write_text(f"[metrics]\ntextfile = {files[1]}\n")
    assert host.run("postrm", "remove").returncode == 0
    assert not any(file.exists() for file in files)


def test_a_foreign_xl_and_a_host_without_xen(host: Host) -> None:
    host.shim.write_text("mine")
    (host.path / "proc/capabilities").unlink()
    host.backends(OURS)
    assert host.run("prerm", "remove").returncode == 0
    assert host.shim.read_text() == "mine"


def test_purge_leaves_others_keys_and_the_records_of_replicas(host: Host) -> None:
    keys = host.path / "authorized_keys"
    keys.write_text(
        'ssh-rsa AAAA admin\ncommand="/usr/lib/xenhelper/peer-serve bob",restrict ssh-ed25519 A x\n'
    )
    for name in ("conf/peer_key", "conf/xenhelper.conf", "conf/notes", "state/originals/web1"):
        (host.path / name).parent.mkdir(parents=True, exist_ok=True)
        (host.path / name).write_text("x")
    done = host.run("postrm", "purge")
    assert done.returncode == 0
    assert keys.read_text() == "ssh-rsa AAAA admin\n"
    assert sorted(path.name for path in (host.path / "conf").iterdir()) == ["notes"]
    assert (host.path / "state/originals/web1").exists() and "is kept" in done.stderr


@pytest.mark.parametrize("step", ["remove", "purge"])
def test_removal_undoes_what_tune_write_wrote(host: Host, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(paths, "ROOT", str(host.path))
    for name in (bootfiles.LVM_LOCAL, bootfiles.XL_CONF):
        file = host.path / name[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine = 1\n")
    found = bootfiles.decide(bootfiles.Facts(""), Tuning(dom0_memory=4096))
    assert len(bootfiles.write(found)[0]) == 3
    for name, place in (
        (bootfiles.LVM_LOCAL, "lvmlocal.conf"),
        (bootfiles.XL_CONF, "xl.conf"),
        (bootfiles.GRUB, "grub.d/xenhelper.cfg"),
    ):
        (host.path / place).parent.mkdir(exist_ok=True)
        (host.path / name[1:]).rename(host.path / place)
    done = host.run("postrm", step)
    assert done.returncode == 0 and "update-grub" in done.stderr
    assert not (host.path / "grub.d/xenhelper.cfg").exists()
    assert (host.path / "lvmlocal.conf").read_text() == (host.path / "xl.conf").read_text() == "mine = 1\n"


def test_upgrade_restarts_the_daemons_but_not_the_resources(host: Host) -> None:
    assert host.run("postinst", "configure", "0.0.9").returncode == 0
    log = (host.path / "log").read_text()
    assert "try-restart xenhelper-watch.service xenhelper-alert.service xenhelper-peer@*.service" in log
    assert "resources" not in log


def test_purge_takes_notes_that_nobody_needs(host: Host) -> None:
    for name in ("state/resources", "state/in_sync"):
        (host.path / name).mkdir(parents=True)
    (host.path / "state/in_sync/web1-xvda").touch()
    done = host.run("postrm", "purge")
    assert done.returncode == 0 and not done.stderr
    assert not (host.path / "state").exists()


@pytest.mark.skipif(
    Path("/usr/lib/python3/dist-packages/xenhelper").exists(), reason="xenhelper is installed"
)
def test_a_script_that_is_left_behind_says_so() -> None:
    """A conffile stays when the package is removed; VMs that stay as they are name it."""
    done = subprocess.run([ROOT / "hooks/block-xenhelper", "add"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("xenhelper: its package is removed")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("step", ["remove", "purge"])
def test_systemd_forgets_that_a_unit_of_ours_had_failed(host: Host, step: str) -> None:
    """By a name that nothing has any more it would be listed until the next boot."""
    assert host.run("postrm", step).returncode == 0
    calls = (host.path / "log").read_text().splitlines()
    assert calls.index("--system daemon-reload") < calls.index("reset-failed xenhelper-*")

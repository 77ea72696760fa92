"""The units run with what systemd leaves them, and nothing of ours lies open."""

from __future__ import annotations

import json
import re

import pytest

from . import product
from .guest import Guest
from .lab import Lab

# `systemd-analyze security`, from 0 (best) to 10; what the sandbox of each may not lose
EXPOSURE = {
    "xenhelper-peer@bob.service": 2.0,
    "xenhelper-watch.service": 5.0,
    "xenhelper-reconcile.service": 6.9,
    "xenhelper-resources.service": 6.9,
    "xenhelper-verify.service": 5.4,
    "xenhelper-tune.service": 6.2,
    "xenhelper-evacuate.service": 8.8,
}


@pytest.mark.core
def test_units_work_in_their_sandboxes(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    for unit, most in EXPOSURE.items():
        said = lab.alice.out(f"systemd-analyze security --no-pager {unit} | tail -1")
        found = re.search(r"([\d.]+) [A-Z]+", said)
        assert found, said
        print(f"{unit}: {found[1]}")
        assert float(found[1]) <= most, said
    # the peer's link, asked from both sides; the watcher; a round of the reconciler
    for host in lab.hosts:
        assert product.vm(host, "web1")["runs_on"] == "alice"
        host.run("systemctl start xenhelper-reconcile.service", timeout=120)
        shown = host.out("systemctl show -p Result,ExecMainStatus --value xenhelper-reconcile.service")
        assert shown.split() == ["success", "0"]
        host.run("systemctl restart xenhelper-watch.service && systemctl is-active xenhelper-watch.service")
    # what was taken away is not missed: no refusal of a system call or of a file in the journal
    for host in lab.hosts:
        log = host.out("journalctl -b --no-pager -t xenhelper -t xl -u 'xenhelper-*'")
        assert not re.search(r"Operation not permitted|Read-only file system|SIGSYS", log), log
    guest.wait_progress()


def test_the_timers_comparison_and_tuning_work_in_their_sandboxes(lab: Lab) -> None:
    alice, guest = lab.alice, Guest(lab.alice, "web1")
    alice.run("printf '\\n[verify]\\nhours = 0, 0\\nevery = 1\\n' >> /etc/xenhelper/xenhelper.conf")
    alice.run("systemctl start xenhelper-verify.service", timeout=600)
    for resource in ("web1-xvda", "web1-xvdb"):
        kept = alice.read(f"/var/lib/xenhelper/verify/{resource}")
        assert "state=clean" in kept and "whole_at=2" in kept, kept
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], alice)
    alice.run("systemctl restart xenhelper-tune.service", timeout=300)
    wrong = alice.out("xenhelper tune --show --json")
    print(wrong)
    for unit in ("xenhelper-verify.service", "xenhelper-tune.service"):
        shown = alice.out(f"systemctl show -p Result,ExecMainStatus --value {unit}")
        assert shown.split() == ["success", "0"], unit
        log = alice.out(f"journalctl -b --no-pager -u {unit}; journalctl -b --no-pager -t xenhelper")
        assert not re.search(r"Operation not permitted|Read-only file system|SIGSYS", log), log
    guest.wait_progress()


@pytest.mark.core
def test_a_vm_started_by_a_unit_outlives_it(lab: Lab) -> None:
    """The reconciler's own way to start a VM, from a unit that systemd cleans up behind."""
    guest = Guest(lab.alice, "web1")
    lab.alice.run("xl destroy web1")
    start = (
        "from xenhelper import autostart; print(autostart._start('web1', {'config': '/etc/xen/web1.cfg'}))"
    )
    lab.alice.run(f'systemd-run --wait --pipe -p Type=oneshot python3 -c "{start}"', timeout=300)
    guest.wait_writing(disks=2)
    # the xl that restarts it is alive, and in no unit of ours
    boots = len(guest.boots())
    guest.send("reboot")
    product.wait_until(lambda: len(guest.boots()) > boots, 180, "the guest to be started again")
    guest.wait_writing(disks=2)
    product.assert_no_wrong_block(guest, lab.alice)


def test_nothing_secret_lies_open(lab: Lab) -> None:
    secret = lab.alice.out("sed -n 's/.*shared-secret \"\\(.*\\)\";/\\1/p' /etc/drbd.d/web1.res | head -1")
    assert re.fullmatch("[0-9a-f]{32,64}", secret)
    for host in lab.hosts:
        modes = {
            "/etc/drbd.d/web1.res": "600",
            "/etc/xenhelper/peer_key": "600",
            "/var/lib/xenhelper": "700",
            "/run/xenhelper": "700",
            "/root/.ssh/authorized_keys": "600",
        }
        for path, mode in modes.items():
            assert host.out(f"stat -c %a {path}") == mode, path
        # world-readable files and the journal don't have it
        found = host.run(
            f"grep -rlF {secret} /etc /run /var/lib /var/log --include='*' 2>/dev/null", check=False
        ).out.split()
        for path in found:
            assert host.out(f"stat -c %a {path}")[-1] == "0", path
        assert host.run(f"journalctl --no-pager | grep -qF {secret}", check=False).status == 1
    # the peer's key asks xenhelper and gets nothing else, whatever is asked for
    ssh = (
        "ssh -F /dev/null -i /etc/xenhelper/peer_key -o BatchMode=yes -o IdentitiesOnly=yes"
        " -o HostKeyAlias=bob -o UserKnownHostsFile=/etc/xenhelper/known_hosts root@bob"
    )
    said = lab.alice.run(f"{ssh} 'touch /root/broken in; id' </dev/null", check=False)
    assert "uid=" not in said.out and json.loads(said.out.splitlines()[0])["id"] == 0
    assert lab.bob.run("test -e /root/broken", check=False).status == 1
    assert lab.alice.run(f"{ssh} -N -W localhost:22 </dev/null", check=False).status != 0

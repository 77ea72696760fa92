"""A package's whole life on two hosts: it comes, is upgraded beneath a running VM and in the
middle of its migrations, and goes without a trace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import faults, newer, product, scenario, settle
from .guest import Guest
from .host import Host
from .lab import Lab

VM, CFG = "web1", "/etc/xen/web1.cfg"
RESOURCES = ["web1-xvda", "web1-xvdb"]
DEB = "/root/xenhelper_0.1.0_all.deb"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y"
# what runs all the time, and is to run the new code after an upgrade
DAEMONS = ("xenhelper-watch.service", "xenhelper-alert.service", "xenhelper-peer@{peer}.service")
# where the window is open on both hosts and xl starts next
OPEN = "stop-after window:Window.open:client.ask"
# not ours, and rewritten by whoever owns it whenever volumes or libraries come and go
ELSEWHERE = r"^/etc/(lvm/(archive|backup)/|ld\.so\.cache$|adjtime$)"


def _files(host: Host) -> dict[str, str]:
    """What is configured on a host: path -> mode, owner and content, or where a link leads."""
    find = "find /etc /usr/local /root/.ssh /boot/grub -xdev"
    script = (
        f"{find} -type l -printf '%p\\t-> %l\\n'; {find} -type f -printf '%p\\t%m %u:%g\\n'; "
        f"{find} -type f -exec sha256sum {{}} +"
    )
    found: dict[str, str] = {}
    for line in host.run(f"({script}) 2>/dev/null", timeout=300, check=False).out.splitlines():
        path, _, what = line.partition("\t")
        if hashed := re.fullmatch(r"([0-9a-f]{64})  (.*)", line):
            what, path = hashed.groups()
        elif path == "/root/.ssh/authorized_keys":
            continue  # setup makes it 0600, and it stays so
        if not re.search(ELSEWHERE, path):
            found[path] = f"{found.get(path, '')} {what}"
    return found


def _trace(host: Host) -> list[str]:
    """All that still bears our name on a host, but for logs and apt's, LVM's and systemd's own
    histories."""
    skip = "".join(f"-path {path} -prune -o " for path in ("/var/log", "/var/cache", "/var/lib/apt"))
    found = host.run(
        f"find / -xdev {skip} -path '/root/*.deb' -prune -o "
        "\\( -name '*xenhelper*' -o -lname '*xenhelper*' \\) -print; "
        "find /run -xdev -path /run/systemd -prune -o "
        "\\( -name '*xenhelper*' -o -lname '*xenhelper*' -o -lname '*web1.res' \\) -print; "
        "systemctl list-units --all --plain --no-legend 'xenhelper*'; "
        "systemctl list-unit-files --no-legend 'xenhelper*'; "
        "ps -eo args | grep '^/usr/bin/python3.*xenhelper'; "
        "lvs --noheadings -o lv_name,lv_tags | grep -i xh; "
        "grep -s cs: /proc/drbd; ls /dev/drbd_* 2>/dev/null; "
        "dpkg-query -W -f '${db:Status-Status}\\n' xenhelper 2>/dev/null | grep -v not-installed",
        timeout=300,
        check=False,
    ).out
    return [line for line in found.splitlines() if line.strip()]


def _pids(host: Host, peer: Host) -> list[str]:
    """Main processes of the daemons, each running."""
    units = [unit.format(peer=peer.name) for unit in DAEMONS]
    shown = host.out(f"systemctl show --value -p ActiveState,MainPID {' '.join(units)}").split()
    assert shown.count("active") == len(units), f"{host.name}: {shown}"
    return sorted(word for word in shown if word.isdecimal())


def _enabled(host: Host) -> str:
    return host.out(
        "systemctl list-unit-files --no-legend 'xenhelper*'; systemctl is-active xenhelper-*.timer"
    )


def _upgrade(lab: Lab, package: Path, *hosts: Host) -> None:
    """By apt, as printed in the README; the guest goes on, the daemons run the new code."""
    version = package.name.split("_")[1]
    for host in hosts or lab.hosts:
        peer = lab.bob if host is lab.alice else lab.alice
        before, units = _pids(host, peer), _enabled(host)
        domains = host.out("xl list | awk '{print $1, $2}'")
        roles = product.roles(host)
        host.put(package, f"/root/{package.name}")
        host.run(f"{APT} install /root/{package.name}", timeout=600)
        assert host.out("xl list | awk '{print $1, $2}'") == domains
        assert product.roles(host) == roles
        after = _pids(host, peer)
        assert not set(before) & set(after), f"{host.name}: {before} run the old code still"
        assert _enabled(host) == units
        assert f"xenhelper {version}" in host.out("xenhelper --version")


def _caught(host: Host) -> str:
    """The shim's process, held where the window is open on both hosts."""
    held = product.wait_until(
        lambda: host.read(f"{faults.CRASH_AT}.held").split(), 150 * settle.SLOWNESS, "the window to be open"
    )
    host.run(f"rm -f {faults.CRASH_AT}.held")
    return str(held[0])


def _window(lab: Lab) -> None:
    """Protocol C on both, no permission, an intent on each."""
    for host in lab.hosts:
        for resource in RESOURCES:
            assert product.net(host, resource) == product.Net("C", False), f"{resource} on {host.name}"
        assert host.out("ls /var/lib/xenhelper/intents") == f"window-{VM}", host.name


@pytest.mark.layer("booted")
def test_it_comes_is_upgraded_and_goes_without_a_trace(lab: Lab) -> None:
    alice, bob = lab.hosts
    scenario.write_web1(lab)
    before = {host.name: _files(host) for host in lab.hosts}
    original = alice.read(CFG)

    # as the README has it: one host by hand, the other by setup
    built = lab.deb()
    alice.put(built, DEB)
    lab.both(lambda host: host.run("apt-get -qq update"))
    alice.run(f"{APT} install {DEB}", timeout=600)
    assert "/usr/local/sbin/xl" not in alice.out("ls /usr/local/sbin/* 2>/dev/null")
    enabled = alice.out("systemctl list-unit-files --no-legend 'xenhelper*' | awk '$2 == \"enabled\"'")
    assert enabled == "", "the package enabled it by itself"
    product.refused(alice, "xenhelper setup bob --yes", "bob has no xenhelper", "apt install ./xenhelper_")
    product.refused(alice, f"xenhelper setup bob --yes --package {DEB} --dry-run", "is installed there")
    alice.run(f"xenhelper setup bob --yes --package {DEB}", timeout=900)
    assert "nothing to change" in alice.run("xenhelper setup bob --yes", timeout=300).out

    alice.run(f"xl create {CFG}", timeout=300)
    guest = Guest(alice, VM)
    guest.wait_writing(disks=2)
    product.wait_in_sync(alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, alice)

    # an upgrade of both hosts while the window of a migration is open
    faults.arm(alice, OPEN)
    faults.start(alice)
    pid = _caught(alice)
    _window(lab)
    _upgrade(lab, newer.deb(built, "0.1.1~lab1"))
    # whose reconciler couldn't ask the other in time has set protocol A; the source sees to C again
    for host in lab.hosts:
        for resource in RESOURCES:
            net = product.net(host, resource)
            print(host.name, resource, net)
            assert not net.two_primaries
    assert alice.out("ls /var/lib/xenhelper/intents") == f"window-{VM}"
    guest.wait_progress()
    alice.run(f"kill -CONT {pid}")
    product.wait_until(
        lambda: alice.read(f"{faults.LOG}.status").strip(), product.MIGRATE_TIMEOUT, "the migration", every=2
    )
    assert alice.read(f"{faults.LOG}.status").strip() == "0", alice.read(faults.LOG)
    guest = guest.on(bob)
    guest.wait_progress(120)
    product.wait_until(lambda: not bob.out("ls /var/lib/xenhelper/intents"), 60, "the window's end on bob")
    product.assert_steady(lab, RESOURCES, bob)

    # what the README names for every day
    said = bob.run(f"xenhelper log {VM}", timeout=180).out
    assert "is replicated with bob" in said and "is replicated with alice" in said, said
    assert product.status(bob, VM)["problems"] == []
    print(bob.run("xenhelper doctor", timeout=240, check=False).out)

    # a window that the old version opened and was killed in: the new one closes it
    faults.arm(bob, OPEN)
    bob.run(f"nohup xl migrate {VM} alice >/root/m.log 2>&1 </dev/null &")
    pid = _caught(bob)
    bob.run(f"kill -KILL {pid}")
    _upgrade(lab, newer.deb(built, "0.1.2~lab2"), bob)
    product.wait_until(
        lambda: not any(host.out("ls /var/lib/xenhelper/intents") for host in lab.hosts),
        settle.PROMISED * settle.SLOWNESS,
        "the reconcilers to close it",
        every=5,
    )
    product.assert_steady(lab, RESOURCES, bob)
    guest.wait_progress()
    assert product.runs_on(lab, VM) == ["bob"]

    # it doesn't go from beneath a VM, and the VM doesn't notice that it was asked to
    purge = f"{APT} purge xenhelper"
    tried = bob.run(purge, timeout=600, check=False)
    assert not tried.ok and "domains run on disks" in tried.out + tried.err, tried
    _pids(bob, alice)
    assert bob.out("readlink /usr/local/sbin/xl") == "/usr/lib/xenhelper/xl"
    guest.wait_progress()
    product.assert_steady(lab, RESOURCES, bob)

    bob.run(f"xl destroy {VM}")
    product.wait_gone(bob, VM)
    for host in (bob, alice):
        print(host.name, host.run(purge, timeout=900).out)
    for host in (bob, alice):
        assert _trace(host) == [], f"{host.name}: {purge} left it"
        now = _files(host)
        gone = {path for path, what in before[host.name].items() if now.get(path) != what}
        assert gone == set(), f"{host.name}: changed by us, and not put back"
        new = sorted(set(now) - set(before[host.name]))
        owned = host.run(f"dpkg -S {' '.join(new)} 2>/dev/null", check=False).out if new else ""
        left = [path for path in new if not re.search(rf": {re.escape(path)}$", owned, re.M)]
        # the other host got the VM's config, and keeps it: a plain one
        assert left == ([CFG] if host is bob else []), host.name
        assert host.read(CFG) == original, host.name
        assert host.out("command -v xl") == "/usr/sbin/xl"
        failed = host.out("systemctl --failed --plain --no-legend | grep -i xenhelper || true")
        assert failed == "", host.name

    # and the VM is a plain one, with all its data, where it ran last
    boots = guest.boots()
    bob.run(f"xl create {CFG}", timeout=300)
    product.wait_until(lambda: len(guest.boots()) >= len(boots) + 2, 300, "the guest to look at its disks")
    guest.wait_writing(disks=2)
    assert all(boot.holes == 0 and boot.full > 0 for boot in guest.boots()[len(boots) :])
    assert bob.out(f"xenstore-read backend/vbd/$(xl domid {VM})/51712/params") == "/dev/vg0/web1-root"
    product.assert_no_wrong_block(guest, alice, bob)

"""Takeover: what proves a host dead, whose turn it is, how old the data may be, and the way back."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import pytest

from . import faults, figures, product, qemu, scenario, settle
from .guest import Guest, since
from .host import Host
from .lab import Lab
from .witness import Witness, missing

CONF = "/etc/xenhelper/xenhelper.conf"
FENCE = "/usr/local/sbin/fence"
RESOURCES = ["web1-xvda", "web1-xvdb"]
ROOM = 150  # MiB that bob has for guests: one of 96 and what it costs, not two
HANDLER = r"helper command: /sbin/drbdadm fence-peer \S+"


def _fence(bob: Host, body: str) -> None:
    """What cuts alice's power, as bob is configured to call it."""
    bob.run(f"cat > {FENCE}; chmod 755 {FENCE}", stdin=f"#!/bin/sh\n{body}\n")


def _noticed(*hosts: Host) -> None:
    """Every connection is lost, one in the middle of a resync, too."""
    product.wait_until(
        lambda: all(
            not re.search(r" cs:(?!WFConnection|StandAlone)", host.read("/proc/drbd")) for host in hosts
        ),
        120,
        "the loss",
    )


def _web2(lab: Lab) -> None:
    lab.alice.run("lvcreate -q -y -Wy -L 16M -n web2 vg0")
    text = scenario.WEB1.replace('"web1"', '"web2"')
    lab.alice.write(
        "/etc/xen/web2.cfg", re.sub(r"(?m)^disk = .*", "disk = ['phy:/dev/vg0/web2,xvda,w']", text)
    )
    lab.alice.run("xl create /etc/xen/web2.cfg", timeout=300)
    Guest(lab.alice, "web2").wait_writing(disks=1)
    product.wait_in_sync(lab.alice, "web2-xvda")


def _fill(bob: Host) -> None:
    """Another guest takes what bob has beyond room for one."""
    memory = int(bob.out("xl info free_memory")) - ROOM
    bob.write(
        "/root/big.cfg",
        f'name = "big"\ntype = "pvh"\nkernel = "/var/lib/xenlab/vmlinuz"\nmemory = {memory}\n',
    )
    bob.run("xl create -p /root/big.cfg", timeout=200)


def test_a_fence_command_proves_it_and_memory_and_priority_decide(lab: Lab) -> None:
    """alice hangs; `takeover --all` with a fence command that really cuts her power; she returns."""
    alice, bob = lab.hosts
    _web2(lab)
    for vm in ("web1", "web2"):
        faults.autostart(lab, vm)
    minors = {name: product.minor(alice, name) for name in (*RESOURCES, "web2-xvda")}
    _fill(bob)
    bob.run(
        rf"sed -i '/\[\[alice\]\]/a fence_command = {FENCE}, alice' {CONF} && "
        f"printf '\\n[takeover]\\npriority = web2, web*\\n' >> {CONF}"
    )
    _fence(bob, "touch /run/asked; echo no such outlet >&2; exit 1")
    # who answers isn't fenced
    product.refused(bob, "xenhelper takeover --all", "connected to alice, so that lives", status=3)
    assert not bob.run("ls /run/asked", check=False).ok
    qemu.monitor(alice.machine, "stop")  # she hangs, and writes nothing more
    _noticed(bob)
    # a fence that fails proves nothing
    product.refused(bob, "xenhelper takeover --all", "alice isn't proven dead", "no such outlet", status=3)
    product.refused(bob, "xl create /etc/xen/web2.cfg", "web2-xvda")
    # one that cuts the power, and says so once it has
    _fence(
        bob,
        "[ $1 = alice ] && rm /run/asked && for i in $(seq 90); do [ -e /run/off ] && exit 0; sleep 1; done; "
        "exit 1",
    )
    began = time.monotonic()
    process = bob.start("xenhelper takeover --all")
    product.wait_until(lambda: not bob.run("ls /run/asked", check=False).ok, 60, "the fence command")
    alice.power_off()
    bob.run("touch /run/off")
    out, err = process.communicate(timeout=200)
    said = out.decode() + err.decode()
    assert process.returncode == 0, said
    figures.note("takeover by a fence command", seconds=round(time.monotonic() - began, 1))
    order = r"in this order:\n  xl create /etc/xen/web2.cfg\n  web1 doesn't fit: it needs 104 MiB"
    assert re.search(order, said), said
    bob.run("xl create /etc/xen/web2.cfg", timeout=300)
    there = Guest(bob, "web2")
    there.wait_writing(disks=1)
    assert all(boot.holes == 0 for boot in there.boots())
    # once more: nobody is fenced again, and nothing changes
    bob.run(f"rm {FENCE}")
    assert "web2: runs here already" in bob.run("xenhelper takeover --all").out
    assert product.status(bob, "web2")["vms"][0]["runs_on"] == "bob"
    # what it wrote makes its permit a survivor's; the alert stays until alice is back
    bob.run("xenhelper reconcile; sleep 5", check=False)
    assert "web2 was taken over" in bob.run("xenhelper alert").out
    faults.restore(lab)
    for vm, where in (("web2", "bob"), ("web1", "alice")):
        rest = settle.wait(lab, vm, {n: m for n, m in minors.items() if n.startswith(vm)})
        assert rest.wrong == [] and rest.where == [where], (vm, rest)
    assert bob.out("ls /run/xenhelper/dead /run/xenhelper/permits") == (
        "/run/xenhelper/dead:\n\n/run/xenhelper/permits:"
    ), "what was proven of alice ends with her return"
    for vm, host in (("web2", bob), ("web1", alice)):
        guest = Guest(host, vm)
        guest.wait_progress(120)
        assert all(wrong == 0 for wrong, _ in guest.verify().values())
        product.assert_no_wrong_block(guest, *lab.hosts)


def _handler_seconds(host: Host) -> list[float]:
    """How long each fence-peer handler took, by the kernel's log."""
    text = host.run("journalctl -k -q --no-pager -o short-unix", 60).out
    begun: dict[str, float] = {}
    took = []
    for at, resource, code in re.findall(rf"^([\d.]+) .*drbd (\S+): {HANDLER}( exit code)?", text, re.M):
        if code:
            took.append(float(at) - begun.pop(resource))
        else:
            begun[resource] = float(at)
    return took


def _split(host: Host) -> bool:
    return any("split" in problem["what"].lower() for problem in product.status(host, "web1")["problems"])


@pytest.mark.expects("split-brain")
@pytest.mark.parametrize("copy", ["unaware", "outdated"])
def test_data_that_is_old_needs_a_persons_word(lab: Lab, copy: str) -> None:
    """alice goes on without bob, then dies; bob's copy is old, and bob may know it or not.

    What was written meanwhile is lost to bob; when alice returns both have written, and
    what is given up of it is kept as a snapshot.
    """
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    bob.run(f"printf '\\n[takeover]\\noldest_data = 10\\n' >> {CONF}")
    by_disk = {name.rpartition("-")[2]: minor for name, minor in minors.items()}
    with Witness(lab, "web1", by_disk) as witness:
        guest.wait_progress()
        lab.cut_link()
        if copy == "unaware":
            lab.cut_second_path()
        _noticed(alice, bob)
        if copy == "outdated":
            product.wait_until(
                # at once, or where bob noticed the cut later than alice, by her next round
                lambda: bob.read("/proc/drbd").count("ds:Outdated/") == 2,
                settle.PROMISED * settle.SLOWNESS,
                "alice to fence bob",
                every=2,
            )
            word = "--peer-is-dead --accept-data-as-of 2020-01-01T00:00:00Z"
            product.refused(bob, f"xenhelper takeover web1 {word}", "alice isn't dead", status=3)
        guest.wait_progress(120)
        time.sleep(20)  # the age of bob's copy
        handlers = _handler_seconds(alice)
        alice.power_off()
        told = witness.acknowledged()
    # 5 s by their own clocks (tests/unit/test_fence_time.py); before these run two Pythons have
    # started at once on an emulated processor that a second lab may be slowing down
    assert len(handlers) == 2 and max(handlers) < 10 * settle.SLOWNESS, handlers
    lab.heal()
    command = "xenhelper takeover web1 --peer-is-dead"
    why = "is Outdated" if copy == "outdated" else "older than the limit"
    said = product.refused(bob, command, why, "--accept-data-as-of", status=3)
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvda")
    moments = re.findall(r"--accept-data-as-of (\S+)", said.err)
    later = (datetime.fromisoformat(moments[0]) + timedelta(hours=1)).isoformat()
    product.refused(bob, f"{command} --accept-data-as-of {later}", "older than what you accept", status=3)
    bob.run(f"{command} --accept-data-as-of {moments[0]}", timeout=120)
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    moved = guest.on(bob)
    moved.wait_writing(disks=2)
    lost = missing(told, moved.boots())
    figures.note(f"takeover, {copy}", lost_of_old_data=lost, fence_handlers=[round(s, 1) for s in handlers])
    assert set(lost) == {"xvda", "xvdb"}, "what alice wrote alone is lost to bob, and counted"
    assert all(boot.holes == 0 for boot in moved.boots())

    faults.restore(lab)
    bound = settle.PROMISED * settle.SLOWNESS
    for host in lab.hosts:
        product.wait_until(
            lambda host=host: _split(host), bound, f"{host.name} to name the split brain", every=5
        )
    assert product.runs_on(lab, "web1") == ["bob"], "alice's autostart is refused"
    product.refused(alice, "xl create /etc/xen/web1.cfg", "web1-xvda")
    volumes = scenario.VOLUMES.items()
    sums = {name: product.checksum(alice, f"/dev/vg0/{name}", 0, size) for name, size in volumes}
    out = bob.run("xenhelper recover web1 --discard alice --yes", timeout=300).out
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    kept = dict(re.findall(r"^web1-(xvd\w): kept as (/dev/vg0/\S+)", out, re.M))
    assert set(kept) == {"xvda", "xvdb"}, out
    for disk, (name, size) in zip(("xvda", "xvdb"), volumes, strict=True):
        assert product.checksum(alice, kept[disk], 0, size) == sums[name], "alice's writes, whole"
    moved.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    assert moved.wrong_lines() == []


def test_a_copy_that_isnt_whole_is_nobodys_start(lab: Lab) -> None:
    """A resync's target is refused, by plain xl and by any word; its source starts by itself."""
    alice, bob = lab.hosts
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    guest = Guest(alice, "web1")
    lab.shape_link(2)
    bob.run("drbdadm invalidate web1-xvda")
    product.wait_until(lambda: "ds:Inconsistent/UpToDate" in bob.read("/proc/drbd"), 60, "the resync")
    alice.run("xl destroy web1", timeout=120)
    product.wait_until(  # behind the resync's blocks, and bob hears of it behind them, too
        lambda: not any("Primary" in role for host in lab.hosts for role in product.roles(host).values()),
        settle.PROMISED * settle.SLOWNESS,
        "the demotion",
        every=2,
    )
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvda: this host's copy is Inconsistent")
    log = alice.run("journalctl -q -t xenhelper --no-pager -o cat -n 50").out
    assert "outdated here" not in log, "the refused start has cost alice the other disk"
    alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    guest.wait_progress(180)
    acked = {disk: report.acked for disk, report in guest.status().items()}
    seen = guest.boots()
    alice.power_off()
    _noticed(bob)
    lab.unshape()
    command = "xenhelper takeover web1 --peer-is-dead --accept-data-as-of 2020-01-01T00:00:00Z"
    product.refused(bob, command, "web1-xvda", "no whole state", status=3)
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvda")
    faults.restore(lab)
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["alice"], rest
    for boot in since(seen, guest.boots()):
        assert boot.holes == 0 and boot.full >= acked[boot.disk], boot
    guest.wait_progress(120)
    product.assert_no_wrong_block(guest, *lab.hosts)


def test_a_word_of_the_dead_host_ends_what_wasnt_started(lab: Lab) -> None:
    """alice returns with the second path alone: bob may not start web1 on its old permit then,
    not even once that path is lost again; alice may, with bob's consent."""
    alice, bob = lab.hosts
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    guest = Guest(alice, "web1")
    guest.wait_progress()
    seen = guest.boots()
    alice.power_off()
    _noticed(bob)
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    assert bob.out("ls /run/xenhelper/permits").split() == RESOURCES
    assert "web1 was taken over" in bob.run("xenhelper alert").out
    lab.cut_link()
    alice.power_on()
    product.wait_until(lambda: bob.out("ls /run/xenhelper/dead") == "", 120, "bob to hear of alice")
    assert bob.out("ls /run/xenhelper/permits") == ""
    assert "web1 was taken over" not in bob.run("xenhelper alert").out
    log = bob.run("journalctl -q -t xenhelper --no-pager -o cat -n 50").out
    assert "web1: alice is back, so it may not start here without alice any more" in log
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvda")
    product.wait_until(lambda: product.runs_on(lab, "web1") == ["alice"], 300, "alice to start it", every=3)
    guest.wait_writing(disks=2)
    lab.cut_second_path()
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvda")
    faults.restore(lab)
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["alice"], rest
    assert all(boot.holes == 0 for boot in since(seen, guest.boots()))
    guest.wait_progress(120)
    product.assert_no_wrong_block(guest, *lab.hosts)


def _taken_over(bob: Host) -> Guest:
    """web1 goes on there, on a person's word."""
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    moved = Guest(bob, "web1")
    moved.wait_writing(disks=2)
    return moved


def test_killed_between_two_permits_it_is_undone_and_given_again(lab: Lab) -> None:
    """Half a takeover starts nothing; its intent stays until the reconciler has undone it."""
    alice, bob = lab.hosts
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    alice.power_off()
    _noticed(bob)
    # of each disk: its generation is read, then its permit is written
    faults.arm(bob, "after takeover:_take:permits.grant_takeover 2")
    # looked at at once: the reconciler may come at any time
    half = bob.out("xenhelper takeover web1 --peer-is-dead >&2 || ls /run/xenhelper/permits", timeout=120)
    assert half.split() == RESOURCES[:1] and not faults.disarm(bob)
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1-xvd")
    product.wait_until(
        lambda: bob.out("ls /var/lib/xenhelper/intents") == "", 180, "it to be undone", every=2
    )
    assert bob.out("ls /run/xenhelper/permits") == ""
    log = bob.run("journalctl -q -t xenhelper --no-pager -o cat -n 50").out
    assert "web1: an interrupted takeover is undone" in log
    moved = _taken_over(bob)
    faults.restore(lab)
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    moved.wait_progress(120)
    product.assert_no_wrong_block(moved, *lab.hosts)


def test_a_host_that_dies_without_a_write(lab: Lab) -> None:
    """Nothing is lost, and its return is no split brain: DRBD has the same generation on both."""
    alice, bob = lab.hosts
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    guest = Guest(alice, "web1")
    guest.send("pause")
    guest.wait_line("XH ok pause")
    time.sleep(5)  # the last of its writes has long arrived
    told = {disk: report.acked for disk, report in guest.status().items()}
    alice.power_off()
    _noticed(bob)
    moved = _taken_over(bob)
    assert missing(told, moved.boots()) == {} and all(boot.holes == 0 for boot in moved.boots())
    faults.restore(lab)
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    moved.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    product.assert_no_wrong_block(moved, *lab.hosts)


def test_writes_in_flight_are_what_a_hosts_death_loses(lab: Lab) -> None:
    """Acknowledged at protocol A and not arrived: they are counted, the rest is whole."""
    alice, bob = lab.hosts
    faults.autostart(lab)
    minors = {name: product.minor(alice, name) for name in RESOURCES}
    guest = Guest(alice, "web1")
    by_disk = {name.rpartition("-")[2]: minor for name, minor in minors.items()}
    with Witness(lab, "web1", by_disk) as witness:
        guest.wait_progress()
        lab.silence_link()  # nothing arrives, and neither host knows yet
        time.sleep(3)
        assert alice.read("/proc/drbd").count("cs:Connected") == 2
        alice.power_off()
        told = witness.acknowledged()
    _noticed(bob)
    lab.unshape()
    moved = _taken_over(bob)
    lost = missing(told, moved.boots())
    figures.note("host died with writes in flight", lost_at_a=lost)
    assert set(lost) == {"xvda", "xvdb"}, "the case is about losing some"
    assert all(boot.holes == 0 for boot in moved.boots()), "what is there is whole up to a moment"
    faults.restore(lab)
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    moved.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    product.assert_no_wrong_block(moved, *lab.hosts)

"""Each trouble made for real is told once by mail, webhook and command, and so is its end."""

from __future__ import annotations

import pytest

from . import figures, product, scenario
from .host import Host
from .lab import Lab
from .told import ALERTS, Told, clock, figure, kernel_said, kill_watcher, killer
from .wait import wait_until

RESOURCES = ("web1-xvda", "web1-xvdb")
PERMITS = "/run/xenhelper/permits"
LOST = [f"connection.{name}" for name in RESOURCES]


def _cut_and_noticed(lab: Lab) -> None:
    lab.silence_link()
    wait_until(
        lambda: all("cs:Connected" not in host.read("/proc/drbd") for host in lab.hosts), 120, "the loss"
    )


def _idle(host: Host, seconds: int, unit: str, switches: int) -> tuple[int, int]:
    """:func:`_costs` of a time in which nothing rang it: the third is the last that is tried. A
    layer's hosts meet again, and their reconcilers have their rounds."""
    for _ in range(3):
        costs = _costs(host, seconds, unit)
        if costs[1] < switches:
            break
    return costs


def _costs(host: Host, seconds: int, unit: str = "xenhelper-watch") -> tuple[int, int]:
    """KiB of memory that a service's process has, and how often it was given a processor."""
    pid = host.out(f"systemctl show -p MainPID --value {unit}")
    assert pid != "0", f"{unit} doesn't run"
    command = f"awk '/ctxt_switches/ {{s += $2}} END {{print s}}' /proc/{pid}/task/*/status"
    before = int(host.out(command))
    host.run(f"sleep {seconds}", timeout=seconds + 100)
    switches = int(host.out(command)) - before
    kib = int(host.out(f"awk '/VmRSS/ {{print $2}}' /proc/{pid}/status"))
    print(f"figure: {unit}, {host.name}: {kib} KiB, {switches} context switches in {seconds} s", flush=True)
    return kib, switches


def test_a_lost_link_is_told_once_and_its_end_too(lab: Lab) -> None:
    """On bob the watcher is left alone; on alice it is killed at each turn."""
    alice, bob = Told(lab.alice, "stale_minutes = 1\n"), Told(lab.bob)
    assert _costs(lab.bob, 20)[0] < 30 * 1024
    # the sender is there before there is anything to tell
    assert _costs(lab.bob, 20, "xenhelper-alert")[0] < 30 * 1024
    before = clock(lab.bob)
    turns = ["grep -q cs:[^C] /proc/drbd", f"ls {ALERTS}/*/connection.*", f"ls {ALERTS}/kept/*"]
    process = lab.alice.start(killer(turns))
    _cut_and_noticed(lab)
    words = bob.expect(LOST, "raised")
    noticed = kernel_said(lab.bob, r"web1-xvda: .*conn\( Connected -> ", before)
    figure(bob, "link lost", bob.delays(words, LOST[0], "raised", noticed))
    words = alice.expect(LOST, "raised")
    process.communicate(timeout=120)
    # a minute later the copy counts as old
    alice.expect([f"stale.{name}" for name in RESOURCES], "raised", timeout=150)
    bob_before = clock(lab.bob)
    process = lab.alice.start(killer(["grep -q cs:Connected /proc/drbd", "sleep 2"]))
    lab.unshape()
    words = bob.expect(LOST, "raised", "over")
    back = kernel_said(lab.bob, r"web1-xvda: .*conn\( \w+ -> (WFReportParams|Connected) ", bob_before)
    figure(bob, "link back", bob.delays(words, LOST[0], "over", back))
    alice.expect(LOST, "raised", "over")
    alice.expect([f"stale.{name}" for name in RESOURCES], "raised", "over")
    process.communicate(timeout=120)
    product.wait_in_sync(lab.alice, *RESOURCES)
    for told in (alice, bob):
        for channel, heard in told.words().items():
            extra = [w for w in heard if not w.alert.startswith(("connection.", "stale.", "resync."))]
            assert extra == [], channel
        wait_until(lambda told=told: told.host.out(f"ls {ALERTS}/queue") == "", 60, "an empty queue")
        assert "no alert" in told.host.out("xenhelper alert")


def test_a_resync_is_told_by_its_source(lab: Lab) -> None:
    alice, bob = Told(lab.alice), Told(lab.bob)
    lab.shape_link(2)
    begun = clock(lab.alice)
    lab.bob.run("drbdadm invalidate web1-xvda")
    words = alice.expect(["resync.web1-xvda"], "raised")
    figure(alice, "resync", alice.delays(words, "resync.web1-xvda", "raised", begun))
    kill_watcher(lab.alice)
    lab.unshape()
    product.wait_in_sync(lab.alice, *RESOURCES)
    alice.expect(["resync.web1-xvda"], "raised", "over")
    assert all(heard == [] for heard in bob.words().values())


@pytest.mark.expects("io-error")
def test_a_disk_that_fails_is_told_by_drbds_handler(lab: Lab) -> None:
    """dm-error under bob's copy; the watcher there is stopped: the handler alone tells."""
    bob = Told(lab.bob)
    lab.bob.run("systemctl stop xenhelper-watch")
    begun = clock(lab.bob)
    lab.bob.run(
        "dmsetup table vg0-web1--root >/root/table && dmsetup suspend --noflush vg0-web1--root && "
        'dmsetup reload vg0-web1--root --table "0 $(blockdev --getsz /dev/vg0/web1-root) error" && '
        "dmsetup resume vg0-web1--root"
    )
    words = bob.expect(["disk.web1-xvda"], "raised")
    failed = kernel_said(lab.bob, r"disk\( UpToDate -> Failed ", begun)
    figure(bob, "disk failed, by the handler", bob.delays(words, "disk.web1-xvda", "raised", failed))
    lab.bob.run("systemctl start xenhelper-watch")
    kill_watcher(lab.bob)
    lab.bob.run(
        "dmsetup suspend --noflush vg0-web1--root; dmsetup reload vg0-web1--root /root/table && "
        "dmsetup resume vg0-web1--root; sleep 6; drbdadm attach web1-xvda"
    )
    product.wait_in_sync(lab.alice, *RESOURCES)
    bob.expect(["disk.web1-xvda"], "raised", "over")


def test_blocks_that_differ_are_told(lab: Lab) -> None:
    """Written under DRBD on bob, found by an online verify, mended by a resync."""
    alice, bob = Told(lab.alice), Told(lab.bob)
    lab.bob.run("dd if=/dev/urandom of=/dev/vg0/web1-root bs=64k count=1 seek=20 oflag=direct status=none")
    begun = clock(lab.alice)
    lab.alice.run("drbdadm verify web1-xvda")
    words = alice.expect(["out-of-sync.web1-xvda"], "raised", timeout=200)
    done = kernel_said(lab.alice, r"Online verify done", begun)
    figure(alice, "out of sync", alice.delays(words, "out-of-sync.web1-xvda", "raised", done))
    bob.expect(["out-of-sync.web1-xvda"], "raised")
    kill_watcher(lab.alice)
    lab.alice.run("drbdadm disconnect web1-xvda; drbdadm connect web1-xvda")
    for told in (alice, bob):
        told.expect(["out-of-sync.web1-xvda"], "raised", "over", timeout=200)


def test_domains_and_windows_that_are_not_as_they_should_be(lab: Lab) -> None:
    alice = Told(lab.alice)
    xl = product.real_xl(lab.alice)
    # a disk that isn't replicated, and one beneath DRBD
    lab.alice.run("lvcreate -q -y -Wy -L 16M -n plain vg0")
    lab.alice.run(f"{xl} block-attach web1 phy:/dev/vg0/plain,xvdc,w", timeout=60)
    begun = clock(lab.alice)  # it is there once xl has returned
    words = alice.expect(["unreplicated.web1"], "raised")
    figure(alice, "unreplicated disk", alice.delays(words, "unreplicated.web1", "raised", begun))
    kill_watcher(lab.alice)
    product.detach(lab.alice, "web1", "xvdc")
    alice.expect(["unreplicated.web1"], "raised", "over")
    begun = clock(lab.alice)
    domid = lab.alice.out("xl domid web1")
    lab.alice.run(f"{xl} block-attach web1 phy:/dev/vg0/web1-swap,xvdd,r", timeout=60)
    beneath = [f"beneath.web1-xvdb.{domid}"]
    words = alice.expect(beneath, "raised")
    figure(alice, "beneath DRBD", alice.delays(words, beneath[0], "raised", begun))
    kill_watcher(lab.alice)
    product.detach(lab.alice, "web1", "xvdd")
    alice.expect(beneath, "raised", "over")
    # both Primary without a migration
    lab.alice.run("systemctl stop xenhelper-reconcile.timer")
    lab.bob.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch")
    ends = product.ends(lab.alice, "web1-xvdb")
    lab.alice.run(f"drbdsetup net-options {ends} --protocol=C --allow-two-primaries=yes")
    lab.bob.run("drbdadm primary web1-xvdb")
    begun = clock(lab.alice)
    words = alice.expect(["window.web1"], "raised")
    figure(alice, "both Primary", alice.delays(words, "window.web1", "raised", begun))
    lab.bob.run("drbdadm secondary web1-xvdb")
    lab.alice.run(f"drbdsetup net-options {ends} --protocol=A --allow-two-primaries=no")
    alice.expect(["window.web1"], "raised", "over")
    for heard in alice.words().values():
        assert len(heard) == 6, heard


@pytest.mark.expects("split-brain")
def test_takeover_and_split_brain(lab: Lab) -> None:
    bob = Told(lab.bob)
    alice = Told(lab.alice)
    lab.cut_link()
    lab.cut_second_path()
    wait_until(
        lambda: all("cs:Connected" not in host.read("/proc/drbd") for host in lab.hosts), 120, "the cut"
    )
    begun = clock(lab.bob)
    lab.bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    permitted = float(lab.bob.out(f"stat -c %.9Y {PERMITS}/{RESOURCES[0]}"))
    words = bob.expect(["takeover.web1"], "raised")
    figure(bob, "takeover", bob.delays(words, "takeover.web1", "raised", permitted))
    for name in RESOURCES:
        lab.bob.run(f"drbdadm primary {name} && dd if=/dev/urandom of=/dev/drbd_{name} bs=4k count=1 seek=9 "
                    f"oflag=direct status=none && drbdadm secondary {name}", timeout=120)  # fmt: skip
    lab.heal()
    split = [f"split-brain.{name}" for name in RESOURCES]
    for told in (alice, bob):
        words = told.expect(split, "raised", timeout=360)
        found = kernel_said(told.host, r"Split-Brain detected", begun)
        figure(told, "split brain", told.delays(words, split[0], "raised", found))
        kill_watcher(told.host)
    lab.bob.run("xenhelper recover web1 --discard bob --yes", timeout=300)
    product.wait_in_sync(lab.alice, *RESOURCES)
    for told in (alice, bob):
        told.expect(split, "raised", "over", timeout=200)
    bob.expect(["takeover.web1"], "raised", "over", timeout=200)


def test_a_channel_that_fails_and_what_the_watcher_costs(lab: Lab) -> None:
    alice = Told(lab.alice)
    host = lab.alice
    assert host.out("xenhelper alert --test").count(": sent to ") == 3
    first = alice.expect(["test.test"], "raised")
    assert len(first["smtp"]) == 1
    kib, switches = _idle(host, 70, "xenhelper-watch", 60)
    assert kib < 30 * 1024 and switches < 60
    figures.note("watcher idle", kib=kib, switches=switches, seconds=70)
    # with all its channels loaded, and asleep
    kib, switches = _idle(host, 70, "xenhelper-alert", 30)
    assert kib < 30 * 1024 and switches < 30
    # a webhook that is down holds nobody up, gets it later, and is itself told of
    alice.stop("hook")
    begun = clock(host)
    _cut_and_noticed(lab)  # what is merely disconnected is connected again within seconds
    begun = kernel_said(host, r"web1-xvdb: .*conn\( Connected -> ", begun)
    wait_until(lambda: alice.states(LOST[1])["smtp"] == ["raised"], 150, "the mail", every=1)
    words = {c: heard for c, heard in alice.words().items() if c != "hook"}
    figure(alice, "webhook down, the others", alice.delays(words, LOST[1], "raised", begun))
    wait_until(lambda: alice.states("channel.webhook")["cmd"] == ["raised"], 120, "word of it", every=1)
    alice.start("hook")
    # it is tried again after 5, 15, 30, 60, 120, then 300 s (alerts/decide.py)
    wait_until(lambda: alice.states(LOST[1])["hook"] == ["raised"], 400, "the retry", every=3)
    wait_until(lambda: alice.states("channel.webhook")["smtp"] == ["raised", "over"], 120, "its end", every=1)
    lab.unshape()
    alice.expect(LOST, "raised", "over")
    assert alice.states("channel.webhook")["hook"] == [], "not by itself"
    scenario.wait_synced(lab)

"""Trouble that lasts or that only a person ends, each made for real: told once by mail, webhook
and command, and so is its end."""

from __future__ import annotations

import pytest

from . import product
from .guest import Guest
from .lab import Lab
from .told import Told, clock, figure, kernel_said, kill_watcher, stored
from .wait import wait_until

RESOURCES = ["web1-xvda", "web1-xvdb"]
LOST = [f"connection.{name}" for name in RESOURCES]
# a migration that goes on for ever: its intent, and its lock held as the real xl holds it
HELD = """\
import sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from xenhelper import intents
fd = intents.lock("web1", wait=120.0, who="migrate")
intents.write("window", "web1", source="alice", destination="bob",
              resources="web1-xvda,web1-xvdb")
time.sleep(100000)
"""
INTENT = "/var/lib/xenhelper/intents/window-web1"


def test_a_migration_without_end_and_an_intent_that_cant_be_closed(lab: Lab) -> None:
    """First an xl that doesn't end; then its last answer is lost, which leaves the guest under
    the name that xl gives it meanwhile: that only a person can tell."""
    alice = Told(lab.alice)
    host, xl = lab.alice, product.real_xl(lab.alice)
    host.write("/root/held.py", HELD)
    host.run("systemd-run -q -u lab-held python3 -IS /root/held.py")
    wait_until(lambda: host.read(INTENT), 120, "the intent", every=1)
    # it has been at it for two hours
    host.run(f"sed -i \"s/^since=.*/since=$(date -u -d '2 hours ago' +%Y-%m-%dT%H:%M:%SZ)/\" {INTENT}")
    # nothing rings for that: the watcher looks once a minute
    words = alice.expect(["window.web1"], "raised", timeout=300)
    begun = stored(host, "window.web1")
    figure(alice, "a migration without end", alice.delays(words, "window.web1", "raised", begun))
    kill_watcher(host)
    host.run(f"{xl} rename web1 web1--migratedaway", timeout=60)
    host.run("systemctl stop lab-held")
    # a round comes each minute, and the third that leaves it tells
    words = alice.expect(["left.web1"], "raised", timeout=600)
    begun = stored(host, "left.web1")
    figure(alice, "an intent that can't be closed", alice.delays(words, "left.web1", "raised", begun))
    assert "web1--migratedaway" in host.out("xenhelper alert")
    assert host.read(INTENT), "it is kept until that is settled"
    kill_watcher(host)
    host.run(f"{xl} rename web1--migratedaway web1", timeout=60)
    alice.expect(["left.web1", "window.web1"], "raised", "over", timeout=400)
    product.assert_steady(lab, RESOURCES, host)
    Guest(host, "web1").wait_progress(120)
    for channel, heard in alice.words().items():
        assert {word.alert for word in heard} == {"left.web1", "window.web1"}, channel


@pytest.mark.expects("io-error")
def test_a_disk_whose_volume_is_gone_and_a_vm_without_its_disk(lab: Lab) -> None:
    bob = Told(lab.bob)
    # the volume that bob's half is on has another name: it doesn't come up
    unit = "xenhelper-reconcile"
    lab.bob.run(f"systemctl stop {unit}.timer {unit}; systemctl mask -q --runtime {unit}", timeout=180)
    begun = clock(lab.bob)
    lab.bob.run("drbdsetup down web1-xvdb && lvrename -q vg0 web1-swap elsewhere", timeout=60)
    words = bob.expect(["missing.web1-xvdb"], "raised")
    figure(bob, "a disk isn't up", bob.delays(words, "missing.web1-xvdb", "raised", begun))
    kill_watcher(lab.bob)
    said = lab.bob.run("xenhelper status", check=False).out
    assert "/dev/vg0/web1-swap" in said and "isn't up" in said, said
    lab.bob.run(
        f"lvrename -q vg0 elsewhere web1-swap; systemctl unmask -q --runtime {unit}; "
        f"systemctl start {unit}.timer",
        timeout=60,
    )
    lab.bob.run("xenhelper reconcile web1", timeout=180, check=False)
    bob.expect(["missing.web1-xvdb"], "raised", "over", timeout=300)
    product.wait_in_sync(lab.alice, *RESOURCES)

    # a disk is taken from the VM that runs
    alice = Told(lab.alice)
    xl = product.real_xl(lab.alice)
    Guest(lab.alice, "web1").send("pause")  # nothing in flight
    lab.alice.run(
        f"{xl} block-detach --force web1 xvdb || {xl} block-detach web1 xvdb", timeout=120, check=False
    )
    begun = clock(lab.alice)  # it is gone once xl has returned
    words = alice.expect(["without-disk.web1-xvdb"], "raised", timeout=300)
    figure(alice, "a VM without its disk", alice.delays(words, "without-disk.web1-xvdb", "raised", begun))
    kill_watcher(lab.alice)
    lab.alice.run(f"{xl} destroy web1", timeout=120)
    alice.expect(["without-disk.web1-xvdb"], "raised", "over", timeout=300)
    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    Guest(lab.alice, "web1").wait_progress(240)
    assert alice.states("without-disk.web1-xvdb")["cmd"] == ["raised", "over"], "as it was, nothing new"


def test_a_host_loses_its_power(lab: Lab) -> None:
    """The survivor tells that its replica is alone, and when it isn't any more."""
    alice = Told(lab.alice)
    begun = clock(lab.alice)
    lab.bob.power_off()
    words = alice.expect(LOST, "raised", timeout=300)
    noticed = kernel_said(lab.alice, r"web1-xvda: .*conn\( Connected -> ", begun)
    delays = alice.delays(words, LOST[0], "raised", noticed)
    figure(alice, f"power lost ({noticed - begun:.1f} s until DRBD noticed)", delays)
    kill_watcher(lab.alice)
    said = lab.alice.out("xenhelper alert")
    assert said.count("no connection to bob") == 2, said
    back = clock(lab.alice)
    lab.bob.power_on()
    words = alice.expect(LOST, "raised", "over", timeout=600)
    again = kernel_said(lab.alice, r"web1-xvda: .*conn\( \w+ -> (WFReportParams|Connected) ", back)
    figure(alice, "power back", alice.delays(words, LOST[0], "over", again))
    product.wait_in_sync(lab.alice, *RESOURCES)
    wait_until(lambda: "no alert" in lab.alice.out("xenhelper alert"), 240, "no alert left", every=5)
    for channel, heard in alice.words().items():
        # what was written meanwhile is copied, which may be over before it counts
        extra = [word for word in heard if not word.alert.startswith(("connection.", "resync."))]
        assert extra == [], channel

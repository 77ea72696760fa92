"""A clean shutdown: what is ceded is on record, and gives the other host the right to start."""

import os
import time
from pathlib import Path

import pytest

from tests.unit.fakes.booting import Host, booting
from xenhelper import (
    boot,
    ceded,
    fence,
    hotplug,
    paths,
    statefile,
)
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused
from xenhelper.run import Result


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return booting(tmp_path, monkeypatch)


def test_a_clean_shutdown_cedes_and_outdates_its_own_copy(host: Host) -> None:
    host.answers["cede"] = {}
    assert boot.stop() == ["web1: ceded to bob"]
    assert host.drbd == ["disconnect web1-xvda", "outdate 1000"]
    assert os.path.exists(paths.STOPPING)
    assert (statefile.read(ceded.path("web1-xvda")) or {})["by"] == os.uname().nodename


def test_stopping_only_the_unit_cedes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "run", lambda *_, **__: Result(0, "running\n", ""))
    assert boot.stop() == [] and host.asked == [] and not os.path.exists(paths.STOPPING)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "Primary"},
        {"connection": "Connecting"},
        {"disk": "Inconsistent"},
        {"peer_disk": "Outdated"},
    ],
)
def test_what_is_in_use_or_not_in_sync_is_not_ceded(host: Host, change: dict[str, str]) -> None:
    for key, value in change.items():
        setattr(host.states["web1-xvda"], key, value)
    boot.stop()
    assert host.asked == [] and host.drbd == [] and statefile.read(ceded.path("web1-xvda")) is None
    with pytest.raises(Refused):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_a_vm_on_the_other_host_is_bid_goodbye(host: Host) -> None:
    host.states["web1-xvda"].peer_role = "Primary"
    assert boot.stop() == ["web1: runs on bob"]
    assert host.drbd == ["disconnect web1-xvda"] and host.asked == []
    assert statefile.read(ceded.path("web1-xvda")) is None
    with pytest.raises(Refused):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_a_goodbye_passes_over_what_has_no_connection(host: Host) -> None:
    """drbdadm disconnect fails there, and the disks behind it would hear no goodbye."""
    host.states["web1-xvda"].peer_role = "Primary"
    for vdev in ("xvdb", "xvdc", "xvdd"):
        row = statefile.read(f"{paths.RESOURCES}/web1-xvda") or {}
        statefile.write(f"{paths.RESOURCES}/web1-{vdev}", {**row, "resource": f"web1-{vdev}"})
    host.states["web1-xvdb"] = events.Resource("web1-xvdb")
    host.states["web1-xvdd"] = events.Resource("web1-xvdd")
    host.states["web1-xvdd"].connection = "Connecting"
    assert boot.stop() == ["web1: runs on bob"]
    assert host.drbd == ["disconnect web1-xvda", "disconnect web1-xvdd"]


def test_a_refusal_leaves_no_record_but_silence_does(host: Host) -> None:
    host.answers["cede"] = PeerFailed("shutting down, too")
    assert "not ceded" in boot.stop()[0] and statefile.read(ceded.path("web1-xvda")) is None
    host.answers["cede"] = PeerUnreachable("silent")
    assert "not ceded" in boot.stop()[0] and host.drbd == []
    # bob may have taken it: alice asks before she uses it again
    with pytest.raises(Refused, match="ceded it to bob"):
        ceded.take_back("web1-xvda", "bob")
    host.answers["uncede"] = {}
    ceded.take_back("web1-xvda", "bob")
    assert statefile.read(ceded.path("web1-xvda")) is None


def test_both_shut_down_nobody_cedes(host: Host) -> None:
    statefile.write(paths.STOPPING, {})
    with pytest.raises(Refused, match="shutting down, too"):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_the_taker_may_start_unasked_as_long_as_its_data_is_what_was_ceded(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})
    host.states["web1-xvda"].connection = "Connecting"
    assert ceded.may_start("web1-xvda", 1000)
    fence.ask_consent("web1-xvda", 1000, "bob", "web1")  # bob is silent
    assert fence.fence_peer("web1-xvda") == (fence.OUTDATED, "bob ceded it when it shut down")
    ceded.take_back("web1-xvda", "bob")  # not ours to take back
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xCD, 0))
    assert not ceded.may_start("web1-xvda", 1000)
    with pytest.raises(Refused, match="doesn't answer"):
        fence.ask_consent("web1-xvda", 1000, "bob", "web1")


def test_the_word_is_handed_back(host: Host) -> None:
    ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})
    with pytest.raises(Refused):
        ceded.serve_uncede("carol", {"resource": "web1-xvda"})
    ceded.serve_uncede("bob", {"resource": "web1-xvda"})
    assert not ceded.may_start("web1-xvda", 1000)


def test_a_host_that_shuts_down_gives_out_no_disk(host: Host) -> None:
    statefile.write(paths.STOPPING, {})
    disk = object.__new__(hotplug.Disk)
    disk.domain = "web1"
    with pytest.raises(Refused, match="shutting down"):
        hotplug.add(disk)


def test_what_another_boot_knew_of_the_peer_is_hearsay(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag that the peer's copy is outdated survives a reboot, in which the peer may
    have been made to take over."""
    state = host.states["web1-xvda"]
    state.connection, state.peer_disk, state.peer_role = "Connecting", "Outdated", "Unknown"
    monkeypatch.setattr(bringup, "up", lambda vm, name: None)
    bringup.first_up("web1", "web1-xvda")
    assert os.path.exists(bringup.hearsay("web1-xvda"))
    disk = object.__new__(hotplug.Disk)
    disk.resource, disk.domain, disk.peer, disk.vm, disk.record = "web1-xvda", "web1", "bob", "web1", {}
    with pytest.raises(Refused, match="bob doesn't answer"):
        hotplug._promote(disk, state, time.monotonic() + 5)

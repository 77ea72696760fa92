"""Resync settings: what they bring, and that they reach both hosts' files and what runs."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from . import debianguest, figures, product
from .host import Host
from .lab import Lab
from .wait import wait_until


@pytest.mark.layer("paired")
def test_resync_is_faster_and_resync_rate_does_not_rule_it(lab: Lab, record_property: Any) -> None:
    """512 MiB of a resource with DRBD's defaults, with only resync-rate raised, and with
    what a new resource gets; in one run, on the link as it is. What these hosts can do at all
    is seen from the same bytes without DRBD, from disk to disk over one connection.

    With c-plan-ahead resync-rate is no rate: at its default of 250 KiB/s a resync goes many
    times as fast. It says how much the controller asks for while nothing is in flight
    (drbd_worker.c, drbd_rs_controller()), so raising it shortens the start.
    """
    defaults = "--set-defaults"
    for host in lab.hosts:
        host.run("lvcreate -q -y -Wn -L 512M -n sync vg0; lvcreate -q -y -Wy -L 4M -n sync_meta vg0")
        host.write("/etc/drbd.d/sync.res", SYNC)
        host.run("drbdadm create-md --force sync && drbdadm up sync")
    wait_until(lambda: "cs:Connected" in lab.alice.read("/proc/drbd"), 60, "both to connect")
    lab.alice.run(
        "drbdsetup new-current-uuid --clear-bitmap 900 && drbdadm primary sync && "
        # a resync leaves zeros out
        "tr '\\0' x </dev/zero | dd of=/dev/drbd900 bs=1M count=511 iflag=fullblock oflag=direct status=none",
        timeout=200,
    )
    tuned = [option for line in lab.alice.out(ASK_KNOBS).splitlines() for option in [line.strip()] if option]

    def seconds(disk: str, net: str) -> float:
        for host in lab.hosts:
            host.run(f"drbdsetup disk-options 900 {disk}")
            local, remote = ("1", "2") if host is lab.alice else ("2", "1")
            host.run(f"drbdsetup net-options ipv4:10.99.0.{local}:7900 ipv4:10.99.0.{remote}:7900 {net}")
        lab.bob.run("drbdsetup invalidate 900")
        script = (
            "s=$(date +%s.%N); while ! grep -A1 '^900:' /proc/drbd | grep -q 'ds:UpToDate/UpToDate'; "
            "do sleep 0.2; done; e=$(date +%s.%N); echo $s $e"
        )
        begin, end = (float(word) for word in lab.bob.out(script, timeout=200).split())
        return end - begin

    ways = {
        "defaults": (defaults, defaults),
        "resync-rate alone": (f"{defaults} --resync-rate=700M", defaults),
        # what stands in the files besides (resfile.py)
        "tuned": (f"{defaults} --resync-rate=40M {tuned[0]}", f"{defaults} {tuned[1]}"),
    }
    lab.bob.run("lvcreate -q -y -Wn -L 512M -n bare vg0")
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "without DRBD")}
    for _ in range(3):  # in turns: this machine's other work comes and goes
        for name, (disk, net) in ways.items():
            taken[name].append(seconds(disk, net))
        taken["without DRBD"].append(copied(lab))
    times = {name: min(each) for name, each in taken.items()}
    said = {name: f"{took:.1f} s, {512 / took:.0f} MiB/s" for name, took in times.items()}
    print(said, taken)
    figures.note("resync of 512 MiB", **said)
    record_property("seconds", times)
    assert 512 * 1024 / times["defaults"] > 10 * 250, "KiB/s"
    assert times["tuned"] < times["defaults"] * 0.8


def copied(lab: Lab) -> float:
    """Seconds in which alice's bytes reach bob's disk, both past the page cache."""
    receiving = lab.bob.start(f"python3 -c {shlex.quote(TAKE)} && date +%s.%N")
    wait_until(lambda: lab.bob.run("ss -ltn | grep -q :7999", check=False).ok, 60, "bob to listen")
    lab.alice.run(f"bash -c {shlex.quote(GIVE)}", timeout=200)
    begin, end = (float(word) for word in receiving.communicate(timeout=100)[0].split())
    return end - begin


def settings_of(host: Host, resource: str) -> dict[str, str]:
    """What runs, by drbdsetup; a default isn't shown."""
    text = host.run(f"drbdsetup show {resource}").out
    return dict(re.findall(r"^\s*([a-z-]+)\s+(\S+);", text, re.M))


@pytest.mark.layer("debian")
def test_resync_settings_reach_both_files_and_what_runs(lab: Lab) -> None:
    lab.alice.run("printf '\n[tuning]\nlink_speed = 1000\n' >> /etc/xenhelper/xenhelper.conf")
    before = lab.alice.read("/etc/drbd.d/deb1.res")
    assert "c-max-rate 107M" in lab.alice.run("xenhelper tune --resync --dry-run").out
    assert lab.alice.read("/etc/drbd.d/deb1.res") == before
    lab.alice.run("xenhelper tune --resync deb1", timeout=120)
    for host in lab.hosts:
        text = host.read("/etc/drbd.d/deb1.res")
        assert text.count("c-max-rate 107M;") == 2 and text == lab.alice.read("/etc/drbd.d/deb1.res")
        for resource in debianguest.RESOURCES:
            found = settings_of(host, resource)
            assert (found["c-max-rate"], found["c-min-rate"], found["c-fill-target"]) == (
                "109568k", "35840k", "512s"
            ), found  # fmt: skip
        # what the file says is what runs: nothing is left for drbdadm to do
        dry = host.out("drbdadm -c /etc/drbd.d/deb1.res --dry-run adjust all")
        assert "disk-options" not in dry and "net-options" not in dry, dry
    product.assert_steady(lab, debianguest.RESOURCES, lab.alice)
    assert lab.alice.out("xenhelper tune --resync") == "nothing to change"
    assert "flush" not in lab.alice.read("/etc/drbd.d/deb1.res")


ASK_KNOBS = (
    "python3 -c 'from xenhelper.drbd.knobs import DISK, NET, for_link, options; k = for_link(0, 768); "
    "print(*options(k, DISK)); print(*options(k, NET))'"
)
TAKE = """\
import os, socket, time
taken = socket.create_server(("10.99.0.2", 7999)).accept()[0]
print(time.time(), flush=True)
os.dup2(taken.fileno(), 0)
os.execvp("dd", "dd of=/dev/vg0/bare bs=1M iflag=fullblock oflag=direct status=none".split())
"""
GIVE = "dd if=/dev/vg0/sync bs=1M iflag=direct status=none >/dev/tcp/10.99.0.2/7999"
SYNC = """\
resource sync {
    device /dev/drbd_sync minor 900;
    disk /dev/vg0/sync;
    meta-disk /dev/vg0/sync_meta;
    net { protocol A; }
    on alice { address ipv4 10.99.0.1:7900; }
    on bob { address ipv4 10.99.0.2:7900; }
}
"""

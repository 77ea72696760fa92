"""What an administrator sees: in a terminal, with a host down, with nothing, with a broken file."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from . import figures, product
from .host import Host
from .lab import Lab
from .wait import wait_until

RESOURCES = ["web1-xvda", "web1-xvdb"]
TMUX = ["tmux", "-L", "xenhelper-lab"]


@contextmanager
def terminal(host: Host, command: str) -> Iterator[None]:
    """A real terminal of 120 columns, with a shell on the host that has typed a command."""
    shell = [*TMUX, "new-session", "-d", "-x", "120", "-y", "30", *host.ssh_command(tty=True)]
    subprocess.run([*TMUX, "kill-server"], capture_output=True, check=False)
    subprocess.run(shell, check=True, env={"TERM": "xterm-256color", "PATH": "/usr/bin:/bin"})
    try:
        wait_until(lambda: screen().rstrip().endswith("#"), 60, "a prompt", every=1)
        keys(command, "Enter")
        yield
    finally:
        subprocess.run([*TMUX, "kill-server"], capture_output=True, check=False)


def keys(*typed: str) -> None:
    subprocess.run([*TMUX, "send-keys", *typed], check=True)


def screen() -> str:
    """What stands on it now."""
    return subprocess.run([*TMUX, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout


def test_watch_in_a_terminal_during_a_sync(lab: Lab) -> None:
    number = product.minor(lab.alice, "web1-xvda")
    for host in lab.hosts:
        host.run(f"drbdsetup disk-options {number} --c-max-rate=512k --c-min-rate=512k --c-fill-target=16s")
    with terminal(lab.alice, "xenhelper status --watch"):
        wait_until(lambda: "web1" in screen() and "Connected" in screen(), 60, "a first look", every=1)
        lab.bob.run(f"drbdsetup invalidate {number}")
        wait_until(lambda: "syncs from here to bob" in screen(), 60, "the sync to be shown", every=1)
        first = screen()
        wait_until(lambda: _percent(screen()) > _percent(first), 60, "progress", every=1)
        later = screen()
        print(later)
        figures.note("status --watch", screen=[line.rstrip() for line in later.splitlines() if line.strip()])
        assert re.search(r"[\d.]+ MiB/s", later) and " left" in later
        # redrawn in place: no look scrolls away the one before
        assert later.count("syncs from here to bob") == 1
        for host in lab.hosts:
            host.run(f"drbdsetup disk-options {number} --c-max-rate=100M --c-fill-target=1M")
        wait_until(lambda: "syncs" not in screen(), 180, "the end of the sync to be shown", every=1)
        keys("C-c")
        wait_until(lambda: screen().rstrip().endswith("#"), 30, "the prompt again", every=1)
        assert "Traceback" not in screen()
        keys("echo it ended with $?", "Enter")
        wait_until(lambda: "it ended with 0" in screen(), 30, "its exit code", every=1)


def _percent(text: str) -> float:
    found = re.search(r"syncs from here to bob, ([\d.]+) %", text)
    return float(found[1]) if found else -1.0


def test_with_the_peer_down(lab: Lab) -> None:
    lab.bob.power_off()
    wait_until(lambda: "cs:Connected" not in lab.alice.read("/proc/drbd"), 180, "alice to notice", every=1)
    began = time.monotonic()
    said = lab.alice.run("xenhelper status --check", check=False)
    seconds = time.monotonic() - began
    print(said.out)
    figures.note("status with the peer down", seconds=round(seconds, 1), lines=said.out.splitlines())
    assert said.status == 4, "no redundancy is degraded"
    assert "web1  on alice" in said.out
    assert any("bob" in line and "answer" in line for line in said.out.splitlines()), "silence is said"
    answer = product.status(lab.alice)
    disks = answer["vms"][0]["disks"]
    assert {disk["connection"] for disk in disks} <= {"WFConnection", "Connecting", "Unconnected"}
    lab.bob.power_on()
    product.wait_in_sync(lab.alice, *RESOURCES)
    wait_until(
        lambda: lab.alice.run("xenhelper status --check", check=False).status == 0, 180, "healthy", every=5
    )


@pytest.mark.layer("paired")
def test_with_no_vm_at_all(lab: Lab) -> None:
    said = lab.alice.run("xenhelper status --check")
    assert said.out.strip() == "no VM is replicated on this host" and said.err == ""
    answer = json.loads(lab.alice.run("xenhelper status --json").out)
    assert answer["vms"] == [] and answer["problems"] == []


def test_with_a_broken_file_beside_ours(lab: Lab) -> None:
    lab.alice.write("/etc/drbd.d/broken.res", "resource broken {\n  device /dev/drbd7;\n  on alice {\n")
    said = lab.alice.run("xenhelper status", check=False)
    print(said.out)
    assert said.status == 0 and "web1  on alice" in said.out and "Traceback" not in said.out + said.err
    assert said.out.count("Connected") == 2, "both disks are shown as they are"
    found = [line for line in said.out.splitlines() if "broken.res" in line]
    assert found, "drbdadm refuses everything until that file is mended: status says so"

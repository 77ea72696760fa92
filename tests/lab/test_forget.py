"""``xenhelper forget``, killed at each of its steps on either host and typed again."""

from __future__ import annotations

import pytest

from xenhelper import crashpoints

from . import faults, product, scenario
from .host import Host
from .lab import Lab

CFG = "/etc/xen/web1.cfg"
# in the order in which they are done: the peer's end goes first
HERE = (
    "here:intents.write", "here:intents.remove#1", "here:adm.down", "here:statefile.remove#1",
    "_volumes:volumes", "_volumes:volumes.remove#1", "_volumes:volumes.remove#2",
    "_volumes:volumes.change_tags", "drop_notes:statefile.remove", "here:statefile.remove#2",
    "here:statefile.remove#3", "here:statefile.remove#4", "here:intents.remove#2",
)  # fmt: skip
FUNCTIONS = ("run", "here", "_volumes", "drop_notes")
RUN = ("run:client.ask#1", "run:client.ask#2")


def steps(delete: bool) -> list[tuple[str, str]]:
    """(host, step) of a whole forget, each taken once by one end at least."""
    found = [("alice", step) for step in RUN]
    for host in ("bob", "alice"):
        gone = delete and host == "bob"
        left_out = "_volumes:volumes.change_tags" if gone else "_volumes:volumes.remove#2"
        found += [(host, step) for step in HERE if step != left_out]
    return [(host, f"forget:{step}") for host, step in found]


def _sums(host: Host) -> dict[str, str]:
    return {
        name: product.checksum(host, f"/dev/vg0/{name}", 0, size) for name, size in scenario.VOLUMES.items()
    }


def _gone(lab: Lab, data_there: bool) -> None:
    """Nothing of the replication is left, and the original config stands on both hosts."""
    for host in lab.hosts:
        found = set(host.out("lvs --noheadings -o lv_name vg0").split())
        kept = set(scenario.VOLUMES) if host is lab.alice or data_there else set()
        assert found == kept, host.name
        assert "xenhelper" not in host.out("lvs --noheadings -o lv_tags vg0"), host.name
        assert " cs:" not in host.read("/proc/drbd"), host.name
        assert "web1" not in host.out("ls -A /etc/drbd.d"), host.name
        left = host.out("find /var/lib/xenhelper -type f -name '*web1*'")
        assert left == "", f"{host.name}: {left}"
        assert host.read(CFG) == scenario.WEB1, host.name


@pytest.mark.parametrize("delete", [False, True], ids=["keep", "delete-peer-volumes"])
def test_killed_at_each_step_the_same_command_finishes(lab: Lab, delete: bool) -> None:
    command = "xenhelper forget web1" + (" --delete-peer-volumes" if delete else "")
    lab.alice.run("xl destroy web1")
    product.wait_gone(lab.alice, "web1")
    product.wait_in_sync(lab.alice, "web1-xvda", "web1-xvdb")
    lab.both(lambda host: host.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch.service"))
    sums = _sums(lab.alice)
    missed = []
    for host, step in steps(delete):
        # each run goes on where the one before was killed, to the next step
        faults.arm(lab.host(host), f"before {step}")
        done = lab.alice.run(command, check=False, timeout=120)
        if faults.disarm(lab.host(host)):
            missed.append((host, step, done.status))
        else:
            assert not done.ok, f"{step} on {host}"
            assert _sums(lab.alice) == sums, f"{step} on {host}"
    assert missed == []
    lab.alice.run(command)
    _gone(lab, not delete)
    assert _sums(lab.alice) == sums


def test_the_list_is_whole() -> None:
    listed = {step for delete in (False, True) for _, step in steps(delete)}
    known = {point.name for point in crashpoints.points("forget") if point.function in FUNCTIONS}
    assert listed == known

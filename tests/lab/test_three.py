"""Three hosts, each VM on a pair of them; and a second copy that moves: carol takes bob's place,
who has died for good or lives, while web1 runs on alice."""

from __future__ import annotations

from collections import Counter

import pytest

from . import faults, figures, product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab
from .settle import PROMISED, SLOWNESS
from .stories import Story

RESOURCES = ["web1-xvda", "web1-xvdb"]
MOVE = "xenhelper replicate web1 --peer carol"
SMALL = """\
name = "{name}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off xh.rate=15"
memory = 96
disk = ['phy:/dev/vg0/{name},xvda,w']
"""


def _small(host: Host, name: str) -> None:
    """A plain VM's volume and untouched config."""
    host.run(f"lvcreate -q -y -Wy -L 32M -n {name} vg0")
    host.write(f"/etc/xen/{name}.cfg", SMALL.format(name=name))


def _volumes(host: Host) -> set[str]:
    return set(host.out("lvs --noheadings -o lv_name vg0").split())


def _same_where_the_guest_never_writes(*hosts: Host) -> None:
    for name, size in scenario.VOLUMES.items():
        for start, count in ((0, 8), (24, size - 24)):
            sums = {product.checksum(host, f"/dev/vg0/{name}", start, count) for host in hosts}
            assert len(sums) == 1, f"{name} from {start} MiB on differs"


def _random_where_the_guest_never_writes(lab: Lab) -> None:
    """Through DRBD, so that all copies have it: a copy that was never filled shows."""
    for resource, size in zip(RESOURCES, scenario.VOLUMES.values(), strict=True):
        device = f"/dev/drbd{product.minor(lab.alice, resource)}"
        lab.alice.run(
            f"dd if=/dev/urandom of={device} bs=1M seek={size - 4} count=4 oflag=direct status=none"
        )


def _problems(host: Host, *severities: str) -> list[str]:
    found = product.status(host)["problems"]
    return [problem["what"] for problem in found if problem["severity"] in severities]


def _shelved(bob: Host) -> bool:
    return bob.read("/proc/drbd").count(" cs:") == 0 and "left of web1" in " ".join(_problems(bob, "warning"))


@pytest.mark.layer("three")
def test_each_vm_is_on_a_pair(lab: Lab) -> None:
    """Created where there is most room, or where one says; moved within the pair only."""
    alice, bob, carol = lab.hosts
    story = Story("third-host")
    _small(alice, "web2")
    story.type(alice, "xenhelper plan /etc/xen/web2.cfg")
    story.type(alice, "xl create /etc/xen/web2.cfg", timeout=300)
    guest = Guest(alice, "web2")
    guest.wait_writing(disks=1, timeout=500)  # three hosts and two guests take their time
    # bob has web1's copies already: carol has more room
    assert product.vm(alice, "web2")["disks"][0]["peer"] == "carol"
    product.wait_in_sync(alice, "web2-xvda", *RESOURCES)
    assert "web2" not in _volumes(bob) and {"web2", "web2_xhmeta"} <= _volumes(carol)
    # numbers are unique on each host, though no host knows all of them
    _small(bob, "web3")
    said = bob.run("xenhelper replicate /etc/xen/web3.cfg --peer carol", timeout=300).out
    assert "xvda: replicated with carol as web3-xvda" in said
    product.wait_in_sync(bob, "web3-xvda")
    minors = [
        product.minor(host, f"{vm}-xvda") for host, vm in ((alice, "web1"), (alice, "web2"), (bob, "web3"))
    ]
    assert len(set(minors)) == 3

    refused = product.refused(
        alice, "xl migrate web2 bob", "web2 can't move to bob", "alice and carol", status=3
    )
    assert "`xenhelper replicate web2 --peer bob`" in refused.err + refused.out
    product.refused(carol, "xl create /etc/xen/web2.cfg", "web2 runs on alice", status=3)
    product.refused(
        alice, "xenhelper takeover --all --peer-is-dead", "different other hosts", "--peer", status=3
    )
    story.type(alice, "xenhelper status")
    story.type(alice, "xl migrate web2 bob", check=False)
    dry = story.type(alice, "xenhelper evacuate --dry-run").out
    assert "xl migrate web1 bob" in dry and "xl migrate web2 carol" in dry
    product.migrate(alice, "carol", "web2")
    moved = guest.on(carol)
    moved.wait_progress(120)
    product.assert_no_wrong_block(moved, alice, carol)
    product.assert_steady(lab, ["web2-xvda"], carol, (alice, carol))
    product.assert_steady(lab, RESOURCES, alice, (alice, bob))
    for host, vms in ((alice, {"web1", "web2"}), (bob, {"web1", "web3"}), (carol, {"web2", "web3"})):
        assert {vm["name"] for vm in product.status(host)["vms"]} == vms, host.name
        product.wait_until(
            lambda host=host: _problems(host, "error", "critical") == [],
            120,
            f"{host.name} to be well",
            every=5,
        )
    Guest(alice, "web1").wait_progress()
    story.end()


@pytest.mark.layer("three")
def test_a_dead_host_is_replaced_and_told_when_it_is_back(lab: Lab) -> None:
    alice, bob, carol = lab.hosts
    story, guest = Story("host-replaced"), Guest(alice, "web1")
    for host in (alice, bob):  # carol gets it with the config
        host.run("mkdir -p /etc/xen/auto && ln -sf /etc/xen/web1.cfg /etc/xen/auto/web1.cfg && sync")
    _random_where_the_guest_never_writes(lab)
    product.refused(alice, "xenhelper replicate web1 --peer dave", "dave is no peer", status=2)
    guest.wait_progress()
    bob.power_off()
    story.note("bob is dead, and won't be mended; web1 runs on alice")
    product.wait_until(lambda: "cs:Connected" not in alice.read("/proc/drbd"), 120, "alice to notice")
    story.type(alice, "xenhelper replicate web1 --peer carol --dry-run", timeout=120)
    assert _volumes(carol) == set() and alice.read("/etc/drbd.d/web1.res").count('on "bob"') == 2
    story.type(alice, "xenhelper replicate web1 --peer carol", timeout=300)
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    story.type(alice, "xenhelper status web1")
    guest.wait_progress()
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_steady(lab, RESOURCES, alice, (alice, carol))
    _same_where_the_guest_never_writes(alice, carol)
    assert alice.read("/etc/drbd.d/web1.res") == carol.read("/etc/drbd.d/web1.res") != ""
    assert alice.read("/etc/xen/web1.cfg") == carol.read("/etc/xen/web1.cfg") != ""
    assert "web1.cfg" in carol.out("ls -l /etc/xen/auto")
    # the new copy is good: the VM moves there, and on from there
    product.migrate(alice, "carol")
    moved = guest.on(carol)
    moved.wait_progress(120)

    bob.power_on()
    story.note("months later somebody switches bob on; nobody types anything")
    product.wait_until(lambda: _shelved(bob), PROMISED * SLOWNESS, "bob to put its old half away", every=5)
    product.assert_steady(lab, RESOURCES, carol, (alice, carol))
    moved.wait_progress()
    story.type(bob, "xenhelper status")
    assert not bob.run("xl create /etc/xen/web1.cfg", check=False).ok
    assert product.runs_on(lab, "web1") == ["carol"]
    bob.write("/etc/xen/kept.cfg", scenario.WEB1)
    product.refused(bob, "xl create /etc/xen/kept.cfg", "old copy of a disk of web1", status=3)
    story.type(bob, "xenhelper forget web1 --left-over --dry-run")
    story.type(bob, "xenhelper forget web1 --left-over")
    assert _volumes(bob) == set()
    assert product.status(bob)["vms"] == [] and _problems(bob, "warning", "error", "critical") == []
    for host in (alice, carol):
        assert host.run("ls /var/lib/xenhelper/moved", check=False).out.split() == [], host.name
    product.assert_no_wrong_block(guest, alice, carol)
    story.end()


@pytest.mark.layer("three")
def test_a_living_host_is_relieved(lab: Lab) -> None:
    """bob's copy is kept until carol has one; killed on the way it is undone, then finished."""
    alice, bob, carol = lab.hosts
    guest = Guest(alice, "web1")
    _random_where_the_guest_never_writes(lab)
    made = {"web1-root", "web1-root_xhmeta", "web1-swap", "web1-swap_xhmeta"}
    product.refused(bob, MOVE, "web1 runs on alice", status=3)

    # before anything is disconnected here, and when all is: both are undone
    for order in ("before rehome:_switch:statefile.write_atomically#1", "before rehome:_switch:bringup.up"):
        faults.arm(alice, order)
        assert alice.run(MOVE, timeout=300, check=False).status != 0
        assert not faults.disarm(alice), f"it never comes to {order}"
        guest.wait_progress()
        alice.run("xenhelper reconcile", timeout=300, check=False)
        product.wait_in_sync(alice, *RESOURCES, timeout=600)
        product.assert_steady(lab, RESOURCES, alice, (alice, bob))
        product.wait_until(
            lambda: _volumes(carol) == set() and carol.out("ls /var/lib/xenhelper/intents") == "",
            PROMISED * SLOWNESS, "carol to undo her part", every=5,
        )  # fmt: skip
        assert bob.read("/etc/xen/web1.cfg") == alice.read("/etc/xen/web1.cfg")
        assert product.status(bob)["vms"][0]["name"] == "web1"

    # once the new copy is being filled it is finished
    faults.arm(alice, "before rehome:_records:statefile.write")
    assert alice.run(MOVE, timeout=300, check=False).status != 0
    assert not faults.disarm(alice)
    said = alice.run(MOVE, timeout=300).out
    assert "web1 is replicated with carol" in said
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    product.assert_steady(lab, RESOURCES, alice, (alice, carol))
    guest.wait_progress()
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    _same_where_the_guest_never_writes(alice, carol)
    assert _shelved(bob) and _volumes(bob) == made
    assert not bob.read("/etc/xen/web1.cfg") and not bob.read("/etc/drbd.d/web1.res")
    as_of = bob.out("sed -n 's/^as_of=//p' /var/lib/xenhelper/shelf/web1/note")
    figures.note("second copy moved, old host alive", old_copy_as_of=as_of)
    bob.run("xenhelper forget web1 --left-over")
    assert _volumes(bob) == set()
    # and back again, with the VM off: the config that goes along is the one that starts it
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    alice.run("xenhelper replicate web1 --peer bob", timeout=300)
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    back = guest.on(bob)
    back.wait_writing(disks=2)
    assert all(boot.holes == 0 for boot in back.boots())
    product.assert_steady(lab, RESOURCES, bob, (alice, bob))
    product.assert_no_wrong_block(guest, alice, bob)
    _same_where_the_guest_never_writes(alice, bob)


# whose steps a move takes; beside them there are handlers of DRBD's, and leases
ACTING = ("rehome", "shelf", "moved", "vmfile", "provision")
READS = ("volumes.facts", "volumes", "verbs.uuids", "permits.valid")
# one disk talks to the new host and the other doesn't: that is undone, and the old half is filled anew
UNDONE = "before rehome:_switch:bringup.up 2"
STATE, ASK = "rehome:Move.write:intents.write", "rehome:_ask:client.ask"
RECONCILE = "xenhelper reconcile"


def _traced(lab: Lab, command: str) -> dict[str, list[str]]:
    """The steps that ``command``, typed on alice, takes on each host, in order."""
    for host in lab.hosts:
        faults.arm(host, "trace-before any")
    lab.alice.run(command, timeout=300)
    trace, found = f"{faults.CRASH_AT}.trace", {}
    for host in lab.hosts:
        assert faults.disarm(host)
        lines = host.run(f"cat {trace}; rm -f {trace}", check=False).out.split()
        found[host.name] = [line for line in lines if line.partition(":")[0] in ACTING]
    return found


def _each(steps: list[str]) -> list[str]:
    """An order for each step; of what is done for every disk the last one's, so that some are
    done and not all."""
    times: Counter[str] = Counter()
    found = {}
    for name in steps:
        times[name] += 1
        if name.partition(":")[2].partition(":")[2].partition("#")[0] not in READS:
            found[(name, times[name] if name in (STATE, ASK) else 0)] = f"before {name} {times[name]}"
    return list(found.values())


def _killed(lab: Lab, host: str, order: str, command: str) -> None:
    """``command`` on alice, killed there or on another host whom she asks. It mustn't say it is
    done, and the guest writes on."""
    faults.arm(lab.host(host), order)
    done = lab.alice.run(command, timeout=300, check=False)
    assert not faults.disarm(lab.host(host)), f"{command} doesn't come to {order!r} on {host}: {done}"
    if command != RECONCILE:
        assert not done.ok, f"{order} on {host}: {done}"
    Guest(lab.alice, "web1").wait_progress()


def _stop_rounds(lab: Lab) -> None:
    for host in lab.hosts:
        host.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch.service")


def _intents(host: Host) -> str:
    return host.out("ls /var/lib/xenhelper/intents")


def _moved(lab: Lab, new: Host, old: Host) -> None:
    """The second copy is on ``new`` and good, the old one put away; that is removed."""
    alice = lab.alice
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    assert [_intents(host) for host in lab.hosts] == ["", "", ""]
    product.assert_steady(lab, RESOURCES, alice, (alice, new))
    assert _volumes(alice) == _volumes(new) == _volumes(old) != set()
    assert alice.read("/etc/drbd.d/web1.res") == new.read("/etc/drbd.d/web1.res") != ""
    assert alice.read("/etc/xen/web1.cfg") == new.read("/etc/xen/web1.cfg") != ""
    assert not old.read("/etc/drbd.d/web1.res") and not old.read("/etc/xen/web1.cfg")
    old.run("xenhelper forget web1 --left-over")
    assert _volumes(old) == set()
    assert old.out("find /var/lib/xenhelper -type f -name '*web1*'") == ""
    for host in lab.hosts:
        assert host.run("ls /var/lib/xenhelper/moved", check=False).out == "", host.name
    assert all(wrong == 0 for wrong, _ in Guest(alice, "web1").verify().values())
    _same_where_the_guest_never_writes(alice, new)


@pytest.mark.layer("three")
def test_a_move_killed_at_each_step_is_finished_by_the_same_command(lab: Lab) -> None:
    """As one move shows them; the new host's volumes and resources are made by the steps of a
    create, which test_killed_create.py kills."""
    alice, bob, carol = lab.hosts
    _stop_rounds(lab)
    _random_where_the_guest_never_writes(lab)
    steps = _traced(lab, MOVE)
    _moved(lab, carol, bob)
    back = "xenhelper replicate web1 --peer bob"
    here, left = (_each(steps[host.name]) for host in (alice, bob))
    # the last step of what is undone: from there all talk to the new host, and it is finished
    begun = here[: here.index(f"before {STATE} 3")]
    states = [at for at, name in enumerate(steps["alice"]) if name == STATE]
    rest = _each(steps["alice"][states[2] + 1 :])
    commits = [at for at, name in enumerate(steps["carol"]) if name == "provision:_write:intents.write"]
    there = _each(steps["carol"][commits[1] :])
    print(f"{begun}\n{left}\n{rest}\n{there}")
    assert {f"before {ASK} {count}" for count in (1, 2)} | {UNDONE} <= {*begun}
    assert {"before shelf:_put:adm.down 2", "before shelf:_put:statefile.remove#6 1"} <= {*left}
    assert f"before {ASK} 1" in rest and "before provision:done:intents.remove 1" in there

    for host, orders in (("alice", begun), ("carol", left)):
        for order in orders:
            _killed(lab, host, order, back)
            alice.run(RECONCILE, timeout=300)
            assert _intents(alice) == "", order
    _killed(lab, "alice", f"before {STATE} 3", back)
    asked = rest.index(f"before {ASK} 1")
    for host, orders in (("alice", rest[:asked]), ("bob", there), ("alice", rest[asked:])):
        for order in orders:
            _killed(lab, host, order, back)
    assert "web1 is replicated with bob" in alice.run(back, timeout=300).out
    _moved(lab, bob, carol)


@pytest.mark.layer("three")
def test_the_way_back_from_a_move_killed_at_each_step_is_gone_on_with(lab: Lab) -> None:
    """A move that is cut short is undone, and that is cut short at each of its steps, too."""
    alice, bob, carol = lab.hosts
    _stop_rounds(lab)
    _random_where_the_guest_never_writes(lab)
    _killed(lab, "alice", UNDONE, MOVE)
    steps = _traced(lab, RECONCILE)
    here, left = (_each(steps[host.name]) for host in (alice, bob))
    print(f"{here}\n{left}")
    assert {f"before {ASK} 1", "before rehome:_undone:intents.remove 1"} <= {*here}
    assert {"before shelf:_take_back:adm.create_md 2", "before shelf:_take_back:adm.up 1"} <= {*left}
    here = here[: here.index("before rehome:_undone:intents.remove 1") + 1]
    asked = here.index(f"before {ASK} 1") + 1
    _killed(lab, "alice", UNDONE, MOVE)
    for host, orders in (("alice", here[:asked]), ("bob", left), ("alice", here[asked:])):
        for order in orders:
            _killed(lab, host, order, RECONCILE)
            assert "replace-web1" in _intents(alice), order
    alice.run(RECONCILE, timeout=300)
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    assert _intents(alice) == _intents(bob) == ""
    product.assert_steady(lab, RESOURCES, alice, (alice, bob))
    carol.run(RECONCILE, timeout=300)  # hers is her own to undo
    assert _volumes(carol) == set() and _intents(carol) == ""
    assert all(wrong == 0 for wrong, _ in Guest(alice, "web1").verify().values())
    assert bob.read("/etc/xen/web1.cfg") == alice.read("/etc/xen/web1.cfg")
    alice.run(MOVE, timeout=300)
    _moved(lab, carol, bob)

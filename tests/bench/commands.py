"""xl as people type it: through the shim, and Xen's own."""

from __future__ import annotations

import time

from tests.lab import product, scenario
from tests.lab.guest import Guest
from tests.lab.host import Host
from tests.lab.lab import Lab

from . import byhand
from .rows import Samples

# what `xl` was before the shim came before it in PATH: a script that finds the version's own
DEBIANS = "/usr/sbin/xl"
LISTS = 20
CREATES = 5
FIRST = 2
_LIST = """
call() { begun=$EPOCHREALTIME; $2 list >/dev/null; ended=$EPOCHREALTIME
    echo "$1 $((${ended/./} - ${begun/./}))"; }
for round in $(seq @ROUNDS@); do call ours /usr/local/sbin/xl; call theirs @REAL@; done
"""
# what somebody would type for one VM of two disks, as a script; run on alice
_BY_HAND = """
set -e
modprobe drbd
ssh bob modprobe drbd
for disk in xvda:64 xvdb:32; do
    name=hand-${disk%:*} size=${disk#*:}
    lvcreate -q -y -L 4M -n ${name}_meta vg0
    ssh bob "lvcreate -q -y -L ${size}M -n $name vg0 && lvcreate -q -y -L 4M -n ${name}_meta vg0"
done
scp -q /etc/drbd.d/hand.res bob:/etc/drbd.d/hand.res
for name in hand-xvda hand-xvdb; do
    drbdadm --force create-md $name
    drbdadm up $name
    ssh bob "drbdadm --force create-md $name && drbdadm up $name"
    drbdadm primary --force $name
    drbdadm secondary $name
done
scp -q /etc/xen/hand.cfg bob:/etc/xen/hand.cfg
@REAL@ create /etc/xen/hand.cfg
"""


def listing(lab: Lab, rounds: int = LISTS) -> dict[str, Samples]:
    """Row ``list``."""
    lab.reset("vm")
    script = _LIST.replace("@ROUNDS@", str(rounds)).replace("@REAL@", DEBIANS)
    lab.alice.write("/root/bench.sh", script)
    found = Samples()
    for line in lab.alice.run("bash /root/bench.sh", timeout=300).out.splitlines():
        side, micros = line.split()
        (found.ours if side == "ours" else found.theirs).append(int(micros) / 1e6)
    return {"list": found}


def later(lab: Lab, rounds: int = CREATES) -> dict[str, Samples]:
    """Row ``create``: a VM whose replica is there."""
    lab.reset("vm")
    byhand.build(lab)
    lab.alice.run("xl destroy web1")
    product.wait_gone(lab.alice, "web1")
    real = product.real_xl(lab.alice)
    found = Samples()
    for _ in range(rounds):
        found.ours.append(_create(lab.alice, "xl create /etc/xen/web1.cfg", "web1"))
        found.theirs.append(_create(lab.alice, f"{real} create {byhand.CONFIG}", byhand.VM))
    return {"create": found}


def _create(host: Host, command: str, vm: str) -> float:
    began = time.monotonic()
    host.run(command, timeout=300)
    seconds = time.monotonic() - began
    host.run(f"xl destroy {vm}")
    product.wait_gone(host, vm)
    time.sleep(3)  # both hosts' block scripts and events are over
    return seconds


def first(lab: Lab, rounds: int = FIRST) -> dict[str, Samples]:
    """Row ``first-create``: from volumes with data on alice and nothing on bob."""
    found = Samples()
    for _ in range(rounds):
        lab.reset("paired")
        scenario.write_web1(lab)
        began = time.monotonic()
        lab.alice.run("xl create /etc/xen/web1.cfg", timeout=400)
        found.ours.append(time.monotonic() - began)
        lab.reset("paired")
        for vdev, (_, _, size) in byhand.DISKS.items():
            lab.alice.run(f"lvcreate -q -y -Wy -L {size}M -n {byhand.VM}-{vdev} vg0")
        lab.alice.write(f"/etc/drbd.d/{byhand.VM}.res", byhand.resource_file())
        lab.alice.write(byhand.CONFIG, byhand.config())
        lab.alice.write("/root/by-hand.sh", _BY_HAND.replace("@REAL@", product.real_xl(lab.alice)))
        began = time.monotonic()
        lab.alice.run("bash /root/by-hand.sh", timeout=400)
        found.theirs.append(time.monotonic() - began)
        Guest(lab.alice, byhand.VM).wait_writing(disks=len(byhand.DISKS))
    return {"first-create": found}

"""Many resources: what status and giving out numbers cost as their count grows.

The resources are real ones of the kernel without disks, with resource files, records and
configs as xenhelper writes them; only domains and volumes are left out.
"""

from __future__ import annotations

from tests.lab import product
from tests.lab.host import Host
from tests.lab.lab import Lab

from .hooks import NotMeasured
from .rows import Samples

FEW, SOME, MANY, ALL = 10, 200, 1000, 2000
ROUNDS = 5
# makes resources until there are as many as its argument says
_MAKE = """\
import dataclasses, os, subprocess, sys
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from xenhelper import paths, statefile
from xenhelper.plan import Disk, Plan
for number in range(int(sys.argv[1])):
    vm = f"many{number}"
    if os.path.exists(f"{paths.RESOURCES}/{vm}-xvda"):
        continue
    disk = Disk("xvda", f"{vm}-xvda", 3000 + number, 20000 + number, 1 << 30, "vg0", "vg0", f"{vm}-disk",
                "0" * 40, 4 << 20, 4 << 20)
    plan = Plan("0" * 20, vm, "alice", "10.99.0.1", "bob", "10.99.0.2", "A", (disk,))
    with open(f"{paths.DRBD_D}/{vm}.res", "w") as file:
        file.write(plan.resource_file())
    statefile.write(f"{paths.RESOURCES}/{disk.resource}", plan.record(disk, "2026-01-01T00:00:00Z"))
    statefile.write(f"{paths.VMS}/{vm}", {"vm": vm, "config": f"/etc/xen/{vm}.cfg"})
    with open(f"/etc/xen/{vm}.cfg", "w") as file:
        file.write(f"name = '{vm}'\\ntype = 'pvh'\\nkernel = '/boot/guest'\\n"
                   f"disk = ['script=block-xenhelper,vdev=xvda,access=rw,target={disk.resource}']\\n")
    subprocess.run(["drbdsetup", "new-resource", disk.resource], check=True)
    subprocess.run(["drbdsetup", "new-minor", disk.resource, str(disk.minor), "0"], check=True)
"""
_STATUS = """
call() { begun=$EPOCHREALTIME; "${@:2}" >/dev/null 2>/run/bench.err || { cat /run/bench.err >&2; exit 1; }
    ended=$EPOCHREALTIME; echo "$1 $((${ended/./} - ${begun/./}))"; }
kernel() { drbdsetup events2 --now --statistics && @REAL@ list -l; }
for round in $(seq @ROUNDS@); do call ours xenhelper status --json; call theirs kernel; done
"""
_QUIET = """
systemctl stop xenhelper-watch.service xenhelper-reconcile.timer
systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
"""
# our own CPU of one giving out, without Python's start
_ALLOCATE = """\
import sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from xenhelper import allocate
minors, ports = (1000, 9999), (7000, 29999)
for _ in range(@ROUNDS@ + 1):
    begun = time.process_time()
    found = allocate.survey("new1", minors, ports)
    allocate.choose("new1", ["xvda", "xvdb"], [found, found], minors, ports)
    print(time.process_time() - begun)
"""


def run(lab: Lab) -> dict[str, Samples]:
    """Rows ``status``, ``status-2000`` and ``allocation``."""
    lab.reset("paired")
    host = lab.alice
    # each new minor has udev's rules run drbdadm over all files there are, and the watcher look:
    # that takes most of an hour, and isn't what is measured
    host.run(_QUIET)
    host.write("/root/many.py", _MAKE)
    host.write("/root/allocate.py", _ALLOCATE.replace("@ROUNDS@", str(ROUNDS)))
    host.write(
        "/root/status.sh",
        _STATUS.replace("@REAL@", product.real_xl(host)).replace("@ROUNDS@", str(ROUNDS)),
    )
    few = _allocation(host, FEW)
    some = _status(host, SOME)
    many = _allocation(host, MANY)
    everything = _status(host, ALL)
    return {
        "status": some,
        "status-2000": Samples(everything.ours, [value * ALL / SOME for value in some.ours]),
        "allocation": Samples(many, [value * MANY / FEW for value in few]),
    }


def _grow(host: Host, count: int) -> None:
    host.run(f"python3 -IS /root/many.py {count}", timeout=1800)


def _allocation(host: Host, count: int) -> list[float]:
    _grow(host, count)
    # the first one reads what is imported late
    return [float(word) for word in host.run("python3 -IS /root/allocate.py", timeout=300).out.split()][1:]


def _status(host: Host, count: int) -> Samples:
    _grow(host, count)
    shown = host.out("xenhelper status --json | grep -c '\"resource\": '", timeout=300)
    if int(shown) < count:
        raise NotMeasured(f"status shows {shown} of {count} resources")
    found = Samples()
    for line in host.run("bash /root/status.sh", timeout=1800).out.splitlines():
        side, micros = line.split()
        (found.ours if side == "ours" else found.theirs).append(int(micros) / 1e6)
    return found

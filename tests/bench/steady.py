"""Steady synchronous writes in a guest, far from the peer: one guest with three disks, a
replica as xenhelper keeps it (protocol A), one at protocol C, and a plain volume, in turns."""

from __future__ import annotations

import gzip
import re
import tempfile
from pathlib import Path

from tests.lab import product, scenario
from tests.lab.cpio import Archive
from tests.lab.guest import Guest
from tests.lab.guestimage import compile_static
from tests.lab.lab import Lab

from . import byhand
from .hooks import NotMeasured
from .rows import Samples

RTT_MS = 50
RATE_MBIT = 100
VM = "steady"
ASYNC, SYNC, PLAIN = "xvda", "xvdb", "xvdc"
_PROGRAM = Path(__file__).parent / "guest" / "steady.c"
_CONFIG = f"""\
name = "{VM}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/root/steady.img"
cmdline = "console=hvc0 quiet mitigations=off"
memory = 96
vcpus = 1
disk = ['phy:/dev/drbd1000,{ASYNC},w', 'phy:/dev/drbd2000,{SYNC},w', 'phy:/dev/vg0/steady-plain,{PLAIN},w']
on_crash = "preserve"
"""
_LINE = re.compile(r"^SW (xvd\w) (\d+) ([\d.]+)\s*$", re.M)


def run(lab: Lab) -> dict[str, Samples]:
    """Rows ``steady-c`` and ``steady-plain``, in writes a second."""
    lab.reset("paired")
    scenario.write_web1(lab)
    lab.alice.run("xenhelper replicate /etc/xen/web1.cfg", timeout=300)
    byhand.build(lab)
    product.wait_in_sync(lab.alice, "web1-xvda", byhand.RESOURCES[0])
    lab.alice.run("lvcreate -q -y -Wy -L 32M -n steady-plain vg0")
    with tempfile.TemporaryDirectory() as folder:
        program, image = Path(folder, "xhguest"), Path(folder, "steady.cpio.gz")
        compile_static(_PROGRAM, program)
        archive = Archive()
        archive.file("xhguest", program.read_bytes(), 0o755)
        image.write_bytes(gzip.compress(bytes(archive), 6))
        lab.alice.put(image, "/root/steady.cpio.gz")
    # a later archive's file takes the place of an earlier one's
    lab.alice.run("cat /var/lib/xenlab/guest.img /root/steady.cpio.gz > /root/steady.img")
    lab.alice.write(f"/etc/xen/{VM}.cfg", _CONFIG)
    lab.shape_link(RATE_MBIT, RTT_MS / 2)
    lab.alice.run(f"drbdadm primary web1-xvda {byhand.RESOURCES[0]}")
    lab.alice.run(f"{product.real_xl(lab.alice)} create /etc/xen/{VM}.cfg", timeout=200)
    guest = Guest(lab.alice, VM)
    guest.wait_line(r"^SW done", timeout=900)
    settings = product.net(lab.alice, "web1-xvda")
    if settings != product.Net("A", False):
        raise NotMeasured(f"web1-xvda isn't as xenhelper keeps it: {settings}")
    lab.unshape()
    return parse(guest.console())


def parse(text: str) -> dict[str, Samples]:
    """Samples from the guest's lines; the first turn, in which all is new, is left out.
    Raises NotMeasured."""
    found: dict[str, list[float]] = {ASYNC: [], SYNC: [], PLAIN: []}
    for disk, writes, seconds in _LINE.findall(text):
        found[disk].append(int(writes) / float(seconds))
    counts = {len(values) for values in found.values()}
    if len(counts) != 1 or counts <= {0, 1} or "failed" in text:
        raise NotMeasured(f"the guest's turns are incomplete: {found}")
    ours, sync, plain = (found[disk][1:] for disk in (ASYNC, SYNC, PLAIN))
    return {"steady-c": Samples(ours, sync), "steady-plain": Samples(ours, plain)}

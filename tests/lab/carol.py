"""A third host, for the cases that ask for it (layer ``three``): carol.

She is made from the other two's image, so that theirs stays as it is: her names and addresses
are put into a copy of it, and into alice and bob as they run.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from . import image, qemu, scenario
from .lab import Lab

NAME, NUMBER = "carol", 3
HOSTS = f"10.98.0.{NUMBER} {NAME} {NAME}.lab\n"
NAMES = f"{NAME},{NAME}.lab,10.98.0.{NUMBER},10.99.0.{NUMBER}"
_UNKNOWN = "*) exit 1 ;;"


def lab_net(text: str) -> str:
    """files/lab-net with her number in it."""
    assert text.count(_UNKNOWN) == 1, "lab-net isn't as carol.py knows it"
    return text.replace(_UNKNOWN, f"{NAME}) n={NUMBER} ;;\n{_UNKNOWN}")


def known_hosts(text: str) -> str:
    """The hosts' known_hosts with her names; all hosts have one host key."""
    key = text.splitlines()[0].split(None, 1)[1]
    return f"{text.rstrip()}\n{NAMES} {key.rstrip()}\n"


def make_image(base: Path, known: str, target: Path) -> None:
    """A copy of the image ``base`` with her names. Raises CalledProcessError, RuntimeError."""
    files = {
        "/usr/local/sbin/lab-net": (lab_net((image.HERE / "files/lab-net").read_text()), "0100755"),
        "/etc/hosts": (image.HOSTS + HOSTS, "0100644"),
        "/root/.ssh/known_hosts": (known_hosts(known), "0100600"),
    }
    partial = target.with_suffix(".partial")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(base), str(partial)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for number, (path, (text, mode)) in enumerate(files.items()):
            source = Path(folder) / str(number)
            source.write_text(text)
            commands += [f"rm {path}", f"write {source} {path}", f"sif {path} mode {mode}"]
        script = Path(folder) / "script"
        script.write_text("\n".join(commands) + "\n")
        subprocess.run(["debugfs", "-w", "-f", str(script), str(partial)], check=True, capture_output=True)
    for path, (text, _) in files.items():
        # debugfs ends with 0 whatever a command of its script came to
        shown = subprocess.run(
            ["debugfs", "-R", f"cat {path}", str(partial)], capture_output=True, check=True
        )
        if shown.stdout.decode() != text:
            raise RuntimeError(f"{path} isn't in carol's image: {shown.stderr.decode()}")
    partial.rename(target)


def join(lab: Lab, snapshot: str) -> None:
    """All three on a switch: alice and bob go on from their snapshot, carol boots from new
    disks, gets the product, and each is a peer of the other two."""
    lab.use(3)
    lab.load(snapshot, lab.hosts[:2])
    alice, bob, carol = lab.hosts
    base = lab.folder / NAME / "base.img"
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        folder = image.directory(lab.release)
        make_image(folder / "base.img", (folder / "known_hosts").read_text(), base)
    carol.power_off()
    qemu.make_disks(carol.machine, base)
    carol.power_on()
    carol.run("vgcreate -q vg0 /dev/vdb && vgcreate -q vg1 /dev/vdc")
    for host in (alice, bob):
        known = host.read("/root/.ssh/known_hosts")
        host.write("/etc/hosts", host.read("/etc/hosts") + HOSTS)
        host.write("/root/.ssh/known_hosts", known_hosts(known))
    scenario.install_on(lab, carol)
    for host in (alice, bob):
        host.run(f"xenhelper setup {NAME} --yes", timeout=300)

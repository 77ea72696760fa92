"""What a user does, as the layers and tests do it: install, pair, create a VM."""

from __future__ import annotations

from .guest import Guest
from .host import Host
from .lab import Lab

# The rate is writes per second and disk: at full speed (`rate 0`) the guest takes half of
# an emulated host, and each migration twice as long.
WEB1 = """\
name = "web1"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off xh.rate=15"
memory = 96
vcpus = 1
disk = ['phy:/dev/vg0/web1-root,xvda,w', 'phy:/dev/vg0/web1-swap,xvdb,w']
vif = ['bridge=xenbr0']
on_crash = "preserve"
"""
VOLUMES = {"web1-root": 64, "web1-swap": 32}  # MiB


def install(lab: Lab) -> None:
    """The .deb on both hosts, by apt, from the repository in the image."""
    lab.both(lambda host: install_on(lab, host))


def install_on(lab: Lab, host: Host) -> None:
    """On one host."""
    host.put(lab.deb(), "/root/xenhelper.deb")
    # Without lists: the image's only repository is a folder of its own.
    host.run(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "
        "--no-install-recommends /root/xenhelper.deb",
        timeout=600,
    )


def pair(lab: Lab) -> None:
    """Install on both and pair them, from alice."""
    install(lab)
    lab.alice.run("xenhelper setup bob --yes", timeout=300)


def write_web1(lab: Lab) -> None:
    """web1's volumes and its untouched config on alice; nothing on bob."""
    for name, size in VOLUMES.items():
        lab.alice.run(f"lvcreate -q -y -Wy -L {size}M -n {name} vg0")
    lab.alice.write("/etc/xen/web1.cfg", WEB1)


def create_web1(lab: Lab) -> None:
    """web1 created with plain xl, its guest writing, both disks in sync."""
    write_web1(lab)
    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    Guest(lab.alice, "web1").wait_writing(disks=len(VOLUMES))
    wait_synced(lab)


def wait_synced(lab: Lab, timeout: float = 600) -> None:
    """Wait until every DRBD disk of alice is UpToDate on both hosts."""
    from .wait import wait_until

    def synced() -> bool:
        text = lab.alice.read("/proc/drbd")
        states = [word for word in text.split() if word.startswith("ds:")]
        return bool(states) and all(state == "ds:UpToDate/UpToDate" for state in states)

    wait_until(synced, timeout, "UpToDate/UpToDate on all disks", every=1)

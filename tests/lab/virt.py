"""libvirt on both hosts, for the tests that need it: not in the image, whose every layer would
have to be made anew; its packages are fetched once, fitting what the image has, and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from . import image, rootfs
from .host import Host
from .lab import Lab
from .wait import wait_until

# a few packages in Debian 13; in 12 the daemon's unit is in libvirt-daemon-system-systemd, which
# comes with all of libvirt-daemon-system
PACKAGES = {
    "trixie": ("libvirt-daemon", "libvirt-daemon-driver-xen", "libvirt-clients"),
    "bookworm": ("libvirt-daemon-system", "libvirt-daemon-driver-xen", "libvirt-clients"),
}
URI = "xen:///system"
XML = """\
<domain type='xen'>
  <name>{name}</name>
  <memory unit='MiB'>96</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenpvh'>xenpvh</type>
    <kernel>/var/lib/xenlab/vmlinuz</kernel>
    <initrd>/var/lib/xenlab/guest.img</initrd>
    <cmdline>console=hvc0 quiet mitigations=off xh.rate=15</cmdline>
  </os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
{disks}
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
"""
DISK = """\
    <disk type='block' device='disk'>
      <driver name='phy' type='raw'/>
      <source dev='{path}'/>
      <target dev='{vdev}' bus='xen'/>
    </disk>
"""


def xml(name: str, disks: dict[str, str]) -> str:
    """A domain's definition; ``disks`` are paths by vdev."""
    return XML.format(
        name=name, disks="".join(DISK.format(vdev=vdev, path=path) for vdev, path in disks.items())
    )


def virsh(command: str) -> str:
    """The command line for it."""
    return f"virsh -c {URI} {command}"


def _packages(lab: Lab) -> Path:
    """The folder with the packages that a host lacks for libvirt; filled the first time."""
    name = lab.alice.out(". /etc/os-release; echo $VERSION_CODENAME")
    wanted = PACKAGES[name]
    installed = lab.alice.out("dpkg-query -W -f '${Package} ${Version}\\n' | grep -v ^xenhelper")
    key = hashlib.sha256("\0".join([name, installed, *wanted]).encode()).hexdigest()[:12]
    done = image.CACHE / f"libvirt-{key}"
    if (done / "complete").exists():
        return done
    for folder in ("lists/partial", "archives/partial"):
        (done / folder).mkdir(parents=True, exist_ok=True)
    (done / "status").write_text(lab.alice.read("/var/lib/dpkg/status"))
    key_ring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    suites = (
        (rootfs.MIRROR, name),
        (rootfs.MIRROR, f"{name}-updates"),
        (rootfs.SECURITY, f"{name}-security"),
    )
    sources = [f"deb {key_ring} {mirror} {suite} main\n" for mirror, suite in suites]
    (done / "sources").write_text("".join(sources))
    options = {
        "Dir::State::status": done / "status",
        "Dir::State::lists": done / "lists",
        "Dir::Cache::archives": done / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::sourcelist": done / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    argv = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*argv, "update"], check=True, env=env)
    subprocess.run([*argv, "-y", "--download-only", "install", *wanted], check=True, env=env)
    (done / "complete").touch()
    return done


def install(lab: Lab) -> None:
    """libvirt on both hosts, its daemon up and able to speak to Xen."""
    packages = sorted((_packages(lab) / "archives").glob("*.deb"))

    def on(host: Host) -> None:
        host.run("mkdir -p /root/virt")
        for package in packages:
            host.put(package, f"/root/virt/{package.name.replace('%', '_')}", timeout=300)
        host.run(
            "cd /root/virt && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "
            "--no-install-recommends ./*.deb && rm -r /root/virt",
            timeout=1800,
        )
        # libvirt's plainest processor has VME, which QEMU doesn't emulate: it would know none
        # that fits, and not drive Xen at all
        host.run("sed -i /vme/d /usr/share/libvirt/cpu_map/x86_486.xml")
        host.run("systemctl start libvirtd.service", timeout=300)
        wait_until(
            lambda: host.run(virsh("list --all"), timeout=120, check=False).ok,
            600, f"libvirt on {host.name} to speak to Xen", every=2,
        )  # fmt: skip

    lab.both(on)

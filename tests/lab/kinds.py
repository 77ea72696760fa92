"""Guests of other kinds than PVH, made on the hosts: what they boot from, and their configs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .host import Host

BOOT = "/var/lib/xenlab"
INIT = Path(__file__).parent / "guest" / "init"
# the hosts have no xz
UNXZ = "import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())"
# where the init of the integrity guest has its modules loaded and its disks not yet looked for
_DISKS = "# The frontends connect on their own"

# QEMU's PIIX3 has an IDE controller; none of Xen's frontends is loaded, so its disk is all there is
EMULATED_MODULES = ("ata_piix", "sd_mod")
EMULATED = """\
while [ ! -b /dev/sda ]; do /bin/busybox usleep 200000; done
/bin/busybox ln -s sda /dev/xvda
"""
# a kernel update from inside the guest, as far as the boot loader sees it
UPDATED_MODULES = ("ext4", "xen-blkfront")
UPDATED = """\
while [ ! -b /dev/xvda ]; do /bin/busybox usleep 200000; done
echo "XH booted $(/bin/busybox cat /proc/cmdline)"
/bin/busybox mkdir /mnt
/bin/busybox mount -t ext4 /dev/xvda /mnt && {
    /bin/busybox cp /mnt/boot/vmlinuz /mnt/boot/vmlinuz.new
    /bin/busybox sed -i -e 's/xh.old/xh.new/' -e 's/vmlinuz /vmlinuz.new /' /mnt/boot/grub/grub.cfg
    /bin/busybox mv /mnt/boot/vmlinuz /mnt/boot/vmlinuz.gone
    /bin/busybox umount /mnt && echo "XH updated"
}
"""


def initrd(host: Host, name: str, modules: Sequence[str], then: str) -> str:
    """The integrity guest's initramfs with other modules, and ``then`` (shell) after they are
    loaded. Returns its path on the host: files of a later archive take the place of earlier ones."""
    init = INIT.read_text()
    assert _DISKS in init
    host.write(f"/root/{name}.init", init.replace(_DISKS, f"{then}{_DISKS}"))
    path = f"{BOOT}/{name}.img"
    host.run(
        f"set -e; unxz='{UNXZ}'; d=$(mktemp -d); mkdir $d/lib; install -m 755 /root/{name}.init $d/init; "
        f"for m in {' '.join(modules)}; do modprobe --show-depends $m; done | "
        "awk '$1 == \"insmod\" && !seen[$2]++ {print $2}' | while read -r f; do "
        'n=$(basename "$f" .xz); case $f in *.xz) python3 -c "$unxz" "$f";; *) cat "$f";; esac >"$d/lib/$n"; '
        'echo "$n" >>"$d/lib/modules.order"; done; '
        f"(cd $d && find . | cpio -o -H newc --quiet | gzip -1) >/root/{name}.gz; "
        f"cat {BOOT}/guest.img /root/{name}.gz >{path}; rm -rf $d",
        timeout=180,
    )
    return path


def config(name: str, kind: str, disk: str, cmdline: str = "", **more: str) -> str:
    """A config file; ``more``: other keys, their values as xl reads them."""
    lines = [
        f'name = "{name}"',
        f'type = "{kind}"',
        "vcpus = 1",
        f"disk = ['{disk}']",
        'on_crash = "preserve"',
    ]
    if cmdline:
        lines += [f'kernel = "{BOOT}/vmlinuz"', f'cmdline = "{cmdline}"']
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


def boot_disk(host: Host, volume: str, cmdline: str) -> None:
    """Make ``volume`` (48 MiB or more) one that a BIOS boots: GRUB in its first MiB, behind that
    the kernel, from 24 MiB on the integrity guest's initramfs. Without partitions or a file
    system: GRUB is told their blocks. Needs Debian's grub-pc-bin on this machine."""
    subprocess.run(["mk/packages", "grub-pc-bin"], check=True)
    sectors = {
        name: (1 << 11 if name == "vmlinuz" else 24 << 11, int(host.out(f"stat -c %s {BOOT}/{name}")))
        for name in ("vmlinuz", "guest.img")
    }
    kernel, initrd = (f"(hd0){first}+{-(-size // 512)}" for first, size in sectors.values())
    with tempfile.TemporaryDirectory() as folder:
        config, core = Path(folder, "grub.cfg"), Path(folder, "core.img")
        config.write_text(f"linux {kernel} {cmdline}\ninitrd {initrd}\nboot\n")
        subprocess.run(
            ["grub-mkimage", "-O", "i386-pc", "-p", "(hd0)", "-c", str(config), "-o", str(core),
             "biosdisk", "linux"],
            check=True,
        )  # fmt: skip
        # boot.img takes what begins in the second sector for the rest of itself
        core.write_bytes(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes() + core.read_bytes())
        assert core.stat().st_size < 1 << 20
        host.put(core, "/root/grub.img")
    for path, first in (("/root/grub.img", 0), *((f"{BOOT}/{n}", s) for n, (s, _) in sectors.items())):
        host.run(f"dd if={path} of={volume} bs=512 seek={first} conv=notrunc,fsync status=none")


def qemu_opens(host: Host, name: str) -> list[str]:
    """Block devices that a domain's QEMU has open."""
    return host.out(
        f"id=$(xl domid {name}); pid=$(xenstore-read /local/domain/$id/image/device-model-pid); "
        'for f in /proc/$pid/fd/*; do p=$(readlink -f "$f"); [ -b "$p" ] && echo "$p"; done | sort -u; true'
    ).split()

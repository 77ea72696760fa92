"""A Debian guest: systemd, udev, dpkg and LVM from the hosts' own file system, cut to what
it takes to see what a package does in a guest. Its console is a root shell."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import guestimage, image, rootfs
from .cpio import Archive
from .guest import Guest
from .lab import Lab
from .release import Release

NAME = "deb1"
RESOURCES = ["deb1-xvda2", "deb1-xvdb"]
SIZE = {"deb1-root": 256, "deb1-data": 128}  # MiB

CONFIG = f"""\
name = "{NAME}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/debian.img"
cmdline = "console=hvc0 quiet mitigations=off systemd.show_status=no"
memory = 200
vcpus = 1
disk = ['phy:/dev/vg0/deb1-root,xvda2,w', 'phy:/dev/vg0/deb1-data,xvdb,w']
vif = ['bridge=xenbr0']
"""

# Root is xvda2, a whole disk called like a partition, as xen-tools makes them.
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in $(/bin/busybox cat /lib/modules.order); do /bin/busybox insmod "/lib/$module"; done
while [ ! -b /dev/xvda2 ]; do /bin/busybox usleep 200000; done
/bin/busybox mkdir /root
/bin/busybox mount -t ext4 -o noatime /dev/xvda2 /root
exec /bin/busybox switch_root /root /lib/systemd/systemd
"""
SHELL = """\
[Unit]
Description=A root shell on the console
DefaultDependencies=no
After=systemd-udevd.service
[Service]
ExecStart=/bin/sh -c "stty -F /dev/hvc0 -echo; exec /bin/sh </dev/hvc0 >/dev/hvc0 2>&1"
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
# of the hosts' own things, what a guest hasn't got
WITHOUT = (
    "boot", "var/lib/lab-repo", "var/lib/xenlab", "var/cache", "var/lib/apt", "usr/lib/modules",
    "usr/lib/python3", "usr/lib/python3.13", "usr/lib/python3.11", "usr/lib/xen-4.20", "usr/lib/xen-4.17",
    "usr/lib/xen-common", "usr/lib/debug", "usr/share", "usr/lib/locale",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/dri", "usr/lib/firmware", "usr/lib/gcc",
    "usr/lib/x86_64-linux-gnu/gconv", "usr/bin/perl*", "usr/bin/python3*", "usr/bin/qemu*", "usr/bin/xen*",
    "usr/lib/x86_64-linux-gnu/libLLVM*", "usr/lib/x86_64-linux-gnu/libpython*", "dev",
    "usr/lib/x86_64-linux-gnu/libicudata*", "usr/lib/x86_64-linux-gnu/libgallium*", "usr/libexec",
)  # fmt: skip
# what is started: in emulation each further unit costs seconds
WANTS = ("systemd-udevd", "systemd-udev-trigger", "systemd-journald", "systemd-tmpfiles-setup-dev")


def build(release: Release) -> Path:
    """The folder with root.img and initrd.img; made where the cache hasn't got it."""
    parts = (Path(__file__).read_bytes(), rootfs.key(release).encode())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    done = image.CACHE / f"debianguest-{release.name}-{key}"
    if (done / "initrd.img").exists():
        return done
    tar = rootfs.build(release, image.CACHE)
    with tempfile.TemporaryDirectory(dir=image.CACHE, prefix="work-") as temporary:
        work, out = Path(temporary), Path(temporary) / "out"
        out.mkdir()
        root = work / "root"
        root.mkdir()
        excluded = [f"--exclude=./{name}" for name in WITHOUT]
        subprocess.run(["tar", "-C", str(root), "-xf", str(tar), *excluded], check=True)
        _populate(root)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(out / "root.img"), f"{SIZE['deb1-root']}M"],
            check=True,
        )
        modules = work / "modules"
        modules.mkdir()
        subprocess.run(["tar", "-C", str(modules), "-xf", str(tar), "./usr/lib/modules"], check=True)
        (out / "initrd.img").write_bytes(_initrd(next((modules / "usr/lib/modules").iterdir())))
        shutil.rmtree(done, ignore_errors=True)
        out.rename(done)
    return done


def _populate(root: Path) -> None:
    for folder in ("dev", "var/cache", "var/lib/apt", "usr/share", "boot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/fstab").write_text("/dev/xvda2 / ext4 rw,noatime 0 0\n")
    (root / "etc/hostname").write_text(NAME + "\n")
    (root / "etc/systemd/system/lab-shell.service").write_text(SHELL)
    for base in ("etc/systemd/system", "usr/lib/systemd/system"):
        for link in (root / base).glob("*.wants/*"):
            if not link.name.startswith(WANTS):
                link.unlink()
    for generator in (root / "usr/lib/systemd/system-generators").iterdir():
        generator.unlink()
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "lab-shell.service").symlink_to("../lab-shell.service")
    (root / "etc/systemd/system/default.target").unlink(missing_ok=True)
    (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (root / "etc/.updated").touch()
    (root / "var/.updated").touch()


def _initrd(modules: Path) -> bytes:
    archive = Archive()
    for folder in ("dev", "proc", "sys", "bin", "lib"):
        archive.directory(folder)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    archive.file("init", INIT.encode(), 0o755)
    names = [*guestimage.MODULES, "ext4", "dm-mod"]
    if any(modules.rglob("crc32c_generic.ko*")):
        names.insert(0, "crc32c_generic")
    order = []
    for module in guestimage._with_dependencies(modules, names):
        name = module.name.removesuffix(".xz")
        archive.file(f"lib/{name}", guestimage._read_module(module))
        order.append(name)
    archive.file("lib/modules.order", "\n".join(order).encode() + b"\n")
    return gzip.compress(bytes(archive), 6)


def create(lab: Lab) -> None:
    """deb1's volumes and config on alice, created by plain xl, its shell answering."""
    from . import scenario

    folder = build(lab.release)
    lab.both(lambda host: host.put(folder / "initrd.img", "/var/lib/xenlab/debian.img"))
    for name, size in SIZE.items():
        lab.alice.run(f"lvcreate -q -y -Wy -L {size}M -n {name} vg0")
    lab.alice.put(folder / "root.img", "/dev/vg0/deb1-root", timeout=300)
    lab.alice.write("/etc/xen/deb1.cfg", CONFIG)
    lab.alice.run("xl create /etc/xen/deb1.cfg", timeout=300)
    wait_shell(Guest(lab.alice, NAME))
    scenario.wait_synced(lab)


def wait_shell(guest: Guest, timeout: float = 300) -> None:
    """Until its console answers."""
    from .wait import wait_until

    def answers() -> bool:
        try:
            return run(guest, "echo up", 5) == "up"
        except Exception:
            return False

    wait_until(answers, timeout, f"a shell in {guest.name}", every=2)


def run(guest: Guest, command: str, timeout: float = 60) -> str:
    """What a command prints in the guest."""
    import secrets

    mark = secrets.token_hex(4)
    seen = len(guest.console())
    # in two halves, so that a console that echoes doesn't look like an answer
    guest.send(f'echo "B"EGIN{mark}; {command}; echo; echo "E"ND{mark}')
    guest.wait_line(f"^END{mark}", timeout, after=max(0, seen - 200))
    text = guest.console()
    return text[text.rindex(f"BEGIN{mark}") + 13 : text.rindex(f"END{mark}")].strip()

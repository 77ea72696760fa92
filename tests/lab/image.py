"""The image both hosts start from, and the files QEMU boots them with.

``build`` returns a directory of the cache, named by a hash of everything that
went into it: base.img, xen, vmlinuz, initrd.img, id_ed25519, known_hosts.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import guestimage, rootfs
from .release import Release

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XENHELPER_LAB_CACHE") or "/var/cache/xenhelper-lab")
ROOT_SIZE = "3G"

HOSTS = """\
127.0.0.1 localhost
10.98.0.1 alice alice.lab
10.98.0.2 bob bob.lab
"""
NAMES = "alice,alice.lab,10.98.0.1,10.99.0.1,bob,bob.lab,10.98.0.2,10.99.0.2,[127.0.0.1]:*"

FILES: dict[str, tuple[str, int]] = {
    "etc/hosts": (HOSTS, 0o644),
    "etc/fstab": ("/dev/vda / ext4 rw,noatime 0 0\n", 0o644),
    "etc/modules-load.d/lab.conf": ("xen-blkback\nxen-netback\ndrbd\nsch_netem\n", 0o644),
    "etc/systemd/journald.conf.d/lab.conf": (
        "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitBurst=0\nSyncIntervalSec=1s\n",
        0o644,
    ),
    "etc/systemd/system.conf.d/lab.conf": ("[Manager]\nDefaultTimeoutStartSec=300\n", 0o644),
    "etc/apt/sources.list.d/lab.list": ("deb [trusted=yes] file:/var/lib/lab-repo ./\n", 0o644),
    "etc/ssh/sshd_config.d/lab.conf": (
        "PermitRootLogin prohibit-password\nUseDNS no\nUsePAM no\nMaxSessions 100\n",
        0o644,
    ),
    "root/.ssh/config": ("Host *\n    StrictHostKeyChecking yes\n    BatchMode yes\n", 0o600),
}
# No usage statistics, nothing that runs by the clock, no console login.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "dpkg-db-backup.timer", "man-db.timer", "drbd.service",
    "getty@tty1.service", "getty-static.service", "serial-getty@hvc0.service",
    "systemd-firstboot.service", "systemd-pstore.service", "systemd-hwdb-update.service",
    "ldconfig.service", "systemd-journal-catalog-update.service", "systemd-update-done.service",
]  # fmt: skip


def _sources() -> list[Path]:
    return sorted(
        [*(HERE / "guest").iterdir(), *(HERE / "files").iterdir(), HERE / "image.py",
         HERE / "guestimage.py", HERE / "cpio.py"]
    )  # fmt: skip


def key(release: Release) -> str:
    """Hash of everything that goes into the image."""
    digest = hashlib.sha256(rootfs.key(release).encode())
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def directory(release: Release) -> Path:
    """Where the image of this release is, or will be."""
    return CACHE / f"image-{release.name}-{key(release)}"


def _ssh_keys(root: Path, out: Path) -> None:
    """One key that opens both hosts from the harness and from each other."""
    for name, comment in (("id_ed25519", "lab"), ("host", "lab-host")):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(out / name)],
            check=True,
        )  # fmt: skip
    ssh, home = root / "etc/ssh", root / "root/.ssh"
    for old in ssh.glob("ssh_host_*"):
        old.unlink()
    shutil.copy(out / "host", ssh / "ssh_host_ed25519_key")
    shutil.copy(out / "host.pub", ssh / "ssh_host_ed25519_key.pub")
    (out / "known_hosts").write_text(f"{NAMES} {(out / 'host.pub').read_text()}")
    for name in ("id_ed25519", "id_ed25519.pub", "known_hosts"):
        shutil.copy(out / name, home / name)
    shutil.copy(out / "id_ed25519.pub", home / "authorized_keys")
    home.chmod(0o700)


def _populate(root: Path, out: Path, work: Path) -> None:
    for name, (text, mode) in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for package_list in (root / "var/lib/apt/lists").glob("*_dists_*"):
        package_list.unlink()
    _ssh_keys(root, out)
    shutil.copy(HERE / "files/lab-net", root / "usr/local/sbin/lab-net")
    (root / "usr/local/sbin/lab-net").chmod(0o755)
    shutil.copy(HERE / "files/lab-net.service", root / "etc/systemd/system/lab-net.service")
    for unit in MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    subprocess.run(
        ["systemctl", f"--root={root}", "-q", "enable", "lab-net.service"], check=True
    )  # fmt: skip
    with (root / "etc/default/xen").open("a") as default:
        default.write('\nXENCONSOLED_ARGS="--log=guest --log-dir=/var/log/xen/console"\n')
    (root / "var/log/xen/console").mkdir(parents=True, exist_ok=True)
    (root / "var/log/journal").mkdir(exist_ok=True)
    (root / "etc/.updated").touch()
    (root / "var/.updated").touch()
    guestimage.compile_static(HERE / "guest/drbd-sample.c", root / "usr/local/bin/drbd-sample")
    lab = root / "var/lib/xenlab"
    lab.mkdir(parents=True)
    kernel = max((root / "boot").glob("vmlinuz-*"))
    modules = root / "lib/modules" / kernel.name.removeprefix("vmlinuz-")
    guestimage.build(modules, lab / "guest.img", work)
    shutil.copy(kernel, lab / "vmlinuz")
    shutil.copy(kernel, out / "vmlinuz")
    shutil.copy(max((root / "boot").glob("initrd.img-*")), out / "initrd.img")
    hypervisor = max((root / "boot").glob("xen-*-amd64.gz"))
    (out / "xen").write_bytes(gzip.decompress(hypervisor.read_bytes()))


def build(release: Release) -> Path:
    """The image's directory; builds what the cache hasn't got."""
    done = directory(release)
    if (done / "base.img").exists():
        return done
    tar = rootfs.build(release, CACHE)
    print(f"lab: making the hosts' image for {release.name}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="work-") as temporary:
        work = Path(temporary)
        root, out = work / "root", work / "out"
        root.mkdir()
        out.mkdir()
        subprocess.run(["tar", "-C", str(root), "-xf", str(tar), "--exclude=./dev/*"], check=True)
        _populate(root, out, work)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(root),
             str(out / "base.img"), ROOT_SIZE],
            check=True,
        )  # fmt: skip
        shutil.rmtree(done, ignore_errors=True)
        out.rename(done)
    return done

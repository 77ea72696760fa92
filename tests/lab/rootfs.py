"""The hosts' file system as Debian makes it: one mmdebstrap run, cached.

What the lab adds to it (image.py) comes later, so that a changed file of ours
doesn't mean another download.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from .release import PRODUCT_DEPENDENCIES, Release

MIRROR = os.environ.get("XENHELPER_LAB_MIRROR", "http://deb.debian.org/debian")
SECURITY = "http://deb.debian.org/debian-security"

# An initrd with what the root disk needs and no more: unpacking Debian's
# default takes half a minute in emulation.
INITRD = """\
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\\nCOMPRESS=gzip\\n' > "$1/etc/initramfs-tools/conf.d/lab"
printf '%s\\n' virtio_pci virtio_blk ext4 crc32c_generic > "$1/etc/initramfs-tools/modules"
"""

# The repository inside the image: the product's own dependencies as packages,
# and everything below them installed.
REPOSITORY = """\
set -e
deps="@DEPS@"
chroot "$1" apt-get -qq update
repo="$1/var/lib/lab-repo"
mkdir -p "$repo"
below=$(chroot "$1" apt-get install -s --no-install-recommends $deps |
    awk '$1 == "Inst" {print $2}')
rest=""
for package in $below; do
    case " $deps " in *" $package "*) ;; *) rest="$rest $package";; esac
done
[ -z "$rest" ] || chroot "$1" apt-get -qq install -y --no-install-recommends $rest
chroot "$1" sh -c "cd /var/lib/lab-repo && apt-get -qq -o APT::Sandbox::User=root download $deps"
cd "$repo"
for deb in *.deb; do
    dpkg-deb -f "$deb"
    printf 'Filename: ./%s\\nSize: %s\\nSHA256: %s\\n\\n' "$deb" \\
        "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done > Packages
"""


def _recipe(release: Release) -> list[str]:
    deps = " ".join(PRODUCT_DEPENDENCIES)
    suites = [
        f"deb {MIRROR} {release.name} main",
        f"deb {MIRROR} {release.name}-updates main",
        f"deb {SECURITY} {release.name}-security main",
    ]
    return [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar",
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Apt::Install-Recommends \"false\"",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--include={','.join(release.packages)}",
        f"--essential-hook={INITRD}",
        f"--customize-hook={REPOSITORY.replace('@DEPS@', deps)}",
        release.name, "@TAR@", *suites,
    ]  # fmt: skip


def key(release: Release) -> str:
    """What the file system is cached by: the recipe, and nothing else."""
    return hashlib.sha256("\0".join(_recipe(release)).encode()).hexdigest()[:12]


def build(release: Release, cache: Path) -> Path:
    """The tar of the file system; builds it where the cache hasn't got it.

    Raises subprocess.CalledProcessError with mmdebstrap's output in a file
    beside the tar.
    """
    tar = cache / f"rootfs-{release.name}-{key(release)}.tar"
    if tar.exists():
        return tar
    cache.mkdir(parents=True, exist_ok=True)
    partial = tar.with_suffix(".partial.tar")
    log = tar.with_suffix(".log")
    print(f"lab: building Debian {release.name} (a few minutes); log: {log}", flush=True)
    with log.open("wb") as out:
        subprocess.run(
            [str(partial) if a == "@TAR@" else a for a in _recipe(release)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
        )  # fmt: skip
    partial.rename(tar)
    return tar

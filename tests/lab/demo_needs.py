"""What the demo needs: said first, checked, asked about, then installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import image, release
from .demo_progress import Progress

MEMORY_MIB = 5000  # two hosts of 2 GiB, and QEMU's own
DISK_MIB = 6000  # the image, the tar it is made from, both hosts' disks with their snapshots
IMAGE_MB = 150  # downloaded for the hosts' image
PACKAGES_MB = 120  # downloaded for this machine where it has none of the packages
MINUTES, MINUTES_CACHED = 12, 8  # on two cores without KVM


class DemoError(Exception):
    """The demo can't go on; one plain line."""


@dataclass(frozen=True)
class Needs:
    """What this run takes from this machine."""

    packages: tuple[str, ...]  # Debian packages that are missing
    downloads_mb: int
    cached: bool  # the hosts' image is there from an earlier run

    def text(self) -> str:
        """For the person who decides."""
        added = f"{len(self.packages)} (and what they depend on):" if self.packages else "none, all are there"
        fetched = f"about {self.downloads_mb} MB from Debian's mirror" if self.downloads_mb else "nothing"
        lines = [
            "This demo runs two real Xen hosts, alice and bob, in QEMU on this machine. It creates",
            "a VM with plain `xl create` and moves it there and back with plain `xl migrate`.",
            "",
            "  machine    x86-64, Debian, root; no KVM needed",
            f"  memory     {MEMORY_MIB / 1000:.0f} GB free while it runs",
            f"  disk       {DISK_MIB / 1000:.0f} GB in {image.CACHE} (may be deleted whole afterwards)",
            f"  download   {fetched}",
            f"  time       about {MINUTES_CACHED if self.cached else MINUTES} minutes on two cores",
            f"  packages   {added}",
        ]
        row = ""
        for package in self.packages:
            if len(row) + len(package) > 76:
                lines.append(f"             {row}")
                row = ""
            row += f"{package} "
        return "\n".join([*lines, f"             {row}"] if row else lines)


def _wanted() -> list[str]:
    """The packages as the Makefile lists them, which is what installs them."""
    done = subprocess.run(
        ["make", "-s", "--no-print-directory", "demo-packages"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def _missing(wanted: list[str]) -> tuple[str, ...]:
    shown = "${Package} ${db:Status-Status}\n"
    done = subprocess.run(["dpkg-query", "-W", "-f", shown, *wanted], capture_output=True, text=True)
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return tuple(package for package in wanted if package not in installed)


def _packages_mb(packages: tuple[str, ...]) -> int:
    """What apt would fetch for them; a guess from above where apt has no lists yet."""
    if not packages:
        return 0
    done = subprocess.run(
        ["apt-get", "-qq", "--print-uris", "install", "--no-install-recommends", *packages],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        return PACKAGES_MB
    sizes = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("'")]
    return sum(int(size) for size in sizes) // 1_000_000 + 1


def look() -> Needs:
    """What is needed here. Raises DemoError where the machine isn't one for it."""
    if platform.machine() != "x86_64":
        raise DemoError(f"this machine is {platform.machine()}; the demo needs x86-64")
    if not Path("/etc/debian_version").exists() or not shutil.which("apt-get"):
        raise DemoError("this isn't Debian; the demo installs its tools with apt-get")
    if not shutil.which("make"):
        raise DemoError("make is missing: `apt-get install make`")
    packages = _missing(_wanted())
    cached = (image.directory(release.current()) / "base.img").exists()
    return Needs(packages, _packages_mb(packages) + (0 if cached else IMAGE_MB), cached)


def check(needs: Needs) -> None:
    """Root, memory and disk. Raises DemoError, naming all that is lacking."""
    lacking = []
    if os.geteuid() != 0:
        lacking.append("it must run as root (it makes a Debian file system)")
    memory = _available_mib()
    if memory < MEMORY_MIB:
        lacking.append(f"only {memory} MiB of memory are free, not {MEMORY_MIB}")
    disk = _free_mib(image.CACHE)
    wanted = DISK_MIB // 2 if needs.cached else DISK_MIB
    if disk < wanted:
        lacking.append(
            f"only {disk} MiB are free in {image.CACHE}, not {wanted} "
            "(XENHELPER_LAB_CACHE names another place)"
        )
    if lacking:
        raise DemoError("; ".join(lacking))


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _free_mib(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20


def consent() -> bool:
    """Asks, where somebody is there to answer: not with ``DEMO_YES`` or without a terminal."""
    if os.environ.get("DEMO_YES") or not sys.stdin.isatty():
        return True
    try:
        answer = input("\nGo on? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def install(progress: Progress) -> None:
    """The packages, then the product's .deb. Raises DemoError with make's last words."""
    process = subprocess.Popen(
        ["make", "--no-print-directory", "lab-needs", "deb"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last = "no word from make"
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip() or last
            progress.say(f"  {line.rstrip()}")
    if process.returncode:
        raise DemoError(f"`make lab-needs deb` failed: {last}")

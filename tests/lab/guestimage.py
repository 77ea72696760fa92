"""Build the integrity guest's initramfs: busybox, the frontends, the prover."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from pathlib import Path

from .cpio import Archive

HERE = Path(__file__).parent / "guest"
MODULES = ["xen-blkfront", "xen-netfront"]


def compile_static(source: Path, output: Path) -> None:
    """One static program, so that neither guest nor host needs its libraries."""
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wno-format", "-static", "-s", "-o", str(output), str(source)],
        check=True,
    )  # fmt: skip


def _read_module(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _with_dependencies(modules_dir: Path, names: list[str]) -> list[Path]:
    """The modules' files in the order in which they can be loaded."""
    needs: dict[str, list[str]] = {}
    for line in (modules_dir / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    ordered: list[Path] = []
    for name in names:
        path = next(p for p in needs if Path(p).name.split(".")[0] == name)
        for part in [*reversed(needs[path]), path]:
            if modules_dir / part not in ordered:
                ordered.append(modules_dir / part)
    return ordered


def build(modules_dir: Path, output: Path, work: Path) -> None:
    """Write the compressed initramfs for the kernel that owns ``modules_dir``."""
    prover = work / "xhguest"
    compile_static(HERE / "xhguest.c", prover)
    archive = Archive()
    for directory in ("dev", "proc", "sys", "bin", "sbin", "lib"):
        archive.directory(directory)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    for tool in ("sh", "cat", "dd", "ls", "mount", "insmod"):
        archive.link(f"bin/{tool}", "/bin/busybox")
    for tool in ("poweroff", "reboot", "halt"):
        archive.link(f"sbin/{tool}", "/bin/busybox")
    archive.file("init", (HERE / "init").read_bytes(), 0o755)
    archive.file("xhguest", prover.read_bytes(), 0o755)
    order = []
    for module in _with_dependencies(modules_dir, MODULES):
        name = module.name.removesuffix(".xz")
        archive.file(f"lib/{name}", _read_module(module))
        order.append(name)
    archive.file("lib/modules.order", "\n".join(order).encode() + b"\n")
    output.write_bytes(gzip.compress(bytes(archive), 6))

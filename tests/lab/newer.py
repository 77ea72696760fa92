"""The product's .deb under a later version: what an upgrade brings, made from the one that was built."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

FOLDER = Path("build/newer")
PACKAGE = "usr/lib/python3/dist-packages/xenhelper/__init__.py"


def deb(built: Path, version: str) -> Path:
    """``built`` with ``version`` in its control file and in its code, and nothing else changed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    tree = FOLDER / "tree"
    tree.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--raw-extract", str(built), str(tree)], check=True)
    _replace(tree / "DEBIAN/control", r"^Version: .*$", f"Version: {version}")
    _replace(tree / PACKAGE, r'^__version__ = ".*"$', f'__version__ = "{version}"')
    (tree / "DEBIAN/md5sums").unlink()  # they are of the other one
    made = FOLDER / f"xenhelper_{version}_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(made)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made


def _replace(path: Path, pattern: str, text: str) -> None:
    new, count = re.subn(pattern, text, path.read_text(), flags=re.M)
    assert count == 1, f"{path}: {pattern} is there {count} times"
    path.write_text(new)

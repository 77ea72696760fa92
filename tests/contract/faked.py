"""A machine whose LVM and xl are the stand-ins of tests/unit/fakes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.fakes.hosts import World as FakeHosts
from xenhelper.run import Result

from .world import Machine

EXTENT = 4 << 20
# the lab's groups (tests/unit/captured/vgs-report.txt)
GROUPS = {"vg0": 2047 * EXTENT, "vg1": 15 * EXTENT}


class FakedMachine(Machine):
    """alice of a pair of folders."""

    name = "alice"

    def __init__(self, folder: Path) -> None:
        self.hosts = FakeHosts(folder)
        self.hosts.lvm(self.name, GROUPS, {})

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def run(self, argv: list[str], timeout: float = 60.0) -> Result:
        done = subprocess.run(
            [str(self.hosts.folder / "bin" / argv[0]), *argv[1:]],
            env=self.hosts.env(self.name), capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def read_file(self, path: str) -> str:
        return self.hosts.read(self.name, path)

    def read_link(self, path: str) -> str:
        return str(Path(self.path(path)).readlink())

    def write_file(self, path: str, text: str) -> str:
        return str(self.hosts.write(self.name, path, text))

    def path(self, path: str) -> str:
        return str(self.hosts.folder / self.name / path.lstrip("/"))

    def size_of(self, path: str) -> int:
        return Path(self.path(path)).stat().st_size

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        volume = path.removeprefix("/dev/")
        self.hosts.edit_volume(self.name, volume, open=True)
        yield
        self.hosts.edit_volume(self.name, volume, open=False)

    @property
    def real_xl(self) -> str:
        return "xl"

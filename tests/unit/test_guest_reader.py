"""The guest's reader: a shell script that speaks xenstore's wire format, against a device
that answers as the kernel's /dev/xen/xenbus does."""

import os
import pty
import select
import shutil
import subprocess
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

READER = Path(__file__).parents[2] / "guest/read-ahead"
BACKEND = "/local/domain/0/backend/vbd/7"


class Xenbus:
    """xenstored behind a character device, as domain 7 sees it."""

    def __init__(self, store: dict[str, str]) -> None:
        self.store = store
        self.refused: list[str] = []
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._stop = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        os.close(self.master)
        os.close(self._slave)

    def _serve(self) -> None:
        data = b""
        while not self._stop:
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            data += os.read(self.master, 4096)
            while len(data) >= 16:
                kind, number, transaction, length = (
                    int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8, 12)
                )
                if len(data) < 16 + length:
                    break
                body, data = data[16 : 16 + length], data[16 + length :]
                answer_kind, answer = self._answer(kind, body)
                words = (answer_kind, number, transaction, len(answer))
                os.write(self.master, b"".join(word.to_bytes(4, "little") for word in words) + answer)

    def _answer(self, kind: int, body: bytes) -> tuple[int, bytes]:
        path, _, value = body.decode().partition("\0")
        if kind == 2 and path in self.store:
            return 2, self.store[path].encode()
        if kind == 11 and path.startswith("data/"):
            self.store[path] = value
            return 11, b"OK\0"
        if kind != 2:
            self.refused.append(path)
            return 16, b"EACCES\0"
        return 16, b"ENOENT\0"


class Guest:
    """A guest's /sys, and its xenstore."""

    def __init__(self, folder: Path) -> None:
        self.sys = folder
        self.bus = Xenbus({"domid": "7"})
        (folder / "block").mkdir()

    def disk(self, name: str, node: str, slaves: tuple[str, ...] = ()) -> None:
        base = self.sys / "block" / name
        (base / "queue").mkdir(parents=True)
        (base / "queue/read_ahead_kb").write_text("128\n")
        if node:
            (base / "device").mkdir()
            (base / "device/nodename").write_text(f"device/vbd/{node}\n")
        for slave in slaves:
            (base / "slaves" / slave).mkdir(parents=True)

    def read_ahead(self, name: str) -> str:
        return (self.sys / "block" / name / "queue/read_ahead_kb").read_text().strip()

    def run(self, shell: str = "sh") -> int:
        environment = {"PATH": "/usr/bin:/bin", "XENBUS": self.bus.path, "SYSFS": str(self.sys)}
        return subprocess.run([*shell.split(), READER], env=environment, timeout=30).returncode


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    yield made
    made.bus.close()


SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_disk_gets_its_own_and_the_guest_says_so(guest: Guest, shell: str) -> None:
    guest.disk("xvda", "51712")
    guest.disk("xvda2", "51714")  # a whole disk that is called like a partition
    guest.disk("sda", "")
    guest.bus.store |= {f"{BACKEND}/51712/read-ahead-kb": "4096", f"{BACKEND}/51714/read-ahead-kb": "512"}
    assert guest.run(shell) == 0
    assert [guest.read_ahead(name) for name in ("xvda", "xvda2", "sda")] == ["4096", "512", "128"]
    assert guest.bus.store["data/xenhelper/read-ahead/51712"] == "4096"
    assert guest.bus.store["data/xenhelper/read-ahead/51714"] == "512"


def test_lvm_on_it_gets_the_largest_below(guest: Guest) -> None:
    guest.disk("xvda", "51712")
    guest.disk("xvdb", "51728")
    (guest.sys / "block/xvda/xvda1").mkdir()
    guest.disk("dm-0", "", slaves=("xvda1", "xvdb"))
    guest.disk("dm-1", "", slaves=("dm-0",))
    guest.disk("dm-2", "", slaves=("sda",))
    guest.bus.store |= {f"{BACKEND}/51712/read-ahead-kb": "1024", f"{BACKEND}/51728/read-ahead-kb": "2048"}
    guest.run()
    assert [guest.read_ahead(name) for name in ("dm-0", "dm-1", "dm-2")] == ["2048", "2048", "128"]


def test_only_dom0s_part_of_xenstore_is_believed(guest: Guest) -> None:
    guest.disk("xvda", "51712")
    guest.bus.store |= {
        "device/vbd/51712/backend": "/local/domain/7/data/fake",
        "/local/domain/7/data/fake/read-ahead-kb": "64",
        "device/vbd/51712/read-ahead-kb": "64",
        "data/read-ahead-kb": "64",
    }
    guest.run()
    assert guest.read_ahead("xvda") == "128", "nothing was published for it"
    guest.bus.store[f"{BACKEND}/51712/read-ahead-kb"] = "4096"
    guest.run()
    assert guest.read_ahead("xvda") == "4096"
    assert guest.bus.refused == []


@pytest.mark.parametrize("value", ["", "0", "-1", "4096; reboot", "12345678", "4k", "\n4096"])
def test_nonsense_changes_nothing(guest: Guest, value: str) -> None:
    guest.disk("xvda", "51712")
    guest.bus.store[f"{BACKEND}/51712/read-ahead-kb"] = value
    guest.run()
    assert guest.read_ahead("xvda") == "128"


def test_a_machine_without_xen_is_left_alone(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "XENBUS": str(tmp_path / "none")}
    assert subprocess.run(["sh", READER], env=environment).returncode == 0
    assert not (tmp_path / "none").exists()

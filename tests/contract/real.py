"""The lab's two real hosts, at its layer ``replicated``."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import xenhelper
from tests.lab import product
from tests.lab.bare import ADDRESSES, MINOR, NOTES, PORT, VM, VOLUME
from tests.lab.host import Host as LabHost
from tests.lab.lab import Lab
from xenhelper.paths import PATH
from xenhelper.run import Result

from . import storeplay
from .world import Host, Machine, World

_DEVICE = f"/dev/drbd{MINOR}"
_BURST = f"dd if=/dev/urandom of={_DEVICE} bs=256k seek=16 count=12 oflag=direct status=none"
_BLOCK = 4096
_PACKAGE = Path(xenhelper.__file__).parent
_CALL = """\
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
module, _, name = sys.argv[2].rpartition(".")
print(json.dumps(getattr(importlib.import_module("xenhelper." + module), name)(*json.load(sys.stdin))))
"""


class RealWorld(World):
    """The lab; it is reset before the next test."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.alice, self.bob = (RealHost(self, host) for host in lab.hosts)

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def cut_link(self) -> None:
        # noticed in 4 s instead of 13; compared by no handshake
        here, there = (f"ipv4:{address}:{PORT}" for address in ADDRESSES.values())
        for host, ends in zip(self.lab.hosts, ((here, there), (there, here)), strict=True):
            host.run(f"drbdsetup net-options {' '.join(ends)} --ping-int=1", check=False)
        self.lab.cut_link()

    def heal_link(self) -> None:
        self.lab.unshape()
        self.lab.heal_link()

    def replug_link(self) -> None:
        self.lab.heal_link()

    def crash(self, host: Host) -> None:
        assert isinstance(host, RealHost)
        host.host.power_off()
        host.host.power_on()

    def slow_link(self) -> None:
        # a queue of 2 s, below DRBD's ping time-out of 3; a burst takes 6
        self.lab.shape_link(4, 10)


class RealMachine(Machine):
    """A host of the lab."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.name = host.name

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def run(self, argv: list[str], timeout: float = 60.0) -> Result:
        # the product's environment (xenhelper/run.py)
        command = f"env -i PATH={PATH} LANG=C.UTF-8 LC_ALL=C.UTF-8 {shlex.join(argv)} </dev/null"
        done = self.host.run(command, timeout, check=False)
        return Result(done.status, done.out, done.err)

    def read_file(self, path: str) -> str:
        done = self.host.run(f"cat -- {shlex.quote(path)}", check=False)
        if not done.ok:
            raise FileNotFoundError(path)
        return done.out

    def read_link(self, path: str) -> str:
        done = self.host.run(f"readlink -- {shlex.quote(path)}", check=False)
        if not done.ok:
            raise FileNotFoundError(path)
        return done.out.rstrip("\n")

    def write_file(self, path: str, text: str) -> str:
        self.host.write(path, text)
        return path

    def size_of(self, path: str) -> int:
        return int(self.host.out(f"blockdev --getsize64 {shlex.quote(path)}"))

    @cached_property
    def real_xl(self) -> str:
        return product.real_xl(self.host)

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        pid = self.host.out(
            f"mkdir -p {NOTES}; rm -f {NOTES}/holder; setsid sh -c "
            f"'exec 3<{path}; echo $$ >{NOTES}/holder; exec sleep 600' >/dev/null 2>&1 </dev/null & "
            f"until [ -s {NOTES}/holder ]; do sleep 0.1; done; cat {NOTES}/holder"
        )
        yield
        self.host.run(f"kill {int(pid)}; while [ -d /proc/{int(pid)} ]; do sleep 0.1; done")


class RealHost(RealMachine, Host):
    """One of the two, with its resource."""

    def __init__(self, world: RealWorld, host: LabHost) -> None:
        super().__init__(host)
        self.world: RealWorld = world

    def open_device(self, writing: bool) -> str:
        done = self.host.run(f": {'<>' if writing else '<'}{_DEVICE}", check=False)
        return "" if done.ok else done.err.strip().rsplit(": ", 1)[-1]

    def write(self, block: int, number: int) -> None:
        self.host.run(
            f"printf '%-{_BLOCK}d' {number} | dd of={_DEVICE} bs={_BLOCK} seek={block} "
            "iflag=fullblock oflag=direct conv=notrunc status=none"
        )

    def burst(self) -> None:
        self.host.run(_BURST)

    def write_behind_burst(self, block: int, number: int) -> None:
        # the bytes are there before the first is sent: an emulated host takes its time for them
        self.host.run(
            f"head -c 3M /dev/urandom >/run/burst; printf '%-{_BLOCK}d' {number} >/run/block; "
            f"dd if=/run/burst of={_DEVICE} bs=256k seek=16 oflag=direct status=none; "
            f"dd if=/run/block of={_DEVICE} bs={_BLOCK} seek={block} oflag=direct conv=notrunc status=none"
        )

    def on_disk(self, block: int) -> int:
        text = self.host.out(
            f"dd if={VOLUME} bs={_BLOCK} skip={block} count=1 iflag=direct status=none | tr -d '\\0 '"
        )
        return int(text or 0)

    def answer_fencing(self, status: int) -> None:
        self.host.run(f"mkdir -p {NOTES}; echo {status} > {NOTES}/fence-status")

    def fence_calls(self) -> int:
        return len(self.host.read(f"{NOTES}/fence-calls").split())

    def play(self, steps: str) -> str:
        self._have_product()
        self.host.put(Path(storeplay.__file__), f"{NOTES}/storeplay.py")
        return self.host.run(f"/usr/bin/python3 -IS {NOTES}/storeplay.py {NOTES}", stdin=steps).out

    def call(self, function: str, *args: Any) -> Any:
        self._have_product()
        words = f"/usr/bin/python3 -IS -c {shlex.quote(_CALL)} {NOTES} {function}"
        return json.loads(self.host.run(words, stdin=json.dumps(args)).out)

    def _have_product(self) -> None:
        """Its modules, that is, as a copy: this layer has it installed nowhere."""
        if self.host.run(f"test -e {NOTES}/xenhelper", check=False).ok:
            return
        with io.BytesIO() as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                archive.add(_PACKAGE, "xenhelper", filter=lambda i: None if "__pycache__" in i.name else i)
            self.host.run(f"mkdir -p {NOTES} && tar -x -C {NOTES}", stdin=packed.getvalue())

    def create(self) -> int:
        return self.host.run(f"{self.real_xl} create /etc/xen/{VM}.cfg", 300, check=False).status

    def migrate(self, name: str, to: Host) -> int:
        done = product.migrate(self.host, to.name, name, self.real_xl, check=False)
        return done.status

    def fail_scripts(self) -> None:
        self.host.run(f"mkdir -p {NOTES}; touch {NOTES}/script-fails")

    def script_calls(self) -> list[str]:
        return self.host.read(f"{NOTES}/script-calls").splitlines()

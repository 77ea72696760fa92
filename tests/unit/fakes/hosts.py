"""Two hosts, alice and bob, as folders with fake tools; each command is a process of its own.

``python hosts.py HOST create ARG…`` does what the shim does up to the real xl, ``recover
VM`` what the reconciler does, ``verb NAME JSON`` what the peer's server does.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
PROGRAM = f"""#!{sys.executable} -IS
import sys
sys.path.insert(0, {str(HERE.parents[2])!r})
from tests.unit.fakes.tools.main import main
main()
"""
TOOLS = (
    "xl",
    "lvs",
    "vgs",
    "lvcreate",
    "lvextend",
    "lvremove",
    "lvchange",
    "drbdadm",
    "drbdmeta",
    "drbdsetup",
    "modprobe",
    "ssh",
    "systemctl",
    "defineXML",  # no program: libvirt's call, for faults to strike
)
GIB = 1 << 30


class World:
    """Both hosts under ``folder``; see tools/ for what is where."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ("alice", "bob")) -> None:
        self.folder = folder
        bin_ = folder / "bin"
        bin_.mkdir(parents=True)
        (bin_ / "tools").write_text(PROGRAM)
        (bin_ / "tools").chmod(0o755)
        for name in TOOLS:
            (bin_ / name).symlink_to("tools")
        for host in hosts:
            root = folder / host
            for sub in (
                "etc/xen",
                "etc/drbd.d",
                "etc/xenhelper",
                "boot",
                "sys/class/net/xenbr0/bridge",
                "proc/net",
            ):
                (root / sub).mkdir(parents=True)
            (root / "boot/vmlinuz").touch()
            (root / "proc/drbd").write_text("version: 8.4.11 (api:1/proto:86-101)\n")
            (root / "etc/drbd.d/global_common.conf").write_text("global { usage-count no; }\n")
            self.lvm(host, {"vg0": 16 * GIB, "vg1": 4 * GIB}, {})

    def lvm(self, host: str, groups: dict[str, int], volumes: dict[str, int]) -> None:
        state = {name: {"size": size, "tags": []} for name, size in volumes.items()}
        (self.folder / f"{host}.lvm.json").write_text(json.dumps({"groups": groups, "volumes": state}))
        for name, size in volumes.items():
            path = self.folder / host / "dev" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)

    def volumes(self, host: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{host}.lvm.json").read_text())["volumes"]
        return found

    def edit_volume(self, host: str, name: str, **changes: Any) -> None:
        path = self.folder / f"{host}.lvm.json"
        state = json.loads(path.read_text())
        state["volumes"][name].update(changes)
        path.write_text(json.dumps(state))

    def pool(self, host: str, name: str, size: int, chunk: int = 65536, **more: Any) -> None:
        """A thin pool ``name`` (VG/POOL). ``zeroes``: as lvm.conf has it by default."""
        self.add_volume(host, name, size=size, tags=[], chunk=chunk, **{"zeroes": True, "meta": 10.0, **more})

    def thin(self, host: str, name: str, size: int, pool: str, used: int) -> None:
        """A thin volume in ``pool`` of its group, of which ``used`` bytes are allocated."""
        self.add_volume(host, name, size=size, tags=[], pool=pool, used=used)
        path = self.folder / host / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)

    def add_volume(self, host: str, name: str, **item: Any) -> None:
        path = self.folder / f"{host}.lvm.json"
        state = json.loads(path.read_text())
        state["volumes"][name] = item
        path.write_text(json.dumps(state))

    def lose(self, host: str, resource: str, names: list[str]) -> None:
        """The resource is down on ``host``, and these volumes are gone."""
        path = self.folder / "drbd.json"
        state = json.loads(path.read_text())
        minor = state[host].pop(resource)["minor"]
        path.write_text(json.dumps(state))
        proc = self.folder / host / "proc/drbd"
        lines = [line for line in proc.read_text().splitlines() if not line.startswith(f"{minor}: ")]
        proc.write_text("\n".join(lines) + "\n")
        path = self.folder / f"{host}.lvm.json"
        lvm = json.loads(path.read_text())
        for name in names:
            del lvm["volumes"][name]
            (self.folder / host / "dev" / name).unlink()
        path.write_text(json.dumps(lvm))

    def kernel(self, *args: str, host: str = "alice") -> None:
        """A ``drbdsetup`` typed by hand."""
        argv = [str(self.folder / "bin/drbdsetup"), *args]
        subprocess.run(argv, env=self.env(host), check=True)

    def power_off(self, host: str) -> None:
        (self.folder / f"{host}.off").touch()
        path = self.folder / "drbd.json"
        state = json.loads(path.read_text())
        state.pop(host, None)
        path.write_text(json.dumps(state))
        self.kernel("refresh")

    def power_on(self, host: str) -> None:
        """The host is back, and its resources come up from the files that it has."""
        (self.folder / f"{host}.off").unlink()
        for path in sorted((self.folder / host / "etc/drbd.d").glob("*.res")):
            names = re.findall(r'^resource "(\S+)"', path.read_text(), re.M)
            argv = [str(self.folder / "bin/drbdadm"), "-c", str(path), "up", *names]
            subprocess.run(argv, env=self.env(host), check=True)

    def drbd(self, host: str) -> dict[str, Any]:
        path = self.folder / "drbd.json"
        found: dict[str, Any] = json.loads(path.read_text()).get(host, {}) if path.exists() else {}
        return found

    def write(self, host: str, path: str, text: str) -> Path:
        full = self.folder / host / path.lstrip("/")
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
        return full

    def read(self, host: str, path: str) -> str:
        return (self.folder / host / path.lstrip("/")).read_text()

    def files(self, host: str) -> dict[str, str]:
        """Everything below /etc and the state folder, for before-and-after comparisons."""
        root = self.folder / host
        kept = {}
        for top in ("etc", "var/lib/xenhelper"):
            for path in sorted((root / top).rglob("*")):
                if path.is_file():
                    kept[str(path.relative_to(root))] = path.read_text()
        return kept

    def start(self, host: str, *args: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, str(HERE / "hosts.py"), host, *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, env=self.env(host), stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=self.folder / host
        )

    def run(self, host: str, *args: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(host, *args)
        out, err = process.communicate(timeout=600)
        if process.returncode < 0:
            self.settle()
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def settle(self, seconds: float = 120.0) -> None:
        """Until nothing of this world runs any more: what the other host was asked for by a
        command that was killed goes on there, however long this machine takes for it."""
        mine = f"XH_WORLD={self.folder}\0".encode()
        end = time.monotonic() + seconds
        while any(mine in environment for environment in _environments()):
            assert time.monotonic() < end, "something of this world doesn't end"
            time.sleep(0.05)

    def env(self, host: str) -> dict[str, str]:
        root = str(self.folder / host)
        path = f"{HERE.parent.parent.parent}:{HERE / 'virt'}"
        return {
            **os.environ,
            "XENHELPER_ROOT": root,
            "XH_WORLD": str(self.folder),
            "XH_HOST": host,
            "PYTHONPATH": path,
        }

    def fault(self, text: str) -> None:
        (self.folder / "fault").write_text(text)

    def calls(self) -> int:
        path = self.folder / "calls"
        return int(path.read_text()) if path.exists() else 0

    def reset_calls(self) -> None:
        for name in ("calls", "fault", "log"):
            (self.folder / name).unlink(missing_ok=True)


def _environments() -> Iterator[bytes]:
    """Of every process; one that has ended, or isn't ours, has none."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield path.read_bytes() + b"\0"


def replicated(folder: Path, hosts: tuple[str, ...] = ("alice", "bob")) -> World:
    """web1 on alice with two disks, replicated with bob."""
    made = World(folder, hosts)
    made.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1": 2 * GIB, "vg0/web1-b": GIB})
    disks = "disk=['phy:/dev/vg0/web1,xvda,w', 'phy:/dev/vg0/web1-b,xvdb,w']"
    made.write("alice", "etc/xen/web1.cfg", f"name='web1'\n{disks}\n")
    if len(hosts) == 2:
        assert made.run("alice", "create", "/etc/xen/web1.cfg").returncode == 0
    else:
        assert made.run("alice", "cli", "replicate", "/etc/xen/web1.cfg", "--peer", "bob").returncode == 0
    made.reset_calls()
    return made


def main() -> int:
    """The driver: this process is one host's."""
    host, what, *rest = sys.argv[1:]
    world = Path(os.environ["XH_WORLD"])
    from xenhelper import config, paths, run
    from xenhelper.errors import PeerFailed, PeerUnreachable, XenhelperError
    from xenhelper.peer import client, messages

    real = os.uname()
    os.uname = lambda: os.uname_result((real[0], host, *real[2:]))
    paths.PATH = str(world / "bin")
    run.ENV = {"PATH": paths.PATH, "XH_WORLD": str(world), "XH_HOST": host, "LC_ALL": "C.UTF-8"}

    def ask(peer: str, verb: str, args: dict[str, object], timeout: float = 10.0) -> dict[str, object]:
        if (world / f"{peer}.off").exists():
            raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
        env = {**os.environ, "XENHELPER_ROOT": str(world / peer), "XH_HOST": peer}
        argv = [sys.executable, __file__, peer, "verb", host, verb]
        text = messages.encode(args).decode()
        # a busy machine isn't a silent peer: that is said by the file above
        patience = timeout + 120
        done = subprocess.run(argv, env=env, input=text, capture_output=True, text=True, timeout=patience)
        if done.returncode < 0:
            raise PeerUnreachable(f"{peer} can't be asked: the connection was lost")
        sys.stderr.write(done.stderr)
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise PeerFailed(answer["error"], answer["do"], answer["exit"])
        found: dict[str, object] = answer["ok"]
        return found

    client.ask = ask
    from xenhelper import alive, create, forget, grow, oldcopy, rehome, replicate_peer
    from xenhelper.xen import domains

    def domains_of(vm: str) -> list[str]:
        path = world / f"{host}.domains"
        return [name for name in (path.read_text().split() if path.exists() else []) if name == vm]

    def found(vm: str) -> list[Any]:
        return [SimpleNamespace(name=name, domid=1, state="-b----", uuid="") for name in domains_of(vm)]

    alive.sign_of_life = lambda peer: "" if (world / f"{peer.name}.off").exists() else "it answers ping"
    replicate_peer.domains_of = domains_of
    domains.find = found
    grow._used = lambda name: (world / f"{host}.domains").exists()
    grow._seen = lambda name: True if (world / f"{host}.domains").exists() else None
    domains.real_xl = lambda: str(world / "bin/xl")
    number = {"alice": 1, "bob": 2, "carol": 3}
    others = [name for name in number if name != host and (world / name).is_dir()]
    settings = config.Config(
        host=host,
        management=f"192.168.1.{number[host]}",
        replication=f"10.99.0.{number[host]}",
        peers={
            other: config.Peer(
                other,
                f"192.168.1.{number[other]}",
                f"10.99.0.{number[other]}",
                f"10.99.0.{number[host]}",
                {"vg0": "vg0"},
            )
            for other in others
        },
        volume_groups=("vg0",),
        exclude_volumes=("vg0/scratch*",),
        exclude_vms=("test-*",),
        shared_volumes=("vg0/shared*",),
        ports=(7800, 7999),
        minors=(1000, 1199),
        protocol="A",
    )
    config.load = lambda path="": settings
    Path(paths.CONFIG).touch()
    try:
        if what == "verb":
            from xenhelper.peer import verbs

            function, schema = verbs.handler(rest[1])
            request: Any = messages.check(rest[1], json.loads(sys.stdin.read()), schema)
            sys.stdout.write(json.dumps({"ok": function(rest[0], request)}))
        elif what == "create":
            print(json.dumps(create.main(["create", *rest])))
        elif what == "recover":
            done = forget.recover(rest[0]) or replicate_peer.recover(rest[0]) or grow.recover(rest[0])
            print(done or rehome.recover(rest[0]))
        elif what == "look":
            from xenhelper import provision

            left = oldcopy.go_on()
            print("\n".join(left + oldcopy.look(provision.vm_records().values(), False)))
        elif what == "resfile":
            from xenhelper import rebuild

            print(rebuild.resource_file(rest[0]))
        elif what == "cli":
            from xenhelper.cli import main as cli

            if rest[0] == "import":
                from xenhelper.importing import copy, far

                # disks of a few MiB then have many chunks
                copy.CHUNK, far.STALL = 1 << 20, 2.0
            return cli.main(rest)
    except XenhelperError as error:
        if what == "verb":
            sys.stdout.write(json.dumps({"error": error.what, "do": error.do, "exit": error.exit_code}))
            return 0
        print(f"xenhelper: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

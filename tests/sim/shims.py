"""What the product's modules find instead of os, time, fcntl, run, Xenstore and the peer.

:func:`installed` puts these into every module of the product and takes them out again.
Each stands for the process that runs at that moment, on its host.
"""

import builtins
import contextlib
import errno
import importlib
import io
import json
import os as real_os
import signal as real_signal
import sys
import time as real_time
import types
from collections.abc import Iterator
from typing import Any

from tests.sim import store, tools
from tests.sim.files import Open
from tests.sim.kernel import Exec, Killed, Process
from xenhelper.errors import CommandFailed, PeerFailed, PeerUnreachable, XenhelperError

MODULES = (
    "errors", "run", "paths", "statefile", "names", "intents", "log", "permits", "hotplug", "letgo", "ahead",
    "steady", "handover", "window", "migrate", "fence", "reconcile", "destination", "boot", "xl", "hosts",
    "config", "volumes", "drbd.events", "drbd.show", "drbd.verbs", "drbd.barrier", "drbd.bringup",
    "drbd.adm", "drbd.proc", "xen.xenstore", "xen.domains", "xen.description", "peer.client",
    "peer.messages", "peer.verbs", "peer.oneshot", "insync", "splitbrain", "ceded", "autostart",
    "restore", "takeover", "recover", "stepdown", "alive", "drbdevent", "vmfile", "peer.about", "crash",
    "lease", "halfopen", "handed", "alerts", "alerts.store", "leftover", "counters", "moved", "shelf",
    "oldcopy", "virt", "virt.devices", "virt.definition", "virt.hook", "virt.moving", "virt.source",
    "virt.hold", "virt.saved", "virt.settle", "virt.api",
)  # fmt: skip
# modules that keep the real thing: the ports' own insides
LEFT = ("xenhelper.run", "xenhelper.peer.client", "xenhelper.peer.oneshot", "xenhelper.xen.xenstore",
        "xenhelper.paths", "xenhelper.config", "xenhelper.log")  # fmt: skip

W: Any = None  # the world that runs


def me() -> Process:
    process: Process = W.loop.current
    if process.dead:
        raise Killed
    return process


class Path:
    """os.path on the host's files."""

    join = staticmethod(real_os.path.join)
    dirname = staticmethod(real_os.path.dirname)
    basename = staticmethod(real_os.path.basename)

    @staticmethod
    def realpath(path: str) -> str:
        return path

    @staticmethod
    def exists(path: str) -> bool:
        host = me().host
        return path in host.files.live or host.files.is_folder(path) or path.startswith("/dev/")

    lexists = exists

    @staticmethod
    def isfile(path: str) -> bool:
        return path in me().host.files.live

    @staticmethod
    def isdir(path: str) -> bool:
        if path.startswith("/sys/"):
            return True
        return bool(me().host.files.is_folder(path))


class Device:
    """An open /dev/drbdN."""

    def __init__(self, end: Any) -> None:
        self.end = end
        self.incarnation = end.incarnation
        end.openers += 1

    def close(self) -> None:
        if self.incarnation == self.end.incarnation:
            self.end.openers -= 1


class Os:
    """The os module for a simulated process."""

    path = Path
    error = OSError

    def __init__(self) -> None:
        for name in dir(real_os):
            value = getattr(real_os, name)
            if name.isupper() or (name[:2].isupper() and isinstance(value, int)):
                setattr(self, name, value)
        self.fsencode, self.fsdecode = real_os.fsencode, real_os.fsdecode
        self.strerror = real_os.strerror
        self.major, self.minor = real_os.major, real_os.minor
        self.WNOHANG = real_os.WNOHANG

    @property
    def environ(self) -> "dict[str, str]":
        return me().env

    def getpid(self) -> int:
        return me().pid

    def getppid(self) -> int:
        parent = me().parent
        return parent.pid if parent is not None and parent.status is None and not parent.dead else 1

    def readlink(self, path: str) -> str:
        process = me()
        if path.startswith("/sys/kernel/debug/drbd/minors/"):
            end = tools.by_minor(process.host, path.rpartition("/")[2])
            if end is None or not end.up:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            return f"../resources/{end.pair.name}/volumes/0"
        return "pipe:[4711]" if path.endswith("/fd/0") else path

    def uname(self) -> Any:
        return types.SimpleNamespace(nodename=me().host.name, release="6.12.0-xen")

    def access(self, path: str, mode: int) -> bool:
        me()
        return True

    def urandom(self, count: int) -> bytes:
        return bytes(W.random.randrange(256) for _ in range(count))

    def makedirs(self, path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        me().host.files.folders.add(path.rstrip("/"))

    def listdir(self, path: str) -> "list[str]":
        if path == "/proc":
            return [str(pid) for pid in me().host.processes]
        if path.startswith(("/proc", "/sys", "/dev")):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        found: "list[str]" = me().host.files.listdir(path)
        return found

    def stat(self, path: str) -> Any:
        if path.startswith("/dev/drbd"):
            return types.SimpleNamespace(st_rdev=real_os.makedev(147, int(path[9:] or 0)))
        return types.SimpleNamespace(st_rdev=0)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        process = me()
        host = process.host
        if path.startswith("/dev/drbd"):
            file = self._open_drbd(process, path, flags)
        elif path.startswith("/dev/"):
            file = Open(path, None)
        else:
            file = host.files.open(path, flags)
        fd = W.next_fd(process)
        process.fds[fd] = file
        return fd

    def _open_drbd(self, process: Process, path: str, flags: int) -> Open:
        end = tools.by_minor(process.host, path[9:])
        if end is None or not end.up:
            raise OSError(errno.ENXIO, "No such device or address", path)
        if end.role != "Primary":
            if flags & (real_os.O_RDWR | real_os.O_WRONLY):
                raise OSError(errno.EROFS, "Read-only file system", path)
            raise OSError(errno.EMEDIUMTYPE, "Wrong medium type", path)
        return Open(path, None, device=Device(end))

    def close(self, fd: int) -> None:
        process = me()
        if fd not in process.fds:
            raise OSError(errno.EBADF, "Bad file descriptor")
        W.release_fd(process, fd)

    def _file(self, fd: int) -> Open:
        file: Open = me().fds[fd]
        return file

    def read(self, fd: int, count: int) -> bytes:
        file = self._file(fd)
        assert file.node is not None
        data = file.node.data[file.offset : file.offset + count]
        file.offset += len(data)
        return data

    def write(self, fd: int, data: Any) -> int:
        if fd in (1, 2):
            W.say(me(), bytes(data).decode("utf-8", "replace"))
            return len(data)
        file = self._file(fd)
        assert file.node is not None
        block = bytes(data)
        old = file.node.data
        file.node.data = old[: file.offset] + block + old[file.offset + len(block) :]
        file.offset += len(block)
        return len(block)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        node = self._file(fd).node
        assert node is not None
        return node.data[offset : offset + count]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        node = self._file(fd).node
        assert node is not None
        node.data = node.data[:offset] + data + node.data[offset + len(data) :]
        return len(data)

    def ftruncate(self, fd: int, size: int) -> None:
        node = self._file(fd).node
        assert node is not None
        node.data = node.data[:size]

    def fchmod(self, fd: int, mode: int) -> None:
        me()

    def fstat(self, fd: int) -> Any:
        file = self._file(fd)
        minor = file.device.end.pair.minor if file.device is not None else 0
        return types.SimpleNamespace(st_rdev=real_os.makedev(147, minor))

    def fsync(self, fd: int) -> None:
        file = self._file(fd)
        W.port(me(), f"fsync {file.path}", 0.002)
        me().host.files.fsync(file)

    def rename(self, old: str, new: str) -> None:
        W.port(me(), f"rename {new}", 0.0)
        me().host.files.rename(old, new)

    replace = rename

    def unlink(self, path: str) -> None:
        if path not in me().host.files.live:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        W.port(me(), f"unlink {path}", 0.0)
        me().host.files.unlink(path)

    remove = unlink

    def setpriority(self, which: int, who: int, value: int) -> None:
        me()

    def set_inheritable(self, fd: int, inheritable: bool) -> None:
        self._file(fd).inheritable = inheritable

    def waitpid(self, pid: int, options: int) -> "tuple[int, int]":
        process = me()
        child: Process = W.children[pid]
        if child.status is None:
            assert options & real_os.WNOHANG
            return 0, 0
        process.host  # noqa: B018
        status = child.status
        return pid, (-status if status < 0 else status << 8)

    def waitstatus_to_exitcode(self, raw: int) -> int:
        return real_os.waitstatus_to_exitcode(raw)

    def kill(self, pid: int, number: int) -> None:
        me()
        W.children[pid].kill()

    def execv(self, path: str, argv: "list[str]") -> None:
        me()
        raise Exec(path, argv)


class Time:
    """The time module: virtual seconds."""

    CLOCK_BOOTTIME = 7
    CLOCK_MONOTONIC = 1

    def monotonic(self) -> float:
        process = me()
        return float(W.loop.now - process.host.booted + 10.0)

    def clock_gettime(self, _which: int) -> float:
        return float(W.loop.now - me().host.booted)

    def time(self) -> float:
        return float(1_700_000_000 + W.loop.now)

    def sleep(self, seconds: float) -> None:
        process = me()
        W.port(process, "sleep", 0.0, pause=False)
        process.block(max(0.0, seconds))

    def gmtime(self, seconds: "float | None" = None) -> Any:
        return real_time.gmtime(self.time() if seconds is None else seconds)

    def localtime(self, seconds: "float | None" = None) -> Any:
        return self.gmtime(seconds)

    strftime = staticmethod(real_time.strftime)
    strptime = staticmethod(real_time.strptime)


class Fcntl:
    """The fcntl module: flock per open file description, ioctl on devices."""

    LOCK_EX, LOCK_NB, LOCK_UN, LOCK_SH = 2, 4, 8, 1

    def flock(self, fd: int, operation: int) -> None:
        process = me()
        file: Open = process.fds[fd]
        node = file.node
        assert node is not None
        if operation & self.LOCK_UN:
            if node.lock is file:
                node.lock = None
            return
        while node.lock is not None and node.lock is not file and not node.lock.closed:
            if operation & self.LOCK_NB:
                raise BlockingIOError(errno.EWOULDBLOCK, "Resource temporarily unavailable")
            process.block(0.05)
        node.lock = file

    def ioctl(self, fd: int, request: int, arg: Any = 0) -> int:
        me()
        return 0


class Thread:
    """The _thread module."""

    def get_native_id(self) -> int:
        return me().pid


class Signal:
    """The signal module: who gets a signal isn't simulated (only kill -9 is)."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real_signal, name)

    def signal(self, number: int, handler: Any) -> Any:
        return real_signal.SIG_DFL


def sim_open(path: str, mode: str = "r", *_: Any, **__: Any) -> Any:
    """open() for reading."""
    process = me()
    if set(mode) - set("rbt"):
        raise AssertionError(f"open({path!r}, {mode!r}): only reading is simulated")
    if path == "/proc/drbd":  # no fork, but others run meanwhile, and a kill may strike
        W.port(process, "read /proc/drbd", 0.001)
    data = _content(process, path)
    return io.BytesIO(data) if "b" in mode else io.StringIO(data.decode("utf-8", "replace"))


def _content(process: Process, path: str) -> bytes:
    host = process.host
    if path.startswith("/sys/hypervisor/version/"):
        return b"4\n" if path.endswith("major") else b"20\n"
    if path == "/proc/drbd":
        return tools.proc_drbd(host).encode()
    if path.startswith("/sys/block/drbd") and path.endswith("/size"):
        end = tools.by_minor(host, path.split("/")[3][4:])
        if end is not None and end.up:
            return f"{tools.SIZE_KIB * 2}\n".encode()
    if path == "/sys/module/drbd/version":
        return b"8.4.11\n"
    if path.startswith("/sys/kernel/debug/drbd/resources/"):
        pair = W.pairs.get(path.split("/")[6])
        if pair is not None and pair.ends[host.index].up:
            return tools.in_flight(pair.ends[host.index]).encode()
    if path.startswith("/proc/") and path.endswith("/cmdline"):
        other = host.processes.get(int(path.split("/")[2]))
        return other.name.replace(" ", "\0").encode() if other is not None else b""
    if path.startswith("/proc/") and path.endswith("/comm"):
        other = host.processes.get(int(path.split("/")[2]))
        if other is not None:
            return f"{other.name.split()[0]}\n".encode()
    if path in host.files.live:
        data: bytes = host.files.live[path].data
        return data
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def sim_run(
    argv: "list[str]",
    timeout: float = 10.0,
    ok: "tuple[int, ...] | None" = (0,),
    stdin: "bytes | None" = None,
    env: "dict[str, str] | None" = None,
) -> Any:
    """run.run: start a program, wait for it, bounded."""
    from xenhelper.run import Result

    process = me()
    label = " ".join(argv[:3]) if "/" not in argv[0] else "xl " + " ".join(argv[1:3])
    W.port(process, label, 0.0, pause=False)
    tool = tools.TOOLS.get(argv[0])
    if tool is None:
        if argv[0] in ("modprobe", "udevadm"):
            return Result(0, "", "")
        if argv[0] == "systemctl":
            return Result(1, "stopping\n" if process.host.stopping else "running\n", "")
        raise AssertionError(f"{argv[0]} isn't simulated")
    host = process.host
    started = W.loop.now
    random = W.random
    if tools.waits(argv):
        child = Process(W, host, label, lambda: tool(child, argv))
        child.held = True
        child.start(W.latency())
        if not process.wait(child, timeout):
            # killed, but it sits in the kernel: it goes on there and is left alone
            raise CommandFailed(argv, None, "", timeout)
        if child.error is not None:
            raise child.error
        status, out, err = child.result or (1, "", "killed")
    else:
        if random.random() < W.hang:
            seconds = random.random() * 15.0
            if seconds > timeout:
                W.hangs += 1
                process.block(timeout)
                if random.random() < 0.5:
                    tool(process, argv)
                raise CommandFailed(argv, None, "", timeout)
            process.block(seconds)
        else:
            process.block(W.latency())
        if argv[0] == "drbdsetup":
            while host.netlink is not None and host.netlink.status is None:
                if W.loop.now - started > timeout:
                    raise CommandFailed(argv, None, "", timeout)
                process.block(0.03)
        status, out, err = tool(process, argv)
    W.port(process, label, 0.0, pause=False, after=True)
    if ok is not None and status not in ok:
        raise CommandFailed(argv, status, err or out, timeout)
    return Result(status, out, err)


def sim_ask(peer: str, verb: str, args: "dict[str, object]", timeout: float = 10.0) -> "dict[str, object]":
    """client.ask: the real function of the verb, as a process of the other host."""
    from xenhelper.peer import messages, verbs

    process = me()
    W.port(process, f"ask {verb}", 0.0, pause=False)
    there = W.hosts[peer]
    link = W.management
    random = W.random
    if not (link.up and there.power and there.serving):
        # a dropped connection says so at once; one that isn't noticed yet takes the time
        process.block(timeout if random.random() < 0.3 else min(timeout, random.random()))
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    deadline = W.loop.now + timeout
    fate = random.random()
    if fate < W.loss:
        process.block(timeout)
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    function, schema = verbs.handler(verb)
    sent = json.loads(json.dumps(args))

    def serve() -> int:
        try:
            answer = function(process.host.name, messages.check(verb, sent, schema))
            server.answer = {"ok": json.loads(json.dumps(answer))}  # type: ignore[attr-defined]
        except XenhelperError as error:
            server.answer = {  # type: ignore[attr-defined]
                "error": error.what, "do": error.do, "exit": error.exit_code
            }  # fmt: skip
        return 0

    server = Process(W, there, f"serve {verb}", serve, product=True)
    server.answer = None  # type: ignore[attr-defined]
    W.watch(server)
    server.start(0.002 + random.random() * 0.05)
    ended = process.wait(server, timeout)
    W.port(process, f"ask {verb}", 0.0, pause=False, after=True)
    answer = server.answer  # type: ignore[attr-defined]
    if not ended or answer is None or not link.up or fate < 2 * W.loss:
        if W.loop.now < deadline and link.up and random.random() < 0.5:
            process.block(max(0.0, deadline - W.loop.now))
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path")
    process.block(0.002)
    return messages.result(peer, answer)


def sim_event(kind: str, message: str, priority: int = 6, **fields: str) -> None:
    """log.event."""
    process = W.loop.current
    if process.dead:
        raise Killed
    W.logged(process, kind, message, priority)


def sim_print(*words: Any, **_: Any) -> None:
    W.say(me(), " ".join(str(word) for word in words))


def sim_start_xl(argv: "list[str]", ignored: Any) -> int:
    """migrate._start_xl: a child that inherits the VM's lock."""
    process = me()
    W.port(process, "start xl", 0.01)
    return int(W.start_xl(process, argv).pid)


def sim_sign_of_life(peer: Any) -> str:
    """alive.sign_of_life: any path will do."""
    process = me()
    process.block(1.0)
    there = W.hosts[peer.name]
    return "it answers ping" if there.power and (W.management.up or W.link.up) else ""


def sim_activity(vm: str, seconds: float = 5.0) -> "tuple[str, float]":
    """virt.api.activity: what libvirt says of its jobs; nothing while a hook of the VM runs."""
    from xenhelper.virt import api

    process = me()
    W.port(process, "libvirt job", 0.02)
    host = process.host
    deadline = W.loop.now + seconds
    while vm in host.hooked:
        if W.loop.now > deadline:
            return api.BUSY, 0.0
        process.block(0.1)
    if vm in host.jobs:
        return api.BUSY, W.loop.now - host.jobs[vm]
    return api.IDLE, 0.0


def sim_is_host(typed: str, peer: Any) -> bool:
    return bool(typed == peer.name)


def sim_config(path: str = "") -> Any:
    return W.config(me().host)


@contextlib.contextmanager
def installed() -> "Iterator[None]":
    """The product over the simulated ports, within this block."""
    from xenhelper import config, hosts, log, migrate, run
    from xenhelper.peer import client
    from xenhelper.xen.xenstore import Xenstore

    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("xenhelper." + name)
    shims = {"os": Os(), "time": Time(), "fcntl": Fcntl(), "signal": Signal(), "_thread": Thread()}
    undo: "list[tuple[Any, str, Any, bool]]" = []

    def put(module: Any, name: str, value: Any) -> None:
        there = name in vars(module)
        undo.append((module, name, vars(module).get(name), there))
        setattr(module, name, value)

    real_run, real_client = run.run, Xenstore
    for name, module in list(sys.modules.items()):
        if not name.startswith("xenhelper.") or name in LEFT:
            continue
        for attribute, value in shims.items():
            if attribute in vars(module):
                put(module, attribute, value)
        if vars(module).get("run") is real_run:
            put(module, "run", sim_run)
        if vars(module).get("Xenstore") is real_client:
            put(module, "Xenstore", store.Client)
        put(module, "open", sim_open)
        put(module, "print", sim_print)
    put(run, "run", sim_run)
    put(client, "ask", sim_ask)
    put(log, "event", sim_event)
    put(config, "load", sim_config)
    put(hosts, "is_host", sim_is_host)
    put(importlib.import_module("xenhelper.virt.api"), "activity", sim_activity)
    put(migrate, "_start_xl", sim_start_xl)
    with contextlib.suppress(ModuleNotFoundError):
        put(importlib.import_module("xenhelper.alive"), "sign_of_life", sim_sign_of_life)
    try:
        yield
    finally:
        for module, name, value, there in reversed(undo):
            if there:
                setattr(module, name, value)
            else:
                delattr(module, name)


__all__ = ["PeerFailed", "builtins", "installed"]

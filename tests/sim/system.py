"""What the product's modules find instead of os, time, fcntl, glob, signal, _thread and
open().

Each stands for the process that runs at that moment, on its host.
"""

import errno
import fnmatch
import io
import os as real_os
import signal as real_signal
import time as real_time
import types
from typing import Any

from tests.sim import drbdshown, here
from tests.sim.drbdends import SIZE_KIB, by_minor
from tests.sim.files import Open
from tests.sim.here import me
from tests.sim.kernel import Exec, Process


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
            end = by_minor(process.host, path.rpartition("/")[2])
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
        return bytes(here.W.random.randrange(256) for _ in range(count))

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
        fd = here.W.next_fd(process)
        process.fds[fd] = file
        return fd

    def _open_drbd(self, process: Process, path: str, flags: int) -> Open:
        end = by_minor(process.host, path[9:])
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
        here.W.release_fd(process, fd)

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
            here.W.say(me(), bytes(data).decode("utf-8", "replace"))
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
        here.W.port(me(), f"fsync {file.path}", 0.002)
        me().host.files.fsync(file)

    def rename(self, old: str, new: str) -> None:
        here.W.port(me(), f"rename {new}", 0.0)
        me().host.files.rename(old, new)

    replace = rename

    def unlink(self, path: str) -> None:
        if path not in me().host.files.live:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        here.W.port(me(), f"unlink {path}", 0.0)
        me().host.files.unlink(path)

    remove = unlink

    def setpriority(self, which: int, who: int, value: int) -> None:
        me()

    def set_inheritable(self, fd: int, inheritable: bool) -> None:
        self._file(fd).inheritable = inheritable

    def waitpid(self, pid: int, options: int) -> "tuple[int, int]":
        process = me()
        child: Process = here.W.children[pid]
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
        here.W.children[pid].kill()

    def execv(self, path: str, argv: "list[str]") -> None:
        me()
        raise Exec(path, argv)


class Time:
    """The time module: virtual seconds."""

    CLOCK_BOOTTIME = 7
    CLOCK_MONOTONIC = 1

    def monotonic(self) -> float:
        process = me()
        return float(here.W.loop.now - process.host.booted + 10.0)

    def clock_gettime(self, _which: int) -> float:
        return float(here.W.loop.now - me().host.booted)

    def time(self) -> float:
        return float(1_700_000_000 + here.W.loop.now)

    def sleep(self, seconds: float) -> None:
        process = me()
        here.W.port(process, "sleep", 0.0, pause=False)
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


class Glob:
    """The glob module on the host's files, and never the real machine's sysfs. ``*`` takes
    slashes, too."""

    def glob(self, pattern: str) -> "list[str]":
        return fnmatch.filter(me().host.files.live, pattern)


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
        here.W.port(process, "read /proc/drbd", 0.001)
    data = _content(process, path)
    return io.BytesIO(data) if "b" in mode else io.StringIO(data.decode("utf-8", "replace"))


def _content(process: Process, path: str) -> bytes:
    host = process.host
    if path.startswith("/sys/hypervisor/version/"):
        return b"4\n" if path.endswith("major") else b"20\n"
    if path == "/proc/drbd":
        return drbdshown.proc_drbd(host).encode()
    if path.startswith("/sys/block/drbd") and path.endswith("/size"):
        end = by_minor(host, path.split("/")[3][4:])
        if end is not None and end.up:
            return f"{SIZE_KIB * 2}\n".encode()
    if path == "/sys/module/drbd/version":
        return b"8.4.11\n"
    if path.startswith("/sys/kernel/debug/drbd/resources/"):
        pair = here.W.pairs.get(path.split("/")[6])
        if pair is not None and pair.ends[host.index].up:
            return drbdshown.in_flight(pair.ends[host.index]).encode()
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

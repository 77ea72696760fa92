"""The one place that starts programs: a list, a small environment, a bounded time.

Built on ``posix_spawn`` rather than ``subprocess``: importing the latter costs a hook
as much as three forks (see docs/performance.md), and hooks run in a guest's downtime.
"""

import os
import select
import time

from xenhelper import paths
from xenhelper.errors import CommandFailed

# signal(7); importing ``signal`` would cost as much as starting the interpreter (it makes enums)
_SIGINT, _SIGKILL, _SIGPIPE, _SIGTERM = 2, 9, 13, 15

ENV = {"PATH": paths.PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class Result:
    """What a program left: ``status`` (exit status, negative for a signal), both outputs."""

    __slots__ = ("status", "stderr", "stdout")

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


def which(name: str) -> str:
    """Absolute path of program ``name`` on our own PATH. Raises CommandFailed."""
    if name.startswith("/"):
        return name
    for folder in paths.PATH.split(":"):
        path = folder + "/" + name
        if os.access(path, os.X_OK):
            return path
    raise CommandFailed([name], 127, f"program not found in {paths.PATH}", 0)


def run(
    argv: "list[str]",
    timeout: float = 10.0,
    ok: "tuple[int, ...] | None" = (0,),
    stdin: "bytes | None" = None,
    env: "dict[str, str] | None" = None,
) -> Result:
    """Run ``argv`` and return its result within ``timeout`` seconds.

    ``ok`` names the exit statuses that are no error (None: any). The child has its own
    process group, which is killed when time runs out. Raises CommandFailed.
    """
    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    fds = [out_r, out_w, err_r, err_w]
    in_r = in_w = -1
    try:
        actions: "list[tuple[object, ...]]" = []
        if stdin is None:
            actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
        else:
            in_r, in_w = os.pipe()
            fds += [in_r, in_w]
            actions.append((os.POSIX_SPAWN_DUP2, in_r, 0))
        actions += [(os.POSIX_SPAWN_DUP2, out_w, 1), (os.POSIX_SPAWN_DUP2, err_w, 2)]
        deadline = time.monotonic() + timeout
        pid = os.posix_spawn(
            which(argv[0]),
            argv,
            dict(ENV, **env) if env else ENV,
            file_actions=actions,
            setpgroup=0,
            setsigdef=(_SIGPIPE, _SIGINT, _SIGTERM),
        )
        for fd in (out_w, err_w, in_r):
            if fd >= 0:
                os.close(fd)
                fds.remove(fd)
        status, stdout, stderr = _collect(pid, out_r, err_r, in_w, stdin or b"", deadline)
        if in_w >= 0:
            fds.remove(in_w)
    finally:
        for fd in fds:
            os.close(fd)
    text_out, text_err = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    if status is None or (ok is not None and status not in ok):
        raise CommandFailed(argv, status, text_err or text_out, timeout)
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")
    return Result(status, text_out, text_err)


def start(
    argv: "list[str]", env: "dict[str, str] | None" = None, errors: "int | None" = None
) -> "tuple[int, int]":
    """Start a program that goes on: its process id, and a descriptor (not blocking) from
    which its output is read. ``errors``: a descriptor that takes its stderr. The caller ends
    it and waits for it. Raises CommandFailed."""
    out_r, out_w = os.pipe()
    try:
        actions: "list[tuple[object, ...]]" = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out_w, 1),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)
            if errors is None
            else (os.POSIX_SPAWN_DUP2, errors, 2),
        ]
        pid = os.posix_spawn(
            which(argv[0]),
            argv,
            dict(ENV, **env) if env else ENV,
            file_actions=actions,
            setpgroup=0,
            setsigdef=(_SIGPIPE, _SIGINT, _SIGTERM),
        )
        os.set_blocking(out_r, False)
    except BaseException:
        os.close(out_r)
        raise
    finally:
        os.close(out_w)
    return pid, out_r


def shown(argv: "list[str]") -> int:
    """Run ``argv`` with our own output and environment, until it ends by itself, however
    long that takes (a migration); its exit status. What is typed to interrupt it is its own
    to answer: we wait for what it makes of that. Raises CommandFailed when it can't start.
    """
    import signal

    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pid = os.posix_spawn(
            which(argv[0]),
            argv,
            {**os.environ, **ENV},
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            setsigdef=(_SIGPIPE, _SIGINT, _SIGTERM),
        )
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.signal(signal.SIGINT, before)
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")
    return status


def _collect(
    pid: int, out_fd: int, err_fd: int, in_fd: int, data: bytes, deadline: float
) -> "tuple[int | None, bytes, bytes]":
    """Feed and read the child until it ends; (None, ...) when the deadline passed."""
    poll = select.poll()
    chunks: "dict[int, list[bytes]]" = {out_fd: [], err_fd: []}
    poll.register(out_fd, select.POLLIN)
    poll.register(err_fd, select.POLLIN)
    if in_fd >= 0:
        os.set_blocking(in_fd, False)
        poll.register(in_fd, select.POLLOUT)
    pidfd = os.pidfd_open(pid)
    poll.register(pidfd, select.POLLIN)
    open_fds = {out_fd, err_fd}
    ended = False
    try:
        while open_fds and not ended:
            left = deadline - time.monotonic()
            events = poll.poll(left * 1000) if left > 0 else []
            if not events:
                _abandon(pid, pidfd)
                return None, b"".join(chunks[out_fd]), b"".join(chunks[err_fd])
            for fd, event in events:
                if fd in chunks:
                    block = os.read(fd, 65536)
                    if block:
                        chunks[fd].append(block)
                    else:
                        poll.unregister(fd)
                        open_fds.discard(fd)
                elif fd == in_fd:
                    try:
                        data = data[os.write(fd, data[:65536]) :]
                    except OSError:
                        data = b""
                    if not data or event & (select.POLLERR | select.POLLHUP):
                        poll.unregister(fd)
                        os.close(fd)
                        in_fd = -1
                elif fd == pidfd and len(events) == 1:
                    # it ended and its pipes are read empty; a grandchild may still hold them
                    ended = True
        left = max(0.0, deadline - time.monotonic())
        waiter = select.poll()
        waiter.register(pidfd, select.POLLIN)
        if not waiter.poll(left * 1000):
            _abandon(pid, pidfd)
            return None, b"".join(chunks[out_fd]), b"".join(chunks[err_fd])
        _, raw = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(raw), b"".join(chunks[out_fd]), b"".join(chunks[err_fd])
    finally:
        os.close(pidfd)
        if in_fd >= 0:
            os.close(in_fd)


def _abandon(pid: int, pidfd: int) -> None:
    """Kill it and wait a moment. One that sits in the kernel (drbdsetup primary or
    resume-io while DRBD waits) takes no signal until it is through: it is left behind,
    or our own time limit would be worth nothing."""
    _kill(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(500):
        os.waitpid(pid, 0)


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, _SIGKILL)
    except ProcessLookupError:
        pass

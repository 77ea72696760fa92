"""Crash on purpose at a named step: how tests see what an interrupted change leaves.

Armed on a host by the file /run/xenhelper/crash-at (root's own, not writable by others),
whose one line is ``before NAME``, ``after NAME``, or either with a count behind it (the
Nth time). NAME is one that ``python3 -m xenhelper.crashpoints`` lists; ``NAME < OUTER``
counts only beneath a function OUTER (``module:function``). The file goes first, then the
process kills itself. Without the file a step costs one stat().

``stop-before`` and ``stop-after`` hold the process instead (SIGSTOP), for a test to cut
the power or a link at just that moment: the file becomes crash-at.held, with the process
id and the step. ``trace-before any`` changes nothing: the names of all steps that are
taken are appended to crash-at.trace.
"""

import os
import signal
import sys

from xenhelper import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types


def at(when: str) -> None:
    """Called by the ports around each external step; ``when`` is ``before`` or ``after``."""
    order = _order()
    if order is None:
        return
    action, _, moment = order[0].rpartition("-")
    if moment != when:
        return
    wanted, _, outer = order[1].partition(" < ")
    frame = sys._getframe(1)
    if action != "trace" and not _beneath(frame, wanted):
        return  # before the package's sources are parsed, which takes seconds in emulation
    from xenhelper import crashpoints

    names = crashpoints.stack(frame)
    if action == "trace":
        _trace(names)
        return
    if not names or names[0].split("#")[0] != wanted.split("#")[0]:
        return
    if "#" in wanted and names[0] != wanted:
        return
    if outer and outer not in names[1:]:
        return
    # two scripts may be at the same step: one of them takes the order
    mine = f"{paths.CRASH_AT}.{os.getpid()}"
    try:
        os.rename(paths.CRASH_AT, mine)
    except FileNotFoundError:
        return
    if order[2] > 1:
        _write(mine, f"{order[0]} {order[1]} {order[2] - 1}\n")
        os.rename(mine, paths.CRASH_AT)
        return
    if action == "stop":
        _write(mine, f"{os.getpid()} {names[0]}\n")
        os.rename(mine, paths.CRASH_AT + ".held")
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    os.unlink(mine)
    os.kill(os.getpid(), signal.SIGKILL)


def _beneath(frame: "types.FrameType | None", wanted: str) -> bool:
    """Whether a function of the wanted step's name and module is being run at all."""
    module, _, rest = wanted.partition(":")
    function = rest.partition(":")[0].rpartition(".")[2]
    while frame is not None:
        names = frame.f_code.co_qualname.split(".")
        if frame.f_globals.get("__name__") == f"xenhelper.{module}" and function in names:
            return True
        frame = frame.f_back
    return False


def _order() -> "tuple[str, str, int] | None":
    """(when, name, count) as armed; None when nothing is, or by somebody else than us."""
    try:
        fd = os.open(paths.CRASH_AT, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        words = os.read(fd, 1000).decode("utf-8", "replace").split()
    finally:
        os.close(fd)
    if len(words) < 2:
        return None
    count = int(words.pop()) if words[-1].isdecimal() else 1
    return words[0], " ".join(words[1:]), count


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    os.write(fd, text.encode())
    os.close(fd)


def _trace(names: "list[str]") -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(paths.CRASH_AT + ".trace", flags, 0o600)
    os.write(fd, (names[0] if names else "?").encode() + b"\n")
    os.close(fd)

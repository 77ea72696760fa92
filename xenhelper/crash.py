"""Crash on purpose at a named step: how tests see what an interrupted change leaves.

Armed on a host by the file /run/xenhelper/crash-at (root's own, not writable by others),
whose one line is ``before NAME``, ``after NAME``, or either with a count behind it (the
Nth time). NAME is one that ``python3 -m xenhelper.crashpoints`` lists; ``NAME < OUTER``
counts only beneath a function OUTER (``module:function``). The file goes first, then the
process kills itself. Without the file a step costs one stat().
"""

import os
import signal
import sys

from xenhelper import paths


def at(when: str) -> None:
    """Called by the ports around each external step; ``when`` is ``before`` or ``after``."""
    order = _order()
    if order is None or order[0] != when:
        return
    from xenhelper import crashpoints

    wanted, _, outer = order[1].partition(" < ")
    names = crashpoints.stack(sys._getframe(1))
    if not names or names[0].split("#")[0] != wanted.split("#")[0]:
        return
    if "#" in wanted and names[0] != wanted:
        return
    if outer and outer not in names[1:]:
        return
    if order[2] > 1:
        _write(f"{when} {order[1]} {order[2] - 1}\n")
        return
    os.unlink(paths.CRASH_AT)
    os.kill(os.getpid(), signal.SIGKILL)


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


def _write(text: str) -> None:
    fd = os.open(paths.CRASH_AT, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    os.write(fd, text.encode())
    os.close(fd)

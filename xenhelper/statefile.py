"""Small durable records: ``key=value`` lines, one file each, readable with a pager.

Used for intents, resources and VMs under /var/lib/xenhelper. Written atomically (a
temporary file, fsync, rename, fsync of the folder), mode 0600, so that a crash leaves
the old record or the new one. No library: the block script reads them too.
"""

import _thread
import errno
import os

from xenhelper import paths
from xenhelper.errors import Refused, XenhelperError

MAX_BYTES = 65536
_FULL = "make room there (`df` shows how much), then again"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "its file system is read-only: `dmesg` says why, `mount -o remount,rw` ends it",
}


def write_atomically(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` durably by ``data``; creates missing folders with mode 0700.

    Raises XenhelperError, and the old file stays, when the disk is full or read-only."""
    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    try:
        _replace(path, data, mode)
    except OSError as error:
        raise XenhelperError(
            f"{path} can't be written: {error.strerror}", _ADVICE.get(error.errno or 0, "")
        ) from error
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")


def require_writable(*folders: str) -> None:
    """Raises Refused when one of ``folders`` is there and on a file system that is read-only
    now: for steps that can't say it well by themselves (LVM's), or only half-way."""
    for folder in folders:
        try:
            read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        except FileNotFoundError:
            continue
        if read_only:
            what = f"{os.uname().nodename}: {folder} can't be written: {os.strerror(errno.EROFS)}"
            raise Refused(what, _ADVICE[errno.EROFS])


def _replace(path: str, data: bytes, mode: int) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{folder}/.{os.path.basename(path)}.{_thread.get_native_id()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    sync_folder(folder)


def write_at(path: str, offset: int, data: bytes) -> None:
    """Write ``data`` at ``offset`` of a list that grows while long work goes on, durably; makes
    the file (mode 0600) and its folder. Raises XenhelperError.

    Not atomic: what is kept so must tell a torn entry from a whole one by itself."""
    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while data:
                written = os.pwrite(fd, data, offset)
                data, offset = data[written:], offset + written
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise XenhelperError(
            f"{path} can't be written: {error.strerror}", _ADVICE.get(error.errno or 0, "")
        ) from error
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")


def sync_folder(folder: str) -> None:
    """Make renames and removals in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove ``path`` durably; no error when it isn't there."""
    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    try:
        if not os.path.lexists(path):
            return  # unlink() of nothing fails on a read-only file system
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise XenhelperError(
            f"{path} can't be removed: {error.strerror}", _ADVICE.get(error.errno or 0, "")
        ) from error
    sync_folder(os.path.dirname(path))
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")


def write(path: str, record: "dict[str, str]") -> None:
    """Write ``record`` as ``key=value`` lines. Raises XenhelperError on a newline in it, and
    when it is longer than :func:`read` reads."""
    lines = []
    for key, value in record.items():
        if "\n" in value or "\n" in key or "=" in key:
            raise XenhelperError(f"{path}: can't hold {key!r}={value!r}")
        lines.append(f"{key}={value}\n")
    data = "".join(lines).encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        raise XenhelperError(f"{path}: {len(data)} bytes are too long for a record")
    write_atomically(path, data)


def read(path: str) -> "dict[str, str] | None":
    """The record at ``path``, or None when there is none. Raises XenhelperError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, MAX_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)
    record = {}
    # not splitlines(): it would also split at what write() lets stand in a value
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise XenhelperError(f"{path}: not a key=value line: {line!r}", "restore it from the other host")
        record[key] = value
    return record


def names(folder: str) -> "list[str]":
    """Names of the records in ``folder``, sorted; none when the folder is missing."""
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if not name.startswith("."))

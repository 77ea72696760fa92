"""A VM's config file on disk and its record: rewritten in place, kept the same on both hosts.

The record says what both hosts last agreed on (a SHA-256), so a later difference shows
which side was changed. The original, without our block, is kept beside it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from xenhelper import names, paths, statefile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.xen import vmconfig

FOLDER = "/etc/xen"
ORIGINALS = "originals"
# folders of / in which a file that ends in .cfg may be anything
# fmt: off
_SYSTEM = frozenset((
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32",
    "lost+found", "proc", "run", "sbin", "sys", "tmp", "usr", "var",
))
# fmt: on


@dataclass(frozen=True)
class Sent:
    """What the peer has at the same path: '' and '' when there is no such file."""

    sha256: str = ""
    text: str = ""
    agreed: str = ""


def original_path(vm: str) -> str:
    """Where the original config of ``vm`` is kept."""
    return f"{paths.STATE}/{ORIGINALS}/{names.check_vm(vm)}"


def record(vm: str) -> dict[str, str]:
    """The VM's record; empty when there is none."""
    return statefile.read(f"{paths.VMS}/{names.check_vm(vm)}") or {}


def write_record(
    vm: str, config: str, sha256: str, peer: str, resources: Sequence[str], last_ran: str
) -> None:
    """Write the VM's record; who ran it last is only set when nobody has said it yet."""
    old = record(vm)
    new = {
        "vm": vm,
        "config": config,
        "sha256": sha256,
        "original": original_path(vm),
        "peer": peer,
        "resources": ",".join(sorted(resources)),
        "last_ran": old.get("last_ran") or last_ran,
    }
    if {**old, **new} != old:
        statefile.write(f"{paths.VMS}/{vm}", {**old, **new})


def read(path: str) -> str | None:
    """The file's text, None when there is none. Raises XenhelperError."""
    try:
        return vmconfig.read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise XenhelperError(f"can't read {path}: {error.strerror}") from error


def rewrite(path: str, text: str, vm: str) -> None:
    """Replace the file's content, keeping owner and mode, after keeping its original."""
    keep_original(vm, vmconfig.split(text)[0])
    store(path, text)


def keep_original(vm: str, text: str) -> None:
    """Keep ``text`` as the config to go back to."""
    data = vmconfig.to_bytes(text)
    try:
        with open(original_path(vm), "rb") as file:
            if file.read() == data:
                return
    except FileNotFoundError:
        pass
    statefile.write_atomically(original_path(vm), data)


def store(path: str, text: str, mode: int = 0o644) -> None:
    """Write ``path`` atomically; an existing file's owner and mode are kept."""
    full = paths.ROOT + path
    try:
        old = os.stat(full)
    except FileNotFoundError:
        old = None
    statefile.write_atomically(full, vmconfig.to_bytes(text), old.st_mode & 0o777 if old else mode & 0o666)
    if old is not None and os.geteuid() == 0:
        os.chown(full, old.st_uid, old.st_gid)


def storable(path: str) -> bool:
    """Whether a peer may have a config stored at ``path`` here: below /etc/xen (but no
    script and none of Xen's own ``.conf``), or a ``.cfg`` file in a folder that exists and
    isn't the system's; nowhere through a link, hidden, or where others than root may write."""
    if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path or not path.isprintable():
        return False
    folder = os.path.dirname(path)
    if path.startswith("//") or "/." in path or not _only_root_writes(folder):
        return False
    if os.path.realpath(paths.ROOT + folder) != os.path.realpath(paths.ROOT) + folder and paths.ROOT:
        return False
    if not paths.ROOT and os.path.realpath(folder) != folder:
        return False
    full = paths.ROOT + path
    if os.path.lexists(full) and (os.path.islink(full) or not os.path.isfile(full)):
        return False
    if path.startswith(FOLDER + "/"):
        below = folder.removeprefix(FOLDER).split("/")
        return os.path.isdir(paths.ROOT + folder) and "scripts" not in below and not path.endswith(".conf")
    # grub.cfg, default/grub.d/*.cfg, cloud.cfg.d/*.cfg and more are programs to others
    top = path.split("/", 2)[1]
    return path.endswith(".cfg") and top not in _SYSTEM and os.path.isdir(paths.ROOT + folder)


def _only_root_writes(folder: str) -> bool:
    """Whether no step of ``folder`` lets anybody but root swap what is below it."""
    while folder != "/":
        try:
            found = os.lstat(paths.ROOT + folder)
        except OSError:
            return False
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            return False
        folder = os.path.dirname(folder)
    return True


def is_of(text: str, vm: str) -> bool:
    """Whether a config's text names ``vm``; what merely looks like it counts (libxlu_cfg_l.l)."""
    found = re.findall(r"""(?:^|[;\n])[ \t]*name[ \t]*=[ \t]*(?:"([^"\n]*)"|'([^'\n]*)')""", text)
    return any(vm in pair for pair in found)


def owner(path: str) -> str:
    """The VM whose record names ``path`` as its config; '' when none does."""
    for vm in statefile.names(paths.VMS):
        if (statefile.read(f"{paths.VMS}/{vm}") or {}).get("config") == path:
            return vm
    return ""


def must_send(path: str, there: Sent, before: str, after: str, agreed: str, peer: str) -> bool:
    """Whether the peer's file is to be replaced by ``after`` (pure).

    ``before`` is our file as found, ``agreed`` the SHA-256 in our record. Raises
    Conflict when the peer's file holds changes of its own.
    """
    sha_before, sha_after = vmconfig.checksum(before), vmconfig.checksum(after)
    if there.sha256 == sha_after:
        return False
    if not there.sha256 or there.sha256 in (sha_before, agreed, there.agreed):
        return True
    try:
        if vmconfig.split(there.text)[0] == vmconfig.split(after)[0]:
            return True
    except XenhelperError:
        pass
    raise Conflict(path, peer, there.text, after)


class Conflict(Refused):
    """Both hosts have a config of their own at one path. ``diff`` shows how they differ."""

    def __init__(self, path: str, peer: str, theirs: str, ours: str) -> None:
        import difflib

        lines = difflib.unified_diff(
            _lines(theirs), _lines(ours), f"{peer}:{path}", f"{os.uname().nodename}:{path}", lineterm="", n=1
        )
        self.diff = "\n".join(list(lines)[:60])
        super().__init__(
            f"{path} on {peer} is different and was changed there (see the difference above)",
            "make one of the two right and copy it over the other",
        )


def _lines(text: str) -> list[str]:
    try:
        text = vmconfig.split(text)[0]
    except XenhelperError:
        pass
    return text.encode("utf-8", "replace").decode("utf-8", "replace").splitlines()


def read_original(vm: str) -> str | None:
    """The kept original, None when there is none."""
    try:
        with open(original_path(vm), "rb") as file:
            return file.read().decode(vmconfig.ENCODING, vmconfig.ERRORS)
    except FileNotFoundError:
        return None

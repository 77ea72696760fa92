"""The domains of this host, by name, and the real xl."""

import os

from xenhelper import names, paths, statefile
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.xen.xenstore import Xenstore

# shutdown_reason of `xl list -l` / xen/include/public/sched.h
SUSPENDED = "suspend"


class Domain:
    """A domain: ``state`` is xl's six letters (``r-----``, ``---ss-``), ``uuid`` lower case."""

    __slots__ = ("domid", "memory_mib", "name", "state", "uuid")

    def __init__(self, domid: int, name: str, state: str, uuid: str, memory_mib: int = 0) -> None:
        self.domid = domid
        self.name = name
        self.state = state
        self.uuid = uuid
        self.memory_mib = memory_mib

    @property
    def suspended(self) -> bool:
        """Shut down with reason suspend: a migration or save is about to take its memory."""
        return self.state[3:5] == "ss"

    @property
    def crashed(self) -> bool:
        """Shut down with reason crash."""
        return self.state[4:5] == "c"

    def __repr__(self) -> str:
        return f"<domain {self.domid} {self.name} {self.state}>"


def real_xl() -> str:
    """Xen's own xl for the running hypervisor, past Debian's wrapper and our shim.

    Raises XenhelperError when this host doesn't run Xen or lacks its tools.
    """
    version = []
    for part in ("major", "minor"):
        try:
            with open(f"{paths.ROOT}/sys/hypervisor/version/{part}", encoding="ascii") as file:
                version.append(file.read().strip())
        except OSError as error:
            raise XenhelperError(
                "this host doesn't run Xen", "boot the Xen entry of the boot menu"
            ) from error
    path = f"{paths.ROOT}/usr/lib/xen-{'.'.join(version)}/bin/xl"
    if not os.access(path, os.X_OK):
        raise XenhelperError(f"no {path}", f"apt install xen-utils-{'.'.join(version)}")
    return path


def listing() -> "list[Domain]":
    """All domains but dom0, from one ``xl list -v``. Raises CommandFailed."""
    return parse(run([real_xl(), "list", "-v"], timeout=10).stdout)


def parse(text: str) -> "list[Domain]":
    """Domains from ``xl list -v`` (Name ID Mem VCPUs State Time(s) UUID …).

    A name may hold spaces, so the columns are counted from the UUID back.
    """
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        at = next((i for i in range(6, len(words)) if _is_uuid(words[i])), None)
        if at is None or not _is_number(words[at - 5]) or not _is_number(words[at - 4]):
            continue
        domid, memory, _, state, _ = words[at - 5 : at]
        end = line.rfind(f" {domid} ", 0, line.index(words[at])) if at > 6 else 0
        name = line[:end].rstrip() if end > 0 else words[0]
        if int(domid):
            found.append(Domain(int(domid), name, state, words[at].lower(), int(memory)))
    return found


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) < 20


def _is_uuid(word: str) -> bool:
    return len(word) == 36 and word.count("-") == 4


def find(vm: str) -> "list[Domain]":
    """Domains of ``vm`` here: under its name, ``--incoming`` or ``--migratedaway``."""
    wanted = (vm, vm + names.INCOMING, vm + names.MIGRATED_AWAY)
    return [domain for domain in listing() if domain.name in wanted]


def migrating(vm: str) -> bool:
    """Whether an xl on this host may be migrating ``vm`` now, in or out.

    From the processes' command lines; ``xl migrate-receive`` doesn't say for which VM,
    and stays after a migration to watch the domain, then with /dev/null as its input
    where the stream came from (do_daemonize() in xl_utils.c).
    """
    for pid, words in xl_processes():
        if "migrate" in words and vm in words:
            return True
        if "migrate-receive" in words and _input(pid) != "/dev/null":
            return True
    return False


def xl_processes() -> "list[tuple[str, list[str]]]":
    """(process id, command line) of each xl on this host that was given a command."""
    found = []
    for pid in filter(str.isdigit, os.listdir(paths.ROOT + "/proc")):
        try:
            with open(f"{paths.ROOT}/proc/{pid}/cmdline", "rb") as file:
                words = file.read(4096).decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if words[0].rsplit("/", 1)[-1] == "xl" and len(words) > 1:
            found.append((pid, words))
    return found


def _input(pid: str) -> str:
    try:
        return os.readlink(f"{paths.ROOT}/proc/{pid}/fd/0")
    except OSError:
        return "/dev/null"  # it ended meanwhile


def by_name(store: Xenstore, name: str) -> "int | None":
    """The domid whose (toolstack-owned) xenstore name is ``name``; None when none has it."""
    for domid in store.list("/local/domain"):
        if domid != "0" and domid.isdigit() and store.read(f"/local/domain/{domid}/name") == name:
            return int(domid)
    return None


def users_of(store: Xenstore, resource: str, served: bool = False) -> "list[tuple[int, str]]":
    """(domid, name) of domains whose disks this host serves from ``resource``.

    ``served``: only those that the block script has given it to; another may be being
    created, and be refused yet. Read from the backend folders, which only the toolstack
    and the block scripts write.
    """
    found = []
    for domid in store.list("backend/vbd"):
        for devid in store.list(f"backend/vbd/{domid}"):
            base = f"backend/vbd/{domid}/{devid}"
            if not is_on(store, base, resource):
                continue
            if served and store.read(base + "/physical-device") is None:
                continue
            name = store.read(f"/local/domain/{domid}/name") if domid != "0" else "dom0"
            found.append((int(domid), name or ""))
    return found


def is_on(store: Xenstore, base: str, resource: str) -> bool:
    """Whether the disk with this backend folder is on ``resource``: by our block script, or, as
    a domain of libvirt has it, on its device itself."""
    params = store.read(base + "/params") or ""
    if params == resource:
        return (store.read(base + "/script") or "").endswith("/" + paths.BLOCK_SCRIPT)
    if "/" not in params:
        return False
    number = store.read(base + "/physical-device") or ""
    if number and not number.lower().startswith("93:"):  # DRBD's major, 147
        return False
    if not number and not params.startswith("/dev/drbd"):
        return False
    from xenhelper.virt import devices

    minor = (statefile.read(f"{paths.RESOURCES}/{resource}") or {}).get("minor", "")
    return params in devices.names_of(resource, minor) or (number.lower() == devices.number_of(minor) != "")


def sectors_of(store: Xenstore, resource: str) -> "list[int]":
    """The size in sectors of 512 bytes that each guest is told of its disk on ``resource``:
    blkback writes it into the backend folder, anew when the device has grown."""
    found = []
    for domid, _ in users_of(store, resource):
        for devid in store.list(f"backend/vbd/{domid}"):
            base = f"backend/vbd/{domid}/{devid}"
            if is_on(store, base, resource):
                text = store.read(base + "/sectors") or ""
                found += [int(text)] if text.isdigit() else []
    return found

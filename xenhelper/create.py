"""``xl create`` through the shim: the VM's disks are replicated before the real xl runs.

A config that is as both hosts last agreed on it costs one file, its record and /proc/drbd.
Anything else takes the long way through xenhelper.replicate, which is imported only then.
"""

import os
import sys

from xenhelper import names, paths, statefile, xlargs
from xenhelper.errors import Refused, XenhelperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenhelper import consider

_MARK = b"\n# >>> xenhelper: VM "
_MAX = 100 * 1024


def main(argv: "list[str]") -> "list[str]":
    """What the real xl is to be run with, for ``argv`` (all that follows ``xl``).

    Raises XenhelperError when the VM must not start; SystemExit with xl's own words and
    status when xl can't read the config.
    """
    command = xlargs.parse(argv, permute="POSIXLY_CORRECT" not in os.environ)
    if command is None:
        return argv
    path = command.config if command.config == "/dev/null" else os.path.realpath(command.config)
    data = b""
    if path != "/dev/null":
        try:
            with open(paths.ROOT + path, "rb") as file:
                data = file.read(_MAX)
        except OSError:
            return argv  # xl says what is wrong with it
    if data.rfind(_MARK) >= 0 and _by_xendomains():
        from xenhelper import autostart

        vm = _vm_of(data)
        if names.valid_vm(vm):
            autostart.check(vm, path)
    if not _known(path, data, command.overrides):
        extra = _long_way(path, command)
        if extra:
            return [*argv, extra]
    return argv


def _known(path: str, data: bytes, overrides: "list[str]") -> bool:
    """The quick check: nothing has changed since both hosts agreed, and all is up.

    Raises Refused when a disk is in use by the peer: the VM runs there.
    """
    if data.rfind(_MARK) < 0 or any("disk" in text or "name" in text for text in overrides):
        return False
    vm = _vm_of(data)
    if not names.valid_vm(vm):
        return False
    record = statefile.read(f"{paths.VMS}/{vm}")
    if record is None or record.get("config") != path or not record.get("resources"):
        return False
    if record.get("sha256") != _sha256(data):
        return False
    if os.path.exists(f"{paths.INTENTS}/replicate-{vm}"):
        return False
    return _up(vm, record)


def _sha256(data: bytes) -> str:
    """SHA-256 without hashlib, which loads OpenSSL: that costs more than all else here."""
    for module in ("_sha2", "_sha256", "hashlib"):  # Python 3.12, 3.11, any
        try:
            digest: str = __import__(module).sha256(data).hexdigest()
            return digest
        except ImportError:
            continue
    raise AssertionError("Python has no SHA-256")


def _vm_of(data: bytes) -> str:
    """The VM that our block in a config names."""
    words = data[data.rfind(_MARK) + len(_MARK) :].split(None, 1)
    return words[0].decode("ascii", "replace").rstrip(",") if words else ""


def _by_xendomains() -> bool:
    """A glance at the parent, so that autostart.py is only loaded at boot."""
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            return b"/xendomains" in file.read(4096)
    except OSError:
        return False


def _up(vm: str, record: "dict[str, str]") -> bool:
    from xenhelper.drbd import proc

    states = proc.read()[1]
    for name in record["resources"].split(","):
        resource = statefile.read(f"{paths.RESOURCES}/{name}")
        if resource is None or not resource.get("minor", "").isdigit():
            return False
        state = states.get(int(resource["minor"]))
        if state is None:
            return False
        if state.peer_role == "Primary":
            raise Refused(
                f"{vm}: {name} is in use on {resource['peer']}",
                f"move {vm} with `xl migrate` on {resource['peer']}, or shut it down there; if it doesn't "
                f"run there, `xenhelper status {vm}` there says what holds the disk",
            )
        if state.role == "Primary":
            _refuse_running(vm)
        if state.disk in ("Outdated", "Inconsistent", "Diskless", "Failed"):
            # each disk's script refuses that, too (hotplug.decide), but another disk's may have
            # promoted and made the other host step back from it by then
            raise Refused(
                f"{vm}: {name}: this host's copy is {state.disk}",
                f"start it on {resource['peer']}, or wait for a resync (see `xenhelper status {vm}`); if "
                f"{resource['peer']} is lost: `xenhelper takeover {vm}`",
            )
    return True


def _refuse_running(vm: str) -> None:
    """A disk is in use here: in one clear line instead of libxl's eight, if it is by the VM."""
    from xenhelper.xen import domains, xenstore

    with xenstore.Xenstore() as store:
        for name in (vm, vm + names.INCOMING, vm + names.MIGRATED_AWAY):
            if domains.by_name(store, name) is not None:
                raise Refused(f"{vm} runs here already (as {name})", "`xl list` shows it")


def _long_way(path: str, command: xlargs.Create) -> str:
    """Replicate what policy wants; returns an argument to add for xl, or ''."""
    if not os.path.exists(paths.CONFIG):
        return ""  # not set up yet: xl as it always was
    from xenhelper import replicate, rewrite
    from xenhelper.errors import PeerUnreachable

    try:
        request = request_for(path, command.overrides)
        outcome = replicate.run(request)
    except PeerUnreachable as error:
        raise PeerUnreachable(
            f"{error.what}, so {os.path.basename(path)} can't be replicated now",
            error.do or "bring it back, or leave the VM out by exclude_vms in the configuration",
        ) from error
    except XenhelperError as error:
        show_details(error)
        raise
    if outcome.fresh and not command.quiet:
        from xenhelper import units

        total = sum(disk.size for disk in outcome.fresh)
        print(
            f"xenhelper: {request.vm}: {', '.join(disk.vdev for disk in outcome.fresh)} "
            f"replicated with {outcome.found.peer}; first sync of {units.size(total)} in the background",
            file=sys.stderr,
        )
    if not outcome.specs:
        if rewrite.drop_block(outcome.found):
            replicate.warn(f"{request.vm}: policy replicates none of its disks; took our block out of {path}")
        return ""
    if request.stored:
        return ""
    from xenhelper.xen import vmconfig

    return vmconfig.override(outcome.specs)


def request_for(path: str, overrides: "list[str]", peer: str = "") -> "consider.Request":
    """Read the config and have xl parse what is ours to rewrite. Raises XenhelperError."""
    from xenhelper import consider, vmfile
    from xenhelper.xen import vmconfig
    from xenhelper.xen.domains import real_xl

    text = "" if path == "/dev/null" else vmfile.read(path)
    if text is None:
        raise XenhelperError(f"there is no {path}")
    original, block = vmconfig.split(text)
    # a block of a VM that isn't ours came along with a copy of another VM's config
    known = block is not None and names.valid_vm(block.vm) and vmfile.record(block.vm)
    if block is not None and not block.intact and known:
        raise XenhelperError(
            f"the block that xenhelper wrote at the end of {path} was edited by hand",
            "make the change in the disk lines above it and delete the block; it is written anew",
        )
    xl = real_xl()
    if block is None:
        shown = path if path == "/dev/null" else paths.ROOT + path
        parsed = vmconfig.dry_run(xl, shown, overrides)
    else:
        with vmconfig.Scratch(original) as shown:
            parsed = vmconfig.dry_run(xl, shown, overrides)
    stored = path != "/dev/null" and not vmconfig.touches_disks(overrides)
    return consider.Request(path, text, original, parsed, stored, xl, tuple(overrides), peer)


def show_details(error: XenhelperError) -> None:
    """Print what belongs before the one line: a difference, or xl's own words."""
    from xenhelper.vmfile import Conflict
    from xenhelper.xen.vmconfig import DryRunFailed

    if isinstance(error, Conflict):
        print(error.diff, file=sys.stderr)
    elif isinstance(error, DryRunFailed):
        sys.stderr.write(error.stderr)
        raise SystemExit(error.status if error.status > 0 else 1)

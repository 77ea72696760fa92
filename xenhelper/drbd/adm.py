"""drbdadm for one VM's file only, drbdmeta and drbdsetup down.

``drbdadm`` reads a small configuration of our own, which includes the global settings and
this VM's file and nothing else: a broken foreign file can't stop a VM. drbdadm notes
which file a minor came up with (/run/drbd/drbd-minor-N.conf, registry.c), so the handlers
that the kernel calls later are found by the same way.
"""

import os
import time

from xenhelper import names, paths, statefile
from xenhelper.drbd import resfile
from xenhelper.errors import CommandFailed
from xenhelper.run import run

# exit status of a passing "Concurrent state changes", for which one tries again
_PASSING = 11


def conf(vm: str) -> str:
    """Path of the configuration for ``drbdadm -c``; written when missing or old."""
    path = f"{paths.STATE}/drbd/{names.check_vm(vm)}.conf"
    text = "# written by xenhelper: what drbdadm reads for this VM\n"
    common = paths.DRBD_D + "/global_common.conf"
    if os.path.exists(common):
        text += f'include "{common}";\n'
    text += f'include "{resfile.path(vm)}";\n'
    try:
        with open(path, encoding="ascii") as file:
            if file.read() == text:
                return path
    except OSError:
        pass
    statefile.write_atomically(path, text.encode("ascii"))
    return path


def forget_conf(vm: str) -> None:
    """Remove that configuration."""
    statefile.remove(f"{paths.STATE}/drbd/{names.check_vm(vm)}.conf")


def adm(vm: str, *args: str, timeout: float = 30.0) -> str:
    """Run ``drbdadm ARGS`` with only this VM's file. Raises CommandFailed."""
    argv = ["drbdadm", "-c", conf(vm), *args]
    for attempt in (1, 2, 3):
        try:
            return run(argv, timeout=timeout).stdout
        except CommandFailed as error:
            if attempt == 3 or error.status != _PASSING:
                raise
            time.sleep(0.3 * attempt)
    raise AssertionError("unreachable")


def up(vm: str, resources: "list[str]") -> None:
    """Bring these resources of ``vm`` up (two-primaries no, as in the file)."""
    adm(vm, "up", *resources, timeout=60)


def down(resource: str) -> None:
    """Stop a resource by the kernel's own name for it; no error when it isn't up."""
    names.check_resource(resource)
    for attempt in (1, 2, 3, 4):
        try:
            # 10: no such resource
            run(["drbdsetup", "down", resource], timeout=20, ok=(0, 10))
            return
        except CommandFailed as error:
            if attempt == 4 or error.status != _PASSING:
                raise
            time.sleep(0.5)


def create_md(minor: int, meta: str) -> None:
    """Write fresh external metadata for one peer on ``meta``. This is what ``drbdadm
    create-md`` runs, without its usage count (drbdadm_usage_cnt.c asks and sends)."""
    run(["drbdmeta", "--force", str(minor), "v08", meta, "flex-external", "create-md"], timeout=60)


def check(vm: str, new: str) -> str:
    """Let drbdadm judge the new file ``new`` beside all others; '' or a warning.

    Raises CommandFailed when the fault is the new file's own. When other files don't
    parse, that isn't ours to fail for.
    """
    name = os.path.basename(new)
    try:
        run(["drbdadm", "--config-to-test", new, "sh-nop"], timeout=20)
        return ""
    except CommandFailed as error:
        if name in error.stderr or "conflicting use" in error.stderr:
            raise
        text = " ".join(error.stderr.split())[:300]
        return f"{vm}: drbdadm can't read another resource file ({text}); correct it"


def drop_registration(minor: int) -> None:
    """Forget which file a minor came up with (drbdadm leaves the link behind)."""
    try:
        os.unlink(f"{paths.ROOT}/run/drbd/drbd-minor-{minor}.conf")
    except OSError:
        pass

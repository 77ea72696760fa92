"""DRBD's tools where a resource is made or taken away: metadata, a trial of a new file,
up for the first time, down by the kernel's own name. Daily bringing up is bringup's.
"""

import os
import time

from xenhelper import names, paths
from xenhelper.drbd import bringup
from xenhelper.errors import CommandFailed, Refused
from xenhelper.run import run

# exit status of a passing "Concurrent state changes", for which one tries again
_PASSING = 11
# drbdsetup: no such resource
_UNKNOWN = 10


def up(vm: str, resources: "dict[str, int]") -> None:
    """Bring resources (name -> minor) of ``vm`` up, from its own file only. Raises Refused for a
    volume that isn't there or isn't active, else CommandFailed."""
    for minor in resources.values():
        bringup.mark_minor(minor)
    try:
        bringup.adm(vm, "up", *resources, timeout=60)
    except CommandFailed as error:
        gone = bringup.explained(list(resources), error)
        raise (error if gone is error else Refused(gone.what, gone.do)) from error


def down(resource: str, minor: int) -> None:
    """Stop a resource by the kernel's own name for it; no error when it isn't up. Drops
    what drbdadm and we noted of its minor. Raises CommandFailed when it is in use."""
    names.check_resource(resource)
    for attempt in (1, 2, 3, 4):
        try:
            run(["drbdsetup", "down", resource], timeout=20, ok=(0, _UNKNOWN))
            break
        except CommandFailed as error:
            if attempt == 4 or error.status != _PASSING:
                raise
            time.sleep(0.5)
    # registry.c: which file a minor came up with; drbdadm leaves the link behind
    for path in (f"{paths.ROOT}/run/drbd/drbd-minor-{minor}.conf", f"{paths.RUN}/minors/{minor}"):
        try:
            os.unlink(path)
        except OSError:
            pass


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


def unreadable() -> str:
    """Why drbdadm refuses its configuration as it is, in its own words; '' when it doesn't."""
    try:
        run(["drbdadm", "sh-nop"], timeout=60)
    except CommandFailed as error:
        return " ".join(error.stderr.split())[:300] or str(error)
    return ""

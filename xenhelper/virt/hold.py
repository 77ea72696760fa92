"""The source's domain, paused besides when its guest is handed over: a resume by libvirt alone,
which takes the migration for failed when the last answer is lost, doesn't make it run then."""

from xenhelper import names, paths, statefile
from xenhelper.run import run
from xenhelper.xen import domains

_HELD = paths.RUN + "/held"


def take(vm: str, domid: int) -> None:
    """Pause the domain at the hypervisor, and note so first."""
    statefile.write(f"{_HELD}/{vm}", {"vm": vm, "domid": str(domid)})
    run([domains.real_xl(), "pause", str(domid)], timeout=10)


def held(vm: str) -> "int | None":
    """The domain of ``vm`` that was paused for its hand-over, if that stands."""
    record = statefile.read(f"{_HELD}/{names.check_vm(vm)}")
    domid = (record or {}).get("domid", "")
    return int(domid) if domid.isdecimal() else None


def forget(vm: str) -> None:
    """Its domain is gone, or somebody has let it go on."""
    statefile.remove(f"{_HELD}/{names.check_vm(vm)}")


def let_go(vm: str) -> None:
    """Take the pause back: the guest never ran on the other host. Twice does no harm."""
    domid = held(vm)
    if domid is not None and any(d.domid == domid and d.name == vm for d in domains.listing()):
        run([domains.real_xl(), "unpause", str(domid)], timeout=10)
    forget(vm)

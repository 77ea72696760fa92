"""Where a VM went whose disks this host, as a migration's source, has handed over.

The source's `remove` and the shim note it durably once the migration is over; both may be
killed, `remove` may never run, and the destination may die before it has noted anything.
Then this host, which still knows of its own start only, would say that the VM was stopped
here, and neither host would start it. So each grant leaves a note, in ``/run``: a host
that has booted since starts what last ran here anyway.
"""

from xenhelper import paths, statefile


def _path(vm: str) -> str:
    return f"{paths.RUN}/handed/{vm}"


def note(vm: str, to: str, at: str) -> None:
    """The guest is suspended, and its disks are granted to ``to`` now."""
    statefile.write(_path(vm), {"vm": vm, "to": to, "at": at})


def pending(vm: str) -> bool:
    """Whether this host handed it over and nobody has noted yet what became of it."""
    return statefile.read(_path(vm)) is not None


def forget(vm: str) -> None:
    """It runs here after all, or it is on record what became of it."""
    statefile.remove(_path(vm))


def settle(vm: str) -> bool:
    """Put on record where ``vm`` went, if it was handed over and nobody has; whether so.

    Precondition: no domain of it is here. A domain that went on here and was then stopped
    had a `remove` or a reconciler's look, which forget the note; where even those were
    missing, the other host is taken for the one that ran it last.
    """
    handed = statefile.read(_path(vm))
    if handed is None:
        return False
    record = statefile.read(f"{paths.VMS}/{vm}")
    if record is not None:
        statefile.write(f"{paths.VMS}/{vm}", {**record, "last_ran": handed["to"], "let_go_at": handed["at"]})
    forget(vm)
    return True

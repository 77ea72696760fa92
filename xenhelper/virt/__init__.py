"""VMs that libvirt runs (``xen:///system``): its driver for Xen knows no disk scripts, so
their disks are DRBD's devices themselves, and libvirt's hook does what the block script does.

Written by libvirt's source, 9.0.0 and 11.3.0 (Debian 12 and 13); docs/libvirt.md has it all.
"""

import os

from xenhelper import names, paths, statefile

# a VM's record has this and its name where others have the path of their config
CONFIG = "libvirt:"
# an intent of kind ``window`` that libvirt's migration opened says so in ``by``
BY = "libvirt"


def config_of(vm: str) -> str:
    """What stands in the record of a VM that is defined at libvirt."""
    return CONFIG + vm


def is_ours(record: "dict[str, str] | None") -> bool:
    """Whether this VM's record says that it is defined at libvirt."""
    return record is not None and record.get("config", "").startswith(CONFIG)


def runs_by(vm: str) -> bool:
    """Whether ``vm`` is defined at libvirt, by its record here."""
    return is_ours(statefile.read(f"{paths.VMS}/{names.check_vm(vm)}"))


def start_command(vm: str) -> "list[str]":
    """What starts such a VM (virsh(1))."""
    return ["virsh", "-c", "xen:///system", "start", vm]


def incoming(vm: str) -> "dict[str, str] | None":
    """The window of libvirt's migration of ``vm`` to this host; None when there is none."""
    return _window(vm, "destination")


def outgoing(vm: str) -> "dict[str, str] | None":
    """The window of libvirt's migration of ``vm`` away from this host."""
    return _window(vm, "source")


def _window(vm: str, end: str) -> "dict[str, str] | None":
    from xenhelper import intents

    intent = intents.read("window", vm)
    if intent is None or intent.get("by") != BY or intent.get(end) != os.uname().nodename:
        return None
    return intent
